"""
Tests of smtpsvc.server.results: recipients whose outcome comes too late, or when the client is gone.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.hooks import MAIL, Late
from tests.support import settings_with

NO = Reply(550, "Never", "5.7.1")
GONE = Reply(551, "Gone", "5.1.6")
TOO_LATE = replies.RECIPIENT_TIMED_OUT


class LateTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Keep what is logged."""
        self.events: list[Any] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def told(self) -> list[tuple[str, str]]:
        """Give what was logged of late outcomes: for whom, and what."""
        late = [event for event in self.events if "had been told otherwise" in (event.get("log_format") or "")]
        return [(event["for_whom"].removeprefix(" for "), event["what"]) for event in late]

    def sent(self, finish: Any, recipients: int = 3) -> tuple[Wire, Clock, ScriptedBackend]:
        """Send a message for *recipients*, called 0, 1 and so on, to an LMTP listener with a hook_timeout of 10."""
        backend = ScriptedBackend(finish=finish)
        factory, clock = clocked_factory(backend, settings_with(hook_timeout=10), role=Role.LMTP)
        names = [f"RCPT TO:<{place}@y.example>" for place in range(recipients)]
        wire = Wire(factory).say("LHLO x", MAIL, *names, "DATA").forget().say("text", ".")
        return wire, clock, backend


class Stubborn:
    """
    Outcomes that go on when they are cancelled, as a commit in a thread does.

    :ivar gates: fire with the outcomes.
    :ivar cancelled: how many were asked to stop.
    """

    def __init__(self) -> None:
        self.gates: list[Deferred[Any]] = []
        self.cancelled = 0

    async def __call__(self) -> Any:
        """Wait for a gate of its own, come what may."""
        gate: Deferred[Any] = Deferred()
        self.gates.append(gate)
        try:
            await Deferred()
        except CancelledError:
            self.cancelled += 1
        return await gate


