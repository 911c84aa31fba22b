"""
Tests of smtpsvc.policies.modified and asking: what can be said of any policy, and what is told of refusals.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from twisted.application.service import IService, MultiService, Service
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import LastReply, PermanentError, Reply
from smtpsvc.interfaces import IPolicy
from smtpsvc.policies.asking import with_id
from smtpsvc.policies.chain import CHECKS, Policy, overridden, with_policies
from smtpsvc.policies.clients import Clients
from smtpsvc.policies.modified import modified
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.support import settings_with

NO = Reply(550, "No", "5.7.1")
HELLO, MAIL, RCPT = "EHLO c.example", "MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>"


def policy(asked: list[str] | None = None, **answers: Any) -> Policy:
    """Make a policy that gives an answer in each of its checks, or what a function gives."""

    def check(stage: str) -> Callable[..., Any]:
        def given(self: Policy, *args: Any) -> Any:
            if asked is not None:
                asked.append(stage)
            answer = answers[stage]
            if isinstance(answer, BaseException):
                raise answer
            return answer() if callable(answer) else answer

        given.__name__ = stage
        return given

    return type("Scripted", (Policy,), {"name": "scripted", **{stage: check(stage) for stage in answers}})()


class PolicyTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)

    def observe(self, event: dict[str, Any]) -> None:
        if "policy" in event:
            self.events.append(dict(event))

    def connect(self, *policies: IPolicy, address: Any = None, **options: Any) -> Wire:
        """Connect to a server with policies."""
        self.backend = ScriptedBackend()
        factory, _ = clocked_factory(
            with_policies(self.backend, *policies), settings_with(add_received=False), **options
        )
        return Wire(factory, address)

    def logged(self) -> list[str]:
        """Give the checks of which the log tells, with how."""
        kinds = {LogLevel.info: "refused", LogLevel.warn: "would refuse"}
        return [f"{kinds[event['log_level']]} {event['stage']}" for event in self.events]


class RefusalTests(PolicyTestCase):
    def test_id(self) -> None:
        """A refusal ends with the id of the transaction, or before MAIL with that of the connection."""
        wire = self.connect(policy(mail=NO))
        wire.say(HELLO, MAIL)
        (event,) = self.events
        self.assertEqual(wire.last_reply, Reply(550, f"No ({event['id']})", "5.7.1"))
        self.assertEqual(event["text"], wire.last_reply.text)
        wire = self.connect(policy(helo=NO)).say(HELLO)
        self.assertEqual(wire.last_reply.text, f"No ({wire.protocol.conversation.peer.id})")

    def test_kind(self) -> None:
        """A reply that closes the connection still does with the id."""
        self.assertTrue(with_id(LastReply(554, "No", "5.7.1"), "x").closes)

    def test_logged(self) -> None:
        """A refusal is logged with who was refused what by whom; what a client sent cannot forge a line."""
        self.connect(policy(rcpt=NO)).say("EHLO c\u202e.example", MAIL, RCPT)
        (event,) = self.events
        fields = {
            name: event[name] for name in ("policy", "stage", "client", "sender", "recipient", "code", "enhanced")
        }
        self.assertEqual(
            fields,
            {
                "policy": "scripted",
                "stage": "rcpt",
                "client": "192.0.2.1",
                "sender": "a@x.example",
                "recipient": "b@y.example",
                "code": 550,
                "enhanced": "5.7.1",
            },
        )
        text = event["log_format"].replace("!r", "").format(**event)
        self.assertTrue(text.isprintable(), text)
        self.assertIn(r"192.0.2.1 ('c\u202e.example'), from 'a@x.example' to 'b@y.example': 550 5.7.1", text)

    def test_closing(self) -> None:
        """A 421 of a policy closes the connection."""
        self.assertTrue(self.connect(policy(mail=replies.SHUTTING_DOWN)).say(HELLO, MAIL).closed)


class WarnTests(PolicyTestCase):
    def test_lets_pass(self) -> None:
        """With warn-only each refusal is logged, and nothing is refused."""
        answers: dict[str, Any] = dict.fromkeys(CHECKS, NO)
        answers["rcpt"] = PermanentError("No")
        answers["data"] = lambda: Deferred.fromCoroutine(refuse())

        async def refuse() -> Reply:
            return NO

        wire = self.connect(modified(policy(**answers), warn_only=True))
        wire.say(HELLO, MAIL, RCPT, "DATA", "one", "two", ".")
        self.assertEqual(wire.codes, [220, 250, 250, 250, 354, 250])
        # Of the content once.
        self.assertEqual(self.logged(), [f"would refuse {stage}" for stage in CHECKS])

    def test_next_is_asked(self) -> None:
        """The policies behind one that only warns are asked, and may refuse."""
        wire = self.connect(modified(policy(mail=NO), warn_only=True), policy(mail=NO)).say(HELLO, MAIL)
        self.assertEqual((wire.last_reply.code, self.logged()), (550, ["would refuse mail", "refused mail"]))


class DeferTests(PolicyTestCase):
    def test_until_rcpt(self) -> None:
        """Refusals of the connection, of EHLO and of MAIL are given at RCPT, each time."""
        for stage in ("connect", "helo", "mail"):
            with self.subTest(stage):
                self.events.clear()
                wire = self.connect(modified(policy(**{stage: NO}), defer=True)).say(HELLO, MAIL, RCPT, RCPT)
                self.assertEqual(wire.codes, [220, 250, 250, 550, 550])
                self.assertEqual([event["recipient"] for event in self.events], ["b@y.example"] * 2)

    def test_not_asked_again(self) -> None:
        """A client that is refused is not asked about at later stages; its answer stands."""
        asked: list[str] = []
        wire = self.connect(modified(policy(asked, connect=NO, helo=NO, mail=NO, rcpt=NO), defer=True))
        wire.say(HELLO, MAIL, RCPT)
        self.assertEqual((asked, wire.last_reply.code), (["connect"], 550))

    def test_own_rcpt(self) -> None:
        """A policy that has refused nothing before is asked at RCPT as usual."""
        asked: list[str] = []
        wire = self.connect(modified(policy(asked, mail=None, rcpt=NO), defer=True)).say(HELLO, MAIL, RCPT)
        self.assertEqual((asked, wire.codes[-1]), (["mail", "rcpt"], 550))

    def test_next_transaction(self) -> None:
        """A refusal of MAIL holds for its transaction, one of a name until the next EHLO."""
        answers = [NO, None]
        wire = self.connect(modified(policy(mail=lambda: answers.pop(0)), defer=True))
        self.assertEqual(wire.say(HELLO, MAIL, RCPT, "RSET", MAIL, RCPT).codes[3:], [550, 250, 250, 250])
        answers[:] = [NO, None]
        wire = self.connect(modified(policy(helo=lambda: answers.pop(0)), defer=True))
        self.assertEqual(wire.say(HELLO, MAIL, RCPT, HELLO, MAIL, RCPT).codes[3:], [550, 250, 250, 250])

    def test_two(self) -> None:
        """Two policies that defer do not take each other's refusals."""
        first, second = (modified(policy(mail=answer), defer=True) for answer in (None, NO))
        self.assertEqual(self.connect(first, second).say(HELLO, MAIL, RCPT).codes[-1], 550)
        self.assertEqual([event["policy"] for event in self.events], ["scripted"])

    def test_warn_only(self) -> None:
        """Deferred and with warn-only, the warning comes at RCPT."""
        wire = self.connect(modified(policy(helo=NO), defer=True, warn_only=True)).say(HELLO, MAIL, RCPT)
        self.assertEqual((wire.codes[-1], self.logged()), (250, ["would refuse rcpt"]))


