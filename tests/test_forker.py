"""
Tests of smtpsvc.forker: processes that a helper forks.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.trial.unittest import TestCase

from smtpsvc.forker import MOST, Forker

HEAR, SAY, FILE = 3, 4, 5


class Noting(ProcessProtocol):
    """Notes what a process says, and how it ends."""

    def __init__(self) -> None:
        self.said: dict[int, bytes] = {}
        self.ended: Deferred[Any] = Deferred()
        self.events: list[str] = []

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Note it."""
        self.said[childFD] = self.said.get(childFD, b"") + data

    def processExited(self, reason: Any) -> None:
        """Note it."""
        self.events.append("exited")

    def processEnded(self, reason: Any) -> None:
        """Give the reason."""
        self.events.append("ended")
        self.ended.callback(reason.value)


def work(descriptors: Mapping[int, int]) -> None:
    """What the processes do: what they are told."""
    what = os.read(descriptors[HEAR], 100)
    if what == b"echo":
        os.write(1, b"out")
        os.write(2, b"err")
        os.write(descriptors[SAY], b"said " + os.read(descriptors[FILE], 100))
    elif what == b"exit":
        raise SystemExit(7)
    elif what == b"raise":
        raise LookupError("it broke")
    elif what == b"signals":
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
        os.write(1, b"default" if handlers == [signal.SIG_DFL] * 2 else b"other")
    elif what:
        os.kill(os.getpid(), signal.SIGSTOP)


class ForkerTests(TestCase):
    """Real processes; each test has a helper of its own."""

    def setUp(self) -> None:
        """Fork the helper, from a thread that runs a reactor: what is in it is not used there."""
        self.lost: list[str] = []
        self.forker = Forker(
            NotRunning(), work, forget=lambda: None, lost=lambda: self.lost.append("lost")
        )
        self.forker.watch()
        self.addCleanup(self.forker.close)

    def start(self, what: bytes, file: int | None = None) -> tuple[Noting, Any]:
        """Start a process, and tell it what to do."""
        noting = Noting()
        descriptors: dict[int, int | str] = {0: "w", 1: "r", 2: "r", HEAR: "w", SAY: "r"}
        if file is not None:
            descriptors[FILE] = file
        process = self.forker.spawnProcess(noting, "x", (), childFDs=descriptors)
        process.closeStdin()
        process.writeToChild(HEAR, what)
        return noting, process

    @inlineCallbacks
    def test_pipes(self) -> Any:
        """A process has the pipes and files that it was given, by their numbers; none is left open at its end."""
        # The reactor has opened what it needs.
        yield wait()
        before = len(os.listdir("/proc/self/fd"))
        hear, say = os.pipe()
        os.write(say, b"handed")
        os.close(say)
        noting, _ = self.start(b"echo", hear)
        os.close(hear)
        reason = yield noting.ended
        self.assertIsInstance(reason, ProcessDone)
        self.assertEqual(noting.said, {1: b"out", 2: b"err", SAY: b"said handed"})
        self.assertEqual(noting.events, ["exited", "ended"])
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    @inlineCallbacks
    def test_status(self) -> Any:
        """It is told how a process has ended, and a traceback is written to its standard error."""
        noting, _ = self.start(b"exit")
        reason = yield noting.ended
        self.assertIsInstance(reason, ProcessTerminated)
        self.assertEqual((reason.exitCode, reason.signal), (7, None))
        noting, _ = self.start(b"raise")
        reason = yield noting.ended
        self.assertEqual(reason.exitCode, 1)
        self.assertIn(b"LookupError: it broke", noting.said[2])

    @inlineCallbacks
    def test_signal(self) -> Any:
        """A signal reaches a process, and none a process that has ended."""
        noting, process = self.start(b"stop")
        process.signalProcess("KILL")
        reason = yield noting.ended
        self.assertEqual((reason.exitCode, reason.signal), (None, signal.SIGKILL))
        self.assertRaises(ProcessExitedAlready, process.signalProcess, "TERM")

    @inlineCallbacks
    def test_default_signals(self) -> Any:
        """A process has the signals of a fresh one."""
        noting, _ = self.start(b"signals")
        yield noting.ended
        self.assertEqual(noting.said[1], b"default")

    @inlineCallbacks
    def test_at_once(self) -> Any:
        """Several that end at the same time are all told of, also while another is started."""
        notings = [self.start(b"exit")[0] for _ in range(5)]
        time.sleep(0.05)
        notings.append(self.start(b"exit")[0])
        for noting in notings:
            reason = yield noting.ended
            self.assertEqual(reason.exitCode, 7)

    def test_too_many(self) -> None:
        """More descriptors than one message carries are an error, and leave no pipe open."""
        before = len(os.listdir("/proc/self/fd"))
        descriptors: dict[int, int | str] = dict.fromkeys(range(MOST), 0)
        descriptors[MOST] = "r"
        self.assertRaises(OSError, self.forker.spawnProcess, Noting(), "x", (), childFDs=descriptors)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    @inlineCallbacks
    def test_late(self) -> Any:
        """A helper that takes too long is an error; what it says of that later is not taken for the next process."""
        self.forker._socket.settimeout(0.05)
        os.kill(self.forker.pid, signal.SIGSTOP)
        late = Noting()
        descriptors: dict[int, int | str] = {0: "w", 1: "r", 2: "r", HEAR: "w"}
        self.assertRaises(OSError, self.forker.spawnProcess, late, "x", (), childFDs=descriptors)
        os.kill(self.forker.pid, signal.SIGCONT)
        self.forker._socket.settimeout(10)
        noting, process = self.start(b"stop")
        process.signalProcess("KILL")
        reason = yield noting.ended
        self.assertEqual(reason.signal, signal.SIGKILL)
        self.assertEqual(late.events, [])

    @inlineCallbacks
    def test_helper_killed(self) -> Any:
        """Where the helper ends, that is told; no more can be started, and processes end when their pipes do."""
        noting, process = self.start(b"stop")
        os.kill(self.forker.pid, signal.SIGKILL)
        while not self.lost:
            yield wait()
        self.assertRaises(OSError, self.forker.spawnProcess, Noting(), "x", (), childFDs={1: "r"})
        os.kill(process.pid, signal.SIGKILL)
        yield noting.ended

    def test_closed(self) -> None:
        """A helper that is let go has ended."""
        self.forker.close()
        self.assertRaises(ProcessLookupError, os.kill, self.forker.pid, 0)
        self.assertEqual(self.lost, [])


class NotRunning:
    """The reactor of this test to those that watch, and nothing to be made anew in a process."""

    def __init__(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


def wait() -> Deferred[None]:
    """Let the reactor turn."""
    waited: Deferred[None] = Deferred()
    running: Any = reactor
    running.callLater(0.01, waited.callback, None)
    return waited
