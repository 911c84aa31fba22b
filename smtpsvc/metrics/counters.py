"""
The monitor that counts: plain numbers on one object for each role, looked at when somebody asks.
"""

from __future__ import annotations

import os
import secrets
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from twisted.python.failure import Failure
from zope.interface import implementer

from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IMonitor, IRoleMonitor
from smtpsvc.metrics.families import FAMILIES
from smtpsvc.metrics.totals import Totals
from smtpsvc.server.watch import LIMITS, Monitor, Quick
from smtpsvc.settings import Role
from smtpsvc.values import Envelope, Peer, TLSInfo

T = TypeVar("T")

#: So many values of a label; what is beyond them counts as :data:`OTHER`.
MOST: Final = 64
OTHER: Final = "other"

_RESULTS: Final = {2: "taken", 4: "deferred", 5: "refused"}
_SOME: Final = "partly"


class Histogram:
    """
    Counts by size.

    :param name: of its family, without ``smtpsvc_``.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, name: str) -> None:
        self.bounds = FAMILIES[f"smtpsvc_{name}"].bounds
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def value(self) -> list[float]:
        """Give the counts, and behind them the sum."""
        return [*self.counts, self.sum]


class _Result:
    """What came to one result."""

    __slots__ = ("messages", "octets", "recipients")

    def __init__(self) -> None:
        self.messages = self.octets = self.recipients = 0


def _of(found: dict[str, T], name: str, make: Callable[[], T]) -> T:
    """Give what is counted for a label; there are no more than :data:`MOST`."""
    if name not in found:
        if len(found) >= MOST:
            name = OTHER
        if name not in found:
            found[name] = make()
    return found[name]


class Counters(Quick):
    """
    Counts for the listeners of a role.

    :param now: a monotonic clock, in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._connections = 0
        # When each came who is there.
        self._since: dict[Peer, float] = {}
        self._sessions = Histogram("session_duration_seconds")
        self._results = {result: _Result() for result in (*_RESULTS.values(), _SOME)}
        self._of_code = {code: self._results[result] for code, result in _RESULTS.items()}
        self._durations = Histogram("message_duration_seconds")
        self._sizes = Histogram("message_size_bytes")
        # By verb, and in that by the first digit of the code.
        self._replies: dict[str, list[int]] = {}
        self._good: dict[str, list[int]] = {}
        self._bad: dict[str, list[int]] = {}
        self._handshakes: dict[str, list[int]] = {}
        self._no_handshakes = 0
        self._waits: dict[str, Histogram] = {}
        self._limits: dict[str, list[int]] = {}
        self._failures = 0
        self._broken = 0

    def connected(self, peer: Peer) -> None:
        """Count a client."""
        self._connections += 1
        self._since[peer] = self._now()

    def secured(self, peer: Peer, tls: TLSInfo | None, problem: str) -> None:
        """Count a TLS handshake."""
        if tls is None:
            self._no_handshakes += 1
        else:
            _of(self._handshakes, tls.version, _zero)[0] += 1

    def replied(self, peer: Peer, verb: str, reply: Reply) -> None:
        """Count a reply."""
        try:
            self._replies[verb][reply.code // 100] += 1
        except KeyError:
            _of(self._replies, verb, _classes)[reply.code // 100] += 1

    def replied_or_limited(self, peer: Peer, verb: str, reply: Reply) -> None:
        """Count a reply, and the limit that it tells of."""
        code = reply.code
        try:
            self._replies[verb][code // 100] += 1
        except KeyError:
            _of(self._replies, verb, _classes)[code // 100] += 1
        if code >= 400 and reply in LIMITS:
            self.limited(peer, LIMITS[reply])

    def login(self, peer: Peer, mechanism: str, good: bool) -> None:
        """Count a login."""
        _of(self._good if good else self._bad, mechanism, _zero)[0] += 1

    def message(self, envelope: Envelope, size: int, seconds: float, replies: Sequence[Reply]) -> None:
        """Count a message."""
        if len(replies) == 1:
            result = self._of_code[replies[0].code // 100]
            result.recipients += 1
        elif replies:
            each = [self._of_code[reply.code // 100] for reply in replies]
            for one in each:
                one.recipients += 1
            result = each[0] if len(set(each)) == 1 else self._results[_SOME]
        else:
            return
        result.messages += 1
        result.octets += size
        # As observe() does it, without its frames.
        durations, sizes = self._durations, self._sizes
        durations.counts[bisect_left(durations.bounds, seconds)] += 1
        durations.sum += seconds
        sizes.counts[bisect_left(sizes.bounds, size)] += 1
        sizes.sum += size

    def broken(self, envelope: Envelope, size: int, problem: str) -> None:
        """Count a transaction that was broken off."""
        self._broken += 1

    def waited(self, peer: Peer, hook: str, seconds: float) -> None:
        """Count a hook that did not answer at once."""
        _of(self._waits, hook or OTHER, _waits).observe(seconds)

    def limited(self, peer: Peer, limit: str) -> None:
        """Count a client that met a limit."""
        _of(self._limits, limit, _zero)[0] += 1

    def failed(self, peer: Peer, failure: Failure) -> None:
        """Count a hook that failed."""
        self._failures += 1

    def disconnected(self, peer: Peer, reason: Failure) -> None:
        """Count how long a client was there."""
        since = self._since.pop(peer, None)
        if since is not None:
            self._sessions.observe(self._now() - since)

    def put(self, totals: Totals, role: str) -> None:
        """Put what was counted into totals."""
        totals.put("connections_total", self._connections, role)
        totals.put("connections_open", len(self._since), role)
        totals.put("session_duration_seconds", self._sessions.value(), role)
        for name, result in self._results.items():
            totals.put("messages_total", result.messages, role, name)
            totals.put("message_bytes_total", result.octets, role, name)
            if name != _SOME:
                totals.put("recipients_total", result.recipients, role, name)
        totals.put("message_duration_seconds", self._durations.value(), role)
        totals.put("message_size_bytes", self._sizes.value(), role)
        for verb, classes in self._replies.items():
            for digit, count in enumerate(classes):
                if count:
                    totals.put("replies_total", count, role, verb or OTHER, f"{digit}xx")
        for found, good in ((self._good, "good"), (self._bad, "bad")):
            for mechanism, (count,) in found.items():
                totals.put("logins_total", count, role, mechanism, good)
        for version, (count,) in self._handshakes.items():
            totals.put("tls_handshakes_total", count, role, version)
        totals.put("tls_handshake_failures_total", self._no_handshakes, role)
        for hook, waits in self._waits.items():
            totals.put("hook_wait_seconds", waits.value(), role, hook)
        for limit, (count,) in self._limits.items():
            totals.put("limits_total", count, role, limit)
        totals.put("backend_failures_total", self._failures, role)
        totals.put("transactions_broken_total", self._broken, role)


def _zero() -> list[int]:
    return [0]


def _classes() -> list[int]:
    return [0] * 6


def _waits() -> Histogram:
    return Histogram("hook_wait_seconds")


@implementer(IRoleMonitor)
class Metrics(Monitor):
    """
    Counts what happens in a process, for all its factories: one of the *monitors* of a service.

    :param now: a monotonic clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._roles: dict[Role, Counters] = {}
        self._sources: list[Callable[[Totals], object]] = [_put_process]
        # The process that counts: after a fork it is another.
        self._process = (0, "")

    def serving(self, role: Role) -> IMonitor:
        """Give the monitor that counts for a role."""
        if role not in self._roles:
            self._roles[role] = Counters(self._now)
        return self._roles[role]

    def ask(self, source: Callable[[Totals], object]) -> None:
        """
        Ask somebody each time for what is not counted here.

        :param source: puts its values into totals.
        """
        self._sources.append(source)

    def totals(self) -> Totals:
        """Give the values of this process."""
        totals = Totals()
        for role, counters in self._roles.items():
            counters.put(totals, role.value)
        for source in self._sources:
            source(totals)
        return totals

    def snapshot(self) -> bytes:
        """Give the values of this process for another, which sums them (:class:`~smtpsvc.metrics.totals.Gathered`)."""
        if self._process[0] != os.getpid():
            self._process = (os.getpid(), secrets.token_hex(8))
        return self.totals().encode(self._process[1])


def _put_process(totals: Totals) -> None:
    """Tell of this process, as far as its system does."""
    totals.put("processes", 1)
    spent = os.times()
    totals.put("process_cpu_seconds_total", round(spent.user + spent.system, 3))
    try:
        with open("/proc/self/statm", "rb") as statm:
            totals.put("process_resident_bytes", int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        totals.put("process_open_files", len(os.listdir("/proc/self/fd")))
    except (OSError, ValueError, IndexError):
        # There is no /proc below a chroot, or on this system.
        return
