"""
Disks that are really full, and limits that are really met: the client is told, nothing is left
behind, and the next message is taken.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.backends.maildir import SPOOL_AT
from smtpsvc.settings import KIB
from tests.live import PATIENCE, Server, until
from tests.quota import SIZE

CLONE_NEWNS = 0x20000
MS_REC_PRIVATE = 0x4000 | (1 << 18)

NO_SPACE = b"452 4.3.1"
LOCAL_ERROR = b"451 4.3.0"
OK = b"250 2.0.0"
SMALL = 500

#: Files that the service may have open; it has some 15 when nobody is connected.
FILES = 64


class Sender:
    """A client that sends messages by one connection."""

    def __init__(self, server: Server) -> None:
        self.connection = server.connect()
        self._replies = self.connection.makefile("rb")
        self.reply()
        self.say(b"EHLO c.example")

    def say(self, line: bytes) -> bytes:
        """Send a line, and give the last line of the reply."""
        self.connection.sendall(line + b"\r\n")
        return self.reply()

    def reply(self) -> bytes:
        """Read a reply, and give its last line."""
        while True:
            line = self._replies.readline()
            if line[3:4] != b"-":
                return line

    def send(self, size: int) -> bytes:
        """Send a message, and give the reply to its end, or to the command that was refused."""
        for command in (b"MAIL FROM:<a@x.example>", b"RCPT TO:<b@y.example>", b"DATA"):
            reply = self.say(command)
            if reply[:1] not in b"23":
                return reply
        line = b"x" * 98 + b"\r\n"
        return self.say(b"Subject: x\r\n\r\n" + line * (size // len(line)) + b".")

    def close(self) -> None:
        self._replies.close()
        self.connection.close()


def mount_tmpfs(directory: str) -> Callable[[], None]:
    """
    Give a function that gives a process a file system of its own for a directory; others do not see it.

    :raises OSError: by that function, if it is not permitted.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    size, where = f"size={SIZE}".encode(), directory.encode()

    def check(result: int) -> None:
        if result:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def mount() -> None:
        check(libc.unshare(CLONE_NEWNS))
        check(libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None))
        check(libc.mount(b"tmpfs", where, b"tmpfs", 0, size))

    return mount


def mounts_permitted(directory: str) -> bool:
    """Try it."""
    try:
        subprocess.run(["true"], check=True, preexec_fn=mount_tmpfs(directory))
    except (OSError, subprocess.SubprocessError):
        return False
    return True


class FaultTestCase(SynchronousTestCase):
    """A running service with little of something."""

    maildir: Path

    def start(self, *options: str, **more: Any) -> Server:
        server = Server(*options, **more)
        self.addCleanup(server.close)
        self.maildir = server.maildir
        return server

    def client(self, server: Server) -> Sender:
        sender = Sender(server)
        self.addCleanup(sender.close)
        return sender

    def count(self, part: str) -> int:
        """How many files there are in ``new/`` or ``tmp/``."""
        return len(os.listdir(self.maildir / part))

    def check_left(self, kept: int) -> None:
        """So many messages are in ``new/``, and nothing in ``tmp/``."""
        until(lambda: self.count("tmp") == 0, "tmp/ is empty")
        self.assertEqual(self.count("new"), kept)


class FileSizeTests(FaultTestCase):
    def test_too_large_a_file(self) -> None:
        """A message beyond the limit for files (EFBIG) is 452 4.3.1 and leaves nothing; the next is taken."""
        limit = 64 * KIB
        server = self.start(limits=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        sender = self.client(server)
        for size, code in ((SMALL, OK), (limit * 2, NO_SPACE), (SPOOL_AT * 8, NO_SPACE), (SMALL, OK)):
            with self.subTest(size=size):
                self.assertEqual(sender.send(size)[:9], code)
        self.check_left(2)


class FullDiskTests(FaultTestCase):
    def full(self) -> tuple[Server, Sender]:
        """Start a service on a disk of 1 MiB: a real one if mounts are permitted, else one that says so."""
        directory = self.mktemp()
        os.makedirs(directory)
        # The directory itself is where the start leaves its log; the disk is that of the Maildir.
        where = os.path.abspath(os.path.join(directory, "Maildir"))
        os.mkdir(where)
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        if mounts_permitted(where):
            server = self.start("--min-free-space", "0", directory=directory, limits=mount_tmpfs(where))
            # Only that process sees it.
            self.maildir = Path(f"/proc/{server.process.pid}/root{where}")
        else:
            server = self.start("--min-free-space", "0", "--backend", "python:tests.quota.make", directory=directory)
        return server, self.client(server)

    def test_full(self) -> None:
        """When the disk is full (ENOSPC), mail is 452 4.3.1 and leaves nothing; with room again it is taken."""
        _, sender = self.full()
        kept = 0
        reply = sender.send(100_000)
        while reply.startswith(OK):
            kept += 1
            self.assertLess(kept, 20)
            reply = sender.send(100_000)
        self.assertEqual(reply[:9], NO_SPACE)
        for size in (300_000, SPOOL_AT * 8):
            self.assertEqual(sender.send(size)[:9], NO_SPACE)
        self.check_left(kept)
        for name in os.listdir(self.maildir / "new"):
            os.unlink(self.maildir / "new" / name)
        self.assertEqual(sender.send(100_000)[:9], OK)
        self.check_left(1)

    def test_guard(self) -> None:
        """Where less than --min-free-space is free, MAIL is 452 4.3.1, before any content."""
        directory = self.mktemp()
        os.makedirs(directory)
        free = os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize
        server = self.start("--min-free-space", str(free * 2), directory=os.path.abspath(directory))
        reply = self.client(server).say(b"MAIL FROM:<a@x.example>")
        self.assertEqual(reply, b"452 4.3.1 Insufficient system storage\r\n")
        self.check_left(0)
        self.assertIn("so mail is refused with 452 4.3.1", server.log.read_text())


class DescriptorTests(FaultTestCase):
    def test_no_more_files(self) -> None:
        """Without a descriptor for its file (EMFILE) a message is 451 4.3.0; when there are some again, it is taken."""
        limits = (FILES, FILES)
        server = self.start(limits=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits))
        sender = self.client(server)
        self.assertEqual(sender.send(SMALL)[:9], OK)
        others = [socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) for _ in range(FILES * 2)]
        self.addCleanup(lambda: [other.close() for other in others])
        open_files = Path(f"/proc/{server.process.pid}/fd")
        until(lambda: len(os.listdir(open_files)) >= FILES - 1, "all descriptors are used")
        # One may be kept in reserve, or be free for a moment: sooner or later there is none.
        replies = set()

        def refused() -> bool:
            replies.add(sender.send(SMALL)[:9])
            return LOCAL_ERROR in replies

        until(refused, "a message finds no descriptor")
        self.assertLessEqual(replies, {OK, LOCAL_ERROR})
        until(lambda: self.count("tmp") == 0, "tmp/ is empty")
        for other in others:
            other.close()
        until(lambda: sender.send(SMALL)[:9] == OK, "mail is taken again")
        self.assertEqual(self.count("tmp"), 0)
