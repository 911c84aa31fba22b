"""
Files that are read again when they change.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.logger import Logger

_Value = TypeVar("_Value")

log = Logger()


class WatchedFile(Generic[_Value]):
    """
    What a file says, always as it is now.

    A change that makes no sense is logged once, and what the file said before stays.

    :param path: of the file.
    :param read: makes a value of its content; raises ValueError with a sentence.
    :raises ValueError: with a sentence, if the file cannot be read now.
    """

    def __init__(self, path: str, read: Callable[[bytes], _Value]) -> None:
        # A daemon changes its directory.
        self.path = os.path.abspath(path)
        self._read = read
        self._seen: tuple[int, ...] | None = None
        # What was wrong when it was last logged.
        self._problem = ""
        try:
            self._value = self._load()
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from error

    def current(self) -> _Value:
        """Give what the file says now; costs one ``stat`` if it has not changed."""
        try:
            if _signature(os.stat(self.path)) != self._seen:
                self._value = self._load()
        except (OSError, ValueError) as error:
            problem = error.strerror if isinstance(error, OSError) else str(error)
            if problem != self._problem:
                log.error("{path}: {problem}; what it said before stays", path=self.path, problem=problem)
            self._problem = str(problem)
        return self._value

    def _load(self) -> _Value:
        with open(self.path, "rb") as file:
            self._seen = _signature(os.fstat(file.fileno()))
            value = self._read(file.read())
        self._problem = ""
        return value


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
