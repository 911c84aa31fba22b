"""
CHUNKING and BINARYMIME: content by count of octets instead of by lines (RFC 3030).

The octets of a chunk are never read as commands, whatever becomes of its BDAT: a chunk that is refused
is received and dropped, and then the refusal is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from twisted.python.failure import Failure

from smtpsvc.awaiting import deferred_of
from smtpsvc.extensions import Extension
from smtpsvc.grammar import replies
from smtpsvc.grammar.content import ChunkDecoder
from smtpsvc.grammar.replies import LastReply, Reply, SMTPError
from smtpsvc.grammar.states import State
from smtpsvc.interfaces import IConversation
from smtpsvc.server.channel import CLOSED
from smtpsvc.server.outcomes import LATER
from smtpsvc.server.receiving import Receiver, abort_late, check_delivery
from smtpsvc.server.verbs import Verb
from smtpsvc.values import Body

#: How many octets follow cannot be known, so the connection is closed.
BAD_SIZE: Final = LastReply(501, "Syntax: BDAT size [LAST]; what follows cannot be read, closing", "5.5.4")
DROPPED: Final = Reply(503, "The message was refused, its chunks are dropped; send RSET", "5.5.1")

_MAX_DIGITS: Final = 20  # as for SIZE (RFC 1870 §4)

#: The size of a chunk, and whether it is the last of its message.
Chunk = tuple[int, bool]


def parse_chunk(argument: bytes) -> Chunk:
    """
    Parse ``chunk-size [LAST]`` (RFC 3030 §2).

    :raises SMTPError: 501 5.5.4, after which the connection is closed.
    """
    digits, space, mark = argument.partition(b" ")
    if not digits.isdigit() or len(digits) > _MAX_DIGITS or (space and mark.upper() != b"LAST"):
        raise SMTPError(BAD_SIZE)
    return int(digits), bool(space)


def bdat(conversation: Any, chunk: Chunk) -> Any:
    """BDAT: take a chunk; at the first one ask the session for a delivery (RFC 3030 §2)."""
    receiver = conversation.receiver
    if receiver is not None:
        return receiver.take(chunk)
    try:
        delivery = conversation.session.data(conversation.envelope)
    except Exception:
        delivery = Failure()
    if type(delivery) in conversation.factory.deliveries and conversation.mode is not CLOSED:
        # As in _begin, for a delivery of a kind that came before.
        return ChunkReceiver(conversation, delivery, None).take(chunk)
    deferred = deferred_of(delivery)
    if deferred is None:
        return _begin(conversation, chunk, delivery)
    conversation.settle(
        deferred,
        lambda value: _begin(conversation, chunk, value),
        late=lambda value: abort_late(conversation, value),
    )
    return LATER


def _begin(conversation: Any, chunk: Chunk, delivery: Any) -> Any:
    if conversation.mode is CLOSED:
        # The connection was lost within the hook.
        abort_late(conversation, delivery)
        return LATER
    refusal = check_delivery(conversation, delivery)
    return ChunkReceiver(conversation, None if refusal is not None else delivery, refusal).take(chunk)


def drop(conversation: Any, chunk: Chunk, refusal: Reply) -> Any:
    """Receive a chunk of a BDAT that is refused; then send the refusal."""
    if conversation.envelope is None:
        return _Dropped(conversation, refusal).take(chunk)
    receiver = conversation.receiver
    if receiver is None:
        receiver = ChunkReceiver(conversation, None, refusal)
    elif receiver.refusal is None:
        receiver.refuse(refusal)
    return receiver.take(chunk)


class ChunkReceiver(Receiver):
    """
    Takes the chunks of one message, each of them answered, and brings it to its delivery.

    Once a chunk was refused, those behind it are dropped, and the message with them: a LAST or RSET
    ends its transaction.

    :param delivery: None if the message is refused from the beginning.
    :param refusal: the reason then.
    """

    __slots__ = ("_last", "_reported", "_told")

    verb = b"BDAT"
    decoder: ChunkDecoder

    def __init__(self, conversation: Any, delivery: Any, refusal: Reply | None) -> None:
        params = conversation.envelope.mail_params
        binary = bool(params) and params.get("BODY") is Body.BINARY_MIME
        super().__init__(conversation, delivery, ChunkDecoder(binary=binary))
        self.refusal = refusal
        # True if the open chunk ends the message.
        self._last = False
        # True once a chunk was answered with the refusal.
        self._told = False
        # True if the monitors have been told what became of the message, or need not be: it never began.
        self._reported = refusal is not None

    def take(self, chunk: Chunk) -> Any:
        """Take what comes next for a chunk; the reply comes behind it."""
        size, self._last = chunk
        conversation = self.conversation
        conversation.begin_chunks(self)
        if size:
            self.decoder.begin(size)
            conversation.receive(self)
        else:
            self.end()
        return LATER

    def end(self) -> None:
        """A chunk is complete."""
        if not self._last:
            self._answer_chunk()
            return
        self.decoder.finish()
        if self._told:
            self.refusal = self._again()
        elif self.refusal is None and self.decoder.damaged:
            self.refuse(self.damage())
        super().end()

    def _answer_chunk(self) -> None:
        """Answer a chunk that is not the last."""
        conversation = self.conversation
        if conversation.mode is CLOSED:
            # The connection was lost within the last write.
            return
        conversation.end_chunk()
        conversation.answer_message(self._reply(), self.verb)

    def _reply(self) -> Reply:
        refusal = self.refusal
        if refusal is None:
            return replies.OK
        if self._told:
            return self._again()
        if self.decoder.damaged and refusal in (self.damage(), replies.TOO_BIG):
            # Said at the end of the message, as for DATA.
            return replies.OK
        self._told = True
        self.report([refusal] * len(self.envelope.recipients))
        return refusal

    def _again(self) -> Reply:
        """Word the answer to a chunk behind one that was refused; a client may take it for the message's fate."""
        return self.refusal if self.refusal is not None and self.refusal.code < 500 else DROPPED

    def report(self, given: Sequence[Reply]) -> None:
        """Tell the monitors once."""
        if not self._reported:
            self._reported = True
            super().report(given)


