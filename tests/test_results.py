"""
Tests of smtpsvc.server.receiving: what finish() gives, for a message or for each recipient.
"""

from __future__ import annotations

import itertools
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import PermanentError, Reply
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.hooks import MAIL, Late, coroutine, lines
from tests.support import settings_with

TAKEN = Reply(250, "Queued as 1", "2.0.0")
LATER = Reply(450, "Not now", "4.7.1")
FULL = Reply(452, "Full", "4.2.2")
NO = Reply(550, "Never", "5.7.1")
GONE = Reply(551, "Gone", "5.1.6")


def connected(backend: ScriptedBackend, recipients: int, **settings: Any) -> tuple[Wire, Clock]:
    """Go on until the 354, with so many recipients; give the wire and the clock."""
    factory, clock = clocked_factory(backend, settings_with(**settings))
    names = [f"RCPT TO:<{number}@y.example>" for number in range(recipients)]
    wire = Wire(factory).greeted().receive(lines(MAIL, *names, "DATA"))
    assert wire.codes[-1] == 354
    return wire.forget(), clock


def answer(outcome: Any, recipients: int = 3) -> Reply:
    """Give the reply to a message whose finish() gives *outcome*."""
    wire, _ = connected(ScriptedBackend(finish=lambda: outcome), recipients)
    return wire.say("text", ".").last_reply


class ListTests(SynchronousTestCase):
    def test_fold(self) -> None:
        """All taken is the usual 250; else the first 4xx is the reply, else the first 5xx."""
        cases: list[tuple[list[Any], Reply | None]] = [
            ([None, None, None], None),
            ([TAKEN, None, TAKEN], None),
            ([None, NO, None], NO),
            ([NO, None, LATER], LATER),
            ([GONE, FULL, LATER], FULL),
            ([NO, GONE, NO], NO),
        ]
        for results, reply in cases:
            for shape in (list, tuple):
                with self.subTest(results=results, shape=shape):
                    found = answer(shape(results))
                    self.assertEqual(found.code if reply is None else found, 250 if reply is None else reply)

    def test_forms(self) -> None:
        """Each item may be a value, a Deferred or a coroutine, which may fail as any outcome."""
        never = PermanentError("Never", "5.7.1")
        forms = {
            "value": lambda: NO,
            "Deferred": lambda: succeed(NO),
            "coroutine": lambda: coroutine(NO),
            "failure": lambda: fail(never),
            "raising coroutine": lambda: coroutine(never),
        }
        for name, form in forms.items():
            with self.subTest(form=name):
                self.assertEqual(answer([None, form(), succeed(None)]), NO)
                self.assertEqual(answer([form(), LATER, None]), LATER)

    def test_awaitable_of_a_list(self) -> None:
        """The list may be awaited itself, and its items then."""
        for form in (succeed, coroutine):
            with self.subTest(form=form):
                self.assertEqual(answer(form([None, succeed(LATER), NO])), LATER)
        late, item = Late(), Late()
        wire, _ = connected(ScriptedBackend(finish=late), 2)
        wire.say(".")
        late.fire([item(), None])
        self.assertEqual(wire.codes, [])
        item.fire(NO)
        self.assertEqual(wire.replies, [NO])

    def test_any_order(self) -> None:
        """The reply comes with the last outcome, whatever the order, and is the same."""
        for order in itertools.permutations(range(3)):
            items: list[Deferred[Any]] = [Deferred(), Deferred(), Deferred()]
            wire, _ = connected(ScriptedBackend(finish=lambda items=items: items), 3)
            wire.say(".").receive(b"NOOP\r\n")
            for place in order:
                self.assertEqual(wire.codes, [])
                items[place].callback([NO, FULL, LATER][place])
            self.assertEqual((wire.replies[0], wire.codes), (FULL, [452, 250]))

    def test_nonsense(self) -> None:
        """A failure or nonsense for one recipient is 451 4.3.0 for the message, logged once each."""
        for items, logged in ([None, 7, NO], 1), ([fail(KeyError("x")), None, "x"], 2), ([[None], NO, NO], 1):
            with self.subTest(items=items):
                self.assertEqual(answer(items), replies.LOCAL_ERROR)
                self.assertEqual(len(self.flushLoggedErrors(TypeError, KeyError)), logged)

    def test_wrong_length(self) -> None:
        """A list of another length than the recipients is 451 4.3.0 with one logged sentence."""
        for length in (0, 1, 2, 4):
            with self.subTest(length=length):
                self.assertEqual(answer([None] * length), replies.LOCAL_ERROR)
                (logged,) = self.flushLoggedErrors(ValueError)
                self.assertIn(f"{length} outcomes for 3 recipients", str(logged.value))

    def test_wrong_length_pending(self) -> None:
        """What is pending in a list of the wrong length is not left to fail unheard."""
        wire, _ = connected(ScriptedBackend(finish=lambda: [coroutine(KeyError("x")), fail(KeyError("y"))]), 1)
        self.assertEqual(wire.say(".").replies, [replies.LOCAL_ERROR])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_duplicate_recipients(self) -> None:
        """A recipient that was named twice has two outcomes."""
        backend = ScriptedBackend(finish=lambda: [None, NO])
        factory, _ = clocked_factory(backend, settings_with())
        wire = Wire(factory).greeted().say(MAIL, "RCPT TO:<b@y.example>", "RCPT TO:<b@y.example>", "DATA", ".")
        self.assertEqual(wire.last_reply, NO)

    def test_closing(self) -> None:
        """A 421 for one recipient closes, as any 421."""
        enough = Reply(421, "Enough", "4.3.2")
        wire, _ = connected(ScriptedBackend(finish=lambda: [NO, enough]), 2)
        self.assertEqual((wire.say(".", "NOOP").replies, wire.closed), ([enough], True))


