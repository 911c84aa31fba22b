"""
What the backends share: threads for the disk, and a spool that keeps little in memory.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Final, Protocol, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpsvc.grammar.replies import TemporaryError
from smtpsvc.grammar.trace import continues
from smtpsvc.settings import KIB, MIB

T = TypeVar("T")

#: Content in memory, of all messages together, past which every message goes to the disk at once.
MEMORY: Final = 64 * MIB
#: A thread is given this much at a time; the hop to a thread costs as much as writing some 32 KiB.
PIECE: Final = 256 * KIB
#: A client is paused while more than this of its message is unwritten.
MOST_UNWRITTEN: Final = MIB

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_log = Logger()


def refusal(error: Exception, message: str) -> Exception:
    """
    Log an error of the disk, and give the refusal that the client gets for it (RFC 3463 §3.4).

    :param message: the id of the message that cannot be kept.
    :returns: 452 4.3.1 if there is no space, 451 4.3.0 for other errors of the system. An error that is
        none of the system's is given back as it is: the server logs it and answers 451.
    """
    if not isinstance(error, OSError):
        return error
    name = errno.errorcode.get(error.errno or 0, "unknown")
    _log.error("Message {id} cannot be kept: {error}", id=message, error=error, errno=name)
    if error.errno in _NO_SPACE:
        return TemporaryError("Insufficient system storage", "4.3.1", 452)
    return TemporaryError("Local error in processing, try again later", "4.3.0")


def named(error: OSError, step: str, path: str) -> OSError:
    """
    Give the same error with the step that failed and its path in its text; errno and type stay.

    :param step: the system call.
    """
    return OSError(error.errno, f"{step}: {error.strerror}", path)


class IThreads(Protocol):
    """What the backends ask of :class:`Threads`, so that tests can step through it."""

    def run(self, job: Callable[[], object]) -> None:
        """Have a thread call *job*."""

    def defer(self, job: Callable[[], T]) -> Deferred[T]:
        """Have a thread call *job*, and give its result to the reactor's thread."""

    def stop(self) -> Deferred[None]:
        """End the threads when what they were given is done."""


