from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.application.service import IService, MultiService, Service
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from smtpsvc.grammar import replies
from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.replies import PermanentError, Reply, SMTPError, TemporaryError
from smtpsvc.interfaces import (
    IAuthenticated,
    IBackend,
    IDelivery,
    IGreeting,
    ILogged,
    IPolicy,
    ISecured,
    ISession,
    IVerifier,
)
from smtpsvc.policies.chain import Policy, with_policies
from smtpsvc.policies.held import HeldMessage
from smtpsvc.session import Backend, Delivery, Session
from smtpsvc.values import Envelope, Peer, Recipient

NO = Reply(550, "Not here", "5.7.1")
LATER = Reply(450, "Not now", "4.7.1")
QUEUED = Reply(250, "Queued as 1", "2.0.0")

PEER = Peer(IPv4Address("TCP", "192.0.2.1", 50000), "c1")
ENVELOPE = Envelope("t1", PEER, Address("sender", "client.example"))
RECIPIENT = Recipient(Address("user", "example.com"))

#: The hooks of a policy that stand before one of a session, and how each of the two is called.
HOOKS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "helo": ((PEER, "client.example"), ("client.example",)),
    "mail": ((ENVELOPE,), (ENVELOPE,)),
    "rcpt": ((ENVELOPE, RECIPIENT), (ENVELOPE, RECIPIENT)),
    "data": ((ENVELOPE,), (ENVELOPE,)),
}


def answer(value: object) -> Any:
    """Give a scripted answer: call a function, raise an exception, return anything else."""
    if isinstance(value, BaseException):
        raise value
    return value() if callable(value) else value


def told(reply: Reply | None, id: str = "t1") -> Reply:
    """Give a refusal as the client hears it."""
    assert reply is not None
    return Reply(reply.code, f"{reply.text} ({id})", reply.enhanced)


class ScriptedDelivery(Delivery):
    """Notes its calls; answers as told."""

    def __init__(self, notes: list[Any], answers: dict[str, Any]) -> None:
        self.notes = notes
        self.answers = answers

    def write(self, content: bytes) -> Any:
        self.notes.append(("write", content))
        return answer(self.answers.get("write"))

    def finish(self) -> Any:
        self.notes.append("finish")
        return answer(self.answers.get("finish"))

    def abort(self, reason: Failure) -> Any:
        self.notes.append(("abort", reason.value))
        return answer(self.answers.get("abort"))


class ScriptedSession(Session):
    """Notes its calls; answers as told."""

    def __init__(self, notes: list[Any], answers: dict[str, Any]) -> None:
        self.notes = notes
        self.answers = answers

    def note(self, hook: str, *args: Any) -> Any:
        self.notes.append((hook, *args))
        return answer(self.answers.get(hook))

    def helo(self, name: str) -> Any:
        return self.note("helo", name)

    def mail(self, envelope: Envelope) -> Any:
        return self.note("mail", envelope)

    def rcpt(self, envelope: Envelope, recipient: Recipient) -> Any:
        return self.note("rcpt", envelope, recipient)

    def data(self, envelope: Envelope) -> Any:
        return self.note("data", envelope) or ScriptedDelivery(self.notes, self.answers)

    def reset(self, envelope: Envelope | None, upgraded: bool) -> Any:
        return self.note("reset", envelope, upgraded)

    def close(self, reason: Failure) -> Any:
        return self.note("close", reason)


class ScriptedBackend(Backend):
    """Its sessions note their calls in ``notes`` and answer as told."""

    supports = frozenset({"DSN"})
    max_message_size = 1000
    shareable = False
    per_recipient = True
    destination = "/var/mail"

    def __init__(self, **answers: Any) -> None:
        self.notes: list[Any] = []
        self.answers = answers

    def open_session(self, peer: Peer, connection: Any) -> Any:
        self.notes.append(("open_session", peer, connection))
        return answer(self.answers.get("open_session")) or ScriptedSession(self.notes, self.answers)


class ServiceBackend(ScriptedBackend, Service):
    """A backend that is a service too."""


def policy(notes: list[Any] | None = None, **answers: Any) -> Any:
    """Make a policy that overrides the named checks alone, notes their calls and answers as told."""

    def check(hook: str) -> Callable[..., Any]:
        def asked(self: Policy, *args: Any) -> Any:
            if notes is not None:
                notes.append((hook, *args))
            return answer(answers[hook])

        return asked

    return type("Scripted", (Policy,), {hook: check(hook) for hook in answers})()


def opened(backend: IBackend) -> Any:
    """Open a session that needs no waiting."""
    return backend.open_session(PEER, None)  # type: ignore[arg-type]


def fired(value: object) -> Callable[[], Any]:
    """Make a script of a Deferred that has fired."""
    return lambda: fail(value) if isinstance(value, Exception) else succeed(value)


