"""
Group commit: many messages reach the disk for the price of few waits, and none is promised early.

The way of a message: its file is written in ``tmp/`` and fsynced, renamed into ``new/``, ``new/``
is fsynced, and only then is the client answered. What gathers while one commit runs is the next
batch, so there is no timer, and a client that is alone waits for nobody. syncfs is not used: it
hides write errors on older systems and waits for other people's data.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from threading import Event, Lock
from typing import Final

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger

from smtpsvc.backends.spool import IThreads, named

#: Threads that write and fsync the files of one batch: measured, 16 are 2.8 times as fast as one, 64 are slower.
HELPERS: Final = 16

_log = Logger()


class System:
    """The system calls of the delivery path, in one place, so that tests can make any of them fail."""

    def open(self, path: str) -> int:
        """Create a file that only its owner can read; an existing one is an error."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, file: int, content: memoryview) -> int:
        """Write some of *content*, and say how much."""
        return os.write(file, content)

    def fsync(self, file: int) -> None:
        """Wait until a file is on the disk."""
        os.fsync(file)

    def close(self, file: int) -> None:
        """Close a file or directory."""
        os.close(file)

    def open_directory(self, path: str) -> int:
        """Open a directory to rename into it and to fsync it."""
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def rename(self, path: str, directory: int, name: str) -> None:
        """Move a file into an open directory."""
        os.rename(path, name, dst_dir_fd=directory)

    def fsync_directory(self, directory: int) -> None:
        """Wait until the entries of a directory are on the disk."""
        os.fsync(directory)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    def statvfs(self, path: str) -> os.statvfs_result:
        """Tell how full the file system of a directory is."""
        return os.statvfs(path)

    def mkdir(self, path: str) -> None:
        """Make a directory that only its owner can use."""
        os.mkdir(path, 0o700)


def make_maildir(directory: str, system: System) -> None:
    """
    Make a Maildir, or what is missing of it, so that it outlasts a power cut.

    :param directory: an absolute path; directories above it are made too.
    :raises OSError: if that is not possible.
    """
    for name in ("tmp", "new", "cur"):
        _make_directory(os.path.join(directory, name), system)


def _make_directory(path: str, system: System) -> None:
    parent = os.path.dirname(path)
    try:
        try:
            system.mkdir(path)
        except FileNotFoundError:
            if parent == path:
                raise
            _make_directory(parent, system)
            # Once more only: below /proc, where nothing can be made, the error is the same.
            system.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
        return
    above = system.open_directory(parent)
    try:
        system.fsync_directory(above)
    finally:
        system.close(above)


def seal_directory(path: str, system: System) -> None:
    """Bring a directory to the disk or raise OSError, and what leads to it as far as that may be read."""
    # Who made them may have been killed before that was done.
    directory = system.open_directory(path)
    try:
        system.fsync_directory(directory)
    finally:
        system.close(directory)
    if path != "/":
        try:
            seal_directory(os.path.dirname(path), system)
        except OSError:
            pass


class TmpFile:
    """
    A message's file in ``tmp/``. Its methods are called in threads, never two at once.

    What they raise names the step that failed (:func:`~smtpsvc.backends.spool.named`).

    :param directory: the Maildir.
    :param name: of the file, here and in ``new/``; unique for all time.
    """

    __slots__ = ("_file", "_made", "_system", "directory", "name", "path")

    def __init__(self, directory: str, name: str, system: System) -> None:
        self.directory = directory
        self.name = name
        self.path = os.path.join(directory, "tmp", name)
        self._system = system
        self._file = -1
        self._made = False

    def write(self, content: bytearray) -> None:
        """
        Append to the file, which is created if there is none.
        """
        if not self._made:
            self._open()
        view = memoryview(content)
        done = 0
        try:
            while done < len(content):
                done += self._system.write(self._file, view[done:])
        except OSError as error:
            raise named(error, "write", self.path) from error

    def seal(self) -> None:
        """
        Bring the file to the disk and close it.

        :raises OSError: if the content may not be there. It is never asked again: a second fsync can
            report success for what the first has lost.
        """
        try:
            self._system.fsync(self._file)
        except OSError as error:
            raise named(error, "fsync", self.path) from error
        file, self._file = self._file, -1
        try:
            self._system.close(file)
        except OSError as error:
            raise named(error, "close", self.path) from error

    def discard(self) -> None:
        """Close and remove the file, if there is one; a failure is logged, for the client has its answer anyway."""
        if self._file >= 0:
            file, self._file = self._file, -1
            try:
                self._system.close(file)
            except OSError:  # nothing of it was to be kept
                pass
        if self._made:
            self._made = False
            remove(self.path, self._system)

    def _open(self) -> None:
        try:
            try:
                self._file = self._system.open(self.path)
            except FileNotFoundError:
                make_maildir(self.directory, self._system)
                self._file = self._system.open(self.path)
        except OSError as error:
            raise named(error, "open", self.path) from error
        self._made = True


def remove(path: str, system: System) -> None:
    """Remove a file that should not stay; a failure is logged."""
    try:
        system.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warn("A file could not be removed: {error}", error=named(error, "unlink", path))


class Staged:
    """
    A message to commit.

    :param file: its file in ``tmp/``.
    :param content: what is still to be written to it; None if the file is sealed already.
    :param answer: called in the reactor's thread with this object once its fate is known.
    """

    __slots__ = ("answer", "content", "error", "file")

    def __init__(self, file: TmpFile, content: bytearray | None, answer: Callable[[Staged], object]) -> None:
        self.file = file
        self.content = content
        self.answer = answer
        #: None if the message is kept, else why it is not.
        self.error: Exception | None = None


