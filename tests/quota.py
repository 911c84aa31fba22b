"""
A Maildir on a disk of few bytes, for where no file system can be mounted: ``python:tests.quota.make``.
"""

from __future__ import annotations

import errno
import os

from twisted.internet import reactor

from smtpsvc.backends.commit import System
from smtpsvc.backends.maildir import MaildirBackend

#: What the disk holds.
SIZE = 1024 * 1024


class Full(System):
    """System calls that fail with ENOSPC where a write would make the Maildir larger than :data:`SIZE`."""

    def write(self, file: int, content: memoryview) -> int:
        room = SIZE - sum(
            os.path.getsize(os.path.join(directory, name))
            for directory, _, names in os.walk("Maildir")
            for name in names
        )
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(file, content[:room])


def make() -> MaildirBackend:
    """Make the backend, with the Maildir in the working directory."""
    return MaildirBackend("./Maildir", reactor, system=Full())
