"""
TLS on a connection: how it begins, and what follows when the handshake is complete.

Beginning is the same for STARTTLS and for TLS from the first byte: the transport's ``startTLS``. A
transport that brings TLS of its own (``ssl:``, or an endpoint in ``wrapServerTLS``) is waited for.
Until the handshake is complete the conversation is in ``SECURING`` and takes nothing.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionClosed
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, ISSLTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from smtpsvc.failures import shown_failure
from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.shown import shown
from smtpsvc.grammar.states import ANY
from smtpsvc.interfaces import ISecured
from smtpsvc.server.channel import CLOSED, LINES, PARTING, SECURING, WAITING
from smtpsvc.server.hooks import Hooks
from smtpsvc.server.tables import Tables
from smtpsvc.server.verbs import Verb
from smtpsvc.values import TLSInfo

if TYPE_CHECKING:
    from smtpsvc.server.conversation import Conversation
    from smtpsvc.server.factory import SMTPFactory

log = Logger()

#: The application data of a connection whose client showed a certificate that is not to be believed.
UNVERIFIED: Final = object()

#: RFC 5929 §4.1: these count as SHA-256.
_WEAK: Final = (hashes.MD5, hashes.SHA1)


class Securing:
    """The part of a protocol that begins TLS, and waits for the handshake."""

    factory: SMTPFactory
    conversation: Conversation
    transport: Any
    since: float

    #: The OpenSSL connection, while the connection has TLS of its own.
    tls: Any = None
    # What TLS begins with when the replies so far are sent.
    _creator: Any = None

    if TYPE_CHECKING:

        def abort(self) -> None: ...

        def take_unread(self) -> bytes: ...

        def wake(self) -> None: ...

    def open(self) -> None:
        """The client is there: begin the conversation, or the TLS that comes before it."""
        watch = self.factory.watch.connected
        if watch is not None:
            watch(self.conversation.peer)
        if self.factory.implicit_tls:
            self.conversation.mode = SECURING
            self._creator = self.factory.tls
            self.begin_tls()
        elif ISSLTransport.providedBy(self.transport):
            self.conversation.mode = SECURING
        else:
            self.conversation.open()

    def start_tls(self, creator: Any) -> bool:
        """
        Begin TLS when the replies so far are sent; the conversation is in SECURING by then.

        :returns: False if there is none to be had on this transport.
        """
        if not hasattr(self.transport, "startTLS"):
            return False
        self._creator = creator
        return True

    def begin_tls(self) -> None:
        """
        Begin TLS now, if that is due.

        What the client has sent behind STARTTLS is dropped, and never taken for something that came
        under TLS (RFC 3207 §4.2, CVE-2011-0411).
        """
        creator, self._creator = self._creator, None
        if creator is None:
            return
        peer = self.conversation.peer
        stolen = len(self.take_unread())
        if stolen:
            log.warn(
                "{peer_id}: dropped {size} bytes that {host} sent in clear behind STARTTLS",
                peer_id=peer.id,
                host=peer.host or "local",
                size=stolen,
            )
        if IOpenSSLServerConnectionCreator.providedBy(creator):
            creator = _Careful(creator)
        self.since = self.factory.sweep.now
        self.transport.startTLS(creator)

    def handshakeCompleted(self) -> None:
        """The client has TLS with us."""
        if self.conversation.mode is not SECURING:
            return
        self.since = self.factory.sweep.now
        self.tls = self.transport.getHandle()
        begin_secured(self.conversation, tls_info(self.tls))
        self.wake()

    def check_handshake(self, waited: float) -> None:
        """Drop a client that takes too long."""
        limit = self.factory.settings.limits.handshake_timeout
        if waited > limit:
            watch = self.factory.watch.limited
            if watch is not None:
                watch(self.conversation.peer, "handshake-timeout")
            self.handshake_failed(f"not complete after {limit:g} s")
            self.conversation.mode = CLOSED
            self.abort()

    def handshake_failed(self, problem: str) -> None:
        """Log that a client has not got TLS with us, and why."""
        peer = self.conversation.peer
        watch = self.factory.watch.secured
        if watch is not None:
            watch(peer, None, problem)
        log.info(
            "{peer_id}: TLS handshake with {host} failed: {problem}",
            peer_id=peer.id,
            host=peer.host or "local",
            problem=problem,
        )

    def channel_binding(self, kind: str) -> bytes | None:
        """Give what binds an exchange to the connection's TLS, or None; see IConversation."""
        return None if self.tls is None else channel_binding(self.tls, kind)


class Securable(Hooks):
    """The part of a conversation that may begin TLS."""

    __slots__ = ()

    @property
    def tls(self) -> Any:
        """What STARTTLS begins with, or None if it is not offered."""
        return self.factory.tls

    def start_tls(self, creator: Any) -> bool:
        """Begin TLS when the reply that is given now has been sent; False if that cannot be."""
        if self.farewell is not None or not self.channel.start_tls(creator):
            return False
        self.mode = SECURING
        return True

    def channel_binding(self, kind: str) -> bytes | None:
        """Give what binds an exchange to the connection's TLS, or None."""
        return self.channel.channel_binding(kind)