class DeadlineTests(LateTestCase):
    def test_not_held_up(self) -> None:
        """A late recipient is 420 4.4.7; those behind it hear what they would have heard."""
        late = Late()
        wire, clock, backend = self.sent(lambda: [None, late(), NO])
        self.assertEqual(wire.codes, [250])
        clock.pump([1] * 9)
        self.assertEqual(wire.codes, [250])
        clock.pump([1] * 5)
        self.assertEqual((wire.codes[0], wire.replies[1:]), (250, [TOO_LATE, NO]))
        self.assertEqual((late.cancelled, "abort" in backend.hooks, backend.hooks[-1]), (1, False, "reset"))

    def test_own_time(self) -> None:
        """The time of each begins with the list, and is no longer for those in front having come."""
        late = Late()
        wire, clock, _ = self.sent(lambda: [late(), late(), late()])
        for _ in range(2):
            clock.pump([1] * 4)
            late.fire()
        self.assertEqual(wire.codes, [250, 250])
        clock.pump([1] * 5)
        self.assertEqual(wire.codes, [250, 250, 420])

    def test_list_too_late(self) -> None:
        """Where the list itself, or the one outcome for all, is late, each recipient is 420 4.4.7."""
        late = Late()
        wire, clock, _ = self.sent(late)
        clock.pump([1] * 15)
        self.assertEqual(wire.replies, [TOO_LATE] * 3)
        self.assertEqual((late.cancelled, wire.say("NOOP").codes[-1]), (1, 250))

    def test_list_then_items(self) -> None:
        """A list that comes late but in time gives its items all of their time."""
        late, item = Late(), Late()
        wire, clock, _ = self.sent(late)
        clock.pump([1] * 8)
        late.fire([None, item(), None])
        clock.pump([1] * 8)
        self.assertEqual(wire.codes, [250])
        item.fire(NO)
        self.assertEqual(wire.codes, [250, 550, 250])

    def test_logged(self) -> None:
        """What becomes of a late recipient is logged when all have ended; of the others nothing is."""
        for outcome, what in ((None, "kept"), (NO, "refused")):
            with self.subTest(what=what):
                self.events.clear()
                stubborn = Stubborn()
                wire, clock, backend = self.sent(lambda stubborn=stubborn: [stubborn(), NO, stubborn()])
                clock.pump([1] * 15)
                self.assertEqual((wire.codes, self.told(), stubborn.cancelled), ([420, 550, 420], [], 2))
                for gate in stubborn.gates:
                    gate.callback(outcome)
                self.assertEqual(self.told(), [("0@y.example", what), ("2@y.example", what)])
                self.assertEqual((wire.codes, "abort" in backend.hooks), ([420, 550, 420], False))

    def test_given_up(self) -> None:
        """An outcome that obeys its cancellation is no error: one line in the log."""
        late = Late()
        _, clock, _ = self.sent(lambda: [None, late()], 2)
        clock.pump([1] * 15)
        self.assertEqual(self.told(), [("1@y.example", "given up")])

    def test_late_error(self) -> None:
        """An error that comes too late is logged with its traceback, once, and sent to nobody."""
        stubborn = Stubborn()
        wire, clock, _ = self.sent(lambda: [stubborn(), None], 2)
        clock.pump([1] * 15)
        stubborn.gates[0].errback(KeyError("x"))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual((self.told(), wire.codes), ([("0@y.example", "refused")], [420, 250]))

    def test_next_message(self) -> None:
        """The next message has nothing of the late one."""
        stubborn = Stubborn()
        wire, clock, backend = self.sent(iter([[stubborn(), None], [NO]]).__next__, 2)
        clock.pump([1] * 15)
        wire.forget().say(MAIL, "RCPT TO:<c@y.example>", "DATA", ".")
        stubborn.gates[0].callback(GONE)
        self.assertEqual(wire.codes, [250, 250, 354, 550])
        self.assertEqual(len(backend.messages), 2)

    def test_monitors(self) -> None:
        """The monitors hear what was sent."""
        seen: list[Any] = []
        wire, clock, _ = self.sent(lambda: [NO, Deferred()], 2)
        wire.factory.watch.message = lambda *args: seen.append(args[3])
        clock.pump([1] * 15)
        self.assertEqual(seen, [[NO, TOO_LATE]])


class LossTests(LateTestCase):
    def test_lost(self) -> None:
        """A loss asks the pending to stop; abort is never called, and the session is closed."""
        late = Late()
        wire, _, backend = self.sent(lambda: [NO, late(), late()])
        wire.hang_up(ConnectionLost())
        self.assertEqual((late.cancelled, wire.codes), (2, [550]))
        self.assertEqual((backend.hooks[-1], "abort" in backend.hooks), ("close", False))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_logged(self) -> None:
        """Those whose reply could not be sent are logged when all have ended, known before or not."""
        stubborn = Stubborn()
        wire, _, _ = self.sent(lambda: [NO, stubborn(), GONE])
        wire.hang_up()
        self.assertEqual(self.told(), [])
        stubborn.gates[0].callback(None)
        self.assertEqual(self.told(), [("1@y.example", "kept"), ("2@y.example", "refused")])
        self.assertEqual(wire.codes, [550])

    def test_coroutines(self) -> None:
        """The items of such a list may be coroutines."""

        async def item(outcome: Any) -> Any:
            return outcome

        stubborn = Stubborn()
        wire, _, _ = self.sent(stubborn)
        wire.hang_up()
        stubborn.gates[0].callback([item(None), item(None), item(NO)])
        self.assertEqual(self.told(), [("", "refused")])

    def test_list(self) -> None:
        """A list that comes when the client is gone is waited for, and logged as one."""
        for late in (True, False):
            self.events.clear()
            stubborn, item = Stubborn(), Late()
            wire, _, _ = self.sent(stubborn)
            wire.hang_up()
            stubborn.gates[0].callback([None, item() if late else None, NO])
            self.assertEqual(self.told(), [] if late else [("", "refused")])
            if late:
                item.fire()
            self.assertEqual(self.told(), [("", "refused")])