def coroutine(value: object) -> Callable[[], Any]:
    """Make a script of a coroutine."""

    async def hook() -> Any:
        return answer(value)

    return hook


def waiting(deferred: Deferred[Any]) -> Callable[[], Any]:
    """Make a script of a Deferred that is fired by the test."""
    return lambda: deferred


#: Every way in which a check can give the same answer.
FORMS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda value: value,
    "Deferred": fired,
    "coroutine": coroutine,
}


class ChainTestCase(SynchronousTestCase):
    def result(self, outcome: Any) -> Any:
        """Give an outcome's value, that of an awaitable included; it must not be pending."""
        if isinstance(outcome, Deferred):
            return self.successResultOf(outcome)
        if asyncio.iscoroutine(outcome):
            return self.successResultOf(Deferred.fromCoroutine(outcome))
        return outcome


class BuildTests(ChainTestCase):
    def test_no_policies(self) -> None:
        """Without policies the backend stays what it is."""
        backend = ScriptedBackend()
        self.assertIs(with_policies(backend), backend)

    def test_no_checks(self) -> None:
        """Policies that check nothing leave the backend as it is."""
        backend = ScriptedBackend()
        self.assertIs(with_policies(backend, Policy(), policy()), backend)

    def test_not_a_backend(self) -> None:
        """What is no backend is refused, also where it would not be changed."""
        error = self.assertRaises(TypeError, with_policies, object)
        self.assertEqual(str(error), "<class 'object'> is no backend: it does not provide IBackend")

    def test_forgotten_backend(self) -> None:
        """A policy in the place of the backend is refused."""
        self.assertRaises(TypeError, with_policies, policy(mail=NO), policy(mail=NO))

    def test_class_of_policy(self) -> None:
        """A class in the place of its instance is refused."""
        error = self.assertRaises(TypeError, with_policies, ScriptedBackend(), Policy)
        self.assertEqual(str(error), f"{Policy!r} is no policy: it does not provide IPolicy")

    def test_provides(self) -> None:
        """The base class and what the chain makes provide their interfaces."""
        guarded = with_policies(ScriptedBackend(), policy(connect=None, mail=None, content=None, message=None))
        session = opened(guarded)
        verifyObject(IPolicy, Policy())
        verifyObject(IBackend, guarded)
        verifyObject(ISession, session)
        verifyObject(IDelivery, session.data(ENVELOPE))

    def test_base_consents(self) -> None:
        """The base class says yes to everything."""
        base = Policy()
        calls = {
            "connect": (PEER,),
            **{hook: args for hook, (args, _) in HOOKS.items()},
            "content": (ENVELOPE, b"x"),
            "message": (ENVELOPE,),
            "examine": (ENVELOPE, HeldMessage(ENVELOPE, b"")),
        }
        self.assertEqual(set(calls), set(IPolicy.names()))
        for hook, args in calls.items():
            with self.subTest(hook=hook):
                self.assertIsNone(getattr(base, hook)(*args))

    def test_attributes(self) -> None:
        """The attributes of the backend show through, as they are at the time."""
        backend = ScriptedBackend()
        guarded: Any = with_policies(backend, policy(mail=None))
        backend.max_message_size = 2000
        self.assertEqual(guarded.supports, {"DSN"})
        self.assertEqual(guarded.max_message_size, 2000)
        self.assertIs(guarded.shareable, False)
        self.assertIs(guarded.per_recipient, True)
        self.assertEqual(guarded.destination, "/var/mail")

    def test_missing_attribute(self) -> None:
        """What the backend lacks is missing, so that getattr with a default works."""
        self.assertFalse(hasattr(with_policies(ScriptedBackend(), policy(mail=None)), "describe"))

    def test_private_attribute(self) -> None:
        """Private names of the backend do not show through."""
        backend = ScriptedBackend()
        backend._secret = 1  # type: ignore[attr-defined]
        error = self.assertRaises(AttributeError, lambda: with_policies(backend, policy(mail=None))._secret)  # type: ignore[attr-defined]
        self.assertIn("_secret", str(error))

    def test_service(self) -> None:
        """A backend that is a service is started and stopped through the chain."""
        backend = ServiceBackend()
        guarded: Any = with_policies(backend, policy(mail=None))
        verifyObject(IService, guarded)
        parent = MultiService()
        guarded.setServiceParent(parent)
        parent.startService()
        self.assertTrue(backend.running)
        self.result(parent.stopService())
        self.assertFalse(backend.running)

    def test_no_service(self) -> None:
        """A backend that is no service does not become one."""
        self.assertFalse(IService.providedBy(with_policies(ScriptedBackend(), policy(mail=None))))

    def test_repr(self) -> None:
        """The repr names the policies and the backend."""

        class Named(Policy):
            def mail(self, envelope: Envelope) -> Any:
                return None

            def __repr__(self) -> str:
                return "Named()"

        class Plain(ScriptedBackend):
            def __repr__(self) -> str:
                return "Plain()"

        guarded = with_policies(Plain(), Named(), Named())
        self.assertEqual(repr(guarded), "<Named(), Named() in front of Plain()>")

    def test_repr_of_session(self) -> None:
        """The repr of a session contains that of the backend's."""
        backend = ScriptedBackend()
        backend.answers["open_session"] = session = ScriptedSession([], {})
        self.assertEqual(repr(opened(with_policies(backend, policy(mail=None)))), f"<policies in front of {session!r}>")

    def test_foreign_policy(self) -> None:
        """A policy with none of our base classes works, and all of its checks are asked."""

        @implementer(IPolicy)
        class Foreign:
            def __getattr__(self, name: str) -> Any:
                return lambda *args: NO if name == "rcpt" else None

        session = opened(with_policies(ScriptedBackend(), Foreign()))
        self.assertIsNone(session.mail(ENVELOPE))
        self.assertEqual(session.rcpt(ENVELOPE, RECIPIENT), told(NO))

    def test_check_set_on_instance(self) -> None:
        """A check that was set on the instance counts as overridden."""
        instance = policy()
        instance.mail = lambda envelope: NO
        self.assertEqual(opened(with_policies(ScriptedBackend(), instance)).mail(ENVELOPE), told(NO))


