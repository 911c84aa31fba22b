"""
Tests of smtpsvc.backends.maildir: what is in the files, their names, and starting and stopping.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, ClassVar
from unittest import SkipTest, mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.application.service import IService
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.error import ConnectionLost
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from smtpsvc.backends.maildir import APART, SPOOL_AT, MaildirBackend, MaildirDelivery, make
from smtpsvc.backends.store import LEFT_OVER, Names
from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply, TemporaryError
from smtpsvc.interfaces import IBackend, IDelivery, ISession, IStorage
from smtpsvc.values import Quarantine
from tests.disk import ERRNOS, NO_SPACE, Disk, envelope

HEAD = b"Return-Path: <a@x.example>\r\nDelivered-To: b@y.example\r\n"
LARGE = b"0123456789abcdef" * (SPOOL_AT // 16 + 1)
KEPT = Reply(250, "OK, kept as m1", "2.0.0")


class MaildirTestCase(SynchronousTestCase):
    """A started backend whose threads run when told."""

    memory: ClassVar[int | None] = None

    def setUp(self) -> None:
        self.disk = Disk()
        self.system = self.disk.system
        self.directory = Path(self.mktemp()).absolute()
        self.backend = MaildirBackend(
            str(self.directory), self.disk.reactor, system=self.system, threads=self.disk.threads, memory=self.memory
        )
        self.backend.startService()
        self.disk.run()
        self.system.calls.clear()

    def delivery(self, *recipients: str, id: str = "m1") -> MaildirDelivery:
        made = envelope(id, *recipients)
        delivery = self.backend.open_session(made.peer, None).data(made)
        assert isinstance(delivery, MaildirDelivery)
        return delivery

    def send(self, delivery: MaildirDelivery, content: bytes) -> None:
        """Write what a client that honours every pause would."""
        waiting = delivery.write(content)
        self.disk.run()
        if waiting is not None:
            self.successResultOf(waiting)

    def files(self, part: str) -> list[bytes]:
        return [path.read_bytes() for path in (self.directory / part).iterdir()]


class InterfaceTests(MaildirTestCase):
    """The objects are what they say."""

    def test_interfaces(self) -> None:
        """Backend, session and delivery provide their interfaces, and the backend is a service."""
        verifyObject(IBackend, self.backend)
        verifyObject(IService, self.backend)
        verifyObject(IStorage, self.backend)
        verifyObject(ISession, self.backend.open_session(envelope().peer, None))
        verifyObject(IDelivery, self.delivery())

    def test_attributes(self) -> None:
        """Several processes may share a Maildir, and one commit serves all recipients."""
        self.assertTrue(self.backend.shareable)
        self.assertFalse(self.backend.per_recipient)

    def test_destination(self) -> None:
        """Where mail goes is shown as an absolute path."""
        self.assertEqual(self.backend.destination, str(self.directory))
        self.assertIn(str(self.directory), repr(self.backend))

    def test_make(self) -> None:
        """The argument is the directory, ./Maildir without one."""
        self.assertEqual(make("/var/mail/x", self.disk.reactor).directory, "/var/mail/x")
        self.assertEqual(make("", self.disk.reactor).directory, "./Maildir")
        self.assertRaises(ValueError, make, "a\0b", self.disk.reactor)


class ContentTests(MaildirTestCase):
    """What is in a file."""

    def test_small(self) -> None:
        """A file has Return-Path, Delivered-To, and the content as it came."""
        delivery = self.delivery()
        self.send(delivery, b"Subject: x\r\n\r\n")
        self.send(delivery, b"\xff\x00text\r\n")
        answer = delivery.finish()
        self.assertNoResult(answer)
        self.disk.run()
        self.assertEqual(self.successResultOf(answer), KEPT)
        self.assertEqual(self.files("new"), [HEAD + b"Subject: x\r\n\r\n\xff\x00text\r\n"])

    def test_null_sender(self) -> None:
        """The sender of a notification is the empty path."""
        made = envelope()
        made.sender = type(made.sender)("")
        answer = self.backend.open_session(made.peer, None).data(made).finish()
        self.disk.run()
        self.successResultOf(answer)
        self.assertTrue(self.files("new")[0].startswith(b"Return-Path: <>\r\n"))

    def test_several_recipients(self) -> None:
        """A message to several is one file, with a Delivered-To for each."""
        answer = self.delivery("b@y.example", "c@y.example").finish()
        self.disk.run()
        self.successResultOf(answer)
        (content,) = self.files("new")
        self.assertEqual(content, HEAD + b"Delivered-To: c@y.example\r\n")

    def test_large(self) -> None:
        """A large message grows in tmp/ as it comes, and arrives whole."""
        delivery = self.delivery()
        self.send(delivery, LARGE)
        self.assertEqual(self.files("tmp"), [HEAD + LARGE])
        self.send(delivery, LARGE)
        answer = delivery.finish()
        self.disk.run()
        self.assertEqual(self.successResultOf(answer), KEPT)
        self.assertEqual((self.files("new"), self.files("tmp")), ([HEAD + LARGE + LARGE], []))

    def test_large_order(self) -> None:
        """A large message too is fsynced before it is renamed, and new/ before the answer."""
        delivery = self.delivery()
        self.send(delivery, LARGE)
        delivery.finish().addCallback(lambda _: self.system.calls.append(("answer", "")))
        self.disk.run()
        self.assertEqual(
            self.system.names,
            ["open", "write", "fsync", "close", "open_directory", "rename", "fsync_directory", "close", "answer"],
        )

    def test_reactor_thread(self) -> None:
        """Neither to write nor to finish nor to abort makes a system call in the reactor's thread."""
        deliveries = [self.delivery(), self.delivery(), self.delivery()]
        self.send(deliveries[2], LARGE)
        self.system.calls.clear()
        deliveries[0].write(b"x")
        deliveries[0].finish()
        deliveries[1].write(LARGE)
        deliveries[1].finish()
        deliveries[2].write(LARGE)
        deliveries[2].abort(Failure(ConnectionLost()))
        self.assertEqual(self.system.calls, [])

    def test_cancelled(self) -> None:
        """When nobody waits for the answer any more, the commit goes on and is logged."""
        for content in (b"x", LARGE):
            with self.subTest(size=len(content)):
                events: list[Any] = []
                globalLogPublisher.addObserver(events.append)
                self.addCleanup(globalLogPublisher.removeObserver, events.append)
                delivery = self.delivery()
                self.send(delivery, content)
                answer = delivery.finish()
                answer.cancel()
                self.failureResultOf(answer, CancelledError)
                self.disk.run()
                self.assertIn(HEAD + content, self.files("new"))
                self.assertEqual([event.get("id") for event in events], ["m1"])

    @given(st.lists(st.integers(0, SPOOL_AT), max_size=5), st.data())
    def test_any_cut(self, sizes: list[int], data: st.DataObject) -> None:
        """However the content is cut, and whenever the threads run, the file has all of it in order."""
        self.setUp()
        delivery = self.delivery()
        content = b""
        for number, size in enumerate(sizes):
            piece = bytes([number]) * (size + 1)
            content += piece
            waiting = delivery.write(piece)
            if waiting is not None:
                self.disk.run()
                self.successResultOf(waiting)
            elif self.disk.jobs and data.draw(st.booleans()):
                self.disk.step()
        answer = delivery.finish()
        self.disk.run()
        self.assertEqual(self.successResultOf(answer), KEPT)
        self.assertEqual((self.files("new"), self.files("tmp")), ([HEAD + content], []))


