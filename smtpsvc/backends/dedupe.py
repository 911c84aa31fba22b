"""
Keep one copy of a message that comes twice.

A client that has lost the 250 behind its message sends the message again; that it was kept, it
cannot know. Here such a message is recognized, answered 250, and not kept a second time.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, ClassVar, Final, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from smtpsvc.awaiting import settled
from smtpsvc.failures import shown_failure
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IBackend, IConnection, IDelivery, ISession
from smtpsvc.policies.front import Front
from smtpsvc.values import Envelope, Peer

__all__ = ["Duplicate", "with_dedupe"]

#: Messages that are remembered; each takes some 300 bytes.
REMEMBERED: Final = 50_000

#: When the server gives a message up, the backend has so many seconds more to say what has become of it.
GRACE: Final = 300.0

#: The field that the server writes in front of a message, which has the time and the message's id.
_TRACE = re.compile(
    rb"Received: (?:[^\r\n]|\r\n\t)*?;(?: |\r\n\t)[A-Z][a-z]{2}, \d{1,2} [A-Z][a-z]{2} \d{4,} \d\d:\d\d:\d\d \+0000\r\n"
)

_log = Logger()


class Duplicate(Exception):
    """A message has come before: the reason that its delivery's ``abort`` is given."""


def with_dedupe(backend: IBackend, seconds: float, *, clock: IReactorTime, remembered: int = REMEMBERED) -> IBackend:
    """
    Put a memory in front of a backend, so that a message which comes again is not kept again.

    It is the same message if the login or, without one, the address of the client, the sender, the set
    of recipients, the size, and a digest of the content are the same; the content is compared without
    the ``Received:`` that this server writes. What the backend has refused, for one recipient or for all, is not
    remembered. While a message is being kept, one that is the same waits for what becomes of it; and
    what is kept after its client has gone, or was told otherwise, is remembered too.

    :param seconds: for how long a message is remembered once it is kept.
    :param clock: must be monotonic, as :class:`~smtpsvc.server.deadlines.MonotonicClock` is.
    :param remembered: messages at most; the oldest is forgotten for one more.
    :returns: a backend with all the other attributes and the interfaces of *backend*.
    :raises ValueError: if *seconds* or *remembered* would remember nothing.
    :raises zope.interface.Invalid: if *backend* is none.
    """
    if seconds <= 0 or remembered <= 0:
        raise ValueError("to remember nothing, leave it away")
    verifyObject(IBackend, backend)
    return cast("IBackend", _Backend(backend, _Memory(seconds, clock, remembered)))


class _Memory:
    """
    Knows what was kept, and what is about to be.

    Keys are digests, so that each entry has a size that no client can choose.
    """

    def __init__(self, seconds: float, clock: IReactorTime, limit: int) -> None:
        self._seconds = seconds
        #: For deadlines too.
        self.clock = clock
        self._limit = limit
        # When to forget it, and its id; the oldest first.
        self._kept: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._pending: dict[bytes, list[Deferred[None]]] = {}

    def find(self, key: bytes) -> str | None:
        """Give the id of a message that was kept, or None."""
        now = self.clock.seconds()
        while self._kept:
            oldest = next(iter(self._kept))
            if self._kept[oldest][0] > now:
                break
            del self._kept[oldest]
        found = self._kept.get(key)
        return None if found is None else found[1]

    def begin(self, key: bytes) -> Deferred[None] | None:
        """
        A message is about to be kept.

        :returns: None; or, if one with this key is already, a Deferred that fires when its fate is known.
        """
        waiting = self._pending.get(key)
        if waiting is None:
            self._pending[key] = []
            return None
        fate: Deferred[None] = Deferred()
        waiting.append(fate)
        return fate

    def end(self, key: bytes, id: str | None) -> None:
        """
        The fate of a message is known.

        :param id: None if it was not kept.
        """
        if id is not None:
            self._kept[key] = (self.clock.seconds() + self._seconds, id)
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        for fate in self._pending.pop(key):
            fate.callback(None)


class _Fate(Deferred[Any]):
    """
    What becomes of a message that its backend is keeping.

    The server cancels it when the client has gone; that is when the client will send the message again.
    The backend is let go on for a while, since what it keeps is to be remembered.

    :param outcome: what the backend says.
    """

    def __init__(self, outcome: Coroutine[Any, Any, Any], clock: IReactorTime) -> None:
        super().__init__()
        self._clock = clock
        self._late: IDelayedCall | None = None
        self._outcome = Deferred.fromCoroutine(outcome)
        self._outcome.addBoth(self._came)

    def cancel(self) -> None:
        """Nobody waits any more."""
        if not self.called and self._late is None:
            self._late = self._clock.callLater(GRACE, self._outcome.cancel)

    def _came(self, value: Any) -> None:
        if self._late is not None and self._late.active():
            self._late.cancel()
        self.callback(value)


class _Front(Front):
    __slots__ = ()

    what: ClassVar[str] = "a memory"


class _Backend(_Front):
    """A backend whose deliveries have a memory in front of them."""

    __slots__ = ("_memory",)

    #: Another process would not know what this one remembers.
    shareable: ClassVar[bool] = False

    def __init__(self, backend: IBackend, memory: _Memory) -> None:
        self._behind = backend
        self._memory = memory

    def open_session(self, peer: Peer, connection: IConnection) -> Any:
        """Open the backend's session."""
        return _then(self._behind.open_session(peer, connection), self._remember)

    def _remember(self, session: Any) -> Any:
        return _Session(session, self._memory) if ISession.providedBy(session) else session


