"""
A Maildir that delivers one message at a time, as the books have it: write, fsync, rename, fsync of ``new/``.

It is what group commit is measured against; the server in front of it is the same.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from smtpsvc import Backend, Session
from smtpsvc.interfaces import IDelivery


@implementer(IDelivery)
class ClassicDelivery:
    """A message that is kept in memory until a thread writes it."""

    def __init__(self, store: ClassicMaildir) -> None:
        self._store = store
        self._pieces: list[bytes] = []

    def write(self, content: bytes) -> None:
        """Keep it."""
        self._pieces.append(content)

    def finish(self) -> Any:
        """Write it; the 250 waits until the disk has it."""
        return self._store.keep(b"".join(self._pieces))

    def abort(self, reason: object) -> None:
        """Drop it."""


class ClassicSession(Session):
    """Delivers to the store."""

    def __init__(self, store: ClassicMaildir) -> None:
        self._store = store

    def data(self, envelope: Any) -> ClassicDelivery:
        """Begin a delivery."""
        return ClassicDelivery(self._store)


class ClassicMaildir(Backend):
    """One thread, one message at a time."""

    def __init__(self, directory: Path) -> None:
        from twisted.internet import reactor

        self._reactor: Any = reactor
        self._tmp, self._new = directory / "tmp", directory / "new"
        for path in (self._tmp, self._new):
            path.mkdir(parents=True)
        self._descriptor = os.open(self._new, os.O_RDONLY)
        self._numbers = itertools.count()
        self._pool = ThreadPool(1, 1)
        self._reactor.callWhenRunning(self._pool.start)
        self._reactor.addSystemEventTrigger("during", "shutdown", self._pool.stop)

    def open_session(self, peer: Any, connection: Any) -> ClassicSession:
        """Take everybody."""
        return ClassicSession(self)

    def keep(self, content: bytes) -> Any:
        """Write a message in the thread."""
        return deferToThreadPool(self._reactor, self._pool, self._write, content)

    def _write(self, content: bytes) -> None:
        name = str(next(self._numbers))
        with (self._tmp / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        (self._tmp / name).rename(self._new / name)
        os.fsync(self._descriptor)


def backend() -> ClassicMaildir:
    """Make one in ``Maildir`` of the current directory; for ``--backend python:benchmarks.classic.backend``."""
    return ClassicMaildir(Path("Maildir"))
