"""
One client's mail on its way through: each of its steps is taken with the next server before it is answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from smtpsvc.backends import relayed
from smtpsvc.backends.nexthop import NextHop, Unreachable
from smtpsvc.backends.notifier import HeaderKeeper, Notifier
from smtpsvc.backends.relayed import answer, handed_on, problem
from smtpsvc.client import ClientError, Connection, Result, Stage, Transaction
from smtpsvc.client.commands import attributes
from smtpsvc.grammar import replies
from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.interfaces import IGreeting
from smtpsvc.session import Delivery, Session
from smtpsvc.settings import Role
from smtpsvc.values import Envelope, Peer, Recipient

#: Extensions that promise something only the next server can keep: they are not announced where it lacks them.
KEPT_BEYOND: Final = frozenset(
    {"8BITMIME", "SMTPUTF8", "BINARYMIME", "DSN", "REQUIRETLS", "DELIVERBY", "RRVS", "MT-PRIORITY", "FUTURERELEASE"}
)


class Way:
    """A transaction that is open with the next server, and what it has said of the recipients."""

    __slots__ = ("connection", "hop", "recipients", "refusal", "sender", "transaction")

    def __init__(self, hop: NextHop, connection: Connection, sender: Address) -> None:
        self.hop = hop
        self.connection = connection
        self.sender = sender
        self.transaction: Transaction = connection.transaction()
        self.recipients: list[Recipient] = []
        #: Why it cannot go on, if so.
        self.refusal: Reply | None = None

    def leave(self) -> None:
        """Give it up: nothing of it is delivered."""
        connection = self.connection
        waiting = bool(connection.dialogue.waiting)
        if waiting and not connection.capabilities.pipelining:
            # RSET cannot be said before that is answered.
            connection.abort()
        else:
            self.transaction.abort(lambda _: self.release())

    def forget(self) -> None:
        """An answer is not waited for any more: whatever it will be, the client hears otherwise."""
        self.refusal = relayed.LOST
        self.connection.abort()

    def release(self) -> None:
        """The connection is free."""
        self.hop.release(self.connection)


@implementer(IGreeting)
class RelaySession(Session):
    """
    A client whose mail goes on.

    :param hops: the servers, the first of them that answers is taken.
    :param xclient: tell it who our client is, with XCLIENT.
    :param xforward: tell it where a message came from, with XFORWARD.
    :param notifier: tells senders of recipients who did not get what others have got.
    """

    __slots__ = ("_hops", "_notifier", "_peer", "_way", "_xclient", "_xforward")

    def __init__(
        self,
        hops: Sequence[NextHop],
        peer: Peer,
        *,
        xclient: bool = False,
        xforward: bool = False,
        notifier: Notifier | None = None,
    ) -> None:
        self._notifier = notifier
        self._hops = hops
        self._peer = peer
        self._xclient = xclient
        self._xforward = xforward
        self._way: Way | None = None

    def ehlo(self, lines: list[str]) -> list[str]:
        """Announce nothing that the server lacks that was last connected to."""
        offers = self._hops[0].offers
        if offers is None:
            return lines
        lacking = KEPT_BEYOND - offers
        return [line for line in lines if line.partition(" ")[0].upper() not in lacking]

    def mail(self, envelope: Envelope) -> Any:
        """Open a transaction with the first server that answers; its reply is the client's."""
        return self._mail(envelope)

    async def _mail(self, envelope: Envelope) -> Reply:
        self._leave()
        way, reply = await self._begin(envelope)
        if reply.code >= 400:
            way.leave()
        else:
            self._way = way
        return handed_on(reply)

    async def _begin(self, envelope: Envelope) -> tuple[Way, Reply]:
        xclient = xclient_attributes(self._peer, envelope) if self._xclient else {}
        for hop in self._hops:
            fresh = False
            while not fresh:
                try:
                    connection, fresh = await hop.acquire(xclient)
                except ClientError as error:
                    _note(error, envelope, hop)
                    break
                way = Way(hop, connection, envelope.sender)
                try:
                    reply = await self._name_sender(way, envelope)
                except ClientError as error:
                    if connection.error is None:
                        # Nothing is wrong with the server: it cannot have this message.
                        way.leave()
                        raise problem(error, envelope, hop.name) from error
                    # One that was kept may have ended meanwhile; another try tells.
                    _note(error, envelope, hop)
                    continue
                except ValueError as error:
                    way.leave()
                    raise problem(error, envelope, hop.name) from error
                except Exception:
                    # The client has gone.
                    connection.abort()
                    raise
                if reply.code != 421:
                    return way, reply
                connection.abort()
        raise SMTPError(relayed.UNREACHABLE)

    async def _name_sender(self, way: Way, envelope: Envelope) -> Reply:
        connection = way.connection
        if self._xforward:
            offered = connection.capabilities.attributes("XFORWARD")
            command = attributes("XFORWARD", forward_attributes(self._peer, envelope), offered, [])
            if command is not None:
                said = connection.dialogue.command(command, Stage.COMMAND)
                said.addErrback(lambda _: None)
                if not connection.capabilities.pipelining:
                    await said
        return await way.transaction.mail(envelope.sender, envelope.mail_params)

    def rcpt(self, envelope: Envelope, recipient: Recipient) -> Any:
        """Name a recipient to the server; its reply is the client's."""
        return self._rcpt(envelope, recipient)

    async def _rcpt(self, envelope: Envelope, recipient: Recipient) -> Reply:
        way = self._open_way()
        if way.recipients and way.connection.lmtp and self._notifier is None and not envelope.each_answered:
            # Our server says that itself, but not where this is one of several backends.
            return replies.ONE_RECIPIENT_EACH
        return await self._name_recipient(way, envelope, recipient)

    async def _name_recipient(self, way: Way, envelope: Envelope, recipient: Recipient) -> Reply:
        try:
            reply = await way.transaction.rcpt(recipient)
        except (ClientError, ValueError) as error:
            refusal = problem(error, envelope, way.hop.name, recipient)
            if way.connection.error is not None:
                way.refusal = refusal.reply
            raise refusal from error
        except CancelledError:
            way.forget()
            raise
        if reply.code == 421:
            way.refusal = handed_on(reply)
            way.connection.abort()
        elif reply.code < 300:
            way.recipients.append(recipient)
        return handed_on(reply)

    def data(self, envelope: Envelope) -> Any:
        """Open the message with the server; what it says against it, the client hears."""
        return self._data(envelope)

    async def _data(self, envelope: Envelope) -> Any:
        way = self._open_way()
        if way.recipients != envelope.recipients or way.sender != envelope.sender:
            way = await self._anew(way, envelope)
        try:
            refusal = await way.transaction.data()
        except ClientError as error:
            way.refusal = problem(error, envelope, way.hop.name).reply
            return way.refusal
        except CancelledError:
            way.forget()
            raise
        if refusal is not None:
            way.refusal = handed_on(refusal)
            way.leave()
            return way.refusal
        self._way = None
        # Where one reply stands for several recipients who have fates of their own.
        mixed = way.connection.lmtp and len(way.recipients) > 1 and not envelope.each_answered
        return RelayDelivery(way, envelope, self._notifier if mixed else None)

    async def _anew(self, way: Way, envelope: Envelope) -> Way:
        """Somebody in between has changed sender or recipients since the server took them: name them once more."""
        way.leave()
        self._way = None
        way, reply = await self._begin(envelope)
        self._way = way
        if reply.code >= 400:
            way.refusal = handed_on(reply)
            way.leave()
            raise SMTPError(way.refusal)
        for recipient in envelope.recipients:
            reply = await self._name_recipient(way, envelope, recipient)
            if reply.code >= 400:
                way.refusal = way.refusal or reply
                way.leave()
                raise SMTPError(way.refusal)
        return way

    def reset(self, envelope: Envelope | None, upgraded: bool) -> None:
        """Give up what is open with the server."""
        self._leave()

    def close(self, reason: Failure) -> None:
        """Give up what is open with the server."""
        self._leave()

    def _open_way(self) -> Way:
        way = self._way
        if way is None:
            raise SMTPError(relayed.LOST)
        if way.refusal is not None:
            raise SMTPError(way.refusal)
        return way

    def _leave(self) -> None:
        way, self._way = self._way, None
        if way is not None and way.refusal is None:
            way.leave()


