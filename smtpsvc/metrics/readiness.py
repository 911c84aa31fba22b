"""
Readiness: whether a mail service can take mail now.
"""

from __future__ import annotations

import math
from typing import Any, Final

from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpsvc.awaiting import settled
from smtpsvc.interfaces import IReady, IStorage
from smtpsvc.metrics.totals import Totals
from smtpsvc.service import MailService
from smtpsvc.settings import format_size

log = Logger(namespace="smtpsvc")

#: A backend may take so many seconds to say whether it is ready.
PATIENCE: Final = 5.0


def unready(service: MailService, clock: IReactorTime) -> Deferred[str]:
    """
    Say why a service cannot take mail, if so.

    :returns: a Deferred of half a sentence, "" if it can; it waits for :data:`PATIENCE` at most.
    """
    if not service.running:
        return succeed("the service is stopping, or has not started")
    if not service.bindings or any(binding.port is None for binding in service.bindings):
        return succeed("not all ports are open")
    backend = service.backend
    try:
        problem = _no_room(backend, service.settings.limits.min_free_space)
        if problem or not IReady.providedBy(backend):
            return succeed(problem)
    except Exception:
        return succeed(_failed(Failure()))
    asked: Deferred[Any] = Deferred.fromCoroutine(_ask(backend))
    asked.addTimeout(PATIENCE, clock)
    return asked.addCallbacks(lambda problem: str(problem or ""), _failed)


async def _ask(backend: Any) -> Any:
    return await settled(backend.ready())


def _no_room(backend: Any, least: int) -> str:
    free = backend.free_space() if least and IStorage.providedBy(backend) else None
    return f"less than {format_size(least)} is free" if (math.inf if free is None else free) < least else ""


def _failed(failure: Failure) -> str:
    if failure.check(TimeoutError):
        return "the backend does not say whether it is ready"
    log.failure("the backend failed to say whether it is ready", failure=failure)
    return "the backend fails"


def put_use(service: MailService, totals: Totals) -> None:
    """Put into totals what a service uses, beside what its monitor has counted: workers have each their part."""
    shared = service.shared
    totals.put("buffered_bytes", shared.budget.used if shared is not None else 0)
    totals.put("buffered_limit_bytes", service.settings.limits.buffered)
    totals.put("unfinished_hooks", service.unfinished)


def put_limits(service: MailService, totals: Totals) -> None:
    """Put into totals what holds for a service, or for all workers together."""
    totals.put("connections_limit", service.settings.limits.connections)
    totals.put("stopping", 0 if service.running else 1)