class HookTests(ChainTestCase):
    def test_consent(self) -> None:
        """Each check is asked with its arguments, then the session's hook with its own."""
        for hook, (args, own_args) in HOOKS.items():
            with self.subTest(hook=hook):
                backend = ScriptedBackend(**{hook: QUEUED})
                session = opened(with_policies(backend, policy(backend.notes, **{hook: None})))
                del backend.notes[:]
                self.assertEqual(getattr(session, hook)(*own_args), QUEUED)
                self.assertEqual(backend.notes, [(hook, *args), (hook, *own_args)])

    def test_refusal(self) -> None:
        """A refusal is the answer in whatever form it comes, and the session does not hear of it."""
        for hook, (_, own_args) in HOOKS.items():
            for form, make in FORMS.items():
                for value in (NO, LATER, replies.SHUTTING_DOWN):
                    for given_value in (value, SMTPError(value)):
                        with self.subTest(hook=hook, form=form, given=given_value):
                            backend = ScriptedBackend()
                            session = opened(with_policies(backend, policy(**{hook: make(given_value)})))
                            del backend.notes[:]
                            self.assertEqual(
                                self.result(getattr(session, hook)(*own_args)),
                                told(value, "c1" if hook == "helo" else "t1"),
                            )
                            self.assertEqual(backend.notes, [])

    def test_positive_reply(self) -> None:
        """A 2xx Reply of a policy is consent; the wording is the backend's."""
        for form, make in FORMS.items():
            with self.subTest(form=form):
                session = opened(with_policies(ScriptedBackend(), policy(mail=make(QUEUED))))
                self.assertIsNone(self.result(session.mail(ENVELOPE)))

    def test_order(self) -> None:
        """Policies are asked in order, the backend last."""
        asked: list[Any] = []
        first, second = policy(asked, mail=None), policy(asked, rcpt=None)
        third = policy(asked, mail=lambda: asked.append("third"))
        backend = ScriptedBackend(mail=lambda: asked.append("backend"))
        self.assertIsNone(opened(with_policies(backend, first, second, third)).mail(ENVELOPE))
        self.assertEqual(asked, [("mail", ENVELOPE), ("mail", ENVELOPE), "third", "backend"])

    def test_first_refusal_wins(self) -> None:
        """Policies behind the first refusal are not asked, whether it came at once or later."""
        for form, make in FORMS.items():
            with self.subTest(form=form):
                asked: list[Any] = []
                chain = policy(mail=make(None)), policy(mail=make(LATER)), policy(asked, mail=NO)
                self.assertEqual(
                    self.result(opened(with_policies(ScriptedBackend(), *chain)).mail(ENVELOPE)), told(LATER)
                )
                self.assertEqual(asked, [])

    def test_mistake(self) -> None:
        """An exception that is no SMTPError goes through to the server as it is."""
        for hook, (_, own_args) in HOOKS.items():
            with self.subTest(hook=hook):
                session = opened(with_policies(ScriptedBackend(), policy(None, **{hook: KeyError("oops")})))
                self.assertRaises(KeyError, getattr(session, hook), *own_args)

    def test_late_mistake(self) -> None:
        """An exception behind an awaitable goes through to the server as well."""
        for make in (fired, coroutine):
            with self.subTest(form=make.__name__):
                session = opened(with_policies(ScriptedBackend(), policy(mail=make(KeyError("oops")))))
                self.failureResultOf(Deferred.fromCoroutine(session.mail(ENVELOPE)), KeyError)

    def test_mistake_after_waiting(self) -> None:
        """An SMTPError or mistake of a check behind a waiting one is treated the same."""
        chain = with_policies(ScriptedBackend(), policy(mail=fired(None)), policy(mail=PermanentError("No", "5.7.1")))
        self.assertEqual(self.result(opened(chain).mail(ENVELOPE)), told(Reply(550, "No", "5.7.1")))
        chain = with_policies(ScriptedBackend(), policy(mail=fired(None)), policy(mail=KeyError("oops")))
        self.failureResultOf(Deferred.fromCoroutine(opened(chain).mail(ENVELOPE)), KeyError)

    def test_nonsense(self) -> None:
        """What is no Outcome, False above all, is a mistake and no consent."""
        for form, make in FORMS.items():
            for value in (False, True, b"550 no", 550):
                with self.subTest(form=form, value=value):
                    backend = ScriptedBackend()
                    session = opened(with_policies(backend, policy(mail=make(value))))
                    del backend.notes[:]
                    failure = self.failureResultOf(Deferred.fromCoroutine(session.mail(ENVELOPE)), TypeError)
                    self.assertEqual(str(failure.value), f"a check gave {value!r}, which is neither None nor a Reply")
                    self.assertEqual(backend.notes, [])

    def test_3xx(self) -> None:
        """A 3xx Reply is no consent; it is handed on for the server to judge."""
        for form, make in FORMS.items():
            with self.subTest(form=form):
                session = opened(with_policies(ScriptedBackend(), policy(mail=make(replies.START_MAIL))))
                self.assertEqual(self.result(session.mail(ENVELOPE)), replies.START_MAIL)

    def test_backend_refuses(self) -> None:
        """What the backend raises or returns is untouched."""
        backend = ScriptedBackend(mail=NO, rcpt=TemporaryError("x"))
        session = opened(with_policies(backend, policy(mail=None, rcpt=None)))
        self.assertEqual(session.mail(ENVELOPE), NO)
        self.assertRaises(TemporaryError, session.rcpt, ENVELOPE, RECIPIENT)

    def test_nested(self) -> None:
        """Of two chains the outer one is asked first; both refuse."""
        asked: list[Any] = []
        inner = with_policies(ScriptedBackend(), policy(asked, mail=lambda: asked.append("inner"), rcpt=NO))
        outer = with_policies(inner, policy(mail=lambda: asked.append("outer"), helo=LATER))
        session = opened(outer)
        self.assertIsNone(session.mail(ENVELOPE))
        self.assertEqual(asked, ["outer", ("mail", ENVELOPE), "inner"])
        self.assertEqual(session.rcpt(ENVELOPE, RECIPIENT), told(NO))
        self.assertEqual(session.helo("x"), told(LATER, "c1"))
        verifyObject(ISession, session)

    @given(
        st.lists(
            st.tuples(st.sampled_from(sorted(FORMS)), st.sampled_from([None, QUEUED, NO, LATER]), st.booleans()),
            max_size=8,
        )
    )
    def test_any_chain(self, script: list[tuple[str, Reply | None, bool]]) -> None:
        """In any mixture of forms the answer is the first refusal, and exactly those up to it are asked."""
        asked: list[Any] = []
        chain = []
        for form, reply, raises in script:
            value = SMTPError(reply) if raises and reply is not None and not reply.positive else reply
            chain.append(policy(asked, mail=FORMS[form](value)))
        refusals = [place for place, (_, reply, _) in enumerate(script) if reply is not None and not reply.positive]
        backend = ScriptedBackend()
        outcome = self.result(opened(with_policies(backend, *chain)).mail(ENVELOPE))
        self.assertEqual(outcome, told(script[refusals[0]][1]) if refusals else None)
        self.assertEqual(len(asked), refusals[0] + 1 if refusals else len(script))
        self.assertEqual(backend.notes.count(("mail", ENVELOPE)), 0 if refusals else 1)