class RelayDelivery(Delivery):
    """Hands content on as it comes; says what the server says."""

    __slots__ = ("_envelope", "_keeper", "_notifier", "_way")

    def __init__(self, way: Way, envelope: Envelope, notifier: Notifier | None = None) -> None:
        self._way = way
        self._envelope = envelope
        self._notifier = notifier
        self._keeper = HeaderKeeper() if notifier is not None else None

    def write(self, content: bytes) -> Deferred[None] | None:
        """Hand a piece on; wait while the server takes no more."""
        if self._keeper is not None:
            self._keeper.write(content)
        try:
            return self._way.transaction.write(content)
        except ClientError as error:
            raise problem(error, self._envelope, self._way.hop.name) from error

    def finish(self) -> Any:
        """
        Send the end.

        :returns: a Deferred of the server's reply, or of one for each recipient where it gives them. To cancel it
            changes nothing: the server has the message, and what it says is waited for.
        """
        way = self._way
        if way.recipients != self._envelope.recipients:
            # Whom the server has taken cannot be taken back alone.
            way.leave()
            raise SMTPError(relayed.CHANGED)
        done = _Awaited()
        way.transaction.finish().addCallbacks(self._finished, self._failed).chainDeferred(done)
        return done

    def _finished(self, result: Result) -> Any:
        way, envelope = self._way, self._envelope
        way.release()
        prdr = "PRDR" in envelope.mail_params and "PRDR" not in result.dropped
        if not (way.connection.lmtp or prdr):
            return answer(envelope, result.reply)
        named = [each.reply for each in result.recipients if each.stage is not Stage.RCPT]
        if len(named) != len(way.recipients):
            return answer(envelope, result.reply) if result.reply.code >= 400 else relayed.UNKNOWN
        said = [answer(envelope, reply) for reply in named]
        if self._notifier is not None and len({reply.positive for reply in said}) > 1:
            return Deferred.fromCoroutine(self._notify(said))
        return said

    async def _notify(self, said: Sequence[Reply]) -> Reply:
        """Some have the message, and some have not: that the client cannot be told, but its sender can."""
        way, envelope = self._way, self._envelope
        assert self._notifier is not None and self._keeper is not None
        each = list(zip(way.recipients, said, strict=True))
        refused = [(recipient, reply) for recipient, reply in each if not reply.positive]
        told = await self._notifier.tell(envelope, refused, self._keeper.header, way.hop.host)
        taken = next(reply for reply in said if reply.positive)
        # Else it comes again: twice for some is better than never for others.
        return taken if told else relayed.NOT_TOLD

    def _failed(self, failure: Failure) -> Any:
        error: Any = failure.value
        way, envelope = self._way, self._envelope
        way.connection.abort()
        refusal = problem(error, envelope, way.hop.name)
        known = error.result.recipients if isinstance(error, ClientError) and error.result is not None else ()
        ends = [each.reply for each in known if each.stage is Stage.END]
        if not way.connection.lmtp or not ends:
            raise refusal
        # Some were answered before the connection was lost: what was said to them holds.
        said = [answer(envelope, reply) for reply in ends]
        return said + [refusal.reply] * (len(way.recipients) - len(said))

    def abort(self, reason: Failure) -> None:
        """Close the connection in the middle of the content, or reset it: nothing is delivered."""
        self._way.leave()


