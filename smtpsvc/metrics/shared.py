"""
Metrics of several processes: workers count, and their parent sums and serves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamServerEndpoint

from smtpsvc.metrics.counters import Metrics
from smtpsvc.metrics.pages import MetricsService
from smtpsvc.metrics.readiness import put_limits, put_use, unready
from smtpsvc.metrics.totals import Gathered, Totals
from smtpsvc.service import MailService

#: What the parent asks.
METRICS: Final = b"metrics"
READY: Final = b"ready"

#: As :meth:`smtpsvc.workers.Workers.ask`.
Ask: TypeAlias = Callable[[bytes], Deferred[list[bytes]]]
#: As :meth:`smtpsvc.worker.Worker.answer`.
Answer: TypeAlias = Callable[[bytes, Callable[[], bytes]], object]


def attach_worker(mail: MailService, metrics: Metrics, answer: Answer, clock: IReactorTime) -> None:
    """
    Have a worker answer what its parent asks for its pages.

    :param mail: the worker's; *metrics* is one of its monitors.
    :param answer: takes a question, and what answers it.
    """
    metrics.ask(partial(put_use, mail))
    answer(METRICS, metrics.snapshot)
    answer(READY, _Readiness(mail, clock).answer)


def attach_parent(mail: MailService, ask: Ask, endpoint: IStreamServerEndpoint) -> MetricsService:
    """
    Make the pages of a parent.

    :param mail: the parent's, which serves nobody.
    :param ask: asks all workers.
    :param endpoint: where the pages are served.
    :returns: to be started and stopped by the caller.
    """
    gathered = Gathered()

    def summed(answers: Sequence[bytes]) -> Totals:
        totals = gathered.merge(answers)
        put_limits(mail, totals)
        return totals

    def judged(answers: Sequence[bytes]) -> str:
        if b"" in answers:
            return ""
        return answers[0].decode("utf-8", "replace") if answers else "no worker listens"

    def reason() -> Any:
        return ask(READY).addCallback(judged) if mail.running else "the service is stopping, or has not started"

    return MetricsService(endpoint, lambda: ask(METRICS).addCallback(summed), reason, mail.settings.hostname)


class _Readiness:
    """
    Knows whether a worker is ready when it is asked, and asks itself for the next time.

    A parent gets its answers at once, and a backend may take its time.
    """

    def __init__(self, mail: MailService, clock: IReactorTime) -> None:
        self._mail = mail
        self._clock = clock
        self._asking = False
        self._problem = "it is not known yet whether the backend is ready"

    def answer(self) -> bytes:
        """Give why no mail can be taken, or nothing."""
        if not self._asking:
            self._asking = True
            unready(self._mail, self._clock).addBoth(self._know)
        return self._problem.encode()

    def _know(self, problem: Any) -> None:
        self._asking = False
        self._problem = str(problem)