class AbsentCheckTests(ChainTestCase):
    def test_own_hooks(self) -> None:
        """A hook for which there is no check is the backend session's own."""
        for checked in HOOKS:
            backend = ScriptedBackend()
            backend.answers["open_session"] = own = ScriptedSession([], {})
            session = opened(with_policies(backend, policy(**{checked: None})))
            for hook in {*HOOKS, "reset", "close"} - {checked}:
                with self.subTest(checked=checked, hook=hook):
                    self.assertEqual(getattr(session, hook), getattr(own, hook))

    def test_connect_only(self) -> None:
        """A chain that checks connections only leaves the session as it is."""
        backend = ScriptedBackend()
        backend.answers["open_session"] = own = ScriptedSession([], {})
        self.assertIs(opened(with_policies(backend, policy(connect=None))), own)

    def test_own_delivery(self) -> None:
        """Without checks of the content or the message the delivery is the backend's own."""
        delivery = ScriptedDelivery([], {})
        session = opened(with_policies(ScriptedBackend(data=delivery), policy(data=None, rcpt=None)))
        self.assertIs(session.data(ENVELOPE), delivery)

    def test_own_methods_of_delivery(self) -> None:
        """With one of the two checks the delivery's other methods are the backend's own."""
        for checked, others in {"content": {"finish", "abort"}, "message": {"write", "abort"}}.items():
            own = ScriptedDelivery([], {})
            session = opened(with_policies(ScriptedBackend(data=own), policy(**{checked: None})))
            delivery = session.data(ENVELOPE)
            for method in others:
                with self.subTest(checked=checked, method=method):
                    self.assertEqual(getattr(delivery, method), getattr(own, method))

    def test_no_cycle(self) -> None:
        """A session is freed when the last reference goes, without the garbage collector."""

        class Weak(ScriptedSession):
            pass

        own = Weak([], {})
        gone = weakref.ref(own)
        everything = policy(connect=None, helo=None, mail=None, rcpt=None, data=None, content=None, message=None)
        backend = ScriptedBackend(open_session=own)
        session = opened(with_policies(backend, everything))
        gc.disable()
        self.addCleanup(gc.enable)
        del own, session
        backend.answers.clear()
        self.assertIsNone(gone())


