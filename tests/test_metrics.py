"""
Tests of smtpsvc.metrics: what is counted, and how it is summed.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IMonitor, IRoleMonitor
from smtpsvc.metrics import Gathered, Metrics
from smtpsvc.metrics.counters import MOST, OTHER, Histogram
from smtpsvc.metrics.families import FAMILIES
from smtpsvc.metrics.totals import Totals, decode
from smtpsvc.server.watch import Monitor
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Peer, TLSInfo
from tests.hooks import MAIL, RCPT, Late
from tests.support import given, settings, settings_with, st

PEER = Peer(None, "p-1")


def measured(
    backend: ScriptedBackend | None = None, role: Role = Role.SMTP, **limits: Any
) -> tuple[Wire, Metrics, Any]:
    """Connect to a factory with metrics; give both, and the clock."""
    clock = Clock()
    metrics = Metrics(clock.seconds)
    factory, wall = clocked_factory(
        backend or ScriptedBackend(), settings_with(**limits), role=role, monitors=[metrics]
    )
    return Wire(factory), metrics, (clock, wall)


class CountTests(SynchronousTestCase):
    """What a dialogue leaves in the counters."""

    def test_interface(self) -> None:
        """Metrics are a monitor that tells roles apart, and the part for a role is a monitor."""
        verifyObject(IRoleMonitor, Metrics())
        verifyObject(IMonitor, Metrics().serving(Role.LMTP))

    def test_connections(self) -> None:
        """Clients are counted when they come, and are open until they go; how long they stay is measured."""
        wire, metrics, (clock, _) = measured()
        self.assertEqual(metrics.totals().get("connections_open", "smtp"), 1)
        clock.advance(7)
        wire.hang_up()
        totals = metrics.totals()
        self.assertEqual(totals.get("connections_open", "smtp"), 0)
        self.assertEqual(totals.get("connections_total", "smtp"), 1)
        stayed = totals.get("session_duration_seconds", "smtp")
        assert isinstance(stayed, list)
        self.assertEqual((sum(stayed[:-1]), stayed[-1]), (1, 7.0))

    def test_roles(self) -> None:
        """Each role has its own counts, also of two factories."""
        metrics = Metrics()
        for role in (Role.LMTP, Role.SMTP, Role.SMTP):
            Wire(clocked_factory(ScriptedBackend(), role=role, monitors=[metrics])[0])
        totals = metrics.totals()
        counts = {role: totals.get("connections_total", role) for role in ("lmtp", "smtp", "submission")}
        self.assertEqual(counts, {"lmtp": 1, "smtp": 2, "submission": 0})

    def test_messages(self) -> None:
        """Messages are counted by what the client was told, with their bytes and recipients."""
        answers = [None, Reply(451, "x"), Reply(550, "x")]
        wire, metrics, _ = measured(ScriptedBackend(finish=answers))
        wire.say("EHLO x")
        for _ in range(3):
            wire.say(MAIL, RCPT, RCPT, "DATA", "text", ".")
        totals = metrics.totals()
        for result in ("taken", "deferred", "refused"):
            with self.subTest(result=result):
                self.assertEqual(totals.get("messages_total", "smtp", result), 1)
                self.assertEqual(totals.get("message_bytes_total", "smtp", result), len(b"text\r\n"))
                self.assertEqual(totals.get("recipients_total", "smtp", result), 2)
        self.assertEqual(totals.get("messages_total", "smtp", "partly"), 0)

    def test_partly(self) -> None:
        """A message that is taken for some recipients is neither taken nor refused, but its recipients are."""
        wire, metrics, _ = measured(ScriptedBackend(finish=[[None, Reply(550, "x"), None]]), Role.LMTP)
        wire.say("LHLO x", MAIL, RCPT, RCPT, RCPT, "DATA", ".")
        totals = metrics.totals()
        self.assertEqual(totals.get("messages_total", "lmtp", "partly"), 1)
        self.assertEqual(totals.get("messages_total", "lmtp", "taken"), 0)
        self.assertEqual(totals.get("recipients_total", "lmtp", "taken"), 2)
        self.assertEqual(totals.get("recipients_total", "lmtp", "refused"), 1)

    def test_durations(self) -> None:
        """The time of a message goes from MAIL to its reply."""
        wire, metrics, (_, wall) = measured()
        wire.say("EHLO x", MAIL)
        wall.advance(3)
        wire.say(RCPT, "DATA", ".")
        durations = metrics.totals().get("message_duration_seconds", "smtp")
        assert isinstance(durations, list)
        self.assertEqual(durations[-1], 3.0)

    def test_replies(self) -> None:
        """Replies are counted by verb and first digit; what a client makes up is no label."""
        wire, metrics, _ = measured()
        wire.say("EHLO x", "MAIL FROM:<", "XMADEUP", "xmadeup2", "NOOP")
        totals = metrics.totals()
        found = {labels[1:]: value for family, labels, value in totals if family.name == "smtpsvc_replies_total"}
        expected = {("other", "2xx"): 1, ("other", "5xx"): 2, ("EHLO", "2xx"): 1}
        expected |= {("MAIL", "5xx"): 1, ("NOOP", "2xx"): 1}
        self.assertEqual(found, expected)

    def test_logins(self) -> None:
        """Logins are counted by mechanism and result."""
        metrics = Metrics()
        counters = metrics.serving(Role.SMTP)
        counters.login(PEER, "PLAIN", True)
        counters.login(PEER, "PLAIN", False)
        counters.login(PEER, "PLAIN", False)
        totals = metrics.totals()
        self.assertEqual(totals.get("logins_total", "smtp", "PLAIN", "good"), 1)
        self.assertEqual(totals.get("logins_total", "smtp", "PLAIN", "bad"), 2)

    def test_handshakes(self) -> None:
        """TLS handshakes are counted by version, and those that fail."""
        metrics = Metrics()
        counters = metrics.serving(Role.SMTP)
        counters.secured(PEER, TLSInfo("TLSv1.3", "x"), "")
        counters.secured(PEER, None, "no shared cipher")
        totals = metrics.totals()
        self.assertEqual(totals.get("tls_handshakes_total", "smtp", "TLSv1.3"), 1)
        self.assertEqual(totals.get("tls_handshake_failures_total", "smtp"), 1)

    def test_waits(self) -> None:
        """Hooks that make a client wait are measured by the verb that asked them."""
        late = Late()
        wire, metrics, (_, wall) = measured(ScriptedBackend(mail=late))
        wire.say("EHLO x", MAIL)
        wall.advance(4)
        late.waiting.pop().callback(None)
        waits = metrics.totals().get("hook_wait_seconds", "smtp", "MAIL")
        assert isinstance(waits, list)
        self.assertEqual(waits[-1], 4.0)

    def test_limits(self) -> None:
        """Limits are counted by the names of their options."""
        wire, metrics, _ = measured(message_size=3)
        wire.say("EHLO x", MAIL, RCPT, "DATA", "text", ".")
        self.assertEqual(metrics.totals().get("limits_total", "smtp", "max-message-size"), 1)

    def test_beside_others(self) -> None:
        """Beside other monitors, those of replies and limits too, everything is counted once."""

        class Other(Monitor):
            def replied(self, peer: Peer, verb: str, reply: Reply) -> None:
                pass

            def limited(self, peer: Peer, limit: str) -> None:
                pass

        for monitors in ([], [Other()], [Other(), Other()]):
            metrics = Metrics()
            factory, _ = clocked_factory(ScriptedBackend(), settings_with(recipients=1), monitors=[*monitors, metrics])
            Wire(factory).say("EHLO x", MAIL, RCPT, RCPT)
            totals = metrics.totals()
            self.assertEqual(totals.get("limits_total", "smtp", "max-recipients"), 1)
            self.assertEqual(totals.get("replies_total", "smtp", "RCPT", "2xx"), 1)
            self.assertEqual(totals.get("replies_total", "smtp", "RCPT", "4xx"), 1)

    def test_broken(self) -> None:
        """Transactions in the middle of which the connection ends are counted, and are no messages."""
        wire, metrics, _ = measured()
        wire.say("EHLO x", MAIL, RCPT, "DATA", "text").hang_up()
        totals = metrics.totals()
        self.assertEqual(totals.get("transactions_broken_total", "smtp"), 1)
        self.assertEqual(totals.get("messages_total", "smtp", "taken"), 0)

    def test_failures(self) -> None:
        """Hooks that fail are counted."""
        wire, metrics, _ = measured(ScriptedBackend(mail=KeyError))
        wire.say("EHLO x", MAIL)
        self.assertEqual(metrics.totals().get("backend_failures_total", "smtp"), 1)
        self.flushLoggedErrors(KeyError)

    def test_bounded(self) -> None:
        """However many values a label would have, there are not more than a few; the others count together."""
        metrics = Metrics()
        counters = metrics.serving(Role.SMTP)
        for number in range(3 * MOST):
            counters.limited(PEER, f"limit-{number}")
            counters.replied(PEER, f"VERB{number}", replies.OK)
            counters.login(PEER, f"M{number}", True)
        totals = metrics.totals()
        self.assertEqual(totals.get("limits_total", "smtp", OTHER), 2 * MOST)
        self.assertEqual(totals.get("replies_total", "smtp", OTHER, "2xx"), 2 * MOST)
        self.assertLess(len(list(totals)), 4 * MOST)

    def test_nothing_kept(self) -> None:
        """Of a client that has gone nothing is kept."""
        metrics = Metrics()
        counters: Any = metrics.serving(Role.SMTP)
        for _ in range(10):
            peer = Peer(None, "p")
            counters.connected(peer)
            counters.disconnected(peer, Failure(KeyError()))
        self.assertEqual(len(counters._since), 0)

    def test_process(self) -> None:
        """A process tells of itself."""
        totals = Metrics().totals()
        self.assertEqual(totals.get("processes"), 1)
        self.assertGreater(totals.get("process_cpu_seconds_total"), 0)
        self.assertGreater(totals.get("process_open_files"), 0)

    def test_sources(self) -> None:
        """Others are asked each time."""
        metrics = Metrics()
        metrics.ask(lambda totals: totals.put("buffered_bytes", 5))
        for _ in range(2):
            self.assertEqual(metrics.totals().get("buffered_bytes"), 5)


class HistogramTests(SynchronousTestCase):
    def test_bounds(self) -> None:
        """A value counts in the bucket whose upper end it does not pass; the last has none."""
        histogram = Histogram("message_duration_seconds")
        bounds = FAMILIES["smtpsvc_message_duration_seconds"].bounds
        for value in (0.0, bounds[0], bounds[-1] + 1):
            histogram.observe(value)
        first, *middle, last, total = histogram.value()
        self.assertEqual((first, sum(middle), last), (2, 0, 1))
        self.assertEqual(total, bounds[0] + bounds[-1] + 1)

    def test_ascending(self) -> None:
        """The bounds of each family ascend, and a histogram has some."""
        for family in FAMILIES.values():
            self.assertEqual(list(family.bounds), sorted(set(family.bounds)))
            self.assertEqual(bool(family.bounds), family.kind == "histogram")


class GatheredTests(SynchronousTestCase):
    """The sums over processes."""

    def snapshot(self, process: str, count: int, open: int = 0) -> bytes:
        """Make what a process tells."""
        totals = Totals()
        totals.put("connections_total", count, "smtp")
        totals.put("connections_open", open, "smtp")
        totals.put("message_duration_seconds", [count] + [0] * 16 + [count * 2.0], "smtp")
        return totals.encode(process)

    def test_round_trip(self) -> None:
        """A snapshot tells what was counted, and who counted it."""
        metrics = Metrics()
        metrics.serving(Role.SMTP).replied(PEER, "NOOP", replies.OK)
        (process, totals), again = decode(metrics.snapshot()), decode(metrics.snapshot())
        self.assertEqual(totals.get("replies_total", "smtp", "NOOP", "2xx"), 1)
        self.assertEqual(process, again[0])
        self.assertNotEqual(process, decode(Metrics().snapshot())[0])

    def test_sums(self) -> None:
        """What several processes count is summed, histograms too."""
        totals = Gathered().merge([self.snapshot("a", 2, 1), self.snapshot("b", 3, 1)])
        self.assertEqual(totals.get("connections_total", "smtp"), 5)
        self.assertEqual(totals.get("connections_open", "smtp"), 2)
        durations = totals.get("message_duration_seconds", "smtp")
        assert isinstance(durations, list)
        self.assertEqual((durations[0], durations[-1]), (5, 10.0))

    def test_gone(self) -> None:
        """What a process has counted stays when it has gone; what it had open does not."""
        gathered = Gathered()
        gathered.merge([self.snapshot("a", 2, 1), self.snapshot("b", 3, 1)])
        totals = gathered.merge([self.snapshot("b", 4, 1)])
        self.assertEqual(totals.get("connections_total", "smtp"), 6)
        self.assertEqual(totals.get("connections_open", "smtp"), 1)

    def test_late(self) -> None:
        """A process that did not answer once, and does again, is not counted twice."""
        gathered = Gathered()
        for snapshots in ([self.snapshot("a", 2)], [], [self.snapshot("a", 3)]):
            totals = gathered.merge(snapshots)
        self.assertEqual(totals.get("connections_total", "smtp"), 3)

    def test_many(self) -> None:
        """Processes may come and go for ever: no counter goes down, and what is kept does not grow."""
        gathered = Gathered()
        before = 0.0
        for number in range(500):
            now = gathered.merge([self.snapshot(str(number), 1)]).get("connections_total", "smtp")
            assert isinstance(now, float)
            self.assertEqual(now, before + 1)
            before = now
        self.assertLess(len(gathered._last), 100)

    @settings(max_examples=200)
    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.booleans()), max_size=30))
    def test_never_down(self, told: list[tuple[int, int, bool]]) -> None:
        """Whoever answers when, no counter goes down."""
        gathered = Gathered()
        counts: dict[int, int] = {}
        before: float = 0.0
        for process, more, answers in told:
            counts[process] = counts.get(process, 0) + more
            now = gathered.merge([self.snapshot(str(process), counts[process])] if answers else []).get(
                "connections_total", "smtp"
            )
            assert isinstance(now, int | float)
            self.assertGreaterEqual(now, before)
            before = now

    def test_damaged(self) -> None:
        """What is no snapshot is left out."""
        odd = [
            b"",
            b"[]",
            b"\xff",
            b'{"process":"a"}',
            b'{"process":"a","values":{"smtpsvc_connections_total":[[["smtp"],"5"]]}}',
            b'{"process":"a","values":{"smtpsvc_connections_total":[[["smtp","x"],5]]}}',
            b'{"process":"a","values":{"smtpsvc_message_duration_seconds":[[["smtp"],[1,2]]]}}',
            b'{"process":"a","values":{"smtpsvc_message_duration_seconds":[[["smtp"],5]]}}',
        ]
        for snapshot in odd:
            with self.subTest(snapshot):
                self.assertRaises(ValueError, decode, snapshot)
        totals = Gathered().merge([*odd, self.snapshot("b", 1)])
        self.assertEqual(totals.get("connections_total", "smtp"), 1)

    def test_unknown(self) -> None:
        """A metric that is not known here is left out."""
        snapshot = json.dumps({"process": "a", "values": {"later": [[[], 5]]}}).encode()
        self.assertEqual(list(decode(snapshot)[1]), [])
