"""
An open Maildir: the names of its files, what the deliveries to it share, and whether mail can be kept there.
"""

from __future__ import annotations

import os
import secrets
import socket
import stat
import time
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpsvc.backends.commit import HELPERS, Committer, System, make_maildir, remove, seal_directory
from smtpsvc.backends.spool import Budget, IThreads

#: Threads that write and fsync large messages.
WRITERS: Final = 16
#: Files of this age in ``tmp/`` are left-overs: a number that all readers of Maildirs share.
LEFT_OVER: Final = 36 * 3600

_log = Logger()


class Names:
    """
    Makes names for files by the rules of Maildir: no two alike, and nothing of a client in them.

    :param now: the time of day.
    """

    __slots__ = ("_count", "_now", "_tail")

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._count = 0
        host = socket.gethostname().replace("/", "\\057").replace(":", "\\072")
        # The random part keeps apart containers with the same host name and process number.
        self._tail = f"R{secrets.token_hex(8)}.{host}"

    def make(self) -> str:
        """Make the next name."""
        self._count += 1
        seconds, microseconds = divmod(int(self._now() * 1_000_000), 1_000_000)
        return f"{seconds}.M{microseconds}P{os.getpid()}Q{self._count}{self._tail}"


class Store:
    """
    An open Maildir: what its deliveries share while the service runs.

    :param directory: an absolute path.
    :param budget: counts the content in memory.
    """

    def __init__(
        self,
        directory: str,
        reactor: IReactorFromThreads,
        system: System,
        threads: Callable[[int, IReactorFromThreads, str], IThreads],
        budget: Budget,
    ) -> None:
        self.directory = directory
        self.system = system
        self.budget = budget
        self.names = Names()
        self.writers = threads(WRITERS, reactor, "maildir writer")
        self._committers = threads(1 + HELPERS, reactor, "maildir commit")
        self.committer = Committer(directory, self._committers, reactor, system)
        self._under_way = 0
        self._none: Deferred[None] | None = None

    def begin(self) -> None:
        """Something begins that must end before :meth:`stop` has come true."""
        self._under_way += 1

    def end(self) -> None:
        """It has ended."""
        self._under_way -= 1
        if self._none is not None and not self._under_way:
            none, self._none = self._none, None
            none.callback(None)

    def clean(self, now: float) -> None:
        """
        Have a thread remove the left-overs of crashes from ``tmp/``; it changes regular files only.

        :param now: the time of day.
        """

        def done(result: object) -> None:
            if isinstance(result, Failure):
                _log.failure("The left-overs in tmp/ could not be removed", result)
            self.end()

        self.begin()
        self.writers.defer(lambda: self._clean(now)).addBoth(done)

    def _clean(self, now: float) -> None:
        with os.scandir(os.path.join(self.directory, "tmp")) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode) and now - status.st_mtime > LEFT_OVER:
                    remove(entry.path, self.system)

    def stop(self) -> Deferred[None]:
        """
        End the threads.

        :returns: fires when all commits under way are answered and the threads have ended.
        """
        none: Deferred[None] = succeed(None)
        if self._under_way:
            none = self._none = Deferred()
        ended = none.addCallback(lambda _: gatherResults([self.writers.stop(), self._committers.stop()]))
        return ended.addCallback(lambda _: None)


def check_directory(directory: str, system: System) -> None:
    """
    Make a Maildir if it is missing, and find out whether mail can be kept there.

    :param directory: an absolute path.
    :raises OSError: if not.
    """
    make_maildir(directory, system)
    seal_directory(directory, system)
    new, tmp = (os.path.join(directory, name) for name in ("new", "tmp"))
    if os.stat(new).st_dev != os.stat(tmp).st_dev:
        raise OSError(0, "its tmp/ and new/ are on different file systems")
    if not os.access(new, os.W_OK | os.X_OK):
        raise OSError(0, "its new/ cannot be written to")
    probe = os.path.join(tmp, Names().make())
    system.close(system.open(probe))
    system.unlink(probe)
