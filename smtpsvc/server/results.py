"""
The end of a message: what the delivery gives, and the replies that come of it.

Over SMTP one reply stands for all recipients. Over LMTP (RFC 2033 §4.2), and where the client asked for
it with PRDR, each recipient has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from smtpsvc.awaiting import deferred_of
from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply
from smtpsvc.server.channel import WAITING
from smtpsvc.server.outcomes import fold, gather

if TYPE_CHECKING:
    from smtpsvc.server.conversation import Conversation
    from smtpsvc.values import Envelope


class Ending:
    """The part of a receiver that brings its message to an end: asks the delivery, answers, begins again."""

    __slots__ = ("conversation", "envelope", "size")

    conversation: Conversation
    envelope: Envelope
    size: int

    #: The verb that is answered.
    verb = b"DATA"

    def finish(self, delivery: Any) -> None:
        """The delivery has all of the content: ask it to keep the message."""
        try:
            outcome = delivery.finish()
        except Exception:
            outcome = Failure()
        if outcome is None:
            self.conclude(None)
            return
        self.conversation.settle(outcome, self._finished, late=self._finished_late, hook="finish")

    def _finished(self, value: Any) -> None:
        """What finish() gave has come: one outcome, or one for each recipient."""
        if not isinstance(value, (list, tuple)):
            self.conclude(value)
            return
        wanted = len(self.envelope.recipients)
        if len(value) != wanted:
            for deferred in map(deferred_of, value):
                if deferred is not None:
                    deferred.addErrback(lambda _: None)
            self.conclude(Failure(ValueError(f"finish() gave {len(value)} outcomes for {wanted} recipients")))
        elif self.conversation.tables.lmtp or (self.envelope.each_answered and wanted > 1):
            Answers(self, value)
        else:
            self.conversation.settle(gather(value), self._folded, late=self._finished_late, hook="finish")

    def _folded(self, values: Any) -> None:
        """Each recipient's outcome has come, or the Reply that stands for all."""
        if not isinstance(values, list):
            self.conclude(values)
            return
        self.conclude(fold([self.conversation.judge(value, "finish") for value in values]))

    def conclude(self, value: Any) -> None:
        """One outcome stands for all recipients: end the transaction, then say so."""
        conversation = self.conversation
        reply = None if value is None else conversation.judge(value, "finish")
        if reply is None:
            reply = replies.taken(self.envelope.id)
        elif reply is replies.HOOK_TIMED_OUT and conversation.tables.lmtp:
            reply = replies.RECIPIENT_TIMED_OUT
        if conversation.faults is not None and reply.positive:
            conversation.faults.forgive()
        if conversation.factory.watch.message is not None:
            self.report([reply] * len(self.envelope.recipients))
        pending = conversation.begin_again()
        if pending is not None:
            conversation.settle(pending, lambda _: self._answer(reply))
        elif conversation.tables.lmtp:
            self._answer(reply)
        else:
            conversation.answer_message(reply, self.verb)

    def _answer(self, reply: Reply) -> None:
        conversation = self.conversation
        if not conversation.tables.lmtp:
            conversation.answer_message(reply, self.verb)
            return
        for _ in self.envelope.recipients:
            conversation.answer_message(reply, self.verb, last=False)
        if reply.closes:
            conversation.hang_up(reply)

    def report(self, given: Sequence[Reply]) -> None:
        """Tell the monitors, if there are any, what each recipient was answered."""
        conversation = self.conversation
        watch = conversation.factory.watch.message
        if watch is not None:
            watch(self.envelope, self.size, conversation.factory.clock.seconds() - conversation.began, given)

    def _finished_late(self, value: Any) -> None:
        """The client was told otherwise, or is gone: whatever became of the message is for the log."""
        values = value if isinstance(value, (list, tuple)) else [value]
        # A coroutine is started by this, and can be once only.
        values = [one if (deferred := deferred_of(one)) is None else deferred for one in values]
        if any(isinstance(one, Deferred) for one in values):
            # A list came late whose items are not there yet.
            gather(values).addCallback(self._finished_late)
            return
        self.tell_late(values)

    def tell_late(self, values: Sequence[Any], recipient: object = "") -> None:
        """Log what became of a message, or of it for one recipient, when the client cannot be told any more."""
        if any(isinstance(one, Failure) and one.check(CancelledError) for one in values):
            what = "given up"
        else:
            reply = fold([self.conversation.judge(one, "finish") for one in values])
            what = "kept" if reply is None else "refused"
        self.conversation.factory.log.info(
            "{peer_id}: message {id}{for_whom} was {what} after its client had been told otherwise or was gone",
            peer_id=self.conversation.peer.id,
            id=self.envelope.id,
            for_whom=f" for {recipient}" if recipient else "",
            what=what,
        )


