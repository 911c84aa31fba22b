"""
Tests of smtpsvc.backends.commit: what is promised is on the disk, and what is refused is gone.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.backends.commit import HELPERS, Committer, Staged, System, TmpFile, make_maildir
from smtpsvc.backends.spool import Threads
from tests.disk import ERRNOS, Disk

#: The calls of one message, in their order; the second close is that of the directory.
ORDER = ["open", "write", "fsync", "close", "open_directory", "rename", "fsync_directory", "close"]


class CommitTestCase(SynchronousTestCase):
    """A Maildir and a committer whose threads run when told."""

    def setUp(self) -> None:
        self.disk = Disk()
        self.system = self.disk.system
        self.open_maildir()

    def open_maildir(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        make_maildir(str(self.directory), self.system)
        self.system.calls.clear()
        threads = self.disk.threads(17, self.disk.reactor, "")
        self.committer = Committer(str(self.directory), threads, self.disk.reactor, self.system)
        self.answers: dict[str, Exception | None] = {}

    def submit(self, name: str, content: bytes | None = None) -> Staged:
        file = TmpFile(str(self.directory), name, self.system)
        staged = Staged(file, bytearray(content or name.encode()), self.answer)
        self.committer.submit(staged)
        return staged

    def submit_sealed(self, name: str) -> None:
        """Submit a message that is in its file already, as large ones are."""
        file = TmpFile(str(self.directory), name, self.system)
        file.write(bytearray(name.encode()))
        file.seal()
        self.committer.submit(Staged(file, None, self.answer))

    def answer(self, staged: Staged) -> None:
        self.system.calls.append(("answer", staged.file.name))
        self.answers[staged.file.name] = staged.error

    def files(self, part: str) -> dict[str, bytes]:
        """Give the files of tmp, new or cur with their content."""
        return {path.name: path.read_bytes() for path in (self.directory / part).iterdir()}

    def assertErrno(self, name: str, number: int) -> None:
        error = self.answers[name]
        assert isinstance(error, OSError), error
        self.assertEqual(error.errno, number)


class OrderTests(CommitTestCase):
    """Nothing is answered before it is on the disk."""

    def test_one(self) -> None:
        """A message is written, fsynced, renamed, its directory fsynced, and then answered."""
        self.submit("a")
        self.disk.run()
        self.assertEqual(self.system.names, [*ORDER, "answer"])
        self.assertEqual((self.answers, self.files("new"), self.files("tmp")), ({"a": None}, {"a": b"a"}, {}))

    def test_partial_writes(self) -> None:
        """A call that writes a part only is followed by others for the rest."""
        self.patch(System, "write", lambda _, file, content: os.write(file, content[:3]))
        self.submit("a", b"0123456789")
        self.disk.run()
        self.assertEqual(self.files("new"), {"a": b"0123456789"})
        self.assertEqual(self.system.names.count("write"), 4)

    def test_nothing_at_once(self) -> None:
        """To submit touches no file: that is for threads."""
        self.submit("a")
        self.assertEqual(self.system.calls, [])

    def test_private(self) -> None:
        """Files and directories are their owner's alone."""
        self.submit("a")
        self.disk.run()
        modes = {path.name: path.stat().st_mode & 0o777 for path in self.directory.rglob("*")}
        self.assertEqual(modes, {"tmp": 0o700, "new": 0o700, "cur": 0o700, "a": 0o600})

    def test_nothing_removed(self) -> None:
        """On the good path nothing is unlinked, which makes later creations dear on ext4."""
        for name in "abc":
            self.submit(name)
        self.disk.run()
        self.assertNotIn("unlink", self.system.names)