class _Awaited(Deferred[Any]):
    """What the server says of a message that it has: nobody can cancel that."""

    def cancel(self) -> None:
        """Wait on."""


def _note(error: ClientError, envelope: Envelope, hop: NextHop) -> None:
    """Have it logged, unless it is no news."""
    if not isinstance(error, Unreachable):
        problem(error, envelope, hop.name)


def _protocol(peer: Peer, envelope: Envelope) -> str:
    if envelope.role is Role.LMTP:
        return "LMTP"
    return "ESMTP" if peer.extended else "SMTP"


def _told(value: object) -> object:
    """Give a value that XCLIENT and XFORWARD can say, or None."""
    text = str(value or "")
    return text if text and text.isascii() and text.isprintable() and len(text) <= 255 else None


def xclient_attributes(peer: Peer, envelope: Envelope) -> Mapping[str, object]:
    """Say who a client is, as XCLIENT has it; None is what is not known."""
    host = peer.host
    found = {
        "NAME": _told(peer.name),
        "ADDR": _told(f"IPV6:{host}" if ":" in host else host),
        "PORT": _told(peer.port),
        "PROTO": _protocol(peer, envelope).replace("LMTP", "ESMTP"),
        "HELO": _told(peer.helo),
    }
    return {**found, "LOGIN": _told(peer.account.name)} if peer.account is not None else found


def forward_attributes(peer: Peer, envelope: Envelope) -> Mapping[str, object]:
    """Say where a message came from, as XFORWARD has it: what its client said of that, or else who the client is."""
    before = envelope.forwarded
    if before is not None:
        address = before.address
        return {
            "NAME": _told(before.name),
            "ADDR": _told(f"IPV6:{address}" if address is not None and ":" in address else address),
            "PORT": _told(before.port),
            "PROTO": _told(before.protocol),
            "HELO": _told(before.helo),
            "IDENT": _told(before.ident),
            "SOURCE": _told(before.source),
        }
    found = xclient_attributes(peer, envelope)
    known = {name: found[name] for name in ("NAME", "ADDR", "PORT", "HELO")}
    local = not peer.host or peer.host in ("127.0.0.1", "::1")
    source = "LOCAL" if local else "REMOTE"
    return {**known, "PROTO": _protocol(peer, envelope), "IDENT": envelope.id, "SOURCE": source}
