"""
Whatever a hook does wrong, the client has an answer or is gone, and the server serves the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.cred.portal import Portal
from twisted.internet.defer import AlreadyCalledError, CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.extensions import Extension, defaults
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.grammar.states import ANY
from smtpsvc.interfaces import IAuthenticated, IAuthorizer, IGreeting, ISecured, IVerifier
from smtpsvc.policies.chain import Policy, with_policies
from smtpsvc.server.verbs import Verb
from smtpsvc.testing import ScriptedBackend
from smtpsvc.tlstesting import TLSWire
from smtpsvc.values import Account
from tests.certificates import factory as tls_factory
from tests.logins import AnswerChecker, CountingRealm, plain

#: What the hooks give if nothing is wrong with them; for the others of a ScriptedBackend None is right.
USUAL: dict[str, Callable[..., Any]] = {
    "mechanisms": lambda offered: offered,
    "ehlo": lambda lines: lines,
    "verify": lambda query: ["a@x.example"],
    "expand": lambda query: ["a@x.example"],
    "authorize": lambda account, identity: Account(identity),
    "check_password": lambda credentials: b"joe",
    "parse": lambda argument: argument,
    "proceed": lambda conversation, value: Reply(250, "Done", "2.0.0"),
    "advertise": lambda conversation: "",
}

BACKEND = ("open_session", "helo", "mail", "rcpt", "data", "write", "finish", "abort", "reset", "close")
OPTIONAL = ("mechanisms", "ehlo", "verify", "expand", "tls_context", "secured", "authorize", "authenticated")
POLICY = ("connect", "helo", "mail", "rcpt", "data", "content", "message")
OTHERS = ("check_password", "parse", "proceed", "advertise")
#: Each hook by a name of its own, those of policies with their word in front.
HOOKS = (*BACKEND, *OPTIONAL, *(f"policy {name}" for name in POLICY), *OTHERS)
#: Those that cannot wait: what they give is taken as it is.
PLAIN = ("mechanisms", "ehlo", "parse", "advertise")

LINES: tuple[str, ...] = (
    "EHLO client.example", "VRFY a", "EXPN a", "XODD", "STARTTLS", "EHLO client.example",
    f"AUTH PLAIN {plain('joe', 'x', 'jim')}", "MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>", "DATA", "text", ".",
    "MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>", "BDAT 4", "te", "EHLO again.example", "RSET", "NOOP",
)  # fmt: skip
CODES = [220, 250, 250, 250, 250, 220, 250, 235, 250, 250, 354, 250, 250, 250, 250, 250, 250, 250]


class Once:
    """
    A hook that is wrong once, and right from then on.

    :param fault: makes what it does the first time.
    """

    def __init__(self, fault: Callable[..., Any], usual: Callable[..., Any]) -> None:
        self.fault = fault
        self.usual = usual
        self.calls = 0

    def __call__(self, *args: Any) -> Any:
        """Do it."""
        self.calls += 1
        return self.fault(*args) if self.calls == 1 else self.usual(*args)


class OddPolicy(Policy):
    """A policy that a test makes wrong."""

    def connect(self, peer: Any) -> Any:
        """Consent."""

    def helo(self, peer: Any, name: str) -> Any:
        """Consent."""

    def mail(self, envelope: Any) -> Any:
        """Consent."""

    def rcpt(self, envelope: Any, recipient: Any) -> Any:
        """Consent."""

    def data(self, envelope: Any) -> Any:
        """Consent."""

    def content(self, envelope: Any, content: bytes) -> Any:
        """Consent."""

    def message(self, envelope: Any) -> Any:
        """Consent."""


class Odd(Extension):
    """An extension with a verb, that a test makes wrong."""

    keyword = "XODD"
    varies = True

    def __init__(self, hooks: dict[str, Any]) -> None:
        self.verbs = {"XODD": Verb(ANY, hooks["parse"], hooks["proceed"])}
        self._advertise = hooks["advertise"]

    def advertise(self, conversation: Any) -> str | None:
        """Say what the hook says."""
        return self._advertise(conversation)  # type: ignore[no-any-return]


class FaultTestCase(SynchronousTestCase):
    """A server with every hook there is."""

    def serve(self, hook: str, fault: Callable[..., Any]) -> Once:
        """Make the server, with one hook that is wrong once."""
        policy, _, name = hook.rpartition(" ")
        once = Once(fault, USUAL.get(name, lambda *args: None))
        hooks = dict(USUAL)
        if not policy:
            hooks[name] = once
        scripted = ScriptedBackend(
            {name: value for name, value in hooks.items() if name not in OTHERS},
            provides=(IAuthenticated, IAuthorizer, IGreeting, ISecured, IVerifier),
        )
        # A script that gives None gets what is usual there.
        chain = OddPolicy()
        if policy:
            self.patch(OddPolicy, name, lambda self, *args: once(*args))
        backend = with_policies(scripted, chain)
        checker = AnswerChecker(hooks["check_password"])
        self.factory, self.clock = tls_factory(
            backend,
            extensions=[*defaults(), Odd(hooks)],
            portal=Portal(CountingRealm(), [checker]),
            hook_timeout=10.0,
        )
        return once

    def speak(self, patient: bool = True) -> TLSWire:
        """Go through all of a dialogue, as far as it leads."""
        wire = TLSWire(self.factory)
        for line in LINES:
            if wire.closed:
                break
            wire.say(line)
            if patient and not wire.closed:
                wait(self.clock)
            if line == "STARTTLS" and wire.codes[-1:] == [220] and not wire.closed:
                wire.secure()
                wait(self.clock)
        return wire

    def check(self, hook: str, fault: Callable[..., Any], most: int) -> None:
        """
        Let one client meet the fault, and the next one none of it.

        :param most: errors that may be logged.
        """
        with self.subTest(hook=hook):
            once = self.serve(hook, fault)
            wire = self.speak()
            # They are well-formed, and nobody has waited for one in vain.
            self.assertTrue(wire.closed or len(wire.codes) >= len(CODES) - 2, (hook, wire.codes))
            self.assertNotIn("secret", wire.output.decode())
            wire.hang_up(ConnectionLost())
            self.assertGreaterEqual(once.calls, 1, hook)
            self.assertLessEqual(len(self.flushLoggedErrors()), most, hook)
            self.assertEqual(self.speak().codes, CODES, hook)
            self.assertEqual(self.flushLoggedErrors(), [], hook)


def wait(clock: Clock) -> None:
    """Let the deadline of a hook pass."""
    clock.pump([1.0] * 13)


def _raise(error: Exception) -> Any:
    raise error


async def _coroutine(error: Exception) -> Any:
    raise error


def _started(error: Exception) -> Coroutine[Any, Any, Any]:
    return _coroutine(error)


class FaultTests(FaultTestCase):
    def test_none(self) -> None:
        """Without a fault every command is taken."""
        for hook in HOOKS:
            with self.subTest(hook):
                _, _, name = hook.rpartition(" ")
                once = self.serve(hook, USUAL.get(name, lambda *args: None))
                self.assertEqual(self.speak().codes, CODES)
                if hook not in ("abort", "close", "open_session"):
                    self.assertGreaterEqual(once.calls, 1)

    def test_raises(self) -> None:
        """An exception, raised at once or by an awaitable."""
        faults: tuple[Callable[..., Any], ...] = (
            lambda *args: _raise(KeyError("secret")),
            lambda *args: fail(KeyError("secret")),
            lambda *args: _started(KeyError("secret")),
        )
        for hook in HOOKS:
            for fault in faults[:1] if hook in PLAIN else faults:
                self.check(hook, fault, 1)

    def test_refuses(self) -> None:
        """A refusal where one has a meaning, and where it has none."""
        for hook in HOOKS:
            self.check(hook, lambda *args: _raise(SMTPError(Reply(450, "Not now", "4.7.1"))), 1)

    def test_nonsense(self) -> None:
        """A value that has no meaning, at once or later."""
        for hook in HOOKS:
            for nonsense in (object(), 7, b"250 OK", Reply(354, "Go on"), [object()], {7: 8}):
                self.check(hook, lambda *args, value=nonsense: value, 1)
                if hook not in PLAIN:
                    self.check(hook, lambda *args, value=nonsense: succeed(value), 1)

    def test_never(self) -> None:
        """A Deferred that never fires: the deadline answers."""
        for hook in HOOKS:
            if hook not in PLAIN:
                self.check(hook, lambda *args: Deferred(), 0)

    def test_stubborn(self) -> None:
        """One that does not even fire when it is cancelled."""
        for hook in HOOKS:
            if hook not in PLAIN:
                self.check(hook, lambda *args: Deferred(lambda cancelled: None), 0)

    def test_cancel_raises(self) -> None:
        """One whose canceller raises."""
        for hook in HOOKS:
            if hook not in PLAIN:
                self.check(hook, lambda *args: Deferred(lambda cancelled: _raise(KeyError("secret"))), 1)


class GoneTests(FaultTestCase):
    def pending(self, hook: str, end: str) -> list[Deferred[Any]]:
        """Let the client go while a hook is pending; give the Deferreds of it."""
        given: list[Deferred[Any]] = []

        async def stubborn(*args: Any) -> Any:
            given.append(Deferred())
            if hook not in ("abort", "close"):
                try:
                    await Deferred()
                except CancelledError:
                    pass
            # Those two nobody waits for, so they are not asked to stop.
            return await given[-1]

        self.serve(hook, stubborn)
        wire = TLSWire(self.factory)
        for line in LINES:
            if given or wire.closed:
                break
            wire.say(line)
            if line == "STARTTLS":
                wire.secure()
        if end == "lost":
            wire.hang_up(ConnectionLost())
        elif end == "late":
            wait(self.clock)
            wire.hang_up(ConnectionLost())
        else:
            if wire.client is None:
                # TLS ends with its first end.
                wire.shut_down_sending()
            wire.hang_up(ConnectionLost())
        return given

    def check_late(self, hook: str, fire: Callable[[Deferred[Any]], Any]) -> None:
        """An answer behind the end of its client hurts nobody."""
        for end in ("lost", "late", "half"):
            with self.subTest(hook=hook, end=end):
                for deferred in self.pending(hook, end):
                    fire(deferred)
                self.assertLessEqual(len(self.flushLoggedErrors()), 1)
                self.assertEqual(self.factory.unfinished, set(), (hook, end))
                self.assertEqual(self.factory.connections, set())
                self.assertEqual(self.speak().codes, CODES)

    def test_fires(self) -> None:
        """A hook that consents when its client has gone."""
        for hook in HOOKS:
            if hook not in PLAIN:
                self.check_late(hook, lambda deferred: deferred.callback(None))

    def test_fails(self) -> None:
        """A hook that fails when its client has gone."""
        for hook in HOOKS:
            if hook not in PLAIN:
                self.check_late(hook, lambda deferred: deferred.errback(KeyError("secret")))

    def test_nonsense(self) -> None:
        """A hook that gives nonsense when its client has gone."""
        for hook in HOOKS:
            if hook not in PLAIN:
                self.check_late(hook, lambda deferred: deferred.callback(object()))

    def test_twice(self) -> None:
        """A Deferred that is fired twice is the firer's error, whether its client is there or not."""
        for hook in HOOKS:
            if hook in PLAIN:
                continue

            def fire(deferred: Deferred[Any]) -> None:
                deferred.callback(None)
                self.assertRaises(AlreadyCalledError, deferred.callback, None)

            self.check_late(hook, fire)
