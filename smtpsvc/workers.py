"""
Worker processes that share listening sockets: the parent's side.

The parent opens the ports and accepts nothing. It starts the workers, each a process of its own that
accepts on the same sockets; starts one anew that ends; logs what they log; and ends with them. What a
worker does is in :mod:`smtpsvc.worker`.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger, globalLogPublisher

from smtpsvc.frames import Frame
from smtpsvc.handover import HeldPorts
from smtpsvc.server.tally import Tally, size_for
from smtpsvc.workerprocess import HEAR, SAY, SOCKETS, WorkerProcess

#: Seconds before a worker is started anew: first so many, then twice as many each time ...
FIRST_DELAY: Final = 0.1
#: ... up to so many; and from the beginning once one has served for so long.
LONGEST_DELAY: Final = 60.0
STEADY: Final = 30.0
#: A worker that has not ended so many seconds after its grace is killed.
LATE: Final = 40.0
#: A worker has so many seconds for an answer.
ASKED: Final = 5.0
#: A worker that owes so many answers is asked nothing more.
UNANSWERED: Final = 16

log = Logger(namespace="smtpsvc")


class WorkersError(Exception):
    """No worker has started; ``str()`` is a sentence that says why."""


@dataclass(slots=True, eq=False)
class _Question:
    """What was asked of workers."""

    asked: set[int]
    answers: dict[int, bytes] = field(default_factory=dict)
    done: Deferred[list[bytes]] = field(default_factory=Deferred)
    timer: IDelayedCall | None = None


@dataclass(slots=True, eq=False)
class _Place:
    """One of the workers, whichever process it is."""

    number: int
    process: WorkerProcess | None = None
    #: Waits to start it.
    timer: IDelayedCall | None = None
    #: How often it has ended without serving for long.
    failures: int = 0
    #: Whether one has ever listened.
    listened: bool = False


class Workers(Service):
    """
    Keeps a number of processes running that accept on the same sockets.

    :param command: what each runs, the program first; it calls :meth:`smtpsvc.worker.Worker.join`.
    :param count: how many.
    :param ports: has opened the sockets.
    :param reactor: starts processes and schedules.
    :param grace: a worker has so many seconds for its end, and :data:`LATE` more before it is killed.
    :param environment: of the processes; this process's own if None.
    :param publish: is given each event that they log.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        ports: HeldPorts,
        *,
        reactor: Any,
        grace: float = 30.0,
        environment: Mapping[str, str] | None = None,
        publish: Callable[[Any], object] = globalLogPublisher,
    ) -> None:
        self.command = tuple(command)
        self.count = count
        self.publish = publish
        #: Fires when each worker has listened once; fails with :class:`WorkersError` if none ever does.
        self.listening: Deferred[None] = Deferred()
        self._ports = ports
        self._reactor = reactor
        self._grace = grace
        self._environment = environment
        self._places = [_Place(number) for number in range(1, count + 1)]
        self._told = False
        self._next_question = 0
        self._questions: dict[int, _Question] = {}
        self._stopping: list[Deferred[None]] = []
        self._killer: IDelayedCall | None = None
        self._key = secrets.token_bytes(32)
        self._memory = _memory(size_for(count))
        self._tallies: list[Tally] = []
        if self._memory is not None:
            self._tallies = [Tally(self._memory, count, column, self._key) for column in range(count)]

    @property
    def processes(self) -> list[int]:
        """The process numbers of the workers that run, in their order."""
        return [place.process.pid for place in self._places if place.process is not None]

    def startService(self) -> None:
        """Start the processes; the ports must be open."""
        super().startService()  # type: ignore[no-untyped-call]
        for place in self._places:
            self._start(place)

    def stopService(self) -> Deferred[None]:
        """
        Have the workers end as at SIGTERM.

        :returns: fires when all have ended. A further call gives another for the same end.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        ended: Deferred[None] = Deferred()
        self._stopping.append(ended)
        if len(self._stopping) == 1:
            self._killer = self._reactor.callLater(self._grace + LATE, self._kill)
            for place in self._places:
                self._stop(place)
            self._look()
        return ended

    def hurry(self) -> None:
        """Have workers that are ending not wait so long, as at a second SIGTERM."""
        if self._stopping:
            self._tell(b"hurry")

    def reload(self) -> None:
        """Have the workers do what they do at SIGHUP."""
        self._tell(b"reload")

    def ask(self, kind: bytes) -> Deferred[list[bytes]]:
        """
        Ask all workers something; see :meth:`smtpsvc.worker.Worker.answer`.

        :param kind: what is asked.
        :returns: fires with the answers, in the order of the workers, without those of workers that do not
            listen, know no answer, end meanwhile, or take longer than :data:`ASKED` seconds.
        """
        asked = [
            place.process
            for place in self._places
            if place.process is not None and place.process.listening and len(place.process.owes) < UNANSWERED
        ]
        if not asked:
            return succeed([])
        number = self._next_question = (self._next_question + 1) % 2**32
        question = self._questions[number] = _Question({process.number for process in asked})
        question.timer = self._reactor.callLater(ASKED, self._close, number)
        for process in asked:
            process.owes.add(number)
            process.tell(Frame(b"ask", number, kind))
        return question.done

    def answered(self, worker: int, number: int, answer: bytes | None) -> None:
        """
        A worker has answered.

        :param number: of the question.
        :param answer: None if there will be none.
        """
        question = self._questions.get(number)
        if question is None or worker not in question.asked:
            return
        question.asked.discard(worker)
        if answer is not None:
            question.answers[worker] = answer
        if not question.asked:
            self._close(number)

    def _close(self, number: int) -> None:
        question = self._questions.pop(number)
        if question.timer is not None and question.timer.active():
            question.timer.cancel()
        question.done.callback([question.answers[worker] for worker in sorted(question.answers)])

    def listens(self, process: WorkerProcess) -> None:
        """A worker listens."""
        process.since = self._reactor.seconds()
        self._places[process.number - 1].listened = True
        if not self._told and all(place.listened for place in self._places):
            self._told = True
            self.listening.callback(None)

    def later(self, seconds: float, function: Callable[..., object], *arguments: object) -> IDelayedCall:
        """Call something later."""
        call: IDelayedCall = self._reactor.callLater(seconds, function, *arguments)
        return call

    def ended(self, process: WorkerProcess, how: str) -> None:
        """
        A worker has ended.

        :param how: a clause, for people.
        """
        place = self._places[process.number - 1]
        place.process = None
        if self._tallies:
            self._tallies[process.number - 1].wipe()
        for number in tuple(process.owes):
            self.answered(process.number, number, None)
        if self._stopping:
            self._look()
            return
        if process.listening and self._reactor.seconds() - process.since >= STEADY:
            place.failures = 0
        place.failures += 1
        if self._failed():
            self._told = True
            self.listening.errback(WorkersError(process.words or f"no worker has started: worker {place.number} {how}"))
            return
        delay = min(FIRST_DELAY * 2 ** min(place.failures - 1, 30), LONGEST_DELAY)
        log.warn(
            "worker {worker} (process {pid}) {how}{words}; it is started again in {delay:g} s",
            worker=place.number,
            pid=process.pid,
            how=how,
            words=f" ({process.words})" if process.words else "",
            delay=delay,
        )
        place.timer = self._reactor.callLater(delay, self._start, place)

    def _failed(self) -> bool:
        """Whether each has ended before any has listened."""
        return not self._told and all(place.failures and not place.listened for place in self._places)

    def _start(self, place: _Place) -> None:
        place.timer = None
        sockets = self._ports.sockets()
        descriptors: dict[int, int | str] = {0: "w", 1: "r", 2: "r", HEAR: "w", SAY: "r"}
        descriptors.update((SOCKETS + index, descriptor) for index, (_, descriptor) in enumerate(sockets))
        words: dict[str, Any] = {
            "number": place.number, "count": self.count, "sockets": [key for key, _ in sockets]
        }  # fmt: skip
        if self._memory is not None:
            descriptors[SOCKETS + len(sockets)] = self._memory
            words["key"] = self._key.hex()
        process = place.process = WorkerProcess(self, place.number, Frame(b"hello", 0, json.dumps(words).encode()))
        environment = dict(os.environ if self._environment is None else self._environment)
        try:
            self._reactor.spawnProcess(process, self.command[0], self.command, environment, None, childFDs=descriptors)
        except OSError as error:
            self.ended(process, f"could not be started: {error.strerror}")

    def _stop(self, place: _Place) -> None:
        if place.timer is not None:
            place.timer.cancel()
            place.timer = None
        if place.process is not None:
            place.process.tell(Frame(b"stop"))
            if not place.process.listening:
                # One that is being started need not be waited for.
                place.process.kill("TERM")

    def _look(self) -> None:
        """See whether all have ended."""
        if any(place.process is not None for place in self._places):
            return
        if self._killer is not None and self._killer.active():
            self._killer.cancel()
        stopping, self._stopping = self._stopping, []
        for ended in stopping:
            ended.callback(None)

    def _kill(self) -> None:
        for place in self._places:
            if place.process is not None:
                log.error("worker {worker} does not end; it is killed", worker=place.number)
                place.process.kill("KILL")

    def _tell(self, kind: bytes) -> None:
        for place in self._places:
            if place.process is not None:
                place.process.tell(Frame(kind))


def _memory(size: int) -> int | None:
    """Make memory that processes can share; None where the system has no file without a name."""
    if not hasattr(os, "memfd_create"):
        return None
    descriptor = os.memfd_create("smtpsvc")
    os.ftruncate(descriptor, size)
    return descriptor
