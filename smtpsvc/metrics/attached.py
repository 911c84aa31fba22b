"""
To give a mail service its metrics.
"""

from __future__ import annotations

from functools import partial

from twisted.internet.interfaces import IReactorTime, IStreamServerEndpoint

from smtpsvc.metrics.counters import Metrics
from smtpsvc.metrics.pages import MetricsService
from smtpsvc.metrics.readiness import put_limits, put_use, unready
from smtpsvc.service import MailService


def attach(mail: MailService, metrics: Metrics, endpoint: IStreamServerEndpoint, clock: IReactorTime) -> MetricsService:
    """
    Serve the metrics of a mail service as long as it runs.

    :param mail: *metrics* is one of its monitors.
    :param endpoint: where they are served.
    :param clock: bounds how long the backend may take to say that it is ready.
    :returns: a part of *mail* that starts and stops with it.
    """
    metrics.ask(partial(put_use, mail))
    metrics.ask(partial(put_limits, mail))
    pages = MetricsService(endpoint, metrics.totals, partial(unready, mail, clock), mail.settings.hostname)
    pages.setServiceParent(mail)  # type: ignore[no-untyped-call]
    return pages
