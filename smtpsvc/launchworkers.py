"""
What ``twistd`` starts for ``--workers``: a parent that opens the ports, and workers that serve.

The parent says what a single process would say, once: at the start, and when something is wrong
with the options, the ports or all workers. Each worker has the options that were read once, and what was
read with the rights that the process had then.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from twisted.application.service import IService
from twisted.internet import tcp
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger, globalLogPublisher
from twisted.python.failure import Failure

from smtpsvc.direct import listening_reactor
from smtpsvc.events import EventMonitor
from smtpsvc.forker import Forker
from smtpsvc.handover import HeldPorts, use_again
from smtpsvc.interfaces import IMonitor
from smtpsvc.launch import LaunchedService, Plan, StartError, one_sentence, say
from smtpsvc.listeners import ListenError
from smtpsvc.server.deadlines import MonotonicClock
from smtpsvc.server.shared import Shared
from smtpsvc.service import Binding
from smtpsvc.settings import MIB, Settings
from smtpsvc.watching import Watching
from smtpsvc.worker import Worker
from smtpsvc.workerlog import MARK, EventPipe, Marked
from smtpsvc.workers import Workers, WorkersError

#: What the parent asks when all listen.
_START: Final = b"start"


class ParentService(LaunchedService):
    """
    The parent of the workers; it opens the ports and serves nobody.

    :param plan: what was asked for; its listeners listen with *ports*.
    :param ports: holds what is opened.
    """

    def __init__(self, plan: Plan, ports: HeldPorts) -> None:
        super().__init__(plan)
        # They are for the workers to start.
        for part in (plan.backend, plan.certificates):
            if IService.providedBy(part) and part.parent is not None:
                part.disownServiceParent()
        self._ports = ports
        self._certified = plan.certificates is None
        self._forker: Forker | None = None
        # What a worker has to say at the start, and to warn of.
        self._words: tuple[list[str], list[str]] = ([], [])
        #: Runs the workers; made when the reactor runs.
        self.workers: Workers | None = None

    def privilegedStartService(self) -> None:
        """
        Open the ports, and read the certificates.

        :raises StartError: if that cannot be; the process then ends with its sentence.
        """
        self._certify()
        super().privilegedStartService()

    def startService(self) -> None:
        """
        Look at the backend, and start the workers as soon as the reactor runs.

        :raises StartError: if the backend says that it could not start; the process then ends with its sentence.
        """
        self._certify()
        with one_sentence():
            getattr(self.plan.backend, "check", lambda: None)()
        super().startService()
        from twisted.internet import reactor

        self._forker = Forker(reactor, self._work, forget=self._forget, lost=self._helper_lost)

    def stopService(self) -> Deferred[None]:
        """
        End, and the workers first.

        :returns: a Deferred that fires when all have ended.
        """
        return super().stopService().addBoth(self._close)

    def _serve_metrics(self) -> None:
        self.plan.watching.attach_parent(self, self._ask)

    def _ask(self, kind: bytes) -> Deferred[list[bytes]]:
        return self.workers.ask(kind) if self.workers is not None else succeed([])

    def _close(self, result: Any) -> Any:
        if self._forker is not None:
            self._forker.close()
        return result

    def _certify(self) -> None:
        if self._certified or self.plan.certificates is None:
            return
        with one_sentence():
            # Workers have what was read here: later it may be out of reach.
            self.plan.certificates.load()
        self._certified = True

    def _announce(self) -> None:
        forker = self._forker
        if not self.running or forker is None:
            return
        forker.watch()
        grace = self.plan.settings.limits.grace
        workers = Workers(
            (sys.executable,), self.plan.workers, self._ports, reactor=forker, grace=grace, publish=self._publish
        )
        self.workers = workers
        workers.listening.addCallback(lambda _: workers.ask(_START)).addCallbacks(self._all_listen, self._failed)
        workers.setServiceParent(self)  # type: ignore[no-untyped-call]

    def _forget(self) -> None:
        """In another process: close the log in JSON, and where the parent alone listens, such as for metrics."""
        from twisted.internet import reactor

        self._ports.forget()
        if self.plan.watching.json_log is not None:
            self.plan.watching.json_log.close()
        every: Any = reactor
        for reader in every.getReaders():
            if isinstance(reader, tcp.Port):
                reader.socket.close()

    def _publish(self, event: Any) -> None:
        json_log = self.plan.watching.json_log
        if event.pop(MARK, False) and json_log is not None:
            json_log(event)
        else:
            globalLogPublisher(event)

    def _work(self, descriptors: Mapping[int, int]) -> None:
        """Be a worker; this is another process."""
        from twisted.internet import reactor

        running: Any = reactor
        worker = Worker.join(running, descriptors)
        worker.ports.transport = self._ports.transport
        self._ports.handed = worker.ports
        for listener in self.plan.listeners:
            use_again(listener.endpoint)
        settings = share(self.plan.settings, self.plan.workers)
        shared = Shared(settings, MonotonicClock(running), worker.tally)
        if self.plan.certificates is not None:
            # This may be long after the parent has read them.
            self.plan.certificates.catch_up()
        try:
            plan = replace(self.plan, settings=settings, shared=shared, watching=_Told(self.plan.watching))
            worker.serve(WorkerService(plan, worker), privileged=False)
        except (StartError, ValueError) as error:
            os.write(2, f"smtpsvc: {error}\n".encode("utf-8", "backslashreplace"))
            sys.exit(1)
        running.run()

    def _all_listen(self, answers: Sequence[bytes]) -> None:
        # A worker knows more than this process, such as the Maildir that it has opened.
        if answers:
            self._words = json.loads(answers[0])
        super()._announce()

    def start_lines(self) -> list[str]:
        """Say what a worker would say, and how many there are."""
        if self._words[0]:
            lines = [*self._words[0], *self.plan.watching.start_lines()]
        else:
            lines = super().start_lines()
        first, *others = lines
        return [f"{first}; {self.plan.workers} workers serve", *others]

    def warnings(self) -> list[str]:
        """Say what may not be meant."""
        return self._words[1] or super().warnings()

    def _failed(self, failure: Failure) -> None:
        failure.trap(WorkersError)
        self._give_up(str(failure.value))

    def _helper_lost(self) -> None:
        if self.running:
            self._give_up("the process that starts workers has ended")

    def _give_up(self, sentence: str) -> None:
        from twisted.internet import reactor

        say(sentence)
        # Whoever runs the reactor ends with 0 when it stops. At the end of all this says otherwise.
        atexit.register(_exit)
        stop: Any = reactor
        stop.stop()

    def reload(self) -> None:
        """Have the workers read anew what SIGHUP reads anew, and open the log anew."""
        self.plan.watching.reload()
        if self.workers is not None:
            self.workers.reload()

    def hurry(self) -> None:
        """Have the workers not wait so long, if the service is being stopped."""
        if self.workers is not None:
            self.workers.hurry()

    def _open(self, binding: Binding) -> None:
        before = len(self._ports.sockets())
        super()._open(binding)
        if len(self._ports.sockets()) == before:
            # Else the parent would serve its clients, without a backend.
            raise ListenError(f"{binding.endpoint.name}: its port cannot be shared by --workers; leave one away")


class _Told(Watching):
    """
    What watches the service in a worker; what it sees goes to the parent, which writes and serves it.

    :param behind: what the parent has.
    """

    def __init__(self, behind: Watching) -> None:
        super().__init__()
        self.metrics = behind.metrics
        self._told = behind.json_log is not None

    @property
    def monitors(self) -> list[IMonitor]:
        """What is to watch the service."""
        found = super().monitors
        if self._told:
            found.append(EventMonitor(Logger(namespace="smtpsvc", observer=Marked(EventPipe(1)))))
        return found


class WorkerService(LaunchedService):
    """
    The service in a worker; what there is to say at the start is said by the parent.

    :param worker: what this process knows of its parent.
    """

    def __init__(self, plan: Plan, worker: Worker) -> None:
        super().__init__(plan)
        self.worker = worker
        worker.answer(_START, self._start_words)
        plan.watching.attach_worker(self, worker.answer)

    def _announce(self) -> None:
        pass

    def _start_words(self) -> bytes:
        return json.dumps([self.start_lines(), self.warnings()]).encode()


def holding(ports: HeldPorts) -> Any:
    """Give what listeners of the parent listen with, as :func:`smtpsvc.listenoptions.make_listeners` wants it."""

    def choose(reactor: Any, transport: str) -> HeldPorts:
        listening_reactor(reactor, transport)
        ports.transport = transport
        return ports

    return choose


def share(settings: Settings, workers: int) -> Settings:
    """Give one of several processes its part of the memory that all may have; connections are counted together."""
    limits = settings.limits
    return replace(settings, limits=replace(limits, buffered=max(limits.buffered // workers, MIB)))


def check_shareable(plan: Plan) -> None:
    """
    Check that several processes may serve together.

    :raises ValueError: with a sentence that names the option, if they may not.
    """
    if plan.workers > 1 and not plan.backend.shareable:
        raise ValueError(
            f"--workers: {plan.backend_name} is for one process only (its backend says that it is not shareable); "
            "leave --workers away, or give another --backend"
        )


def _exit() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass
    os._exit(1)