class DeadlineTests(PolicyTestCase):
    def test_verdicts(self) -> None:
        """A check that takes too long is cancelled, and counts as what was said: 451, or consent."""
        for verdict, code in ((replies.HOOK_TIMED_OUT, 451), (None, 250)):
            with self.subTest(code):
                cancelled: list[Any] = []
                slow = policy(mail=lambda cancelled=cancelled: Deferred(cancelled.append))
                made = modified(slow, deadline=5, on_timeout=verdict, clock=self.clock)
                wire = self.connect(made).say(HELLO, MAIL)
                self.clock.advance(4.9)
                self.assertEqual((wire.codes[2:], cancelled), ([], []))
                self.clock.advance(0.2)
                self.assertEqual((wire.codes[2:], len(cancelled)), ([code], 1))
                self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_deaf_and_gone(self) -> None:
        """Of a check that heeds no cancelling nothing is left when its client has gone."""

        async def deaf() -> None:
            with contextlib.suppress(CancelledError):
                await Deferred()
            await Deferred()

        wire = self.connect(modified(policy(mail=deaf), deadline=5, clock=self.clock)).say(HELLO, MAIL)
        wire.hang_up()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_deaf(self) -> None:
        """A check that heeds no cancelling is not waited for, and what comes of it is dropped."""
        answer: Deferred[Any] = Deferred()

        async def deaf() -> Any:
            while True:
                try:
                    return await answer
                except BaseException:
                    await later

        later: Deferred[Any] = Deferred()
        wire = self.connect(modified(policy(mail=deaf), deadline=5, clock=self.clock)).say(HELLO, MAIL)
        self.clock.advance(5)
        self.assertEqual(wire.codes[2:], [451])
        later.callback(None)

    def test_in_time(self) -> None:
        """A check that answers in time is as if there were no deadline, and leaves no timer behind."""
        for answer, code in ((None, 250), (NO, 550)):
            pending: Deferred[Any] = Deferred()
            wire = self.connect(modified(policy(mail=pending), deadline=5, clock=self.clock)).say(HELLO, MAIL)
            pending.callback(answer)
            self.assertEqual((wire.codes[2:], self.clock.getDelayedCalls()), ([code], []))

    def test_lost(self) -> None:
        """When the client is gone, the check is cancelled, and no timer stays."""
        cancelled: list[Any] = []
        made = modified(policy(mail=lambda: Deferred(cancelled.append)), deadline=5, clock=self.clock)
        self.connect(made).say(HELLO, MAIL).hang_up()
        self.assertEqual((len(cancelled), self.clock.getDelayedCalls()), (1, []))

    def test_clock(self) -> None:
        """A deadline without a clock is a mistake."""
        self.assertRaises(ValueError, modified, policy(mail=None), deadline=5)