class _Session(_Front):
    """A session whose deliveries have a memory in front of them."""

    __slots__ = ("data",)

    def __init__(self, session: Any, memory: _Memory) -> None:
        self._behind = session
        self.data = partial(_begin, memory, session.data)


def _begin(memory: _Memory, data: Callable[[Envelope], Any], envelope: Envelope) -> Any:
    def remember(delivery: Any) -> Any:
        return _Delivery(delivery, envelope, memory) if IDelivery.providedBy(delivery) else delivery

    return _then(data(envelope), remember)


class _Delivery(_Front):
    """A delivery that is finished only if its message has not come before."""

    __slots__ = ("_digest", "_envelope", "_memory", "_size")

    def __init__(self, delivery: Any, envelope: Envelope, memory: _Memory) -> None:
        self._behind = delivery
        self._envelope = envelope
        self._memory = memory
        self._digest = hashlib.sha256()
        # Counted without the trace; -1 before the first piece.
        self._size = -1

    def write(self, content: bytes) -> Any:
        """Take the next piece into the digest, and hand it on."""
        if self._size < 0:
            trace = _TRACE.match(content)
            # With add_received off the first field is the client's own, which is the same each time.
            ours = trace is not None and self._envelope.id.encode() in trace[0]
            start = trace.end() if trace is not None and ours else 0
            self._size = len(content) - start
            self._digest.update(memoryview(content)[start:])
        else:
            self._size += len(content)
            self._digest.update(content)
        return self._behind.write(content)

    def finish(self) -> Any:
        """Keep the message, or forget it if it was kept before."""
        return self._finish(self._key())

    def _key(self) -> bytes:
        envelope = self._envelope
        account = envelope.peer.account
        client = ("login", account.name) if account is not None and account.name else ("host", envelope.peer.host)
        recipients = sorted({str(recipient.address) for recipient in envelope.recipients})
        whole = (client, str(envelope.sender), recipients, self._size, self._digest.digest())
        return hashlib.sha256(repr(whole).encode("utf-8", "surrogatepass")).digest()

    def _finish(self, key: bytes) -> Any:
        memory, envelope = self._memory, self._envelope
        before = memory.find(key)
        if before is not None:
            _log.info("Message {id} has come before, and is kept as {before}", id=envelope.id, before=before)
            self._abort(Duplicate(f"kept before as {before}"))
            return Reply(250, f"OK, kept before as {before}", "2.0.0")
        fate = memory.begin(key)
        if fate is not None:
            return self._finish_after(fate, key)
        try:
            outcome = self._behind.finish()
        except BaseException:
            memory.end(key, None)
            raise
        if not _waits(outcome):
            return self._finished(outcome, key)
        return _Fate(self._finish_later(outcome, key), memory.clock)

    async def _finish_after(self, fate: Deferred[None], key: bytes) -> Any:
        try:
            await fate
        except BaseException as error:  # nobody waits any more, and the server does not abort what it has finished
            self._abort(error)
            raise
        return await settled(self._finish(key))

    async def _finish_later(self, pending: Any, key: bytes) -> Any:
        try:
            outcome = await settled(pending)
        except BaseException:
            self._memory.end(key, None)
            raise
        return self._finished(outcome, key)

    def _finished(self, outcome: Any, key: bytes) -> Any:
        """Remember what was kept for all recipients; some of the outcomes for them may still be to come."""
        outcomes: Sequence[Any] = outcome if isinstance(outcome, (list, tuple)) else [outcome]
        given = [_Fate(settled(each), self._memory.clock) if _waits(each) else each for each in outcomes]
        pending = [each for each in given if isinstance(each, Deferred)]
        refused = [each for each in given if not (_kept(each) or isinstance(each, Deferred))]
        if not pending:
            self._end(key, refused)
            return outcome

        def came(value: Any) -> Any:
            pending.pop()
            if not _kept(value):
                refused.append(value)
            if not pending:
                self._end(key, refused)
            return value

        for each in tuple(pending):
            each.addBoth(came)
        return given

    def _end(self, key: bytes, refused: Sequence[Any]) -> None:
        self._memory.end(key, None if refused else self._envelope.id)

    def _abort(self, error: BaseException) -> None:
        """Abort what is behind, in the background; the client's answer is settled, so a mistake is only logged."""

        async def abort() -> None:
            await settled(self._behind.abort(Failure(error)))

        def failed(failure: Failure) -> None:
            problem = shown_failure(failure)
            _log.failure("Message {id}, which has come before, could not be aborted", problem, id=self._envelope.id)

        Deferred.fromCoroutine(abort()).addErrback(failed)


def _kept(outcome: Any) -> bool:
    return outcome is None or (isinstance(outcome, Reply) and outcome.code < 300)


def _waits(outcome: Any) -> bool:
    return isinstance(outcome, Awaitable)


def _then(outcome: Any, proceed: Callable[[Any], Any]) -> Any:
    return _then_later(outcome, proceed) if _waits(outcome) else proceed(outcome)


async def _then_later(pending: Any, proceed: Callable[[Any], Any]) -> Any:
    return proceed(await settled(pending))