class MemoryTests(MaildirTestCase):
    """Memory is bounded over all messages together."""

    memory = 1000

    def test_small_go_to_disk(self) -> None:
        """When much is in memory, small messages too are written as they come, and arrive."""
        held = self.delivery()
        self.assertIsNone(held.write(b"x" * 900))
        delivery = self.delivery(id="m2")
        self.send(delivery, b"y" * 100)
        self.assertEqual(self.files("tmp"), [HEAD + b"y" * 100])
        answers = [held.finish(), delivery.finish()]
        self.disk.run()
        for answer in answers:
            self.successResultOf(answer)
        self.assertEqual(sorted(self.files("new")), sorted([HEAD + b"x" * 900, HEAD + b"y" * 100]))

    def test_given_back(self) -> None:
        """What was kept, refused or aborted counts no more, so the next small one is small again."""
        kept, refused, aborted = self.delivery(), self.delivery(), self.delivery()
        for delivery in (kept, refused, aborted):
            self.send(delivery, b"x" * 200)
        answer = kept.finish()
        self.disk.run()
        self.successResultOf(answer)
        self.system.fail("write", errno.EIO)
        answer = refused.finish()
        self.disk.run()
        self.failureResultOf(answer, TemporaryError)
        aborted.abort(Failure(ConnectionLost()))
        self.assertIsNone(self.delivery().write(b"x" * 900))
        self.assertEqual(len(self.disk.jobs), 0)


