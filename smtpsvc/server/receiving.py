"""
Receiving a message: decoder, limits and delivery, with backpressure.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from smtpsvc.awaiting import deferred_of
from smtpsvc.grammar import replies
from smtpsvc.grammar.content import Damage
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.grammar.trace import Received, continues, date_time, with_protocol
from smtpsvc.interfaces import IDelivery
from smtpsvc.server.budget import Held
from smtpsvc.server.channel import CLOSED
from smtpsvc.server.results import Ending
from smtpsvc.values import Body

if TYPE_CHECKING:
    from smtpsvc.server.conversation import Conversation


#: Refusals by what the content is; damage in it comes first.
_OF_CONTENT: Final = (
    replies.TOO_BIG, replies.HEADER_TOO_BIG, replies.TOO_MANY_HOPS, replies.TEXT_LINE_TOO_LONG,
)  # fmt: skip


def data(conversation: Conversation, _: None) -> Any:
    """DATA: ask the session for a delivery, then ask the client for the content (RFC 5321 §4.1.1.4)."""
    envelope = conversation.envelope
    assert envelope is not None
    if envelope.mail_params and envelope.mail_params.get("BODY") is Body.BINARY_MIME:
        # RFC 3030 §3: lines cannot carry it.
        return replies.BINARY_NEEDS_BDAT
    try:
        delivery = conversation.session.data(envelope)
    except Exception:
        delivery = Failure()
    if type(delivery) in conversation.factory.deliveries and conversation.mode is not CLOSED:
        # As in _begin, for a delivery of a kind that came before.
        conversation.receive(Receiver(conversation, delivery, conversation.tables.decoder()))
        return replies.START_MAIL
    deferred = deferred_of(delivery)
    if deferred is None:
        return _begin(conversation, delivery)
    begin, late = partial(_begin, conversation), partial(abort_late, conversation)
    return conversation.call(begin, lambda: deferred, late=late)


def _begin(conversation: Conversation, delivery: Any) -> Reply:
    refusal = check_delivery(conversation, delivery)
    if refusal is not None:
        return refusal
    if conversation.mode is CLOSED:
        # The connection was lost within the hook.
        abort_late(conversation, delivery)
        return replies.START_MAIL
    conversation.receive(Receiver(conversation, delivery, conversation.tables.decoder()))
    return replies.START_MAIL


def abort_late(conversation: Conversation, delivery: Any) -> None:
    """Take what the session's ``data`` gives when nobody waits for it any more: a delivery is aborted."""
    if delivery is None or isinstance(delivery, (Reply, Failure)):
        conversation.discard(delivery)
        return
    gone = conversation.mode is CLOSED
    reason = ConnectionLost() if gone else SMTPError(replies.HOOK_TIMED_OUT)
    conversation.background(lambda: delivery.abort(Failure(reason)))


def check_delivery(conversation: Conversation, delivery: Any) -> Reply | None:
    """
    Look at what the session's ``data`` gave.

    :returns: None if it is an IDelivery; else the refusal, which is 451 4.3.0 for nonsense.
    """
    if type(delivery) in conversation.factory.deliveries:
        return None
    if delivery is None or isinstance(delivery, (Reply, Failure)):
        refusal = conversation.judge(delivery, "data")
        if refusal is not None and not refusal.positive:
            return refusal
        return conversation.failed(Failure(TypeError(f"data() gave {delivery!r}: an IDelivery was expected")), "data")
    try:
        conversation.factory.verify(IDelivery, delivery)
    except Exception:
        return conversation.failed(Failure(), "data")
    conversation.factory.deliveries.add(type(delivery))
    return None


class Receiving(Protocol):
    """What a conversation needs of whatever takes content."""

    def feed(self, data: bytes, start: int) -> int:
        """Take content, and give the offset behind it."""

    def abort(self, reason: Failure) -> None:
        """The rest will not come."""


class Decoder(Protocol):
    """What a receiver needs of the decoders of :mod:`smtpsvc.grammar.content`."""

    damaged: Damage | None

    def feed(self, data: bytes, start: int) -> tuple[bytes, int]:
        """Give content, and the offset behind what is received, or -1 before its end."""