class BatchTests(CommitTestCase):
    """What gathers while one commit runs is the next."""

    def test_one_fsync(self) -> None:
        """Messages of a batch share one fsync of the directory and one call to the reactor's thread."""
        for name in "abcde":
            self.submit(name)
        self.disk.run()
        self.assertEqual(self.system.names.count("fsync_directory"), 1)
        self.assertEqual(self.system.names.count("fsync"), 5)
        self.assertEqual(self.disk.reactor.calls, 1)
        self.assertEqual(self.system.names[-5:], ["answer"] * 5)
        self.assertEqual(set(self.files("new")), set("abcde"))

    def test_gathering(self) -> None:
        """What comes during a commit waits for it, and is committed together."""

        class Busy(System):
            def fsync_directory(_, directory: int) -> None:
                if not self.files("new").keys() & {"b"}:
                    self.submit("b")
                    self.submit("c")

        system = Busy()
        self.patch(self.system, "fsync_directory", system.fsync_directory)
        self.submit("a")
        self.disk.run()
        order = [name for name, subject in self.system.calls if name in ("open_directory", "answer")]
        self.assertEqual(order, ["open_directory", "answer", "open_directory", "answer", "answer"])

    def test_again(self) -> None:
        """After a pause the next message is committed as the first was."""
        for name in "ab":
            self.submit(name)
            self.disk.run()
        self.assertEqual(self.answers, {"a": None, "b": None})

    def test_helpers(self) -> None:
        """A batch of many gets sixteen helpers, and one of two gets one."""
        for count, helpers in ((1, 0), (2, 1), (HELPERS + 1, HELPERS), (100, HELPERS)):
            with self.subTest(count=count):
                for number in range(count):
                    self.submit(f"{count}.{number}")
                self.disk.step()
                self.assertEqual(len(self.disk.jobs), helpers)
                self.disk.run()
        self.assertEqual(set(self.answers.values()), {None})

    def test_sealed_before(self) -> None:
        """A large message, which is in its file already, is renamed with the others."""
        self.submit_sealed("large")
        self.submit("small")
        self.system.calls.clear()
        self.disk.run()
        self.assertEqual(self.system.names.count("fsync"), 1)
        self.assertEqual(self.system.names.count("fsync_directory"), 1)
        self.assertEqual(self.files("new"), {"large": b"large", "small": b"small"})

    def test_answer_fails(self) -> None:
        """An answer that raises keeps no other from being given."""
        self.submit("a").answer = lambda _: 1 // 0
        self.submit("b")
        self.disk.run()
        self.assertEqual(self.answers, {"b": None})
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class ThreadedTests(CommitTestCase):
    """With real threads."""

    def setUp(self) -> None:
        super().setUp()
        self.calls: SimpleQueue[Any] = SimpleQueue()
        self.threads = Threads(1 + HELPERS, self, "commit test")
        self.committer = Committer(str(self.directory), self.threads, self, self.system)

    def callFromThread(self, function: Any, *args: Any) -> None:
        self.calls.put((function, args))

    def pump(self, done: Any) -> None:
        while not done():
            function, args = self.calls.get(timeout=30)
            function(*args)

    def tearDown(self) -> None:
        stopped = self.threads.stop()
        self.pump(lambda: stopped.called)

    def test_fsync_together(self) -> None:
        """The files of a batch are fsynced at the same time."""
        first, go = threading.Event(), threading.Event()
        together = threading.Barrier(4, timeout=30)

        class Slow(System):
            def fsync(self, file: int) -> None:
                if not first.is_set():
                    first.set()
                    go.wait(30)
                else:
                    together.wait()

        self.patch(self.system, "fsync", Slow().fsync)
        self.submit("a")
        first.wait(30)
        for name in "bcde":
            self.submit(name)
        go.set()
        self.pump(lambda: len(self.answers) == 5)
        self.assertEqual(set(self.answers.values()), {None})

    def test_many(self) -> None:
        """Messages that come in many ways are each kept once, whole."""
        names = [f"{number}" for number in range(300)]
        for name in names:
            self.submit(name)
        self.pump(lambda: len(self.answers) == len(names))
        self.assertEqual(self.files("new"), {name: name.encode() for name in names})
        self.assertEqual(set(self.answers.values()), {None})