class AbortTests(MaildirTestCase):
    """A message that does not come whole leaves nothing."""

    def test_small(self) -> None:
        """What is in memory is forgotten, and no file is touched."""
        delivery = self.delivery()
        delivery.write(b"x")
        self.assertIsNone(delivery.abort(Failure(ConnectionLost())))
        self.disk.run()
        self.assertEqual(self.system.calls, [])

    def test_large(self) -> None:
        """The file of a large message is removed."""
        delivery = self.delivery()
        self.send(delivery, LARGE)
        gone = delivery.abort(Failure(ConnectionLost()))
        assert gone is not None
        self.disk.run()
        self.successResultOf(gone)
        self.assertEqual((self.files("tmp"), self.files("new")), ([], []))

    def test_while_writing(self) -> None:
        """A piece that a thread has in hand is waited for, then the file is removed."""
        for cancel in (False, True):
            with self.subTest(cancel=cancel):
                delivery = self.delivery()
                delivery.write(LARGE)
                delivery.write(LARGE)
                gone = delivery.abort(Failure(ConnectionLost()))
                assert isinstance(gone, Deferred)
                if cancel:
                    gone.cancel()
                    self.failureResultOf(gone, CancelledError)
                self.disk.run()
                self.assertEqual((self.files("tmp"), self.files("new")), ([], []))

    def test_after_error(self) -> None:
        """The file of a message that could not be written is removed when the server gives it up."""
        delivery = self.delivery()
        self.system.fail("write", errno.ENOSPC)
        delivery.write(LARGE)
        self.disk.run()
        self.assertEqual(self.assertRaises(TemporaryError, delivery.write, b"x").reply.code, 452)
        delivery.abort(Failure(ConnectionLost()))
        self.disk.run()
        self.assertEqual(self.files("tmp"), [])

    def test_unexpected(self) -> None:
        """If the file cannot be removed for an unknown reason, that is logged and the abort ends."""
        delivery = self.delivery()
        self.send(delivery, LARGE)
        self.patch(self.system, "unlink", lambda _: 1 // 0)
        gone = delivery.abort(Failure(ConnectionLost()))
        assert gone is not None
        self.disk.run()
        self.successResultOf(gone)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class RefusalTests(MaildirTestCase):
    """Each system call failing once, with each errno, for small and large messages."""

    def test_each_call(self) -> None:
        """The reply is right, one event is logged, nothing stays, and the next message is kept."""
        for content in (b"x", LARGE):
            for call in ("open", "write", "fsync", "close", "open_directory", "rename", "fsync_directory"):
                for number in ERRNOS:
                    with self.subTest(call=call, errno=errno.errorcode[number], size=len(content)):
                        self.check(call, number, content)

    def check(self, call: str, number: int, content: bytes) -> None:
        self.setUp()
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        try:
            delivery = self.delivery()
            delivery.write(content)
            self.system.fail(call, number)
            answer = delivery.finish()
            self.disk.run()
        finally:
            globalLogPublisher.removeObserver(events.append)
        reply = self.failureResultOf(answer, TemporaryError).value.reply
        expected = (452, "4.3.1") if number in NO_SPACE else (451, "4.3.0")
        self.assertEqual((reply.code, reply.enhanced), expected)
        self.assertEqual([event["errno"] for event in events], [errno.errorcode[number]])
        self.assertEqual((self.files("tmp"), self.files("new")), ([], []))
        following = self.delivery().finish()
        self.disk.run()
        self.assertEqual(self.successResultOf(following), KEPT)
        self.assertEqual((self.files("tmp"), self.files("new")), ([], [HEAD]))

    def test_event(self) -> None:
        """The event says which call failed, on what, and for which message."""
        self.system.fail("fsync", errno.EIO)
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        answer = self.delivery().finish()
        self.disk.run()
        self.failureResultOf(answer, TemporaryError)
        text = events[0]["log_format"].format(**events[0])
        self.assertRegex(text, r"^Message m1 cannot be kept: \[Errno 5\] fsync: Input/output error: '/.*/tmp/.*'$")

    def test_unexpected(self) -> None:
        """An error that is none of the system's is left to the server."""
        self.patch(self.system, "fsync", lambda _: 1 // 0)
        for content in (b"x", LARGE):
            delivery = self.delivery()
            self.send(delivery, content)
            answer = delivery.finish()
            self.disk.run()
            self.failureResultOf(answer, ZeroDivisionError)
        self.assertEqual(self.files("tmp"), [])


class FreeSpaceTests(MaildirTestCase):
    """The backend knows how much room its disk has."""

    def free(self, *, blocks: int = 1000, files: int = 1000, free_files: int = 10) -> int | None:
        """Let the file system say something, and give what the backend makes of it."""
        said = os.statvfs_result((4096, 512, 5000, blocks + 100, blocks, files, free_files + 5, free_files, 0, 255))
        with mock.patch.object(self.system, "statvfs", return_value=said):
            return self.backend.free_space()

    def test_blocks(self) -> None:
        """It is what is free for this user, in bytes: what is reserved for root is not counted."""
        self.assertEqual(self.free(), 512_000)

    def test_files(self) -> None:
        """Without room for a further file there is none at all; some file systems count no files."""
        self.assertEqual(self.free(free_files=0), 0)
        self.assertEqual(self.free(files=0, free_files=0), 512_000)

    def test_real(self) -> None:
        """The real file system has some room, or these tests could not run."""
        self.assertGreater(self.backend.free_space() or 0, 0)

    def test_unknown(self) -> None:
        """It is not known when the system does not tell, nor while the service does not run."""
        with mock.patch.object(self.system, "statvfs", side_effect=FileNotFoundError):
            self.assertIsNone(self.backend.free_space())
        self.backend.stopService()
        self.assertIsNone(self.backend.free_space())


class NamesTests(SynchronousTestCase):
    """Names by the rules of Maildir."""

    def test_form(self) -> None:
        """A name is the time, what makes it unique, and the host."""
        name = Names(lambda: 1234567890.25).make()
        form = rf"1234567890\.M250000P{os.getpid()}Q1R[0-9a-f]{{16}}\.{re.escape(socket.gethostname())}"
        self.assertRegex(name, f"^{form}$")

    def test_unique(self) -> None:
        """In one microsecond names differ, in one process and in two with the same number."""
        names = [Names(lambda: 0.0), Names(lambda: 0.0)]
        made = [maker.make() for maker in names for _ in range(100)]
        self.assertEqual(len(set(made)), 200)

    def test_host(self) -> None:
        """Slashes and colons in the host's name are escaped."""
        self.patch(socket, "gethostname", lambda: "a/b:c")
        self.assertTrue(Names().make().endswith(".a\\057b\\072c"))


class StartTests(SynchronousTestCase):
    """Starting makes the Maildir or says in a sentence why not."""

    def setUp(self) -> None:
        self.disk = Disk()
        self.directory = Path(self.mktemp()).absolute()

    def backend(self, directory: str | None = None) -> MaildirBackend:
        return MaildirBackend(
            str(self.directory) if directory is None else directory,
            self.disk.reactor,
            system=self.disk.system,
            threads=self.disk.threads,
        )

    def test_nothing_before(self) -> None:
        """Making the backend opens nothing."""
        self.backend()
        self.assertFalse(self.directory.exists())
        self.assertEqual(self.disk.system.calls, [])

    def test_made(self) -> None:
        """Starting makes tmp, new and cur, for the owner alone, and leaves nothing else."""
        self.backend().startService()
        self.assertEqual(sorted(path.name for path in self.directory.rglob("*")), ["cur", "new", "tmp"])
        self.assertEqual({path.stat().st_mode & 0o777 for path in self.directory.iterdir()}, {0o700})

    def test_relative(self) -> None:
        """A relative directory is taken from where the process is when it starts."""
        backend = self.backend("Mail")
        self.directory.mkdir()
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        backend.startService()
        self.assertEqual(backend.directory, str(self.directory / "Mail"))
        self.assertTrue((self.directory / "Mail" / "new").is_dir())

    def assertRefused(self, backend: MaildirBackend, *words: str) -> None:
        error = self.assertRaises(ValueError, backend.startService)
        for word in ("maildir:", str(self.directory), *words):
            self.assertIn(word, str(error))
        self.assertFalse(backend.running)

    def test_file_in_the_way(self) -> None:
        """A file in place of the directory is named."""
        self.directory.write_bytes(b"")
        self.assertRefused(self.backend(), "Not a directory")

    def test_not_writable(self) -> None:
        """A directory that cannot be written to is named, with the cause."""
        for call, number in (("mkdir", errno.EACCES), ("open", errno.EROFS)):
            with self.subTest(call=call):
                self.disk.system.fail(call, number)
                self.assertRefused(self.backend(), os.strerror(number))

    def test_new_not_writable(self) -> None:
        """A new/ that cannot be written to is found before mail comes."""
        self.patch(os, "access", lambda path, mode: not path.endswith("new"))
        self.assertRefused(self.backend(), "new/")

    def test_no_files(self) -> None:
        """--check finds that a file system keeps no files, where even root can make nothing; others are good."""
        for path in ("/proc/x", "/sys/x/y"):
            if os.path.isdir(os.path.dirname(path)):
                error = self.assertRaises(ValueError, self.backend(path).check)
                self.assertRegex(str(error), "keeps no files|cannot be written to")
        self.backend(str(self.directory / "deep" / "down")).check()

    def test_two_file_systems(self) -> None:
        """A tmp/ on another file system, out of which nothing can be renamed, is found before mail comes."""
        self.directory.mkdir()
        try:
            elsewhere = Path(tempfile.mkdtemp(dir="/dev/shm"))
        except OSError:
            raise SkipTest("needs /dev/shm") from None
        self.addCleanup(elsewhere.rmdir)
        if elsewhere.stat().st_dev == self.directory.stat().st_dev:
            raise SkipTest("needs a second file system")
        (self.directory / "tmp").symlink_to(elsewhere)
        self.assertRefused(self.backend(), "different file systems")

    def test_not_started(self) -> None:
        """Mail before the start is refused with an error that says what to call."""
        made = envelope()
        error = self.assertRaises(RuntimeError, self.backend().open_session(made.peer, None).data, made)
        self.assertIn("startService", str(error))

    def test_left_overs(self) -> None:
        """Old regular files in tmp/ are removed, in a thread; all else stays."""
        backend = self.backend()
        backend.startService()
        self.disk.run()
        backend.stopService()
        tmp = self.directory / "tmp"
        for name in ("old", "young"):
            (tmp / name).write_bytes(b"")
        (tmp / "directory").mkdir()
        (tmp / "link").symlink_to("old")
        (self.directory / "new" / "kept").write_bytes(b"")
        old = time.time() - LEFT_OVER - 60
        for path in ("tmp/old", "tmp/link", "tmp/directory", "new/kept"):
            os.utime(self.directory / path, (old, old), follow_symlinks=False)
        os.utime(tmp / "young", (old + 120, old + 120))
        backend.startService()
        self.assertTrue((tmp / "old").exists())
        self.disk.run()
        self.assertEqual(sorted(path.name for path in tmp.iterdir()), ["directory", "link", "young"])
        self.assertTrue((self.directory / "new" / "kept").exists())

    def test_left_over_gone(self) -> None:
        """A file that goes while tmp/ is read is no problem: another process may clean too."""
        backend = self.backend()
        backend.startService()
        gone = mock.Mock()
        gone.stat.side_effect = FileNotFoundError
        self.patch(os, "scandir", lambda _: contextlib.nullcontext([gone]))
        self.disk.run()
        gone.stat.assert_called_once_with(follow_symlinks=False)

    def test_left_overs_unreadable(self) -> None:
        """If tmp/ cannot be read, that is logged and mail is taken."""
        self.patch(os, "scandir", lambda _: 1 // 0)
        self.backend().startService()
        self.disk.run()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class StopTests(MaildirTestCase):
    """Stopping loses nothing that was begun."""

    def test_waits(self) -> None:
        """Stopping waits for commits and aborts under way, then ends both pools."""
        small, large, aborted = self.delivery(), self.delivery(), self.delivery()
        small.write(b"x")
        large.write(LARGE)
        aborted.write(LARGE)
        answers = [small.finish(), large.finish()]
        aborted.abort(Failure(ConnectionLost()))
        stopped = self.backend.stopService()
        self.assertNoResult(stopped)
        self.assertEqual(self.disk.stopped, 0)
        self.disk.run()
        self.successResultOf(stopped)
        self.assertEqual(self.disk.stopped, 2)
        self.assertEqual([self.successResultOf(answer) for answer in answers], [KEPT, KEPT])
        self.assertEqual((len(self.files("new")), self.files("tmp")), (2, []))

    def test_idle(self) -> None:
        """Where nothing is under way, it is stopped at once, and can be stopped again."""
        self.successResultOf(self.backend.stopService())
        self.successResultOf(self.backend.stopService())

    def test_no_more_mail(self) -> None:
        """A message that begins after the stop is refused with 421."""
        self.backend.stopService()
        made = envelope()
        self.assertIs(self.backend.open_session(made.peer, None).data(made), replies.SHUTTING_DOWN)

    def test_again(self) -> None:
        """A stopped backend can be started again."""
        self.backend.stopService()
        self.backend.startService()
        answer = self.delivery().finish()
        self.disk.run()
        self.assertEqual(self.successResultOf(answer), KEPT)

    def test_open_delivery(self) -> None:
        """A message that is finished after the stop is kept."""
        delivery = self.delivery()
        self.successResultOf(self.backend.stopService())
        answer = delivery.finish()
        self.disk.run()
        self.assertEqual(self.successResultOf(answer), KEPT)


class RealTests(TestCase):
    """With the reactor, its clock and real threads."""

    def test_many(self) -> None:
        """Messages of all sizes at once are each kept once, whole; then no thread is left."""
        directory = Path(self.mktemp())
        backend = MaildirBackend(str(directory), reactor)
        backend.startService()
        sizes = [0, 1, 1000, SPOOL_AT, SPOOL_AT + 1, 3 * SPOOL_AT] * 10

        async def send(number: int, size: int) -> object:
            made = envelope(f"m{number}")
            delivery: Any = backend.open_session(made.peer, None).data(made)
            content = b"%d:" % number + b"x" * size
            for start in range(0, len(content), 65536):
                waiting = delivery.write(content[start : start + 65536])
                if waiting is not None:
                    await waiting
            if number % 7 == 6:
                await (delivery.abort(Failure(ConnectionLost())) or Deferred.fromCoroutine(nothing()))
                return None
            return await delivery.finish()

        async def nothing() -> None:
            pass

        async def check() -> None:
            outcomes = await gatherResults(
                [Deferred.fromCoroutine(send(number, size)) for number, size in enumerate(sizes)]
            )
            await backend.stopService()
            expected = {number: size for number, size in enumerate(sizes) if number % 7 != 6}
            self.assertEqual(
                [outcome and str(outcome) for outcome in outcomes],
                [f"250 2.0.0 OK, kept as m{number}" if number in expected else None for number in range(len(sizes))],
            )
            found = {}
            for path in (directory / "new").iterdir():
                head, number, rest = re.fullmatch(rb"(.*\r\n)(\d+):(x*)", path.read_bytes(), re.DOTALL).groups()  # type: ignore[union-attr]
                self.assertEqual(head, HEAD)
                self.assertNotIn(int(number), found)
                found[int(number)] = len(rest)
            self.assertEqual(found, expected)
            self.assertEqual(list((directory / "tmp").iterdir()), [])
            self.assertFalse([thread for thread in threading.enumerate() if thread.name.startswith("maildir ")])

        return Deferred.fromCoroutine(check())  # type: ignore[return-value]


class QuarantineTests(MaildirTestCase):
    """What policies want kept apart."""

    def keep(self, reason: str) -> Any:
        """Send a message that a policy has put into quarantine; give the answer to it."""
        made = envelope()
        made.results.put(Quarantine(reason))
        begun = self.backend.open_session(made.peer, None).data(made)
        self.disk.run()
        delivery = self.successResultOf(begun)
        self.send(delivery, b"Subject: x\r\n\r\ntext\r\n")
        answer = delivery.finish()
        self.disk.run()
        return self.successResultOf(answer)

    def test_kept(self) -> None:
        """It is in the folder Quarantine with its reason, and other mail is where it always is."""
        self.assertEqual(self.keep("DMARC: x.example"), KEPT)
        self.assertEqual(self.keep("again"), KEPT)
        self.assertEqual(self.files("new"), [])
        found = sorted(self.files(f"{APART}/new"))
        fields = HEAD.replace(b"Delivered-To", b"X-Quarantine: DMARC: x.example\r\nDelivered-To", 1)
        self.assertIn(fields + b"Subject: x\r\n\r\ntext\r\n", found)
        self.assertEqual(len(found), 2)
        answer = self.delivery().finish()
        self.disk.run()
        self.successResultOf(answer)
        self.assertEqual(len(self.files("new")), 1)

    def test_reason(self) -> None:
        """A reason with a stranger's words forges no field."""
        self.keep("a\r\nX-Evil: b\x00\u20ac" + "c" * 9999)
        (content,) = self.files(f"{APART}/new")
        header = content.partition(b"\r\nSubject")[0].split(b"\r\n")
        names = [line.partition(b":")[0] for line in header]
        self.assertEqual(names, [b"Return-Path", b"X-Quarantine", b"Delivered-To"])
        self.assertLess(len(header[1]), 998)
        self.assertTrue(header[1].isascii())

    def test_no_folder(self) -> None:
        """If the folder cannot be made, the message is refused, and the next is tried anew."""
        self.disk.system.fail("mkdir", errno.ENOSPC)
        made = envelope()
        made.results.put(Quarantine("x"))
        begun = self.backend.open_session(made.peer, None).data(made)
        self.disk.run()
        self.assertEqual(self.failureResultOf(begun, TemporaryError).value.reply.code, 452)
        self.assertEqual(self.keep("x"), KEPT)

    def test_stopped(self) -> None:
        """Its threads end with the service."""
        self.keep("x")
        stopped = self.backend.stopService()
        self.disk.run()
        self.successResultOf(stopped)
