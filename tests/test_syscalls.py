"""
What the kernel sees: the order of the system calls of a service that takes mail.

The running service is traced by strace. Where tracing is not permitted, the file operations are
recorded within the process instead, as :mod:`tests.test_powercut` does.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.live import Server, need, until
from tests.powercut import Operation, Recorder, order_faults
from tests.test_powercut import Recording

CALLS = "openat,write,fsync,fdatasync,rename,renameat,renameat2,sendto,sendmsg,writev"
CLIENTS, MESSAGES = 6, 4

_UNFINISHED = re.compile(r"(?s)(\d+) +(.*?) *<unfinished \.\.\.>$")
_RESUMED = re.compile(r"(?s)(\d+) +<\.\.\. \w+ resumed>(.*)")
_WHOLE = re.compile(r"(?s)(\d+) +(.*)")

_CREATE = re.compile(r'openat\(AT_FDCWD[^,]*, "([^"]+)", [^)]*O_CREAT.*\) = \d')
_WRITE = re.compile(r'write\(\d+<([^>]*/tmp/[^>]+)>, "(.*)"(?:\.\.\.)?, \d+\) += \d')
_SYNC = re.compile(r"f(?:data)?sync\(\d+<([^>]+)>\) += 0")
_RENAME = re.compile(r'renameat2?\(AT_FDCWD[^,]*, "([^"]+)", \d+<([^>]+)>, "([^"]+)".*\) += 0')
_SENT = re.compile(r"(?:sendto|sendmsg|write|writev)\(")
_ANSWER = re.compile(r"250 (?:2\.0\.0 )?OK, kept as (\w+)")


def operations(lines: Iterable[str]) -> list[Operation]:
    """
    Read what strace has written.

    :param lines: of ``strace -f -y -o``: each begins with the number of the thread.
    """
    found: list[Operation] = []
    begun: dict[str, tuple[int, str]] = {}
    for line in lines:
        unfinished, resumed = _UNFINISHED.match(line), _RESUMED.match(line)
        if unfinished:
            begun[unfinished[1]] = (len(found), unfinished[2])
            continue
        if resumed:
            start, text = begun.pop(resumed[1], (len(found), ""))
            text += resumed[2]
        else:
            whole = _WHOLE.match(line)
            start, text = len(found), whole[2] if whole else ""
        found.extend(_operation(text, start))
    return found


def _operation(text: str, start: int) -> Iterator[Operation]:
    if create := _CREATE.match(text):
        yield Operation("create", create[1], start)
    elif rename := _RENAME.match(text):
        yield Operation("rename", rename[1], start, target=f"{rename[2]}/{rename[3]}")
    elif sync := _SYNC.match(text):
        yield Operation("fsync" if "/tmp/" in sync[1].rpartition("/Maildir")[2] else "fsync_directory", sync[1], start)
    elif write := _WRITE.match(text):
        yield Operation("write", write[1], start, write[2].encode().decode("unicode_escape").encode("latin-1"))
    elif _SENT.match(text):
        for answer in _ANSWER.findall(text):
            yield Operation("answer", answer, start)


class Strace:
    """
    Traces a process, and all its threads.

    :raises PermissionError: if that is not permitted.
    """

    def __init__(self, pid: int, output: Path) -> None:
        self.output = output
        command = [need("strace"), "-f", "-y", "-s", "700", "-e", f"trace={CALLS}", "-o", str(output), "-p", str(pid)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        said = self._process.stderr.readline()
        if "attached" not in said:
            self._process.wait()
            raise PermissionError(said)
        # It must never wait for a reader of what else it says.
        threading.Thread(target=self._process.stderr.read, daemon=True).start()

    def end(self) -> list[Operation]:
        """Wait until the traced process has ended, and give what it did."""
        self._process.wait()
        return operations(self.output.read_text(errors="replace").splitlines())


def send(server: Server) -> None:
    """Send messages from several clients at once, large ones too."""

    def client(number: int) -> None:
        with server.connect() as connection:
            replies = connection.makefile("rb")
            connection.sendall(b"HELO c.example\r\n")
            for count in range(MESSAGES):
                lines = 8_000 if count == number % MESSAGES and number % 2 else 5
                connection.sendall(b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n")
                connection.sendall(b"Subject: x\r\n\r\n" + b"0123456789abcdef" * 4 * lines + b"\r\n.\r\n")
            connection.sendall(b"QUIT\r\n")
            answers = [line[:3] for line in replies]
            if answers.count(b"354") != MESSAGES or answers[-2:] != [b"250", b"221"]:
                raise AssertionError(answers)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class SystemCallTests(TestCase):
    timeout = 300

    async def test_order(self) -> None:
        """Each message is written, fsynced, renamed, new/ is fsynced, and only then the 250 is sent."""
        server = Server("--backend", "maildir:./Maildir")
        self.addCleanup(server.close)
        try:
            strace = Strace(server.process.pid, server.directory / "trace")
        except PermissionError:
            recording = Recording(str(Path(self.mktemp()).absolute() / "Maildir"), Recorder())
            await recording.run()
            done = recording.recorder.operations
            expected = len(recording.sent)
        else:
            send(server)
            self.assertEqual(len(server.mails()), CLIENTS * MESSAGES)
            until(lambda: server.stop() is not None, "the service ends")
            done = strace.end()
            expected = CLIENTS * MESSAGES
        kinds = [each.kind for each in done]
        self.assertEqual(kinds.count("answer"), expected)
        self.assertEqual(kinds.count("rename"), expected)
        self.assertEqual(order_faults(done), [])


class ReaderTests(SynchronousTestCase):
    """The trace is read right."""

    GOOD = (
        '7 openat(AT_FDCWD</m>, "/m/Maildir/tmp/a", O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0600) = 9</m/Maildir/tmp/a>',
        '7 write(9</m/Maildir/tmp/a>, "Return-Path: <a@x>\\r\\n\\tid n1;"..., 90) = 90',
        "7 fsync(9</m/Maildir/tmp/a> <unfinished ...>",
        "8 fsync(8</m/Maildir/tmp/b>) = 0",
        "7 <... fsync resumed>) = 0",
        '7 renameat(AT_FDCWD</m>, "/m/Maildir/tmp/a", 10</m/Maildir/new>, "a") = 0',
        "7 fsync(10</m/Maildir/new>) = 0",
        '6 sendto(5<TCP:[1->2]>, "250 2.0.0 OK, kept as n1\\r\\n", 26, 0, NULL, 0) = 26',
    )

    def test_good(self) -> None:
        """A message whose steps follow each other has no fault."""
        done = operations(self.GOOD)
        kinds = ["create", "write", "fsync", "fsync", "rename", "fsync_directory", "answer"]
        self.assertEqual([each.kind for each in done], kinds)
        self.assertEqual(done[3].start, 2)
        self.assertEqual(order_faults(done), [])

    def test_found_out(self) -> None:
        """A step that is missing, failed, or out of place is found."""
        *_, rename, directory, answer = self.GOOD
        for lines in (
            (*self.GOOD[:2], rename, directory, answer),
            (*self.GOOD[:2], self.GOOD[2], rename, self.GOOD[4], directory, answer),
            (*self.GOOD[:5], rename, answer),
            (*self.GOOD[:5], rename, answer, directory),
            (*self.GOOD[:5], directory, rename, answer),
            (*self.GOOD[:6], directory.replace("= 0", "= -1 EIO (Input/output error)"), answer),
            (*self.GOOD[:6], "7 fsync(10</m/Maildir/new> <unfinished ...>", answer, "7 <... fsync resumed>) = 0"),
            (*self.GOOD[3:4], answer),
        ):
            self.assertEqual(len(order_faults(operations(lines))), 1, lines)