class Committer:
    """
    Moves messages into ``new/`` in batches, one batch at a time, in threads.

    :param directory: the Maildir.
    :param threads: one runs the batches, the others help it with the files.
    """

    def __init__(self, directory: str, threads: IThreads, reactor: IReactorFromThreads, system: System) -> None:
        self._directory = directory
        self._new = os.path.join(directory, "new")
        self._threads = threads
        self._reactor = reactor
        self._system = system
        self._lock = Lock()
        self._gathered: list[Staged] = []
        self._running = False

    def submit(self, staged: Staged) -> None:
        """Commit a message with the next batch."""
        with self._lock:
            self._gathered.append(staged)
            if self._running:
                return
            self._running = True
        self._threads.run(self._work)

    def _work(self) -> None:
        """Commit batch after batch until none has gathered."""
        while True:
            with self._lock:
                batch, self._gathered = self._gathered, []
                if not batch:
                    self._running = False
                    return
            try:
                self._commit(batch)
            except Exception as error:  # what is kept and yet refused comes twice; what is promised must be kept
                for staged in batch:
                    staged.error = error
            self._reactor.callFromThread(self._answer, batch)

    def _answer(self, batch: Sequence[Staged]) -> None:
        for staged in batch:
            try:
                staged.answer(staged)
            except Exception:
                _log.failure("A message could not be answered")

    def _commit(self, batch: Sequence[Staged]) -> None:
        """Commit a batch, those again for which ``tmp/`` or ``new/`` was gone at the last moment."""
        again = self._attempt(batch)
        if again:
            for staged in again:
                staged.error = None
            for staged in self._attempt(again):
                staged.file.discard()

    def _attempt(self, batch: Sequence[Staged]) -> list[Staged]:
        """
        Write, fsync, rename, fsync of the directory.

        :returns: those whose file or directory was gone when it was to be renamed.
        """
        self._seal_all([staged for staged in batch if staged.content is not None])
        ready = [staged for staged in batch if staged.error is None]
        if not ready:
            return []
        try:
            directory = self._open_new()
        except OSError as error:
            self._refuse(ready, named(error, "open", self._new))
            return []
        # The directory that is opened here is the one that is renamed into and fsynced, whatever
        # somebody may put in its place meanwhile.
        kept, gone = [], []
        try:
            for staged in ready:
                try:
                    self._system.rename(staged.file.path, directory, staged.file.name)
                except FileNotFoundError as error:
                    staged.error = named(error, "rename", staged.file.path)
                    gone.append(staged)
                except OSError as error:
                    self._refuse([staged], named(error, "rename", staged.file.path))
                else:
                    kept.append(staged)
            if kept:
                self._seal_directory(directory, kept)
        finally:
            try:
                self._system.close(directory)
            except OSError:  # it is fsynced: nothing hangs on this
                pass
        for staged in gone:
            if staged.content is not None:  # what is in memory can be written anew
                staged.file.discard()
        return gone

    def _seal_directory(self, directory: int, kept: Sequence[Staged]) -> None:
        """
        Bring the new entries to the disk, or refuse the messages.

        A refused message is taken out of ``new/`` again, but it may have been read or may stay:
        then it comes twice, which is better than not at all.
        """
        try:
            self._system.fsync_directory(directory)
        except OSError as error:
            problem = named(error, "fsync", self._new)
            for staged in kept:
                staged.error = problem
                remove(os.path.join(self._new, staged.file.name), self._system)

    def _open_new(self) -> int:
        try:
            return self._system.open_directory(self._new)
        except FileNotFoundError:
            make_maildir(self._directory, self._system)
            return self._system.open_directory(self._new)

    def _refuse(self, batch: Sequence[Staged], error: OSError) -> None:
        for staged in batch:
            staged.error = error
            staged.file.discard()

    def _seal_all(self, batch: Sequence[Staged]) -> None:
        """Write and fsync the files, those of a larger batch by several threads at once."""
        helpers = min(len(batch) - 1, HELPERS)
        if helpers < 1:
            for staged in batch:
                _seal(staged)
            return
        share = _Share(batch)
        for _ in range(helpers):
            self._threads.run(share.work)
        # Helpers that are busy elsewhere are not waited for: this thread does what nobody has begun.
        share.work()
        share.done.wait()


class _Share:
    """Files that several threads write, each taking the next when it has finished one."""

    __slots__ = ("_left", "_lock", "_unfinished", "done")

    def __init__(self, batch: Sequence[Staged]) -> None:
        self._left = deque(batch)
        self._lock = Lock()
        self._unfinished = len(batch)
        self.done = Event()

    def work(self) -> None:
        """Seal files until none is left to begin."""
        while True:
            try:
                staged = self._left.popleft()
            except IndexError:
                return
            _seal(staged)
            with self._lock:
                self._unfinished -= 1
                if not self._unfinished:
                    self.done.set()


def _seal(staged: Staged) -> None:
    """Write and fsync the file of a message that is in memory; an error is its own alone."""
    assert staged.content is not None, "the others are sealed already"
    try:
        staged.file.write(staged.content)
        staged.file.seal()
    except Exception as error:
        staged.error = error
        staged.file.discard()
