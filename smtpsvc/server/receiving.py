"""
Receiving a message: decoder, limits and delivery, with backpressure.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from smtpsvc.grammar import replies
from smtpsvc.grammar.content import DotDecoder
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.grammar.trace import Received, date_time, with_protocol
from smtpsvc.interfaces import IDelivery
from smtpsvc.server.outcomes import deferred_of, fold, gather
from smtpsvc.settings import BareNewline

if TYPE_CHECKING:
    from smtpsvc.server.conversation import Conversation


def data(conversation: Conversation, _: None) -> Any:
    """DATA: ask the session for a delivery, then ask the client for the content (RFC 5321 §4.1.1.4)."""
    return conversation.call(partial(_begin, conversation), conversation.session.data, conversation.envelope)


def _begin(conversation: Conversation, delivery: Any) -> Reply:
    refusal = check_delivery(conversation, delivery)
    if refusal is not None:
        return refusal
    normalize = conversation.settings.bare_newline is BareNewline.NORMALIZE
    conversation.receive(Receiver(conversation, delivery, DotDecoder(normalize=normalize)))
    return replies.START_MAIL


def check_delivery(conversation: Conversation, delivery: Any) -> Reply | None:
    """
    Look at what the session's ``data`` gave.

    :returns: None if it is an IDelivery; else the refusal, which is 451 4.3.0 for nonsense.
    """
    if delivery is None or isinstance(delivery, (Reply, Failure)):
        refusal = conversation.judge(delivery, "data")
        if refusal is not None and not refusal.positive:
            return refusal
        return conversation.failed(Failure(TypeError(f"data() gave {delivery!r}: an IDelivery was expected")), "data")
    try:
        conversation.factory.verify(IDelivery, delivery)
    except Exception:
        return conversation.failed(Failure(), "data")
    return None


class Receiver:
    """
    Takes the content of one message and brings it to its delivery.

    :param decoder: has ``feed(data, start)``, which gives content and the offset behind the
        message (-1 before its end), and ``damaged``.
    """

    __slots__ = ("conversation", "decoder", "delivery", "envelope", "limit", "refusal", "size")

    def __init__(self, conversation: Conversation, delivery: Any, decoder: DotDecoder) -> None:
        assert conversation.envelope is not None
        self.conversation = conversation
        self.envelope = conversation.envelope
        self.delivery = delivery
        self.decoder = decoder
        self.limit = conversation.settings.limits.message_size
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
                    self.conversation.settle(pending, lambda value: self._written(value, end >= 0))
                    return end if end >= 0 else len(data)
            elif self.decoder.damaged:
                self._refuse(self._damage())
        if end < 0:
            return len(data)
        self._end()
        return end

    def _write(self, content: bytes) -> Any:
        """Give content to the delivery; None if it goes on at once, else what to settle."""
        first = not self.size
        self.size += len(content)
        if self.limit and self.size > self.limit:
            self._refuse(replies.TOO_BIG)
            return None
        if first:
            content = self._trace() + content
        try:
            outcome = self.delivery.write(content)
        except Exception:
            self._written(Failure(), False)
            return None
        return outcome

    def _written(self, value: Any, ended: bool) -> None:
        """A write was settled."""
        if value is not None and self.refusal is None:
            reply = self.conversation.judge(value, self.delivery.write)
            if reply is not None:
                self._refuse(reply if not reply.positive else replies.LOCAL_ERROR)
        if ended:
            self._end()

    def _damage(self) -> Reply:
        damage = self.decoder.damaged
        if damage == "NUL":
            return Reply(550, "NUL in message", "5.5.2")
        return Reply(550, f"{damage} in message; lines must end in CRLF", "5.5.2")

    def _refuse(self, reply: Reply) -> None:
        """Drop what comes; say why at the end."""
        self.refusal = reply
        delivery, self.delivery = self.delivery, None
        self.conversation.background(delivery.abort, Failure(SMTPError(reply)))

    def _trace(self) -> bytes:
        conversation = self.conversation
        settings = conversation.settings
        if not settings.add_received:
            return b""
        envelope = self.envelope
        received = conversation.trace
        if received is None or envelope.utf8:
            peer, secure = conversation.peer, conversation.secure
            received = Received(
                helo=peer.helo,
                host=peer.host,
                by=settings.hostname,
                protocol=with_protocol(
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

    def _end(self) -> None:
        """The content is complete."""
        if self.refusal is None and not self.size:
            # An empty message is a message: it has its trace header, and was never written.
            trace = self._trace()
            if trace:
                try:
                    outcome = self.delivery.write(trace)
                except Exception:
                    outcome = Failure()
                self.conversation.settle(outcome, self._complete)
                return
        self._complete(None)

    def _complete(self, value: Any) -> None:
        """The content is complete, and the last write was settled."""
        conversation = self.conversation
        self._written(value, False)
        conversation.received()
        if self.refusal is not None:
            if self.refusal is replies.TOO_BIG and self.decoder.damaged:
                # Which is found first depends on how the octets came; the reply does not.
                self.refusal = self._damage()
            self._finished(self.refusal)
            return
        delivery, self.delivery = self.delivery, None
        try:
            outcome = delivery.finish()
        except Exception:
            outcome = Failure()
        conversation.settle(outcome, self._settled, late=self._finished_late)

    def _settled(self, value: Any) -> None:
        """What finish() gave has come: one outcome, or one for each recipient."""
        if isinstance(value, (list, tuple)):
            self._settle_each(value)
        else:
            self._finished(value)

    def _settle_each(self, outcomes: Any) -> None:
        conversation = self.conversation
        if len(outcomes) != len(self.envelope.recipients):
            wrong = f"finish() gave {len(outcomes)} outcomes for {len(self.envelope.recipients)} recipients"
            for outcome in outcomes:
                deferred = deferred_of(outcome)
                if deferred is not None:
                    deferred.addErrback(lambda _: None)
            self._finished(Failure(ValueError(wrong)))
            return
        conversation.settle(gather(outcomes), self._finished_each, late=self._finished_late)

    def _finished_each(self, values: Any) -> None:
        """Each recipient's outcome has come, or the Failure of all."""
        if not isinstance(values, list):
            self._finished(values)
            return
        self._finished(fold([self.conversation.judge(value, "finish") for value in values]))

    def _finished(self, value: Any) -> None:
        """The message is kept or refused: end the transaction, then say so."""
        conversation = self.conversation
        envelope = self.envelope
        reply = conversation.judge(value, "finish")
        if reply is None:
            reply = replies.taken(envelope.id)
        watch = conversation.factory.watch.message
        if watch is not None:
            seconds = conversation.factory.clock.seconds() - conversation.began
            watch(envelope, self.size, seconds, [reply] * len(envelope.recipients))
        pending = conversation.begin_again()
        if pending is None:
            conversation.answer_message(reply)
        else:
            conversation.settle(pending, lambda _: conversation.answer_message(reply))

    def _finished_late(self, value: Any) -> None:
        """The client was told 451, or is gone: whatever became of the message is for the log."""
        values = value if isinstance(value, (list, tuple)) else [value]
        if any(isinstance(one, Failure) and one.check(CancelledError) for one in values):
            what = "given up"
        else:
            reply = fold([self.conversation.judge(one, "finish") for one in values])
            what = "kept" if reply is None else "refused"
        self.conversation.factory.log.info(
            "{peer_id}: message {id} was {what} after its client had been told otherwise or was gone",
            peer_id=self.conversation.peer.id,
            id=self.envelope.id,
            what=what,
        )

    def abort(self, reason: Failure) -> None:
        """The rest of the content will not come."""
        delivery, self.delivery = self.delivery, None
        if delivery is not None:
            self.conversation.background(delivery.abort, reason)
