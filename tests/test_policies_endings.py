"""
Tests of smtpsvc.policies.endings and discarded: what a policy does when a client or a transaction is gone.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.replies import Reply
from smtpsvc.policies.chain import Policy, with_policies
from smtpsvc.policies.discarded import discard
from smtpsvc.policies.endings import at_end
from smtpsvc.policies.modified import modified
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Envelope, Peer
from tests.support import settings_with

MAIL = ("MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>")
LETTER = (*MAIL, "DATA", "Subject: x", "", "Hello", ".")


class Tidy(Policy):
    """Notes what ends, and answers the connection with *outcome*."""

    tidies = True

    def __init__(self, outcome: Any = None) -> None:
        self.outcome = outcome
        self.ended: list[str] = []

    def connect(self, peer: Peer) -> Any:
        at_end(peer, lambda: self.ended.append("client"))
        return self.outcome

    def mail(self, envelope: Envelope) -> None:
        at_end(envelope, lambda: self.ended.append("transaction"))


class Discarding(Policy):
    """Discards everything at DATA."""

    prepends = True

    def data(self, envelope: Envelope) -> None:
        discard(envelope)


def serve(*policies: Any, **answers: Any) -> tuple[Wire, ScriptedBackend]:
    """Connect to a server with policies."""
    backend = ScriptedBackend(**answers)
    factory, _ = clocked_factory(with_policies(backend, *policies), settings_with(add_received=False))
    return Wire(factory), backend


class EndingTests(SynchronousTestCase):
    def test_ends(self) -> None:
        """A transaction ends with its message, RSET or EHLO, and a client with its connection; each once."""
        policy = Tidy()
        wire, backend = serve(policy)
        wire.greeted().say(*LETTER)
        self.assertEqual(policy.ended, ["transaction"])
        wire.say(*MAIL, "RSET", *MAIL, "EHLO client.example")
        self.assertEqual(policy.ended, ["transaction"] * 3)
        wire.say("QUIT").hang_up()
        self.assertEqual(policy.ended, [*["transaction"] * 3, "client"])
        self.assertEqual(backend.hooks[-1], "close")

    def test_lost(self) -> None:
        """A connection that is lost ends the client."""
        policy = Tidy()
        wire, _ = serve(policy)
        wire.greeted().say(*MAIL).hang_up()
        self.assertIn("client", policy.ended)

    def test_not_let_in(self) -> None:
        """A client that is refused is gone, whoever refuses it, at once or later, and so is one that goes first."""
        later: Deferred[Any] = Deferred()
        for outcome, answers in (
            (Reply(554, "No"), {}),
            (None, {"open_session": Reply(554, "No")}),
            (None, {"open_session": KeyError("oops")}),
            (later, {}),
            (Deferred(), {}),
        ):
            policy = Tidy(outcome)
            wire, _ = serve(policy, **answers)
            if outcome is later:
                self.assertEqual(policy.ended, [])
                later.callback(Reply(554, "No"))
            elif isinstance(outcome, Deferred):
                wire.hang_up()
            self.assertEqual(policy.ended, ["client"])
        self.flushLoggedErrors(KeyError)

    def test_mistakes(self) -> None:
        """One that cannot tidy up is in the log, and does not keep others from it."""

        class Untidy(Policy):
            tidies = True

            def connect(self, peer: Peer) -> None:
                at_end(peer, lambda: 1 // 0)

        policy = Tidy()
        wire, backend = serve(Untidy(), policy)
        wire.greeted().hang_up()
        self.assertEqual((policy.ended, backend.hooks[-1]), (["client"], "close"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_modified(self) -> None:
        """What is said of a policy does not keep it from tidying up."""
        policy = Tidy()
        wire, _ = serve(modified(policy, warn_only=True))
        wire.greeted().say("QUIT").hang_up()
        self.assertEqual(policy.ended, ["client"])

    def test_no_cost(self) -> None:
        """Without such a policy the session's own hooks are called."""
        backend = ScriptedBackend()
        session = with_policies(backend, Discarding()).open_session(Peer(None, "c1"), None)
        self.assertIs(type(session.close), type(backend.new_session(Peer(None, "c2"), None).close))


class DiscardTests(SynchronousTestCase):
    def test_discarded(self) -> None:
        """The client hears that a message was taken, and the backend does not hear of it."""
        wire, backend = serve(Discarding())
        wire.greeted().say(*LETTER)
        self.assertEqual((wire.codes[-2:], backend.messages), ([354, 250], []))

    def test_examined(self) -> None:
        """Policies that look at the message are asked all the same, and may refuse it."""

        class Examining(Policy):
            def examine(self, envelope: Envelope, held: Any) -> Reply:
                return Reply(550, "No", "5.7.1")

        wire, backend = serve(Discarding(), Examining())
        self.assertEqual((wire.greeted().say(*LETTER).last_reply.code, backend.messages), (550, []))

    def test_broken_off(self) -> None:
        """A discarded message that is broken off leaves nothing."""
        wire, backend = serve(Discarding())
        wire.greeted().say(*LETTER[:-1]).hang_up()
        self.assertEqual(backend.messages, [])
