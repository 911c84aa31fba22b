"""
A function as a backend: it is called with each message, which is spooled to disk when it is large.
"""

from __future__ import annotations

import functools
import io
import os
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from threading import Lock
from typing import IO, Any, TypeAlias, cast, overload

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from smtpsvc.awaiting import deferred_of
from smtpsvc.backends.spool import Budget, Spool, named
from smtpsvc.current import current_reactor
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IConnection, Outcome
from smtpsvc.session import Backend, Delivery, Session
from smtpsvc.settings import MIB
from smtpsvc.values import Envelope, Peer

#: What the function may give: an outcome for the message or, as for :meth:`~smtpsvc.IDelivery.finish`, one for each
#: recipient.
Answer: TypeAlias = "Outcome | Sequence[None | Reply] | Awaitable[Sequence[None | Reply]]"

#: What :func:`on_message` takes.
Function: TypeAlias = "Callable[[Message], Answer]"


class Message:
    """
    One whole message, as the function of :func:`on_message` gets it.

    The content is there until the outcome of the function has settled, and not longer. A test may
    make one of an envelope and some bytes.
    """

    __slots__ = ("_content", "envelope", "peer", "recipients", "sender", "size")

    def __init__(self, envelope: Envelope, content: bytes | TemporaryContent) -> None:
        self._content: bytes | TemporaryContent | None = content
        #: The transaction, with the parameters of MAIL and RCPT.
        self.envelope = envelope
        #: Who sent it.
        self.peer = envelope.peer
        #: The reverse path; ``sender.is_null`` for ``<>``.
        self.sender = envelope.sender
        #: The addresses of the recipients, in the order of their RCPT commands.
        self.recipients = tuple(recipient.address for recipient in envelope.recipients)
        #: Of the content, in bytes.
        self.size = len(content)

    def __repr__(self) -> str:
        return f"<Message {self.envelope.id} from <{self.sender}>, {self.size} bytes>"

    @property
    def content(self) -> bytes:
        """
        The whole content, with CRLF line ends. :meth:`open` is the way to less memory.

        :raises ValueError: if the message is closed.
        """
        if isinstance(self._content, bytes):
            return self._content
        with self.open() as file:
            return file.read()

    def open(self) -> io.BufferedReader:
        """
        Open the content for reading, from its beginning; each file has a position of its own.

        :raises ValueError: if the message is closed.
        """
        if self._content is None:
            raise ValueError("the message is closed: its content is there until the function's outcome has settled")
        if isinstance(self._content, bytes):
            return io.BufferedReader(cast("io.RawIOBase", io.BytesIO(self._content)))
        return io.BufferedReader(ContentReader(self._content))

    def close(self) -> None:
        """Forget the content."""
        self._content = None