class Receiver(Ending):
    """
    Takes the content of one message and brings it to its delivery.

    :param delivery: None if the message is refused already.
    :param decoder: takes content out of what arrives.
    """

    __slots__ = ("beginning", "decoder", "delivery", "inspect", "refusal")

    #: The first piece, while nothing is known of what follows it; set by the inspection.
    beginning: bytes

    def __init__(self, conversation: Conversation, delivery: Any, decoder: Decoder) -> None:
        self.conversation = conversation
        self.envelope = conversation.envelope  # type: ignore[assignment]
        self.delivery = delivery
        self.decoder = decoder
        #: Looks at the next piece for what the limits forbid, or None. May use ``beginning``.
        self.inspect: Callable[[Receiver, bytes], Reply | None] | None = conversation.tables.inspect
        #: Bytes of content so far, dots undone, without the trace header.
        self.size = 0
        #: Why the message is not taken; its content is dropped then.
        self.refusal: Reply | None = None

    def feed(self, data: bytes, start: int) -> int:
        """
        Take content.

        :returns: the offset in *data* behind the message, or its length while more is to come.
        """
        content, end = self.decoder.feed(data, start)
        if self.refusal is None:
            if content:
                pending = self._write(content)
                if pending is not None:
                    self._wait(pending, len(content), end >= 0)
                    return end if end >= 0 else len(data)
            elif self.decoder.damaged:
                self.refuse(self.damage())
        if end < 0:
            if self.conversation.factory.budget.full:
                self.conversation.spare_memory()
            return len(data)
        self.end()
        return end

    def _wait(self, pending: Any, size: int, ended: bool) -> None:
        """The delivery may take its time over a piece, which is in memory meanwhile."""
        conversation = self.conversation
        held = Held(conversation.factory.shared.budget, size)

        def written(value: Any) -> None:
            held.release()
            self._written(value, ended)

        def late(value: Any) -> None:
            held.release()
            conversation.discard(value)

        conversation.settle(pending, written, late=late, hook="write")

    def _write(self, content: bytes) -> Any:
        """Give content to the delivery; None if it goes on at once, else what to settle."""
        first = not self.size
        self.size += len(content)
        tables = self.conversation.tables
        if self.size > tables.largest:
            self.refuse(replies.TOO_BIG)
            return None
        if self.inspect is not None:
            refusal = self.inspect(self, content)
            if refusal is not None:
                self.refuse(refusal)
                return None
        if first and tables.settings.add_received:
            trace = self._trace()
            content = trace + b"\r\n" + content if continues(content) else trace + content
        try:
            outcome = self.delivery.write(content)
        except Exception:
            self._written(Failure(), False)
            return None
        return outcome

    def _written(self, value: Any, ended: bool) -> None:
        """A write was settled."""
        if value is not None and self.refusal is None and self.delivery is not None:
            reply = self.conversation.judge(value, self.delivery.write)
            if reply is not None:
                self.refuse(reply if not reply.positive else replies.LOCAL_ERROR)
        if ended:
            self.end()

    def damage(self) -> Reply:
        """Word the refusal of what the decoder has found."""
        damage = self.decoder.damaged
        if damage == "NUL":
            return Reply(550, "NUL in message", "5.5.2")
        return Reply(550, f"{damage} in message; lines must end in CRLF", "5.5.2")

    def refuse(self, reply: Reply) -> None:
        """Drop what comes; say why at the end."""
        self.refusal = reply
        delivery, self.delivery = self.delivery, None
        self.conversation.background(delivery.abort, Failure(SMTPError(reply)))

    def _trace(self) -> bytes:
        """Make the trace header of the message."""
        conversation = self.conversation
        envelope = self.envelope
        received = conversation.trace
        if received is None or (envelope.mail_params and envelope.utf8):
            peer, secure = conversation.peer, conversation.secure
            received = Received(
                helo=peer.helo,
                host=peer.host,
                by=conversation.settings.hostname,
                protocol=with_protocol(
                    lmtp=conversation.tables.lmtp,
                    extended=conversation.extended,
                    tls=secure,
                    authenticated=peer.account is not None,
                    utf8=envelope.utf8,
                ),
                tls=str(peer.tls) if secure else "",
            )
            if not envelope.utf8:
                conversation.trace = received
        recipients = envelope.recipients
        only = recipients[0].address if len(recipients) == 1 else None
        return received.line(envelope.id, only, date_time(conversation.factory.wall_clock()))

    def end(self) -> None:
        """The content is complete."""
        if not self.size and self.refusal is None and self.conversation.settings.add_received:
            # An empty message is a message: it has its trace header, and was never written.
            try:
                outcome = self.delivery.write(self._trace())
            except Exception:
                outcome = Failure()
            self.conversation.settle(outcome, self._complete)
            return
        self._complete(None)

    def _complete(self, value: Any) -> None:
        """The content is complete, and the last write was settled."""
        conversation = self.conversation
        if value is not None:
            self._written(value, False)
        if conversation.mode is CLOSED:
            # The connection was lost within the last write.
            return
        conversation.received()
        if self.refusal is not None:
            if self.refusal in _OF_CONTENT and self.decoder.damaged:
                # Which is found first depends on how the octets came; the reply does not.
                self.refusal = self.damage()
            self.conclude(self.refusal)
            return
        delivery, self.delivery = self.delivery, None
        self.finish(delivery)

    def abort(self, reason: Failure) -> None:
        """The rest of the content will not come."""
        delivery, self.delivery = self.delivery, None
        if delivery is not None:
            self.conversation.background(delivery.abort, reason)