class ConnectTests(ChainTestCase):
    def test_consent(self) -> None:
        """The check is asked with the peer, then the backend opens its session."""
        backend = ScriptedBackend()
        guarded = with_policies(backend, policy(backend.notes, connect=None))
        connection: Any = object()
        verifyObject(ISession, guarded.open_session(PEER, connection))
        self.assertEqual(backend.notes, [("connect", PEER), ("open_session", PEER, connection)])

    def test_refusal(self) -> None:
        """A refused client gets the reply for a greeting; the backend does not hear of it."""
        for form, make in FORMS.items():
            for given_value in (NO, SMTPError(NO)):
                with self.subTest(form=form, given=given_value):
                    backend = ScriptedBackend()
                    guarded = with_policies(backend, policy(connect=make(given_value)))
                    self.assertEqual(self.result(opened(guarded)), told(NO, "c1"))
                    self.assertEqual(backend.notes, [])

    def test_waiting(self) -> None:
        """A check that waits holds the backend back; what comes then is guarded."""
        verdict: Deferred[None] = Deferred()
        backend = ScriptedBackend()
        pending = Deferred.fromCoroutine(opened(with_policies(backend, policy(connect=waiting(verdict), mail=NO))))
        self.assertNoResult(pending)
        self.assertEqual(backend.notes, [])
        verdict.callback(None)
        self.assertEqual(self.successResultOf(pending).mail(ENVELOPE), told(NO))

    def test_cancel(self) -> None:
        """To cancel the opening cancels the check that waits, and the backend is not asked."""
        verdict: Deferred[None] = Deferred()
        backend = ScriptedBackend()
        pending = Deferred.fromCoroutine(opened(with_policies(backend, policy(connect=waiting(verdict)))))
        pending.cancel()
        self.failureResultOf(pending, CancelledError)
        self.assertEqual(backend.notes, [])

    def test_session_comes_later(self) -> None:
        """A session that the backend opens later is guarded all the same."""
        for make in (fired, coroutine):
            with self.subTest(form=make.__name__):
                backend = ScriptedBackend(open_session=make(ScriptedSession([], {})))
                session = self.result(opened(with_policies(backend, policy(mail=NO))))
                self.assertEqual(session.mail(ENVELOPE), told(NO))

    def test_backend_refuses(self) -> None:
        """A Reply of the backend in the place of a session goes through."""
        for form, make in FORMS.items():
            with self.subTest(form=form):
                guarded = with_policies(ScriptedBackend(open_session=make(NO)), policy(mail=None))
                self.assertEqual(self.result(opened(guarded)), NO)

    def test_no_session(self) -> None:
        """What is no session is a mistake, never an unguarded session."""
        guarded = with_policies(ScriptedBackend(open_session="session"), policy(mail=None))
        error = self.assertRaises(TypeError, opened, guarded)
        self.assertIn("opened 'session', which does not provide ISession", str(error))