class TemporaryContent:
    """
    A temporary file without a name, so that nothing of it stays behind.

    :meth:`write` and :meth:`close` are called in threads, never two at once; :meth:`read` in any.
    """

    __slots__ = ("_file", "_lock", "_size")

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._lock = Lock()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def write(self, content: bytearray) -> None:
        """
        Append to the file, which is created if there is none, where :mod:`tempfile` puts it.

        :raises OSError: with the step that failed.
        """
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115, it outlives this call
            view = memoryview(content)
            done = 0
            while done < len(content):
                done += self._file.write(view[done:])
        except OSError as error:
            raise named(error, "write", "a temporary file") from error
        self._size += len(content)

    def read(self, size: int, offset: int) -> bytes:
        """
        Read from any place.

        :raises ValueError: if the file is closed.
        """
        # Without the lock, the number of a file that is closed meanwhile could be another file's already.
        with self._lock:
            if self._file is None:
                raise ValueError("the message is closed: its content is there until the function's outcome has settled")
            return os.pread(self._file.fileno(), size, offset)

    def close(self) -> None:
        """Close the file, which deletes it."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


class ContentReader(io.RawIOBase):
    """
    A file to read content by, which is read by offsets.

    :param content: has a length, and ``read(size, offset)``.
    """

    def __init__(self, content: Any) -> None:
        self._content = content
        self._position = 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """Its position can be set."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as one read goes; give how many bytes there are."""
        with memoryview(buffer) as view:
            found = self._content.read(len(view), self._position)
            view[: len(found)] = found
        self._position += len(found)
        return len(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """
        Set the position, and give it.

        :raises ValueError: for one before the beginning.
        """
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._content)}[whence]
        if base + offset < 0:
            raise ValueError("there is nothing before the beginning")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Give the position."""
        return self._position


class FunctionDelivery(Delivery):
    """Gathers one message for a function."""

    __slots__ = ("_backend", "_envelope", "_file", "_spool")

    def __init__(self, backend: FunctionBackend, envelope: Envelope) -> None:
        self._backend = backend
        self._envelope = envelope
        self._file = TemporaryContent()
        self._spool = Spool(self._file.write, backend.defer, backend.budget, backend.spool_at, envelope.id)

    def write(self, content: bytes) -> Deferred[None] | None:
        """
        Take the next piece.

        :returns: a Deferred when the disk is behind the client.
        :raises TemporaryError: 452 4.3.1 if there is no space, 451 4.3.0 for other errors.
        """
        return self._spool.write(content)

    def finish(self) -> Answer:
        """
        Call the function.

        :returns: its answer.
        """
        if not self._spool.spooled:
            return self._call(bytes(self._spool.take()))
        answer: Deferred[Any] = self._spool.end()
        answer.addCallbacks(lambda _: self._call(self._file), self._give_up)
        return answer

    def abort(self, reason: Failure) -> Deferred[None] | None:
        """
        Forget the message.

        :returns: None, or a Deferred that fires when its temporary file is gone.
        """
        idle = self._spool.drop()
        return idle.addCallback(self._close) if self._spool.spooled else None

    def _call(self, content: bytes | TemporaryContent) -> Answer:
        message = Message(self._envelope, content)
        try:
            outcome = self._backend.function(message)
        except BaseException:
            self._release(message)
            raise
        settled = deferred_of(outcome)
        if settled is None:
            self._release(message)
            return outcome

        def release(result: Any) -> Any:
            self._release(message)
            return result

        return settled.addBoth(release)

    def _release(self, message: Message) -> None:
        message.close()
        self._spool.release()
        if self._spool.spooled:
            self._close(None)

    def _give_up(self, failure: Failure) -> Failure:
        """The rest could not be written, or nobody waits for it any more."""
        self._spool.drop().addCallback(self._close)
        return failure

    def _close(self, _: None) -> None:
        self._backend.defer(self._file.close)


class FunctionSession(Session):
    """Takes every message; one session serves all connections."""

    __slots__ = ("_backend",)

    def __init__(self, backend: FunctionBackend) -> None:
        self._backend = backend

    def data(self, envelope: Envelope) -> FunctionDelivery:
        """Begin a message."""
        return FunctionDelivery(self._backend, envelope)


class FunctionBackend(Backend):
    """
    Calls a function for each message; :func:`on_message` makes it.

    To call it is to call the function, which tests may want.

    :param function: gets a :class:`Message`.
    :param spool_at: larger messages go to a temporary file as they come.
    :param reactor: its thread pool writes temporary files; None for the running one.
    :param memory: how much content may be in memory, of all messages together, before smaller messages too
        go to temporary files.
    """

    #: A function may keep in memory what it knows. Where several processes may call it (``--workers``), set it to True.
    shareable = False

    def __init__(
        self, function: Function, *, spool_at: int = MIB, reactor: Any = None, memory: int | None = None
    ) -> None:
        functools.update_wrapper(self, function, updated=())
        self.function = function
        self.spool_at = spool_at
        self.budget = Budget() if memory is None else Budget(memory)
        self._reactor = reactor
        self._session = FunctionSession(self)

    def __call__(self, message: Message) -> Answer:
        """Call the function."""
        return self.function(message)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.destination}>"

    @property
    def destination(self) -> str:
        """Where mail goes, for people."""
        module = getattr(self.function, "__module__", "")
        return f"the function {module}.{getattr(self.function, '__qualname__', self.function)}"

    def open_session(self, peer: Peer, connection: IConnection) -> FunctionSession:
        """Give the session that serves all."""
        return self._session

    def defer(self, job: Callable[[], object]) -> Deferred[object]:
        """
        Call *job* in a thread of the reactor's pool.

        :returns: its result.
        """
        reactor = current_reactor() if self._reactor is None else self._reactor
        return deferToThreadPool(reactor, reactor.getThreadPool(), job)


@overload
def on_message(function: Function, *, spool_at: int = MIB) -> FunctionBackend: ...


@overload
def on_message(function: None = None, *, spool_at: int = MIB) -> Callable[[Function], FunctionBackend]: ...


def on_message(
    function: Function | None = None, *, spool_at: int = MIB
) -> FunctionBackend | Callable[[Function], FunctionBackend]:
    """
    Make a backend of a function that is called with each message; a decorator, or called.

    :param function: gets a :class:`Message`. It may be plain, return a Deferred or be a coroutine. None means
        the message is taken, a Reply is the reply, and an :class:`~smtpsvc.grammar.replies.SMTPError`
        refuses it. A list of these, one for each recipient, is for LMTP; see :doc:`/lmtp`.
    :param spool_at: a message that is larger than this goes to a temporary file as it comes.
    """
    if function is None:
        return functools.partial(FunctionBackend, spool_at=spool_at)
    return FunctionBackend(function, spool_at=spool_at)
