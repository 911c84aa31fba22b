"""
Tests of smtpsvc.extensions.limits: LIMITS, enforced as announced.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc import Role
from smtpsvc.extensions.limits import TOO_MANY_DOMAINS, TOO_MANY_MESSAGES
from smtpsvc.grammar import replies
from smtpsvc.server.verbs import mail, rcpt
from smtpsvc.settings import Limits
from smtpsvc.testing import ScriptedBackend
from tests.extended import extended, keywords


def announced(backend: ScriptedBackend | None = None, role: Role = Role.SMTP, **limits: Any) -> str:
    """Give the line of LIMITS in the reply to EHLO."""
    (line,) = (line for line in keywords(extended(backend, role=role, **limits)) if line.startswith("LIMITS"))
    return line


class AnnounceTests(SynchronousTestCase):
    def test_usual(self) -> None:
        """Without other limits there is that of recipients (RFC 9422)."""
        self.assertEqual(announced(), "LIMITS RCPTMAX=100")

    def test_all(self) -> None:
        """Limits that are set are announced."""
        line = announced(recipients=7, messages=3, recipient_domains=2)
        self.assertEqual(line, "LIMITS MAILMAX=3 RCPTMAX=7 RCPTDOMAINMAX=2")

    def test_one_recipient(self) -> None:
        """A backend that takes one recipient a message is announced."""
        backend = ScriptedBackend()
        backend.per_recipient = True
        self.assertEqual(announced(backend), "LIMITS RCPTMAX=1")

    def test_negative(self) -> None:
        """A limit below 0 has no meaning."""
        for name in ("messages", "recipient_domains"):
            with self.subTest(name):
                self.assertRaisesRegex(ValueError, "--max-", Limits, **{name: -1})


class MailMaxTests(SynchronousTestCase):
    def test_enforced(self) -> None:
        """One MAIL more is 421 4.7.0, and the connection is closed."""
        wire = extended(messages=2).greeted()
        wire.say("MAIL FROM:<>", "RSET", "MAIL FROM:<>", "RSET", "MAIL FROM:<>")
        self.assertEqual(wire.codes, [250, 250, 250, 250, 421])
        self.assertEqual(wire.last_reply, TOO_MANY_MESSAGES)
        self.assertTrue(wire.closed)

    def test_refused_ones_count(self) -> None:
        """A MAIL that the backend refused counts too."""
        wire = extended(ScriptedBackend(mail=[replies.NO_SUCH_USER]), messages=1).greeted()
        self.assertEqual(wire.say("MAIL FROM:<>", "MAIL FROM:<>").codes, [550, 421])

    def test_greeting_resets_nothing(self) -> None:
        """The limit is that of the connection: EHLO does not begin it anew."""
        wire = extended(messages=1).greeted().say("MAIL FROM:<>", "EHLO x", "MAIL FROM:<>")
        self.assertEqual(wire.codes, [250, 250, 421])

    def test_each_connection(self) -> None:
        """Every connection has its own count."""
        for _ in range(2):
            self.assertEqual(extended(messages=1).greeted().say("MAIL FROM:<>").codes, [250])

    def test_pipelined(self) -> None:
        """Of a pipeline that goes beyond the limit nothing is executed behind it."""
        backend = ScriptedBackend()
        wire = extended(backend, messages=1).greeted()
        wire.receive(b"MAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<b@y.example>\r\nQUIT\r\n")
        self.assertEqual(wire.codes, [250, 250, 421])
        self.assertEqual(len(backend.called("mail")), 1)

    def test_without_limit(self) -> None:
        """Without a limit nothing is counted."""
        wire = extended().greeted()
        for _ in range(20):
            wire.say("MAIL FROM:<>", "RSET")
        self.assertEqual(set(wire.codes), {250})
        self.assertEqual(wire.protocol.conversation.notes, {})

    def test_costs_nothing(self) -> None:
        """Without a limit nothing stands before MAIL and RCPT."""
        verbs = extended().factory.tables.verbs
        self.assertIs(verbs[b"MAIL"].proceed, mail)
        self.assertIs(verbs[b"RCPT"].proceed, rcpt)


class RcptDomainMaxTests(SynchronousTestCase):
    def test_enforced(self) -> None:
        """A recipient in one domain more is 452 4.5.3; known domains are taken further."""
        wire = extended(recipient_domains=2).greeted().say("MAIL FROM:<>").forget()
        wire.say(*(f"RCPT TO:<{path}>" for path in ("a@x.example", "a@y.example", "a@z.example", "b@X.Example")))
        self.assertEqual(wire.replies, [*[replies.RECIPIENT_OK] * 2, TOO_MANY_DOMAINS, replies.RECIPIENT_OK])
        self.assertFalse(wire.closed)

    def test_whole_connection(self) -> None:
        """The limit is that of the connection: another message does not begin it anew."""
        wire = extended(recipient_domains=1).greeted()
        wire.say("MAIL FROM:<>", "RCPT TO:<a@x.example>", "RSET", "MAIL FROM:<>", "RCPT TO:<a@y.example>")
        self.assertEqual(wire.last_reply, TOO_MANY_DOMAINS)

    def test_same_domain(self) -> None:
        """U-labels and A-labels of a domain are one; a postmaster without a domain has none."""
        wire = extended(recipient_domains=1).greeted().say("MAIL FROM:<> SMTPUTF8").forget()
        wire.say("RCPT TO:<a@bücher.example>", "RCPT TO:<a@xn--bcher-kva.example>", "RCPT TO:<postmaster>")
        self.assertEqual(wire.codes, [250, 250, 250])

    def test_literals(self) -> None:
        """An address literal is a domain of its own."""
        wire = extended(recipient_domains=1).greeted().say("MAIL FROM:<>").forget()
        wire.say("RCPT TO:<a@[IPv6:2001:DB8::1]>", "RCPT TO:<b@[IPv6:2001:db8::1]>", "RCPT TO:<a@[192.0.2.1]>")
        self.assertEqual(wire.codes, [250, 250, 452])


class DisabledTests(SynchronousTestCase):
    def test_disabled(self) -> None:
        """Where it is disabled nothing is announced, and only the limit of recipients holds."""
        wire = extended(disable={"LIMITS"}, messages=1, recipients=1)
        self.assertFalse([line for line in keywords(wire) if line.startswith("LIMITS")])
        wire.say("MAIL FROM:<>", "RSET", "MAIL FROM:<>", "RCPT TO:<a@x.example>", "RCPT TO:<b@x.example>")
        self.assertEqual(wire.codes, [250, 250, 250, 250, 452])