class WaitingTests(ChainTestCase):
    def test_plain_makes_nothing(self) -> None:
        """Checks that answer at once are answered at once, with no awaitable made."""
        chain = policy(helo=None, mail=QUEUED, rcpt=NO), policy(helo=None, mail=None)
        session = opened(with_policies(ScriptedBackend(), *chain))
        self.assertIsNone(session.helo("x"))
        self.assertIsNone(session.mail(ENVELOPE))
        self.assertEqual(session.rcpt(ENVELOPE, RECIPIENT), told(NO))

    def test_hook_of_backend_untouched(self) -> None:
        """A Deferred of the backend's hook behind plain checks is given as it is."""
        deferred: Deferred[None] = Deferred()
        session = opened(with_policies(ScriptedBackend(mail=waiting(deferred)), policy(mail=None)))
        self.assertIs(session.mail(ENVELOPE), deferred)

    def test_waits_in_order(self) -> None:
        """Each waits for the one before it: two policies, then the backend."""
        first: Deferred[None] = Deferred()
        second: Deferred[None] = Deferred()
        third: Deferred[Reply] = Deferred()
        asked: list[Any] = []
        backend = ScriptedBackend(mail=waiting(third))
        chain = policy(asked, mail=waiting(first)), policy(asked, mail=waiting(second))
        session = opened(with_policies(backend, *chain))
        pending = Deferred.fromCoroutine(session.mail(ENVELOPE))
        self.assertEqual(len(asked), 1)
        first.callback(None)
        self.assertEqual(len(asked), 2)
        self.assertNotIn(("mail", ENVELOPE), backend.notes)
        second.callback(None)
        self.assertIn(("mail", ENVELOPE), backend.notes)
        self.assertNoResult(pending)
        third.callback(QUEUED)
        self.assertEqual(self.successResultOf(pending), QUEUED)

    def test_cancel(self) -> None:
        """To cancel the outcome cancels the check that waits; nothing behind it is asked."""
        cancelled: list[Any] = []
        verdict: Deferred[None] = Deferred(cancelled.append)
        backend = ScriptedBackend()
        session = opened(with_policies(backend, policy(mail=waiting(verdict)), policy(backend.notes, mail=None)))
        del backend.notes[:]
        pending = Deferred.fromCoroutine(session.mail(ENVELOPE))
        pending.cancel()
        self.failureResultOf(pending, CancelledError)
        self.assertEqual(cancelled, [verdict])
        self.assertEqual(backend.notes, [])

    def test_asyncio_future(self) -> None:
        """A check may give an asyncio Future."""

        async def check() -> None:
            future = asyncio.get_running_loop().create_future()
            session = opened(with_policies(ScriptedBackend(), policy(mail=lambda: future)))
            pending = Deferred.fromCoroutine(session.mail(ENVELOPE))
            self.assertNoResult(pending)
            future.set_result(NO)
            await asyncio.sleep(0)
            self.assertEqual(self.successResultOf(pending), told(NO))

        asyncio.run(check())

    def test_many_fired(self) -> None:
        """A thousand policies with fired Deferreds make no deep stack."""
        session = opened(with_policies(ScriptedBackend(), *[policy(mail=fired(None))] * 1000))
        self.assertIsNone(self.result(session.mail(ENVELOPE)))


class OptionalInterfaceTests(ChainTestCase):
    OPTIONAL = (IAuthenticated, IGreeting, ILogged, ISecured, IVerifier)

    def guarded(self, interfaces: Iterable[Any], **attributes: Any) -> Any:
        """Open a guarded session whose own provides *interfaces* too."""
        own = implementer(*interfaces)(type("Own", (ScriptedSession,), attributes))
        return opened(with_policies(ScriptedBackend(open_session=lambda: own([], {})), policy(mail=None)))

    def test_only_those(self) -> None:
        """A guarded session provides the optional interfaces of its own session and no other."""
        for provided in ((), *((interface,) for interface in self.OPTIONAL), self.OPTIONAL):
            with self.subTest(provided=provided):
                session = self.guarded(provided)
                shown = [interface for interface in self.OPTIONAL if interface.providedBy(session)]
                self.assertEqual(shown, list(provided))
                self.assertTrue(ISession.providedBy(session))

    def test_methods(self) -> None:
        """The methods and attributes of the optional interfaces show through."""
        logger = object()
        session = self.guarded(
            (IGreeting, ILogged, IVerifier),
            ehlo=lambda self, lines: [*lines, "X-OWN"],
            verify=lambda self, query: [query],
            expand=lambda self, query: NO,
            logger=logger,
        )
        for interface in (IGreeting, ILogged, IVerifier):
            verifyObject(interface, session)
        self.assertEqual(session.ehlo(["SIZE"]), ["SIZE", "X-OWN"])
        self.assertEqual(session.verify("a"), ["a"])
        self.assertIs(session.logger, logger)

    def test_adapts(self) -> None:
        """To adapt a guarded session to what it provides gives itself, so the checks stay."""
        session = self.guarded((IVerifier,))
        self.assertIs(IVerifier(session), session)
        self.assertIsNone(IGreeting(session, None))

    def test_reset_and_close(self) -> None:
        """Hooks without checks reach the session with their arguments and results."""
        backend = ScriptedBackend(reset=QUEUED)
        session = opened(with_policies(backend, policy(mail=None)))
        del backend.notes[:]
        self.assertEqual(session.reset(ENVELOPE, True), QUEUED)
        session.close("reason")
        self.assertEqual(backend.notes, [("reset", ENVELOPE, True), ("close", "reason")])


