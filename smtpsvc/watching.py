"""
What watches a service that the command line has asked for: metrics, and the log as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.logger import Logger, globalLogPublisher

from smtpsvc.events import EventMonitor
from smtpsvc.interfaces import IMonitor
from smtpsvc.jsonlines import JSONLog
from smtpsvc.listeners import Listener, ListenError, places_of
from smtpsvc.metrics import Metrics, MetricsService, attach
from smtpsvc.metrics.shared import Answer, Ask, attach_parent, attach_worker
from smtpsvc.server.deadlines import MonotonicClock
from smtpsvc.service import MailService


class Watching:
    """
    The monitors of a service, and where they tell what they saw.

    :param listener: where metrics are served; None for none.
    :param json_log: gets the log; None for none.
    :param json_only: True if whoever runs the service gives it all that is logged.
    """

    def __init__(
        self, listener: Listener | None = None, json_log: JSONLog | None = None, *, json_only: bool = False
    ) -> None:
        self.listener = listener
        self.json_log = json_log
        self._observes = json_log is not None and not json_only
        self._observing = False
        self._early: list[Mapping[str, Any]] | None = None
        #: Counts what the metrics show, or None.
        self.metrics = Metrics() if listener is not None else None
        self._pages: MetricsService | None = None
        # The same, if they are ours to start and stop.
        self._own: MetricsService | None = None

    @property
    def listeners(self) -> list[Listener]:
        """Where metrics are served: one listener or none."""
        return [] if self.listener is None else [self.listener]

    @property
    def monitors(self) -> list[IMonitor]:
        """What is to watch the service."""
        found: list[IMonitor] = []
        if self.json_log is not None:
            found.append(EventMonitor(Logger(namespace="smtpsvc", observer=self.json_log)))
        if self.metrics is not None:
            found.append(self.metrics)
        return found

    def attach(self, mail: MailService) -> None:
        """Serve metrics as long as a service runs."""
        if self.metrics is not None and self.listener is not None:
            from twisted.internet import reactor

            self._pages = attach(mail, self.metrics, self.listener, MonotonicClock(reactor))

    def attach_worker(self, mail: MailService, answer: Answer) -> None:
        """Have a worker tell its parent what it has counted."""
        if self.metrics is not None:
            from twisted.internet import reactor

            attach_worker(mail, self.metrics, answer, MonotonicClock(reactor))

    def attach_parent(self, mail: MailService, ask: Ask) -> None:
        """Serve what the workers of a parent have counted, until :meth:`end`."""
        if self.listener is not None:
            self._pages = self._own = attach_parent(mail, ask, self.listener)

    def begin(self) -> None:
        """
        Begin to write the log and to serve what is served until :meth:`end`, unless that is so.

        :raises ListenError: with a sentence, if that is not possible.
        """
        if self._own is not None:
            self._own.startService()
        log = self.json_log
        if log is None:
            return
        try:
            log.open()
        except OSError as error:
            raise ListenError(f"--log-json {log.path}: {error.strerror}; give a file that can be written") from error
        if self._observes and not self._observing:
            self._observing = True
            self._early = []
            globalLogPublisher.addObserver(self._observe)  # type: ignore[arg-type]
            from twisted.internet import reactor

            run: Any = reactor
            run.callWhenRunning(self._running)

    def _observe(self, event: Mapping[str, Any]) -> None:
        # Before the reactor runs, twist repeats what was logged before it had a log.
        if self.json_log is None or (self._early is not None and any(event is one for one in self._early)):
            return
        if self._early is not None:
            self._early.append(event)
        self.json_log(event)

    def _running(self) -> None:
        self._early = None

    def reload(self) -> None:
        """Write the log to where its name leads now."""
        if self.json_log is not None:
            self.json_log.reopen()

    def end(self) -> None:
        """Serve nothing more, and write the log no more."""
        if self._own is not None:
            self._own.stopService()
        if self.json_log is not None and self._observing:
            self._observing = False
            globalLogPublisher.removeObserver(self._observe)  # type: ignore[arg-type]
            self.json_log.close()

    def start_lines(self) -> list[str]:
        """Say where metrics are served."""
        if self._pages is None or self._pages.port is None:
            return []
        return [f"metrics on {' and '.join(map(str, places_of(self._pages.port)))}"]
