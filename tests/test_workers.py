"""
Tests of smtpsvc.workers: processes are started, started anew, asked, and ended; here without any.
"""

from __future__ import annotations

import json
import signal
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.frames import Frame, FrameReader
from smtpsvc.workerprocess import HEAR, SAY, SOCKETS
from smtpsvc.workers import ASKED, LATE, LONGEST_DELAY, STEADY, UNANSWERED, Workers, WorkersError

GRACE = 30.0


class FakeProcess:
    """A process that does nothing."""

    def __init__(self, protocol: Any, pid: int, descriptors: dict[int, Any]) -> None:
        self.protocol = protocol
        self.pid = pid
        self.descriptors = descriptors
        self.pipes = {HEAR: None}
        self.signals: list[str] = []
        self.heard: list[Frame] = []
        self._frames = FrameReader()
        protocol.makeConnection(self)

    def closeStdin(self) -> None:
        """Close its standard input."""

    def loseConnection(self) -> None:
        """Close all pipes."""

    def writeToChild(self, descriptor: int, data: bytes) -> None:
        """Note what it is told."""
        assert descriptor == HEAR
        self.heard += self._frames.feed(data)

    def signalProcess(self, name: str) -> None:
        """Note a signal."""
        if not self.pipes:
            raise ProcessExitedAlready
        self.signals.append(name)

    @property
    def kinds(self) -> list[bytes]:
        """The kinds of what it was told."""
        return [frame.kind for frame in self.heard]

    def say(self, kind: bytes, number: int = 0, payload: bytes = b"") -> None:
        """Tell the parent something."""
        self.protocol.childDataReceived(SAY, Frame(kind, number, payload).encode())

    def end(self, status: int | None = 0, number: int | None = None) -> None:
        """End."""
        self.pipes = {}
        reason = Failure(ProcessTerminated(status, number) if status or number else ProcessDone(0))
        self.protocol.processExited(reason)
        self.protocol.processEnded(reason)