class _Dropped:
    """Drops a chunk that comes outside of a transaction."""

    __slots__ = ("_conversation", "_remaining", "_reply")

    def __init__(self, conversation: Any, reply: Reply) -> None:
        self._conversation = conversation
        self._remaining = 0
        self._reply: Reply | None = reply

    def take(self, chunk: Chunk) -> Any:
        """Drop what comes next; the reply comes behind it."""
        size, last = chunk
        if last and self._conversation.tables.lmtp:
            # RFC 2033 §4.3: a reply for each recipient that was accepted, so none without any.
            self._reply = None
        if not size:
            return self._reply or LATER
        self._remaining = size
        self._conversation.receive(self)
        return LATER

    def feed(self, data: bytes, start: int) -> int:
        """Drop octets, and give the offset behind them."""
        end = min(len(data), start + self._remaining)
        self._remaining -= end - start
        if not self._remaining:
            self._conversation.received()
            if self._reply is not None:
                self._conversation.answer_message(self._reply, ChunkReceiver.verb)
        return end

    def abort(self, reason: Failure) -> None:
        """The rest will not come."""


class Chunking(Extension):
    """
    CHUNKING (RFC 3030): BDAT sends a message in chunks of known size, without dots to double.

    Each chunk is written to the delivery as it arrives, and answered when that is done.
    """

    keyword = "CHUNKING"
    verbs = {"BDAT": Verb(State.RCPT | State.CHUNKS, parse_chunk, bdat, refused=drop, memorable=True)}


class BinaryMIME(Extension):
    """
    BINARYMIME (RFC 3030): ``BODY=BINARYMIME`` on MAIL declares content of any octets, that comes by BDAT.

    What is not declared so has lines that end in CRLF, by BDAT as by DATA.
    """

    keyword = "BINARYMIME"

    def advertise(self, conversation: IConversation) -> str | None:
        """Keep silent without BDAT to send it by (RFC 3030 §3), or BODY to declare it with."""
        return "" if conversation.keywords >= {"CHUNKING", "8BITMIME"} else None