@implementer(IOpenSSLServerConnectionCreator)
class _Careful:
    """
    Stands in front of someone's creator: what it raises is logged, and its client's handshake fails.

    Twisted's transport would be left half made.
    """

    def __init__(self, creator: Any) -> None:
        self._creator = creator

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Make the connection, or one that has no certificate."""
        try:
            connection: SSL.Connection = self._creator.serverConnectionForTLS(tlsProtocol)
        except Exception:
            log.failure("{creator} gave no connection for TLS", shown_failure(Failure()), creator=self._creator)
            return SSL.Connection(SSL.Context(SSL.TLS_SERVER_METHOD))
        return connection


def begin_secured(conversation: Conversation, tls: TLSInfo) -> None:
    """
    The handshake is complete: open the session, or forget what was learnt in clear and begin anew.
    """
    conversation.peer.tls = tls
    watch = conversation.factory.watch.secured
    if watch is not None:
        watch(conversation.peer, tls, "")
    if conversation.session is None:
        conversation.mode = WAITING
        conversation.open()
        return

    def told(reply: Reply) -> None:
        if not reply.positive:
            bar(conversation, reply)

    def renewed(_: object) -> None:
        session = conversation.session
        if ISecured.providedBy(session):
            conversation.settle(conversation.ask(session.secured, tls), told)

    conversation.mode = LINES if conversation.farewell is None else PARTING
    conversation.settle(conversation.begin_again(upgraded=True), renewed)


def greet(conversation: Conversation, greeting: Reply) -> None:
    """Greet a client that has TLS from the beginning, if the session thinks it good enough."""

    def told(reply: Reply) -> None:
        if reply.positive:
            conversation.reply(greeting)
        else:
            conversation.finish(reply)

    session = conversation.session
    if ISecured.providedBy(session):
        conversation.settle(conversation.ask(session.secured, conversation.peer.tls), told)
    else:
        conversation.reply(greeting)


def bar(conversation: Conversation, reply: Reply) -> None:
    """Answer every further command with a refusal, but QUIT (RFC 3207 §4.1)."""

    def barred(verb: Verb) -> Verb:
        def proceed(conversation: Conversation, argument: bytes) -> Any:
            return verb.refuse(conversation, argument, reply)

        return replace(verb, allowed=int(ANY), parse=bytes, proceed=proceed, refused=verb.refused and verb.refuse)

    tables: Tables = copy(conversation.tables)
    tables.commands = {}
    tables.verbs = {name: verb if name == b"QUIT" else barred(verb) for name, verb in tables.verbs.items()}
    conversation.tables = tables


def tls_info(connection: SSL.Connection) -> TLSInfo:
    """Say what is known of a connection whose handshake is complete."""
    certificate: Any = None
    if connection.get_app_data() is not UNVERIFIED:
        certificate = connection.get_peer_certificate(as_cryptography=True)
    return TLSInfo(
        version=connection.get_protocol_version_name(),
        cipher=connection.get_cipher_name() or "",
        sni=shown(connection.get_servername() or b""),
        certificate=certificate,
        alpn=shown(connection.get_alpn_proto_negotiated()),
    )


def channel_binding(connection: SSL.Connection, kind: str) -> bytes | None:
    """
    Give what binds an exchange to a connection's TLS.

    :param kind: ``tls-exporter`` is had with TLS 1.3 only: with earlier versions it needs an extension
        (RFC 9266 §4.2, RFC 7627) of which OpenSSL does not tell whether it was used.
    :returns: None if this kind cannot be had.
    """
    if kind == "tls-exporter":
        if connection.get_protocol_version_name() != "TLSv1.3":
            return None
        return connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
    if kind == "tls-server-end-point":
        certificate = connection.get_certificate(as_cryptography=True)
        try:
            algorithm = certificate.signature_hash_algorithm if certificate is not None else None
        except Exception:  # an algorithm that the library does not know
            return None
        if certificate is None or algorithm is None:
            return None
        return certificate.fingerprint(hashes.SHA256() if isinstance(algorithm, _WEAK) else algorithm)
    return None


def handshake_problem(reason: Failure) -> str:
    """
    Say why a handshake failed, in half a sentence.

    :param reason: what the connection was lost for.
    """
    error: Any = reason.value
    if isinstance(error, SSL.Error):
        parts = [str(part[-1]) for part in (error.args[0] if error.args else ()) if part and part[-1]]
        return "; ".join(parts) or "OpenSSL gives no reason"
    if isinstance(error, ConnectionAborted):
        return "it was broken off"
    if isinstance(error, ConnectionClosed):
        return "the client closed the connection"
    return str(error)
