"""
A disk for tests: it fails on request, and its threads run when the test says so.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred, succeed

from smtpsvc.backends.commit import System
from smtpsvc.grammar.addresses import parse_mailbox
from smtpsvc.values import Envelope, Peer, Recipient

ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.EROFS)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def envelope(id: str = "m1", *recipients: str) -> Envelope:
    """Make a transaction from a@x.example to b@y.example, or to those given."""
    peer = Peer(IPv4Address("TCP", "192.0.2.1", 40000), "c1")
    made = Envelope(id, peer, parse_mailbox("a@x.example"))
    for recipient in recipients or ("b@y.example",):
        made.recipients.append(Recipient(parse_mailbox(recipient)))
    return made


class Reactor:
    """Calls from "threads" at once, since with :class:`Disk` all is one thread, and counts them."""

    def __init__(self) -> None:
        self.calls = 0

    def callFromThread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.calls += 1
        function(*args, **kwargs)

    def getThreadPool(self) -> Any:
        raise AssertionError("the reactor's threads are for others")


class RecordingSystem(System):
    """The real system calls, each recorded, each to be made to fail."""

    def __init__(self) -> None:
        #: ``(name of the call, what it is about)``: the directory or "" for files and descriptors.
        self.calls: list[tuple[str, str]] = []
        self._failures: dict[str, deque[int | None]] = {}

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def fail(self, call: str, *numbers: int | None) -> None:
        """Let the next calls of that name fail with these errnos; None lets one succeed."""
        self._failures[call] = deque(numbers)

    def _record(self, call: str, subject: str = "") -> None:
        self.calls.append((call, subject))
        failures = self._failures.get(call)
        if failures:
            number = failures.popleft()
            if number is not None:
                raise OSError(number, os.strerror(number))

    def open(self, path: str) -> int:
        self._record("open", os.path.basename(os.path.dirname(path)))
        return super().open(path)

    def write(self, file: int, content: memoryview) -> int:
        self._record("write")
        return super().write(file, content)

    def fsync(self, file: int) -> None:
        self._record("fsync")
        super().fsync(file)

    def close(self, file: int) -> None:
        # Closing fails only after it was done, as it does on Linux.
        super().close(file)
        self._record("close")

    def open_directory(self, path: str) -> int:
        self._record("open_directory", os.path.basename(path))
        return super().open_directory(path)

    def rename(self, path: str, directory: int, name: str) -> None:
        self._record("rename", os.path.basename(os.path.dirname(path)))
        super().rename(path, directory, name)

    def fsync_directory(self, directory: int) -> None:
        self._record("fsync_directory")
        super().fsync_directory(directory)

    def unlink(self, path: str) -> None:
        self._record("unlink", os.path.basename(os.path.dirname(path)))
        super().unlink(path)

    def mkdir(self, path: str) -> None:
        self._record("mkdir", os.path.basename(path))
        super().mkdir(path)


class Disk:
    """Threads of all pools in one queue, run one after the other by :meth:`run`."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.system = RecordingSystem()
        self.jobs: deque[Callable[[], object]] = deque()
        self.stopped = 0

    def threads(self, limit: int, reactor: Any, name: str) -> DiskThreads:
        """Make what stands for a pool."""
        return DiskThreads(self)

    def step(self) -> None:
        """Let one job run."""
        self.jobs.popleft()()

    def run(self) -> None:
        """Let all jobs run, and what they cause."""
        while self.jobs:
            self.step()


class DiskThreads:
    """Provides :class:`smtpsvc.backends.spool.IThreads`."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def run(self, job: Callable[[], object]) -> None:
        self._disk.jobs.append(job)

    def defer(self, job: Callable[[], Any]) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self._disk.jobs.append(lambda: maybeDeferred(job).chainDeferred(answer))
        return answer

    def stop(self) -> Deferred[None]:
        self._disk.stopped += 1
        return succeed(None)
