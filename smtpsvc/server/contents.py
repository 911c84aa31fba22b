"""
Content: the part of a conversation that takes what is no command line, and answers it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.python.failure import Failure

from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.states import State
from smtpsvc.server.channel import BY_MEMORY, CLOSED, CONTENT, LINES, PARTING
from smtpsvc.server.opening import Opening

if TYPE_CHECKING:
    from smtpsvc.server.receiving import Receiving
    from smtpsvc.server.verbs import Verb

_CHUNKS: Final = State.CHUNKS.value


class Contents(Opening):
    """The part of a conversation that has a receiver: while content comes, and between two chunks of it."""

    __slots__ = ("_state", "enhanced", "receiver")

    _state: int
    enhanced: bool
    receiver: Receiving | None

    if TYPE_CHECKING:

        def _answer(self, verb: Verb | None, reply: Reply, last: bool = True) -> None: ...

    def answer_message(self, reply: Reply, verb: bytes = b"DATA", last: bool = True) -> None:
        """
        Send a reply to what has been received.

        :param verb: that brought it.
        :param last: no other reply to it follows; a connection is not closed by one before the last.
        """
        if reply.notable or self.mode is CLOSED or self.factory.watch.replied:
            self._answer(self.tables.verbs[verb], reply, last)
        else:
            # As _answer does for what needs no note; neither verb is a plain one.
            self.channel.out.append(reply.wire(self.enhanced))

    def receive(self, receiver: Receiving) -> None:
        """What comes next is content, for *receiver*."""
        self.receiver = receiver
        self.mode = CONTENT if self.farewell is None else PARTING
        if self.factory.budget.full:
            self.spare_memory()

    def spare_memory(self) -> None:
        """Take no more content while too much waits in memory."""
        if self.factory.budget.full:
            self.channel.hold(BY_MEMORY)

    def received(self) -> None:
        """The content is over; command lines come next."""
        self.receiver = None
        self.mode = LINES if self.farewell is None else PARTING

    def begin_chunks(self, receiver: Receiving) -> None:
        """The message comes in chunks (RFC 3030), all of them for *receiver*."""
        self.receiver = receiver
        self._state = _CHUNKS

    def end_chunk(self) -> None:
        """A chunk is over, and the message is not; command lines come next."""
        self.mode = LINES if self.farewell is None else PARTING

    def _abort(self, reason: Failure) -> None:
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            receiver.abort(reason)
