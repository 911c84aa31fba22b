"""
What the tests of extensions share: a server that has all of them.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.replies import Reply
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire
from smtpsvc.values import TLSInfo
from tests.support import connect, settings_with


def extended(backend: Any = None, *enabled: str, role: Role = Role.SMTP, **fields: Any) -> Wire:
    """
    Connect to a server with the usual extensions; its time stands at 0.

    :param enabled: what ``--enable`` says.
    :param fields: of the settings and limits.
    """
    return connect(backend, settings_with(enable=frozenset(enabled), **fields), extensions=None, role=role)


def keywords(wire: Wire) -> list[str]:
    """Say EHLO, and give what it announces; replies start afresh after it."""
    lines = wire.say("EHLO client.example").last_reply.text.splitlines()[1:]
    wire.forget()
    return lines


def protect(wire: Wire) -> Wire:
    """Let the connection have TLS from now on, without a handshake."""
    wire.protocol.conversation.peer.tls = TLSInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384")
    return wire


class ParameterTestCase(SynchronousTestCase):
    """Sends one command and looks at the answer."""

    enable: str
    role = Role.SMTP

    def mail(self, text: str, enable: str = "") -> tuple[Reply, dict[str, Any]]:
        """Send MAIL with parameters; give the reply, and what the hook saw of them."""
        backend = ScriptedBackend()
        wire = extended(backend, enable or self.enable, role=self.role).greeted()
        reply = wire.say(f"MAIL FROM:<a@x.example> {text}").last_reply
        return reply, dict(backend.called("mail")[0][0].mail_params) if backend.called("mail") else {}

    def rcpt(self, text: str) -> tuple[Reply, dict[str, Any]]:
        """Send RCPT with parameters; give the reply, and what the hook saw of them."""
        backend = ScriptedBackend()
        wire = extended(backend, self.enable, role=self.role).greeted().say("MAIL FROM:<a@x.example>")
        reply = wire.say(f"RCPT TO:<b@y.example> {text}").last_reply
        return reply, dict(backend.called("rcpt")[0][1].params) if backend.called("rcpt") else {}

    def check_malformed(self, reply: Reply) -> None:
        """The reply is 501 5.5.4."""
        self.assertEqual((reply.code, reply.enhanced), (501, "5.5.4"), reply)
