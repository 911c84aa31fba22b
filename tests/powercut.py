"""
The file operations of a Maildir, recorded, and what a power cut would leave of them.

The model is the meanest that POSIX allows. The data of a file survives if the file was fsynced after
it was written. An entry of a directory (a file made, renamed or removed, a directory made) survives
if the directory was fsynced after it. Whatever was not fsynced may survive too, all of it or any part.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock

from smtpsvc.backends.commit import System

#: Decides whether what was not fsynced survives: called for each operation.
Chance = Callable[["Operation"], bool]


@dataclass(frozen=True, slots=True)
class Operation:
    """
    One operation. Operations are listed in the order of their ends.

    :param kind: ``mkdir``, ``create``, ``write``, ``fsync``, ``rename``, ``fsync_directory``, ``unlink``; or
        ``answer``, where a client is told 250.
    :param path: what it is about; of a file, its first path. Of an answer, the message's id.
    :param start: how many operations had ended when this one began.
    :param content: what is written.
    :param target: the path that a file is renamed to.
    """

    kind: str
    path: str
    start: int
    content: bytes = b""
    target: str = ""


class Recorder(System):
    """
    The real system calls, recorded; they may come from several threads.

    :param forgetful: kinds of operations that are neither done nor recorded, as if they had been forgotten.
    """

    def __init__(self, *forgetful: str) -> None:
        self.operations: list[Operation] = []
        self._forgetful = forgetful
        self._lock = Lock()
        self._paths: dict[int, str] = {}

    def answered(self, id: str) -> None:
        """A client is told 250."""
        with self._lock:
            self.operations.append(Operation("answer", id, len(self.operations)))

    def open(self, path: str) -> int:
        with self._lock:
            file = super().open(path)
            self._paths[file] = path
            self._record("create", path)
        return file

    def write(self, file: int, content: memoryview) -> int:
        with self._lock:
            done = super().write(file, content)
            self._record("write", self._paths[file], bytes(content[:done]))
        return done

    def fsync(self, file: int) -> None:
        self._sync("fsync", self._paths[file], lambda: super(Recorder, self).fsync(file))

    def close(self, file: int) -> None:
        with self._lock:
            del self._paths[file]
            super().close(file)

    def open_directory(self, path: str) -> int:
        with self._lock:
            directory = super().open_directory(path)
            self._paths[directory] = path
        return directory

    def rename(self, path: str, directory: int, name: str) -> None:
        with self._lock:
            super().rename(path, directory, name)
            self._record("rename", path, target=os.path.join(self._paths[directory], name))

    def fsync_directory(self, directory: int) -> None:
        path = self._paths[directory]
        self._sync("fsync_directory", path, lambda: super(Recorder, self).fsync_directory(directory))

    def unlink(self, path: str) -> None:
        with self._lock:
            super().unlink(path)
            self._record("unlink", path)

    def mkdir(self, path: str) -> None:
        with self._lock:
            super().mkdir(path)
            self._record("mkdir", path)

    def _record(self, kind: str, path: str, content: bytes = b"", target: str = "") -> None:
        self.operations.append(Operation(kind, path, len(self.operations), content, target))

    def _sync(self, kind: str, path: str, call: Callable[[], None]) -> None:
        """Wait outside the lock, for others go on meanwhile: what they do is not covered."""
        if kind in self._forgetful:
            return
        start = len(self.operations)
        call()
        with self._lock:
            self.operations.append(Operation(kind, path, start))


def survivors(operations: Sequence[Operation], directory: str, chance: Chance) -> dict[str, bytes]:
    """
    Give the files of a directory after a power cut behind the last of *operations*.

    :param directory: gives no file if its own entry, or that of a directory above it, is lost. Directories of
        which no operation was recorded were there before.
    :param chance: says whether an operation that was not fsynced survives.
    :returns: by their names.
    """
    covered: dict[str, int] = {}
    for operation in operations:
        if operation.kind in ("fsync", "fsync_directory"):
            covered[operation.path] = max(operation.start, covered.get(operation.path, 0))

    def survives(place: int, operation: Operation, path: str) -> bool:
        return place < covered.get(path, 0) or chance(operation)

    content: dict[str, list[bytes]] = {}
    entries: dict[str, dict[str, str]] = {}
    lost: set[str] = set()
    for place, operation in enumerate(operations):
        path, target = operation.path, operation.target
        parent = os.path.dirname(path)
        if operation.kind == "mkdir" and not survives(place, operation, parent):
            lost.add(path)
        elif operation.kind == "write" and survives(place, operation, path):
            content.setdefault(path, []).append(operation.content)
        elif operation.kind == "create" and survives(place, operation, parent):
            entries.setdefault(parent, {})[path] = path
        elif operation.kind == "unlink" and survives(place, operation, parent):
            entries.setdefault(parent, {}).pop(path, None)
        elif operation.kind == "rename":
            # Two directories, and nothing says that both reach the disk together.
            if survives(place, operation, os.path.dirname(target)):
                entries.setdefault(os.path.dirname(target), {})[target] = path
            if survives(place, operation, parent):
                entries.setdefault(parent, {}).pop(path, None)
    if any(directory == each or directory.startswith(each + os.sep) for each in lost):
        return {}
    there = entries.get(directory, {})
    return {os.path.basename(name): b"".join(content.get(file, ())) for name, file in there.items()}


def order_faults(operations: Sequence[Operation]) -> list[str]:
    """
    Look whether each message went the way write, fsync, rename, fsync of the directory, answer.

    :returns: a sentence for each step that began before the one in front of it had ended. An answer belongs to
        the file whose ``Received:`` has its id.
    """
    faults = []
    files = {id: file for file, id in _ids(operations)}
    for answer in (operation for operation in operations if operation.kind == "answer"):
        file = files.get(answer.path)
        if file is None:
            faults.append(f"{answer.path}: answered, and never written")
            continue
        mine = [(place, each) for place, each in enumerate(operations) if each.path == file]
        written = max(place for place, each in mine if each.kind == "write")
        sealed = [place for place, each in mine if each.kind == "fsync" and each.start > written]
        renamed = [(place, each) for place, each in mine if each.kind == "rename"]
        if not sealed or not renamed or renamed[0][1].start <= sealed[0]:
            faults.append(f"{answer.path}: renamed before it was fsynced")
            continue
        place, rename = renamed[0]
        new = os.path.dirname(rename.target)
        if not any(
            each.kind == "fsync_directory" and each.path == new and each.start > place and end < answer.start
            for end, each in enumerate(operations)
        ):
            faults.append(f"{answer.path}: answered before its directory was fsynced")
    return faults


def _ids(operations: Sequence[Operation]) -> Iterator[tuple[str, str]]:
    """Give each file with the id that stands in its first ``Received:``."""
    seen = set()
    for operation in operations:
        if operation.kind == "write" and operation.path not in seen:
            found = re.search(rb"\bid (\w+)", operation.content)
            if found:
                seen.add(operation.path)
                yield operation.path, found[1].decode()
