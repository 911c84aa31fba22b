"""
Worker processes that share listening sockets: a worker's side.

A worker is any program that :class:`smtpsvc.workers.Workers` has started. It joins, listens where its
parent does, and serves::

    from twisted.internet import reactor

    worker = Worker.join(reactor)
    mail = MailService(backend)
    mail.listen(serverFromString(worker.ports, "tcp:25"))
    worker.serve(mail)
    reactor.run()
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpsvc.frames import Frame, FrameReader, read_frame
from smtpsvc.handover import HandedPorts
from smtpsvc.server.tally import Tally
from smtpsvc.workerlog import EventPipe, log_into
from smtpsvc.workerprocess import HEAR, SAY, SOCKETS

#: After so many hurries a worker whose parent has gone does not wait at all.
_PATIENCE = 3

log = Logger(namespace="smtpsvc")


class NoParentError(Exception):
    """This process was not started as a worker; ``str()`` is a sentence."""


class Worker:
    """
    What a worker knows of its parent. Made by :meth:`join`.

    :param number: which of the workers this is, from 1.
    :param count: how many there are.
    :param ports: stands in for the reactor where endpoints are made.
    :param reactor: runs.
    :param tally: counts the connections of all workers, if the system has shared memory.
    """

    def __init__(self, number: int, count: int, ports: HandedPorts, reactor: Any, tally: Tally | None = None) -> None:
        self.number = number
        self.count = count
        self.ports = ports
        self.tally = ports.tally = tally
        self._reactor = reactor
        self._answers: dict[bytes, Callable[[], bytes]] = {}
        self._service: Any = None
        self._stopping = False
        self._hurries = 0
        self._pipe: Any = None
        self._pipes = (HEAR, SAY)

    @classmethod
    def join(cls, reactor: Any, descriptors: Mapping[int, int] | None = None) -> Worker:
        """
        Find out what the parent has handed over; called once, before anything listens or is logged.

        The log goes to the parent from here on, and what is written on the standard output too.

        :param reactor: serves the sockets later.
        :param descriptors: the numbers of what was handed over, where they are others than those asked for.
        :raises NoParentError: if this process was not started by :class:`smtpsvc.workers.Workers`.
        """
        # The keys of a terminal are for the parent, who tells its workers.
        if os.getpgrp() != os.getpid():
            os.setpgid(0, 0)
        try:
            where = {} if descriptors is None else descriptors
            words: Any = json.loads(read_frame(where.get(HEAR, HEAR)).payload)
            number, count = int(words["number"]), int(words["count"])
            keys = words["sockets"]
            asked = (HEAR, SAY, *range(SOCKETS, SOCKETS + len(keys) + ("key" in words)))
            hear, say, *handed = [where.get(each, each) for each in asked]
            for descriptor in (hear, say, *handed):
                os.set_inheritable(descriptor, False)
            tally = Tally(handed[-1], count, number - 1, bytes.fromhex(words["key"])) if "key" in words else None
            ports = HandedPorts(reactor, zip(keys, handed, strict=False))
        except (OSError, EOFError, ValueError, LookupError) as error:
            raise NoParentError("this is for a process that was started as a worker by its parent") from error
        if tally is not None:
            os.close(handed[-1])
        log_into(EventPipe(1))
        worker = cls(number, count, ports, reactor, tally)
        worker._pipes = (hear, say)
        return worker

    def answer(self, kind: bytes, function: Callable[[], bytes]) -> None:
        """
        Answer what the parent asks of all workers; see :meth:`smtpsvc.workers.Workers.ask`.

        :param kind: what is asked.
        :param function: gives the answer, at once; 8 MiB at most.
        """
        self._answers[kind] = function

    def serve(self, service: Any, *, privileged: bool = True) -> None:
        """
        Start a service, tell the parent that it listens when the reactor runs, and end when the parent says so or ends.

        At SIGTERM, at SIGINT, and when the parent says so, the ports are closed and the service is stopped; when that
        is done the process ends. At a hurry ``service.hurry()`` is called, if there is one. At a reload the handler of
        SIGHUP is.

        :param service: an ``IService``, not started.
        :param privileged: whether ``privilegedStartService`` is called too.
        :raises Exception: what starting it raises.
        """
        self._service = service
        if privileged:
            service.privilegedStartService()
        service.startService()
        self._reactor.addSystemEventTrigger("before", "shutdown", self._stop)
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        if self._stopping:
            return
        hear, say = self._pipes
        stdio: Any = StandardIO
        self._pipe = stdio(_Ear(self), hear, say, self._reactor)
        if self.tally is not None:
            self.tally.ready = True
        self._say(Frame(b"listening"))

    def _stop(self) -> Deferred[Any]:
        """The reactor stops, for whatever reason."""
        self._stopping = True
        if self.tally is not None:
            self.tally.ready = False
        self.ports.close()
        return maybeDeferred(self._service.stopService)

    def _say(self, frame: Frame) -> None:
        if self._pipe is not None:
            self._pipe.write(frame.encode())

    def take(self, frame: Frame) -> None:
        """The parent has said something."""
        if frame.kind == b"stop":
            self._end()
        elif frame.kind == b"hurry":
            self._end()
            self._hurries += 1
            getattr(self._service, "hurry", lambda: None)()
        elif frame.kind == b"reload":
            # None is there where nothing is read anew, and SIGHUP would kill.
            if callable(signal.getsignal(signal.SIGHUP)):
                signal.raise_signal(signal.SIGHUP)
        elif frame.kind == b"ask":
            self._answer(frame)

    def orphaned(self) -> None:
        """The parent has ended."""
        self._pipe = None
        if self._stopping and self._hurries >= _PATIENCE:
            os._exit(1)
        if not self._stopping:
            log.error("the parent has ended, and so does worker {worker}", worker=self.number)
        self._end()

    def _end(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._reactor.stop()

    def _answer(self, frame: Frame) -> None:
        function = self._answers.get(frame.payload)
        reply = Frame(b"none", frame.number)
        if function is not None:
            try:
                reply = Frame(b"answer", frame.number, function())
                reply.encode()
            except Exception:
                log.failure("no answer to {kind!r}", kind=frame.payload)
                reply = Frame(b"none", frame.number)
        self._say(reply)


class _Ear(Protocol):
    """Hears what the parent says."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._frames = FrameReader()

    def dataReceived(self, data: bytes) -> None:
        """Take the next octets."""
        for frame in self._frames.feed(data):
            self._worker.take(frame)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The parent has ended."""
        self._worker.orphaned()