class Threads:
    """
    Daemon threads that are started as they are needed, and take jobs in the order given.

    :param limit: threads at most; jobs beyond that queue up.
    :param reactor: its ``callFromThread`` brings results back.
    :param name: of the threads, for debuggers.
    """

    def __init__(self, limit: int, reactor: IReactorFromThreads, name: str) -> None:
        self._limit = limit
        self._reactor = reactor
        self._name = name
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._lock = Lock()
        self._threads: list[Thread] = []
        self._unfinished = 0
        self._ended = 0
        self._stopped: Deferred[None] | None = None

    def run(self, job: Callable[[], object]) -> None:
        """
        Have a thread call *job*.

        After :meth:`stop`, and where the system grants no thread at all, it is called at once: that
        holds everything up, but loses nothing.
        """
        with self._lock:
            if self._stopped is None and self._make_room():
                self._unfinished += 1
                self._jobs.put(job)
                return
        job()

    def defer(self, job: Callable[[], T]) -> Deferred[T]:
        """
        Have a thread call *job*.

        :returns: its result, in the reactor's thread.
        """
        answer: Deferred[T] = Deferred()

        def work() -> None:
            try:
                result = job()
            except Exception as error:
                self._reactor.callFromThread(answer.errback, error)
            else:
                self._reactor.callFromThread(answer.callback, result)

        self.run(work)
        return answer

    def stop(self) -> Deferred[None]:
        """
        End the threads when what they were given is done; called once, in the reactor's thread.

        :returns: fires when the last thread has ended.
        """
        with self._lock:
            self._stopped = Deferred()
            for _ in self._threads:
                self._jobs.put(None)
        return self._stopped if self._threads else succeed(None)

    def _make_room(self) -> bool:
        """Start a thread if all have work and one more may be, and say whether there is any."""
        count = len(self._threads)
        if self._unfinished < count or count == self._limit:
            return True
        thread = Thread(target=self._serve, name=f"{self._name} {count + 1}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # those that run will come to it
            return count > 0
        self._threads.append(thread)
        return True

    def _serve(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                break
            try:
                job()
            except Exception:
                _log.failure("A job for the disk failed")
            del job  # or an idle thread would keep a message in memory
            with self._lock:
                self._unfinished -= 1
        with self._lock:
            self._ended += 1
            last = self._ended == len(self._threads)
        if last:
            self._reactor.callFromThread(self._all_ended)

    def _all_ended(self) -> None:
        for thread in self._threads:
            thread.join()
        assert self._stopped is not None, "threads end after stop() only"
        self._stopped.callback(None)


class Budget:
    """
    Counts the content that is in memory, of all messages together.

    :param limit: in bytes.
    """

    __slots__ = ("limit", "used")

    def __init__(self, limit: int = MEMORY) -> None:
        self.limit = limit
        self.used = 0

    @property
    def spent(self) -> bool:
        """True while more is in memory than planned."""
        return self.used > self.limit


class Spool:
    """
    Keeps a message in memory while it is small, and has threads write it to a file when it is not.

    All methods are called in the reactor's thread.

    :param store: appends content to the file; called in threads, never twice at once.
    :param defer: calls a function in a thread and gives a Deferred of its result.
    :param budget: shared by all messages of a backend.
    :param threshold: the size that may stay in memory.
    :param message: the message's id, for the log.
    :param content: the header fields that the message begins with; what is written does not continue them.
    """

    __slots__ = (
        "_begin",
        "_budget",
        "_content",
        "_defer",
        "_error",
        "_idle",
        "_message",
        "_store",
        "_threshold",
        "_unwritten",
        "_waiting",
        "_writing",
        "size",
        "spooled",
    )

    def __init__(
        self,
        store: Callable[[bytearray], object],
        defer: Callable[[Callable[[], object]], Deferred[object]],
        budget: Budget,
        threshold: int,
        message: str,
        content: bytes = b"",
    ) -> None:
        self._store = store
        self._defer = defer
        self._budget = budget
        self._threshold = threshold
        self._message = message
        # What is in memory and in no thread's hands. One buffer and not a list of pieces: a client
        # that sends single octets would make each cost 40 bytes.
        self._content = bytearray(content)
        #: Of the message so far.
        self.size = self._unwritten = self._begin = len(content)
        budget.used += len(content)
        #: True once the message goes to the file.
        self.spooled = False
        self._error: Exception | None = None
        self._writing = False
        self._waiting: list[Deferred[None]] = []
        self._idle: list[Deferred[None]] = []

    def write(self, content: bytes) -> Deferred[None] | None:
        """
        Take the next piece.

        :returns: None, or a Deferred that fires when what came so far is written.
        :raises SMTPError: if an earlier piece could not be written.
        """
        if self._error is not None:
            raise self._error
        if self.size == self._begin and self._begin and continues(content):
            content = b"\r\n" + content
        self._content += content
        self.size += len(content)
        self._unwritten += len(content)
        self._budget.used += len(content)
        if self.size <= self._threshold and not self.spooled and not self._budget.spent:
            return None
        self.spooled = True
        if self._unwritten >= PIECE or self._budget.spent:
            self._write_on()
            if self._error is not None:
                raise self._error
        if self._writing and (self._unwritten > MOST_UNWRITTEN or self._budget.spent):
            return self._drained()
        return None

    def take(self) -> bytearray:
        """Give the content of a message that is not spooled; :meth:`release` is still to be called."""
        content, self._content = self._content, bytearray()
        return content

    def end(self) -> Deferred[None]:
        """
        Write what is left of a spooled message.

        :returns: fires when all is in the file, or fails with the refusal.
        """
        self._write_on()
        if self._writing:
            return self._drained()
        answer: Deferred[None] = Deferred()
        self._settle(answer)
        return answer

    def drop(self) -> Deferred[None]:
        """
        Forget what is in memory and write nothing more.

        :returns: fires when no thread is writing any more.
        """
        self._content = bytearray()
        if not self._writing:
            self.release()
            return succeed(None)
        answer: Deferred[None] = Deferred()
        self._idle.append(answer)
        return answer

    def release(self) -> None:
        """Give the memory back, when what was in it is kept elsewhere or not needed any more."""
        self._content = bytearray()
        self._budget.used -= self._unwritten
        self._unwritten = 0

    def _write_on(self) -> None:
        if self._writing or not self._content or self._error is not None:
            return
        content, self._content = self._content, bytearray()
        self._writing = True
        stored = self._defer(partial(self._store, content))
        stored.addCallbacks(self._stored, self._failed, callbackArgs=(len(content),))

    def _stored(self, _: object, size: int) -> None:
        self._writing = False
        self._unwritten -= size
        self._budget.used -= size
        if self._waiting or len(self._content) >= PIECE:
            self._write_on()
        self._tell()

    def _failed(self, failure: Failure) -> None:
        self._writing = False
        value = failure.value
        assert isinstance(value, Exception), "threads pass on no others"
        self._error = refusal(value, self._message)
        self.release()
        self._tell()

    def _tell(self) -> None:
        """Tell those who wait, if no thread is writing."""
        if self._writing:
            return
        if self._idle:
            self.release()
        waiting, self._waiting = self._waiting, []
        idle, self._idle = self._idle, []
        for answer in waiting:
            self._settle(answer)
        for answer in idle:
            answer.callback(None)

    def _drained(self) -> Deferred[None]:
        answer: Deferred[None] = Deferred()
        self._waiting.append(answer)
        return answer

    def _settle(self, answer: Deferred[None]) -> None:
        if self._error is not None:
            answer.errback(self._error)
        else:
            answer.callback(None)