class SpareTests(PolicyTestCase):
    def test_spared(self) -> None:
        """A client that is spared is not asked about, the others are."""
        asked: list[str] = []
        made = modified(policy(asked, connect=None, mail=NO), spared=Clients(["192.0.2.0/24", "unix"]))
        places = {"192.0.2.9": 250, "192.0.3.9": 550}
        for host, code in places.items():
            wire = self.connect(made, address=IPv4Address("TCP", host, 1)).say(HELLO, MAIL)
            self.assertEqual(wire.codes[-1], code)
        self.assertEqual(self.connect(made, address=UNIXAddress(None)).say(HELLO, MAIL).codes[-1], 250)
        self.assertEqual(asked, ["connect", "mail"])


class MadeTests(PolicyTestCase):
    def test_nothing(self) -> None:
        """A policy of which nothing is said stays what it is."""
        made = policy(mail=NO)
        self.assertIs(modified(made), made)

    def test_checks(self) -> None:
        """It has the checks that the policy has, and RCPT if that is when refusals come."""
        made = modified(policy(mail=NO, content=None), warn_only=True)
        verifyObject(IPolicy, made)
        self.assertEqual([stage for stage in CHECKS if overridden(made, stage)], ["mail", "content"])
        made = modified(policy(mail=NO), defer=True)
        self.assertEqual([stage for stage in CHECKS if overridden(made, stage)], ["mail", "rcpt"])
        made = modified(policy(data=NO), defer=True)
        self.assertEqual([stage for stage in CHECKS if overridden(made, stage)], ["data"])


class ServingPolicy(Service, Policy):
    """A policy that is a service, and checks nothing."""

    def __init__(self, order: list[str], name: str) -> None:
        self.order = order
        self.label = name

    def startService(self) -> None:
        super().startService()
        self.order.append(f"start {self.label}")

    def stopService(self) -> None:
        self.order.append(f"stop {self.label}")
        return super().stopService()


class ServiceTests(SynchronousTestCase):
    def test_started(self) -> None:
        """Services among the policies start before the backend and stop after it, modified or not."""
        order: list[str] = []
        second = modified(ServingPolicy(order, "second"), warn_only=True)
        chain: Any = with_policies(ScriptedBackend(), ServingPolicy(order, "first"), second)
        self.assertTrue(IService.providedBy(chain))
        parent = MultiService()
        chain.setServiceParent(parent)
        parent.startService()
        self.successResultOf(parent.stopService())
        self.assertEqual(order, ["start first", "start second", "stop second", "stop first"])

    def test_backend(self) -> None:
        """A backend behind them that is a service is started with them."""
        backend = type("Both", (ScriptedBackend, Service), {})()
        chain: Any = with_policies(backend, ServingPolicy([], "x"))
        chain.startService()
        self.assertTrue(backend.running)
        self.successResultOf(chain.stopService())
        self.assertFalse(backend.running)

    def test_parent(self) -> None:
        """A policy that has a parent already is left to it."""
        serving = ServingPolicy([], "x")
        serving.setServiceParent(MultiService())
        backend = ScriptedBackend()
        self.assertIs(with_policies(backend, serving), backend)