class LateTests(SynchronousTestCase):
    """Once finish() has been called, abort never is: what becomes of the message is for the log."""

    def setUp(self) -> None:
        """Keep what is logged."""
        self.events: list[Any] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def told(self) -> list[str]:
        """Give what was logged of late messages."""
        return [event["what"] for event in self.events if "had been told otherwise" in (event.get("log_format") or "")]

    def stubborn(self, gate: Deferred[Any], form: str) -> Any:
        """Make a finish() that cannot be cancelled, as a commit in a thread cannot."""

        async def commit() -> Any:
            try:
                await Deferred()
            except CancelledError:
                pass
            return await gate

        return {"one": commit, "list": lambda: [commit(), None], "awaited list": commit}[form]

    def test_deadline(self) -> None:
        """A deadline is 451 4.3.0; the late result is logged, abort is never called, the client goes on."""
        results = {"one": (None, NO), "list": (None, NO), "awaited list": ([None, None], [None, NO])}
        for form, (kept, refused) in results.items():
            for result, what in ((kept, "kept"), (refused, "refused")):
                with self.subTest(form=form, what=what):
                    self.events.clear()
                    gate: Deferred[Any] = Deferred()
                    backend = ScriptedBackend(finish=self.stubborn(gate, form))
                    wire, clock = connected(backend, 2, hook_timeout=10)
                    wire.say("text", ".", "NOOP")
                    clock.pump([1] * 20)
                    self.assertEqual(wire.replies, [replies.HOOK_TIMED_OUT, replies.OK])
                    self.assertEqual(self.told(), [])
                    gate.callback(result)
                    self.assertEqual((self.told(), wire.codes), ([what], [451, 250]))
                    self.assertNotIn("abort", backend.hooks)
                    self.assertEqual(backend.hooks.count("reset"), 1)

    def test_loss(self) -> None:
        """A loss leaves the client with nothing; the late result is logged, abort is never called."""
        for form in ("one", "list"):
            with self.subTest(form=form):
                self.events.clear()
                gate: Deferred[Any] = Deferred()
                backend = ScriptedBackend(finish=self.stubborn(gate, form))
                wire, _ = connected(backend, 2)
                wire.say("text", ".").hang_up()
                self.assertEqual((self.told(), backend.hooks[-1]), ([], "close"))
                gate.callback(None)
                self.assertEqual((self.told(), wire.output), (["kept"], b""))
                self.assertNotIn("abort", backend.hooks)

    def test_given_up(self) -> None:
        """A finish() that obeys its cancellation is no error: one line in the log, and no traceback."""
        for outcome in (Late(), lambda: [Deferred(), None], lambda: succeed([None, Deferred()])):
            for end in ("deadline", "loss"):
                with self.subTest(outcome=outcome, end=end):
                    self.events.clear()
                    backend = ScriptedBackend(finish=outcome)
                    wire, clock = connected(backend, 2, hook_timeout=10)
                    wire.say("text", ".")
                    if end == "loss":
                        wire.hang_up()
                    clock.pump([1] * 20)
                    self.assertEqual(len(self.told()), 1)
                    self.assertNotEqual(self.told(), ["kept"])
                    self.assertNotIn("abort", backend.hooks)
                    self.assertEqual(self.flushLoggedErrors(), [])

    def test_late_failure(self) -> None:
        """An error that comes late is logged with its traceback, once."""
        for form in ("one", "list"):
            with self.subTest(form=form):
                gate: Deferred[Any] = Deferred()
                wire, _ = connected(ScriptedBackend(finish=self.stubborn(gate, form)), 2)
                wire.say(".").hang_up()
                gate.errback(KeyError("x"))
                self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)


class PerRecipientTests(SynchronousTestCase):
    def test_one_each(self) -> None:
        """A backend that cannot undo gets one recipient a message: a further RCPT is 452 4.5.3."""
        backend = ScriptedBackend()
        backend.per_recipient = True
        factory, _ = clocked_factory(backend, settings_with())
        wire = Wire(factory).greeted().say(MAIL, "RCPT TO:<a@y.example>", "RCPT TO:<b@y.example>", "DATA", ".")
        self.assertEqual(wire.codes, [250, 250, 452, 354, 250])
        self.assertEqual(wire.replies[2], replies.ONE_RECIPIENT_EACH)
        self.assertEqual(len(backend.messages[0].recipients), 1)

    def test_refused_does_not_count(self) -> None:
        """A recipient that was refused leaves the place to another."""
        backend = ScriptedBackend(rcpt=[NO])
        backend.per_recipient = True
        factory, _ = clocked_factory(backend, settings_with())
        wire = Wire(factory).greeted().say(MAIL, "RCPT TO:<a@y.example>", "RCPT TO:<b@y.example>", "DATA")
        self.assertEqual(wire.codes, [250, 550, 250, 354])

    def test_next_message(self) -> None:
        """The others come in messages of their own."""
        backend = ScriptedBackend()
        backend.per_recipient = True
        wire = Wire(clocked_factory(backend, settings_with())[0]).greeted()
        for name in ("a", "b"):
            wire.say(MAIL, f"RCPT TO:<{name}@y.example>", "DATA", ".")
        self.assertEqual(wire.codes, [250, 250, 354, 250] * 2)