class Answers:
    """
    Answers each recipient in the order of the RCPTs, as soon as its outcome and those before it are known.

    A recipient whose outcome has not come by ``limits.hook_timeout`` is answered 420 4.4.7; the others
    are not held up by it any longer. A reply that closes the connection does so behind the last one.

    :param ending: of the message.
    :param outcomes: one for each recipient.
    """

    __slots__ = ("_conversation", "_ending", "_known", "_late", "_sent")

    def __init__(self, ending: Ending, outcomes: Sequence[Any]) -> None:
        self._ending = ending
        self._conversation = conversation = ending.conversation
        self._known: list[Reply | None] = [None] * len(outcomes)
        self._sent = 0
        # The recipients that were answered 420 in place of what still comes.
        self._late: set[int] = set()
        if not conversation.tables.lmtp:
            # draft-hall-prdr: a client that has asked for PRDR knows by the 353 that more than one reply comes.
            conversation.answer_message(replies.EACH_FOLLOWS, ending.verb)
        conversation.settle(gather(outcomes, came=self._came), self._ended, late=self._ended_late, hook="finish")

    def _came(self, place: int, value: Any) -> None:
        reply = self._conversation.judge(value, "finish")
        self._known[place] = reply or replies.taken(self._ending.envelope.id)
        if self._send() and self._conversation.mode is WAITING:
            self._conversation.channel.wake()

    def _send(self) -> bool:
        """Send what may be sent; True if there was anything."""
        before = self._sent
        for reply in self._known[before:]:
            if reply is None:
                break
            self._conversation.answer_message(reply, self._ending.verb, last=False)
            self._sent += 1
        return self._sent > before

    def _ended(self, value: Any) -> None:
        """All outcomes have come, or the deadline."""
        conversation, ending = self._conversation, self._ending
        if not isinstance(value, list):
            self._late = {place for place, reply in enumerate(self._known) if reply is None}
            for place in self._late:
                self._known[place] = replies.RECIPIENT_TIMED_OUT
            self._send()
        given = [reply for reply in self._known if reply is not None]
        if conversation.faults is not None and any(reply.positive for reply in given):
            conversation.faults.forgive()
        ending.report(given)
        pending = conversation.begin_again()
        if pending is None:
            self._close(given)
        else:
            conversation.settle(pending, lambda _: self._close(given))

    def _close(self, given: Sequence[Reply]) -> None:
        """The transaction is over: with PRDR, send the reply for the message."""
        conversation = self._conversation
        if not conversation.tables.lmtp:
            conversation.answer_message(self._last(given), self._ending.verb)
        for reply in given:
            if reply.closes:
                conversation.hang_up(reply)

    def _last(self, given: Sequence[Reply]) -> Reply:
        id = self._ending.envelope.id
        taken = sum(reply.positive for reply in given)
        refusal = fold(given)
        if refusal is None:
            return replies.taken(id)
        if taken:
            return Reply(250, f"OK, taken for {taken} of {len(given)} recipients as {id}", "2.0.0")
        # Exim takes a 5xx here for the fate of all recipients: where one may be tried again, it is a 4xx.
        return refusal

    def _ended_late(self, values: Any) -> None:
        """All have ended, but the client has heard otherwise of some, or is gone."""
        for place, recipient in enumerate(self._ending.envelope.recipients):
            if place in self._late or place >= self._sent:
                self._ending.tell_late([values[place]], recipient)


def tell_broken(conversation: Conversation, why: Failure | Reply) -> None:
    """
    Log that a connection ends in the middle of a transaction.

    :param why: the connection was lost for this, or we have closed it with this reply.
    """
    envelope = conversation.envelope
    assert envelope is not None
    if isinstance(why, Reply):
        problem = f"it was told {why.code} {why.enhanced}".rstrip()
    else:
        problem = "it closed the connection" if why.check(ConnectionDone) else "the connection was lost"
    receiver: Any = conversation.receiver
    size = getattr(receiver, "size", 0)
    peer = conversation.peer
    watch = conversation.factory.watch.broken
    if watch is not None:
        watch(envelope, size, problem)
    conversation.factory.log.info(
        "{peer_id}: {host} ({helo!r}) broke off {id} from {sender!r} to {count} recipients{after}: {problem}",
        peer_id=peer.id,
        host=peer.host or "local",
        helo=peer.helo,
        id=envelope.id,
        sender=str(envelope.sender),
        count=len(envelope.recipients),
        after=f", after {size} bytes" if receiver is not None else "",
        problem=problem,
    )