class DeliveryTestCase(ChainTestCase):
    def begin(self, *policies: Any, **answers: Any) -> tuple[Any, list[Any]]:
        """Give a guarded delivery, and the list of what the backend's is asked."""
        backend = ScriptedBackend(**answers)
        delivery = self.result(opened(with_policies(backend, *policies)).data(ENVELOPE))
        del backend.notes[:]
        return delivery, backend.notes


class ContentTests(DeliveryTestCase):
    def test_consent(self) -> None:
        """Each piece is checked with the envelope, then written; what write returns is given."""
        asked: list[Any] = []
        deferred: Deferred[None] = Deferred()
        delivery, notes = self.begin(policy(asked, content=None), write=waiting(deferred))
        self.assertIs(delivery.write(b"one"), deferred)
        self.assertEqual(asked, [("content", ENVELOPE, b"one")])
        self.assertEqual(notes, [("write", b"one")])

    def test_refusal(self) -> None:
        """A refusal that comes at once is raised from write; the delivery gets nothing of the piece."""
        for value in (NO, SMTPError(NO)):
            with self.subTest(value=value):
                delivery, notes = self.begin(policy(content=value))
                self.assertEqual(self.assertRaises(SMTPError, delivery.write, b"one").reply, told(NO))
                self.assertEqual(notes, [])

    def test_late_refusal(self) -> None:
        """A refusal that comes later is raised from the awaitable that write gave."""
        for make in (fired, coroutine):
            for value in (NO, SMTPError(NO)):
                with self.subTest(form=make.__name__, value=value):
                    delivery, notes = self.begin(policy(content=make(value)))
                    failure = self.failureResultOf(Deferred.fromCoroutine(delivery.write(b"one")), SMTPError)
                    self.assertEqual(failure.value.reply, told(NO))
                    self.assertEqual(notes, [])

    def test_waiting(self) -> None:
        """A check that waits holds the piece back, and write waits for the backend's write too."""
        verdict: Deferred[None] = Deferred()
        written: Deferred[None] = Deferred()
        delivery, notes = self.begin(policy(content=waiting(verdict)), write=waiting(written))
        pending = Deferred.fromCoroutine(delivery.write(b"one"))
        self.assertEqual(notes, [])
        verdict.callback(None)
        self.assertEqual(notes, [("write", b"one")])
        self.assertNoResult(pending)
        written.callback(None)
        self.assertIsNone(self.successResultOf(pending))

    def test_abort_passes(self) -> None:
        """The abort that the server calls after a refusal reaches the delivery."""
        delivery, notes = self.begin(policy(content=NO, message=None))
        error = SMTPError(NO)
        delivery.abort(Failure(error))
        self.assertEqual(notes, [("abort", error)])

    def test_mistake(self) -> None:
        """An exception that is no SMTPError goes through."""
        delivery, _ = self.begin(policy(content=KeyError("oops")))
        self.assertRaises(KeyError, delivery.write, b"one")

    def test_delivery_comes_later(self) -> None:
        """A delivery that the session begins later is guarded all the same."""
        for make in (fired, coroutine):
            with self.subTest(form=make.__name__):
                delivery, _ = self.begin(policy(data=make(None), content=NO), data=make(ScriptedDelivery([], {})))
                self.assertRaises(SMTPError, delivery.write, b"one")

    def test_session_refuses(self) -> None:
        """A Reply of the session in the place of a delivery goes through."""
        for form, make in FORMS.items():
            with self.subTest(form=form):
                session = opened(with_policies(ScriptedBackend(data=make(NO)), policy(content=None)))
                self.assertEqual(self.result(session.data(ENVELOPE)), NO)

    def test_no_delivery(self) -> None:
        """What is no delivery is a mistake, never an unguarded delivery."""
        session = opened(with_policies(ScriptedBackend(data="delivery"), policy(content=None)))
        error = self.assertRaises(TypeError, session.data, ENVELOPE)
        self.assertIn("gave 'delivery', which does not provide IDelivery", str(error))

    def test_nested(self) -> None:
        """The content checks of two chains are both asked, the outer ones first."""
        asked: list[Any] = []
        inner = with_policies(ScriptedBackend(), policy(content=lambda: asked.append("inner")))
        session = opened(with_policies(inner, policy(content=lambda: asked.append("outer"))))
        session.data(ENVELOPE).write(b"one")
        self.assertEqual(asked, ["outer", "inner"])