class FakeReactor(Clock):
    """A Clock that starts processes which do nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[FakeProcess] = []
        self.commands: list[tuple[str, tuple[str, ...], dict[str, str]]] = []
        self.error: OSError | None = None

    def spawnProcess(
        self, protocol: Any, executable: str, args: Any, env: Any, path: Any, childFDs: dict[int, Any]
    ) -> FakeProcess:
        """Start one."""
        if self.error is not None:
            raise self.error
        self.commands.append((executable, tuple(args), env))
        process = FakeProcess(protocol, 100 + len(self.processes), childFDs)
        self.processes.append(process)
        return process


class FakePorts:
    """Two sockets."""

    def sockets(self) -> list[tuple[tuple[Any, ...], int]]:
        """Give their numbers."""
        return [(("tcp", 25, ""), 11), (("unix", "x"), 12)]


class WorkersTestCase(SynchronousTestCase):
    """Two workers that do nothing, and what is logged."""

    def setUp(self) -> None:
        """Start them."""
        self.events: list[Any] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)
        self.reactor = FakeReactor()
        ports: Any = FakePorts()
        self.workers = Workers(["python", "x.py"], 2, ports, reactor=self.reactor, grace=GRACE, environment={"A": "b"})
        self.workers.startService()
        self.one, self.two = self.reactor.processes

    def logged(self) -> list[str]:
        """Give the warnings that were logged."""
        return [
            event["log_format"].format(**event) for event in self.events if event["log_level"].name in ("warn", "error")
        ]

    def listen(self) -> None:
        """Let both listen."""
        for process in self.reactor.processes:
            process.say(b"listening")

    @property
    def last(self) -> FakeProcess:
        """The process that was started last."""
        return self.reactor.processes[-1]


class StartTests(WorkersTestCase):
    def test_command(self) -> None:
        """Each runs the command, with pipes, and the sockets behind them."""
        self.assertEqual(self.reactor.commands, [("python", ("python", "x.py"), {"A": "b"})] * 2)
        for process in (self.one, self.two):
            self.assertEqual(process.descriptors[HEAR], "w")
            self.assertEqual(process.descriptors[SAY], "r")
            self.assertEqual([process.descriptors[SOCKETS + index] for index in (0, 1)], [11, 12])
        self.assertEqual(self.workers.processes, [100, 101])

    def test_hello(self) -> None:
        """Each is told its number, how many there are, and what the sockets are."""
        for number, process in enumerate((self.one, self.two), 1):
            words = json.loads(process.heard[0].payload)
            self.assertEqual((words["number"], words["count"]), (number, 2))
            self.assertEqual(words["sockets"], [["tcp", 25, ""], ["unix", "x"]])

    def test_listening(self) -> None:
        """It is told once when all listen for the first time."""
        self.one.say(b"listening")
        self.assertNoResult(self.workers.listening)
        self.two.say(b"listening")
        self.successResultOf(self.workers.listening)
        self.one.end()
        self.reactor.advance(1)
        self.last.say(b"listening")

    def test_one_late(self) -> None:
        """One that needs a second process counts when that listens."""
        self.one.say(b"listening")
        self.two.end(1)
        self.reactor.advance(1)
        self.assertNoResult(self.workers.listening)
        self.last.say(b"listening")
        self.successResultOf(self.workers.listening)


class RestartTests(WorkersTestCase):
    def test_again(self) -> None:
        """One that is killed is started again, as the same worker; the other goes on."""
        self.listen()
        self.one.end(None, signal.SIGKILL)
        self.assertEqual(len(self.reactor.processes), 2)
        self.reactor.advance(0.1)
        self.assertEqual(json.loads(self.last.heard[0].payload)["number"], 1)
        self.assertEqual(self.workers.processes, [102, 101])
        self.assertEqual(
            self.logged(), ["worker 1 (process 100) was ended by SIGKILL; it is started again in 0.1 s"]
        )

    def test_delays(self) -> None:
        """One that ends again and again waits longer each time, up to a minute, with a line each."""
        self.listen()
        delays = []
        process = self.one
        for _ in range(12):
            process.end(3)
            (call,) = self.reactor.getDelayedCalls()
            delays.append(round(call.getTime() - self.reactor.seconds(), 3))
            self.reactor.advance(LONGEST_DELAY)
            process = self.last
        self.assertEqual(delays, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60.0, LONGEST_DELAY])
        self.assertEqual(len(self.logged()), 12)
        self.assertIn("has ended with exit status 3; it is started again in 60 s", self.logged()[-1])

    def test_steady(self) -> None:
        """After one that has served for long, the delay is the first again."""
        self.listen()
        for _ in range(5):
            self.reactor.processes[-1].end(1)
            self.reactor.advance(2)
        self.last.say(b"listening")
        self.reactor.advance(STEADY)
        self.last.end(1)
        self.assertIn("in 0.1 s", self.logged()[-1])

    def test_words(self) -> None:
        """The line tells its last word to a person; other words are logged as they come."""
        self.listen()
        self.one.protocol.childDataReceived(2, b"Trace")
        self.one.protocol.childDataReceived(2, b"back\nsmtpsvc: no room\n")
        self.one.end(1)
        self.assertIn("has ended with exit status 1 (no room); it is started again", self.logged()[-1])
        self.assertEqual([event["line"] for event in self.events if "line" in event], ["Traceback"])

    def test_late_end(self) -> None:
        """One whose pipes another process keeps open is started again all the same."""
        self.listen()
        self.one.protocol.processExited(Failure(ProcessTerminated(1)))
        self.reactor.advance(1)
        self.reactor.advance(0.1)
        self.assertEqual(len(self.reactor.processes), 3)
        self.one.protocol.processEnded(Failure(ProcessTerminated(1)))
        self.reactor.advance(10)
        self.assertEqual(len(self.reactor.processes), 3)

    def test_no_process(self) -> None:
        """Where the system gives no process, it is tried again."""
        self.listen()
        self.reactor.error = OSError(11, "Resource temporarily unavailable")
        self.one.end(1)
        self.reactor.advance(0.1)
        self.assertIn("could not be started: Resource temporarily unavailable", self.logged()[-1])
        self.reactor.error = None
        self.reactor.advance(0.2)
        self.assertEqual(len(self.workers.processes), 2)

    def test_nonsense(self) -> None:
        """One that says what cannot be is killed."""
        self.listen()
        self.one.protocol.childDataReceived(SAY, b"\xff" * 9)
        self.assertEqual(self.one.signals, ["KILL"])


class FailureTests(WorkersTestCase):
    def test_none(self) -> None:
        """Where each has ended before any has listened, the last word of one is told, and no more is tried."""
        self.one.protocol.childDataReceived(2, b"smtpsvc: --backend: no\n")
        self.one.end(1)
        self.assertNoResult(self.workers.listening)
        self.two.protocol.childDataReceived(2, b"smtpsvc: --backend: no\n")
        self.two.end(1)
        self.assertEqual(str(self.failureResultOf(self.workers.listening, WorkersError).value), "--backend: no")

    def test_without_words(self) -> None:
        """Where it has said nothing, how it has ended is told."""
        for process in (self.one, self.two):
            process.end(None, signal.SIGSEGV)
        failure = self.failureResultOf(self.workers.listening, WorkersError)
        self.assertEqual(str(failure.value), "no worker has started: worker 2 was ended by SIGSEGV")

    def test_one_listened(self) -> None:
        """Where one has listened, the others are tried for ever."""
        self.one.say(b"listening")
        for _ in range(5):
            self.last.end(1)
            self.reactor.advance(5)
        self.assertNoResult(self.workers.listening)


class StopTests(WorkersTestCase):
    def test_stop(self) -> None:
        """All are told to stop, and it has stopped when all have ended; nobody is started again."""
        self.listen()
        stopped, again = self.workers.stopService(), self.workers.stopService()
        self.assertEqual([process.kinds[1:] for process in (self.one, self.two)], [[b"stop"]] * 2)
        self.one.end()
        self.assertNoResult(stopped)
        self.two.end()
        self.successResultOf(stopped)
        self.successResultOf(again)
        self.assertEqual((self.logged(), self.reactor.getDelayedCalls()), ([], []))

    def test_starting(self) -> None:
        """One that does not listen yet is ended by a signal, and one that waits to be started is not started."""
        self.one.say(b"listening")
        self.two.end(1)
        self.one.end(1)
        self.reactor.advance(0.1)
        self.last.protocol.listening = False
        stopped = self.workers.stopService()
        for process in self.reactor.processes[2:]:
            self.assertEqual(process.signals, ["TERM"])
            process.end(None, signal.SIGTERM)
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_hurry(self) -> None:
        """A hurry is passed on while they end, and not before."""
        self.listen()
        self.workers.hurry()
        self.workers.stopService()
        self.workers.hurry()
        self.assertEqual(self.one.kinds[1:], [b"stop", b"hurry"])

    def test_late(self) -> None:
        """One that does not end is killed when its grace is long over."""
        self.listen()
        self.workers.stopService()
        self.two.end()
        self.reactor.advance(GRACE + LATE)
        self.assertEqual((self.one.signals, self.two.signals), (["KILL"], []))

    def test_reload(self) -> None:
        """A reload is passed on."""
        self.workers.reload()
        self.assertEqual((self.one.kinds[1:], self.two.kinds[1:]), ([b"reload"], [b"reload"]))


class AskTests(WorkersTestCase):
    def ask(self) -> Deferred[list[bytes]]:
        """Ask both something."""
        return self.workers.ask(b"metrics")

    def test_answers(self) -> None:
        """Answers come in the order of the workers, whoever is first."""
        self.listen()
        answers = self.ask()
        asked = self.one.heard[-1]
        self.assertEqual((asked.kind, asked.payload), (b"ask", b"metrics"))
        self.two.say(b"answer", asked.number, b"2")
        self.assertNoResult(answers)
        self.one.say(b"answer", asked.number, b"1")
        self.assertEqual(self.successResultOf(answers), [b"1", b"2"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_nobody(self) -> None:
        """Who does not listen is not asked."""
        self.assertEqual(self.successResultOf(self.ask()), [])
        self.one.say(b"listening")
        answers = self.ask()
        self.one.say(b"answer", self.one.heard[-1].number, b"1")
        self.assertEqual(self.successResultOf(answers), [b"1"])
        self.assertEqual(self.two.kinds, [b"hello"])

    def test_left_out(self) -> None:
        """Left out is who knows no answer, who ends meanwhile, and who takes too long."""
        self.listen()
        first = self.ask()
        self.one.say(b"none", self.one.heard[-1].number)
        self.two.say(b"answer", self.two.heard[-1].number, b"2")
        self.assertEqual(self.successResultOf(first), [b"2"])
        second = self.ask()
        self.one.say(b"answer", self.one.heard[-1].number, b"1")
        self.two.end(1)
        self.assertEqual(self.successResultOf(second), [b"1"])
        third = self.ask()
        self.reactor.advance(ASKED)
        self.assertEqual(self.successResultOf(third), [])
        self.one.say(b"answer", self.one.heard[-1].number, b"late")

    def test_stuck(self) -> None:
        """One that owes many answers is asked no more, until it answers."""
        self.listen()
        for _ in range(UNANSWERED + 5):
            self.ask()
            self.two.say(b"answer", self.two.heard[-1].number)
            self.reactor.advance(ASKED)
        asked = [frame for frame in self.one.heard if frame.kind == b"ask"]
        self.assertEqual(len(asked), UNANSWERED)
        for frame in asked:
            self.one.say(b"answer", frame.number, b"1")
        answers = self.ask()
        self.one.say(b"answer", self.one.heard[-1].number, b"1")
        self.two.say(b"answer", self.one.heard[-1].number, b"2")
        self.assertEqual(self.successResultOf(answers), [b"1", b"2"])

    def test_wrong(self) -> None:
        """An answer to what was not asked is dropped."""
        self.listen()
        self.one.say(b"answer", 77, b"x")
        answers = self.ask()
        self.one.say(b"answer", self.one.heard[-1].number, b"1")
        self.one.say(b"answer", self.one.heard[-1].number, b"again")
        self.two.say(b"answer", self.one.heard[-1].number, b"2")
        self.assertEqual(self.successResultOf(answers), [b"1", b"2"])