class FailureTests(CommitTestCase):
    """Whatever fails, no false promise is made, nothing stays in tmp/, and the next message is kept."""

    def test_each_call(self) -> None:
        """Each system call failing once with each errno refuses the message, and leaves nothing of it."""
        for call in dict.fromkeys(ORDER):
            for number in ERRNOS:
                with self.subTest(call=call, errno=errno.errorcode[number]):
                    self.open_maildir()
                    self.system.fail(call, number)
                    self.submit("a")
                    self.disk.run()
                    self.assertErrno("a", number)
                    self.assertEqual((self.files("tmp"), self.files("new")), ({}, {}))
                    self.submit("b")
                    self.disk.run()
                    self.assertIsNone(self.answers["b"])
                    self.assertEqual((self.files("tmp"), self.files("new")), ({}, {"b": b"b"}))

    def test_each_call_in_a_batch(self) -> None:
        """One file's error fails that message alone."""
        for call in ("open", "write", "fsync", "close", "rename"):
            with self.subTest(call=call):
                self.open_maildir()
                self.system.fail(call, None, errno.EIO)
                for name in "abc":
                    self.submit(name)
                self.disk.run()
                self.assertEqual([error is None for error in self.answers.values()], [True, False, True])
                self.assertEqual((self.files("tmp"), set(self.files("new"))), ({}, {"a", "c"}))

    def test_fsync_is_not_repeated(self) -> None:
        """A failed fsync is not tried again: the second would succeed without the content."""
        self.system.fail("fsync", errno.EIO)
        self.submit("a")
        self.disk.run()
        self.assertEqual(self.system.names.count("fsync"), 1)

    def test_directory_fsync_fails_the_batch(self) -> None:
        """If the directory cannot be fsynced, all of the batch is refused and taken back."""
        self.system.fail("fsync_directory", errno.EIO)
        for name in "abc":
            self.submit(name)
        self.disk.run()
        for name in "abc":
            self.assertErrno(name, errno.EIO)
        self.assertEqual((self.files("tmp"), self.files("new")), ({}, {}))

    def test_closing_the_directory(self) -> None:
        """Once the directory is fsynced, an error in closing it changes nothing."""
        self.system.fail("close", None, errno.EIO)
        self.submit("a")
        self.disk.run()
        self.assertEqual((self.answers, self.files("new")), ({"a": None}, {"a": b"a"}))

    def test_unlink_fails_too(self) -> None:
        """What cannot be removed is logged, and the message is refused as it would be."""
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        self.system.fail("write", errno.ENOSPC)
        self.system.fail("unlink", errno.EIO)
        self.submit("a")
        self.disk.run()
        self.assertErrno("a", errno.ENOSPC)
        self.assertEqual([event["error"].errno for event in events], [errno.EIO])

    def test_close_fails_too(self) -> None:
        """A file that cannot be written is removed even if it cannot be closed."""
        self.system.fail("write", errno.EIO)
        self.system.fail("close", errno.EIO)
        self.submit("a")
        self.disk.run()
        self.assertErrno("a", errno.EIO)
        self.assertEqual(self.files("tmp"), {})

    def test_existing_file(self) -> None:
        """A file of that name that is in tmp/ already is left alone."""
        (self.directory / "tmp" / "a").write_bytes(b"other")
        self.submit("a")
        self.disk.run()
        self.assertErrno("a", errno.EEXIST)
        self.assertEqual((self.files("tmp"), self.files("new")), ({"a": b"other"}, {}))

    def test_unexpected(self) -> None:
        """An error that is none of the system's refuses the message and stops nothing."""
        for call in ("write", "rename"):
            with self.subTest(call=call):
                self.patch(self.system, call, lambda *_: 1 // 0)
                self.submit("a")
                self.disk.run()
                self.assertIsInstance(self.answers["a"], ZeroDivisionError)
                self.system.__dict__.pop(call)
                shutil.rmtree(self.directory)
                self.submit("b")
                self.disk.run()
                self.assertIsNone(self.answers["b"])

    @given(
        st.integers(1, 6),
        st.dictionaries(
            st.sampled_from(["open", "write", "fsync", "close", "open_directory", "rename", "fsync_directory"]),
            st.lists(st.sampled_from([None, errno.EIO, errno.ENOSPC, errno.ENOENT]), max_size=8),
        ),
    )
    def test_any_failures(self, count: int, failures: dict[str, list[int | None]]) -> None:
        """Whatever calls fail, what is promised is in new/, what is refused is not, and tmp/ is empty."""
        self.setUp()
        for call, numbers in failures.items():
            self.system.fail(call, *numbers)
        names = [f"{number}" for number in range(count)]
        for name in names:
            self.submit(name)
        self.disk.run()
        kept = {name: name.encode() for name in names if self.answers[name] is None}
        self.assertEqual((self.files("new"), self.files("tmp")), (kept, {}))


class GoneTests(CommitTestCase):
    """A directory that somebody has removed is made anew."""

    def test_each(self) -> None:
        """Without tmp/, new/ or the whole Maildir, the message is kept all the same."""
        for part in ("tmp", "new", ""):
            with self.subTest(part=part):
                self.open_maildir()
                shutil.rmtree(self.directory / part)
                self.submit("a")
                self.disk.run()
                self.assertEqual((self.answers, self.files("new"), self.files("tmp")), ({"a": None}, {"a": b"a"}, {}))

    def gone_at(self, call: str, part: str) -> None:
        """Remove a directory just before the next call of that name."""
        usual = getattr(self.system, call)

        def remove(*args: Any) -> Any:
            self.system.__dict__.pop(call)
            shutil.rmtree(self.directory / part)
            return usual(*args)

        setattr(self.system, call, remove)

    def test_at_the_last_moment(self) -> None:
        """If tmp/ or new/ goes just before the rename, what is in memory is written once more."""
        for part in ("tmp", "new", ""):
            with self.subTest(part=part):
                self.open_maildir()
                self.gone_at("rename", part)
                self.submit("a")
                self.disk.run()
                self.assertEqual((self.answers, self.files("new"), self.files("tmp")), ({"a": None}, {"a": b"a"}, {}))
                self.assertEqual(self.system.names[-2:], ["close", "answer"])

    def test_large_at_the_last_moment(self) -> None:
        """A large message is renamed once more if new/ went, and refused if its file went."""
        for part, kept in (("new", {"a": b"a"}), ("tmp", {})):
            with self.subTest(part=part):
                self.open_maildir()
                self.gone_at("rename", part)
                self.submit_sealed("a")
                self.disk.run()
                self.assertEqual((self.answers["a"] is None, self.files("new")), (bool(kept), kept))

    def test_replaced(self) -> None:
        """If new/ is moved away before the fsync, the message is refused or kept where it was put."""
        usual = self.system.fsync_directory

        def replace(directory: int) -> None:
            (self.directory / "new").rename(self.directory / "old")
            (self.directory / "new").mkdir()
            usual(directory)

        self.patch(self.system, "fsync_directory", replace)
        self.submit("a")
        self.disk.run()
        self.assertEqual((self.answers, self.files("old")), ({"a": None}, {"a": b"a"}))

    def test_in_the_way(self) -> None:
        """Where a file stands in place of new/, the message is refused."""
        (self.directory / "new").rmdir()
        (self.directory / "new").write_bytes(b"")
        self.submit("a")
        self.disk.run()
        self.assertErrno("a", errno.ENOTDIR)
        self.assertEqual(self.files("tmp"), {})


class MakeTests(SynchronousTestCase):
    """A Maildir is made so that it outlasts a power cut."""

    def setUp(self) -> None:
        self.system = Disk().system
        self.directory = Path(self.mktemp()).absolute() / "a" / "b"

    def test_above(self) -> None:
        """Directories above are made too, and each new entry is fsynced."""
        make_maildir(str(self.directory), self.system)
        self.assertEqual(sorted(path.name for path in self.directory.iterdir()), ["cur", "new", "tmp"])
        made = sum(name == "mkdir" for name in self.system.names)
        self.assertEqual(self.system.names.count("fsync_directory"), 6)  # ours, a, b, tmp, new, cur
        self.assertGreaterEqual(made, 6)

    def test_existing(self) -> None:
        """What is there is left as it is."""
        make_maildir(str(self.directory), self.system)
        (self.directory / "cur").chmod(0o750)
        self.system.calls.clear()
        make_maildir(str(self.directory), self.system)
        self.assertEqual(self.system.names, ["mkdir"] * 3)
        self.assertEqual((self.directory / "cur").stat().st_mode & 0o777, 0o750)

    def test_in_the_way(self) -> None:
        """A file or a dangling link in its place is an error, not an endless search."""
        self.directory.parent.mkdir(parents=True)
        self.directory.symlink_to("nowhere")
        self.assertRaises(FileExistsError, make_maildir, str(self.directory), self.system)
        self.directory.unlink()
        self.directory.write_bytes(b"")
        self.assertRaises(NotADirectoryError, make_maildir, str(self.directory), self.system)

    def test_nowhere(self) -> None:
        """Where nobody can make a directory and the error says otherwise, as below /proc, the search ends."""

        class Proc(System):
            def mkdir(self, path: str) -> None:
                os.stat(path)
                raise FileExistsError

        self.assertRaises(FileNotFoundError, make_maildir, str(self.directory), Proc())