class MessageTests(DeliveryTestCase):
    def test_consent(self) -> None:
        """The check is asked with the envelope before finish, whose outcome is given."""
        for outcome in (None, QUEUED, [None, NO]):
            with self.subTest(outcome=outcome):
                backend = ScriptedBackend(finish=outcome)
                delivery = opened(with_policies(backend, policy(backend.notes, message=None))).data(ENVELOPE)
                del backend.notes[:]
                self.assertIs(delivery.finish(), outcome)
                self.assertEqual(backend.notes, [("message", ENVELOPE), "finish"])

    def test_late_consent(self) -> None:
        """A check that waits holds finish back; the outcome, a list too, is then what finish gives."""
        for outcome in (None, QUEUED, fired(QUEUED), [None, NO]):
            with self.subTest(outcome=outcome):
                verdict: Deferred[None] = Deferred()
                delivery, notes = self.begin(policy(message=waiting(verdict)), finish=outcome)
                pending = Deferred.fromCoroutine(delivery.finish())
                self.assertEqual(notes, [])
                verdict.callback(None)
                self.assertEqual(self.successResultOf(pending), QUEUED if callable(outcome) else outcome)
                self.assertEqual(notes, ["finish"])

    def test_refusal(self) -> None:
        """A refusal is the outcome of finish; the delivery is aborted with it and not finished."""
        for form, make in FORMS.items():
            for value in (NO, SMTPError(NO)):
                with self.subTest(form=form, value=value):
                    delivery, notes = self.begin(policy(message=make(value)))
                    self.assertEqual(self.result(delivery.finish()), told(NO))
                    [(call, error)] = notes
                    self.assertEqual(call, "abort")
                    self.assertIsInstance(error, SMTPError)
                    self.assertEqual(error.reply, told(NO))

    def test_mistake(self) -> None:
        """A check that fails has the delivery aborted, and the exception goes through."""
        error = KeyError("oops")
        delivery, notes = self.begin(policy(message=error))
        self.assertRaises(KeyError, delivery.finish)
        self.assertEqual(notes, [("abort", error)])

    def test_late_mistake(self) -> None:
        """A check that fails later has the delivery aborted as well."""
        error = KeyError("oops")
        for make in (fired, coroutine):
            with self.subTest(form=make.__name__):
                delivery, notes = self.begin(policy(message=make(error)))
                self.failureResultOf(Deferred.fromCoroutine(delivery.finish()), KeyError)
                self.assertEqual(notes, [("abort", error)])

    def test_cancel(self) -> None:
        """To cancel a check that waits has the delivery aborted: the message was not taken."""
        delivery, notes = self.begin(policy(message=waiting(Deferred())))
        pending = Deferred.fromCoroutine(delivery.finish())
        pending.cancel()
        self.failureResultOf(pending, CancelledError)
        [(call, error)] = notes
        self.assertEqual(call, "abort")
        self.assertIsInstance(error, CancelledError)

    def test_finish_fails(self) -> None:
        """A finish that fails is not followed by abort."""
        for form, make in FORMS.items():
            with self.subTest(form=form):
                delivery, notes = self.begin(policy(message=make(None)), finish=PermanentError("Full", "5.2.2"))
                if form == "plain":
                    self.assertRaises(PermanentError, delivery.finish)
                else:
                    self.failureResultOf(Deferred.fromCoroutine(delivery.finish()), PermanentError)
                self.assertEqual(notes, ["finish"])

    def test_abort_in_background(self) -> None:
        """The refusal does not wait for an abort that does."""
        aborted: Deferred[None] = Deferred()
        delivery, _ = self.begin(policy(message=NO), abort=waiting(aborted))
        self.assertEqual(delivery.finish(), told(NO))

    def test_abort_fails(self) -> None:
        """An abort that fails, at once or later, is logged and the refusal stands."""
        for form, make in FORMS.items():
            with self.subTest(form=form):
                delivery, _ = self.begin(policy(message=NO), abort=make(KeyError("oops")))
                self.assertEqual(delivery.finish(), told(NO))
                self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_all_at_once(self) -> None:
        """Content and message checks work on the same delivery."""
        asked: list[Any] = []
        delivery, notes = self.begin(policy(asked, content=None, message=None), policy(asked, message=None))
        delivery.write(b"one")
        delivery.write(b"two")
        self.assertIsNone(delivery.finish())
        self.assertEqual([call for call, *_ in asked], ["content", "content", "message", "message"])
        self.assertEqual(notes, [("write", b"one"), ("write", b"two"), "finish"])
