"""
Tests of how XCLIENT begins the dialogue anew: smtpsvc.server.opening.
"""

from __future__ import annotations

import pickle
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.replies import LastReply, PermanentError, Reply
from smtpsvc.interfaces import ISecured
from smtpsvc.server.watch import Monitor
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire
from smtpsvc.values import Peer, TLSInfo
from tests.proxies import GREETING, PROXY, XClientTestCase

TLS = TLSInfo("TLSv1.3", "TLS_AES_128_GCM_SHA256")


class SequenceTests(XClientTestCase):
    """When it may come, and what it begins."""

    def test_new_session(self) -> None:
        """The session is closed and another opened, before the new greeting."""
        self.connect().say("XCLIENT ADDR=192.0.2.7")
        self.assertEqual(self.backend.hooks, ["open_session", "helo", "close", "open_session"])
        (reason,) = self.backend.called("close")[0]
        self.assertIsInstance(reason, Failure)
        self.assertTrue(reason.check(ConnectionDone))

    def test_closed_once(self) -> None:
        """Each session is closed once, whatever follows."""
        self.connect().say("XCLIENT ADDR=192.0.2.7", "XCLIENT ADDR=192.0.2.8").hang_up()
        self.assertEqual(self.backend.hooks.count("close"), 3)

    def test_from_the_beginning(self) -> None:
        """The dialogue begins anew: EHLO is needed again, and replies have no enhanced codes before it."""
        wire = (
            self.connect().say("XCLIENT ADDR=192.0.2.7").forget().say("MAIL FROM:<>", "NOOP", "EHLO c.example", "NOOP")
        )
        self.assertEqual(wire.codes, [503, 250, 250, 250])
        self.assertEqual([reply.enhanced for reply in wire.replies], ["", "", "", "2.0.0"])

    def test_before_ehlo(self) -> None:
        """It may come before EHLO."""
        wire = Wire(self.factory, PROXY).say("XCLIENT ADDR=192.0.2.7")
        self.assertEqual(wire.output, GREETING * 2)

    def test_in_a_transaction(self) -> None:
        """In a transaction it is 503, and the transaction goes on."""
        wire = self.connect().say(
            "MAIL FROM:<>", "XCLIENT ADDR=192.0.2.7", "RCPT TO:<b@y.example>", "XCLIENT ADDR=192.0.2.7"
        )
        wire.say("DATA", ".", "XCLIENT ADDR=192.0.2.7")
        self.assertEqual(wire.codes, [250, 503, 250, 503, 354, 250, 220])

    def test_pipelined(self) -> None:
        """Commands may follow it in the same packet; they are the new client's."""
        data = b"XCLIENT ADDR=192.0.2.7\r\nEHLO c.example\r\nMAIL FROM:<>\r\nQUIT\r\n"
        self.check_cuts(
            self.connect, data, [220, 250, 250, 221],
            lambda _: self.backend.called("mail")[-1][0].peer.address, IPv4Address("TCP", "192.0.2.7", 0),
        )  # fmt: skip

    def test_roles(self) -> None:
        """Every role has it."""
        for role in Role:
            with self.subTest(role):
                self.make(role=role)
                self.assertEqual(Wire(self.factory, PROXY).say("XCLIENT PROTO=LMTP").codes, [220, 220])

    def test_monitors(self) -> None:
        """To monitors one client goes and another comes, in pairs."""
        seen: list[Any] = []

        class Watching(Monitor):
            def connected(self, peer: Peer) -> None:
                seen.append(("came", peer.host))

            def disconnected(self, peer: Peer, reason: Failure) -> None:
                seen.append(("went", peer.host))

            def replied(self, peer: Peer, verb: str, reply: Reply) -> None:
                seen.append((verb, peer.host, reply.code))

        self.make(monitors=[Watching()])
        Wire(self.factory, PROXY).say("XCLIENT ADDR=192.0.2.7").hang_up()
        self.assertEqual(
            seen,
            [
                ("came", "203.0.113.5"), ("", "203.0.113.5", 220), ("went", "203.0.113.5"),
                ("came", "192.0.2.7"), ("XCLIENT", "192.0.2.7", 220), ("went", "192.0.2.7"),
            ],
        )  # fmt: skip


class HookTests(XClientTestCase):
    """The backend is asked again."""

    def second(self, answer: Any, **settings: Any) -> Wire:
        """Give XCLIENT and NOOP to a backend whose second session is *answer*."""
        self.make(ScriptedBackend(open_session=[None, answer]), **settings)
        return self.connect().say("XCLIENT ADDR=192.0.2.7", "NOOP")

    def test_refused(self) -> None:
        """A refusal is the reply, and closes the connection."""
        for answer in (Reply(554, "Go away", "5.7.1"), PermanentError("Go away", "5.7.1", 554)):
            wire = self.second(answer)
            self.assertEqual((wire.replies, wire.closed), ([Reply(554, "Go away")], True))
            self.assertEqual(self.backend.hooks.count("close"), 1)

    def test_broken(self) -> None:
        """Nonsense and failures are 421, and close the connection."""
        for answer in (ValueError("no"), "nonsense", fail(ValueError("no"))):
            wire = self.second(answer)
            self.assertEqual((wire.codes, wire.closed), ([421], True))
        self.assertEqual(len(self.flushLoggedErrors()), 3)

    def test_pending(self) -> None:
        """While the new session is waited for nothing else is answered."""
        answer: Deferred[Any] = Deferred()
        wire = self.second(answer)
        self.assertEqual(wire.output, b"")
        answer.callback(self.backend.sessions[0])
        self.assertEqual(wire.codes, [220, 250])

    def test_fired(self) -> None:
        """A session that is promised and there is taken at once."""
        wire = self.second(lambda peer, connection: succeed(self.backend.sessions[0]))
        self.assertEqual(wire.codes, [220, 250])

    def test_pending_refusal(self) -> None:
        """A refusal that comes later closes too."""
        answer: Deferred[Any] = Deferred()
        wire = self.second(answer)
        answer.callback(Reply(450, "Not now"))
        self.assertEqual((wire.codes, wire.closed), ([450], True))

    def test_late(self) -> None:
        """A session that does not come in time ends the connection; when it comes it is closed."""
        late: Deferred[Any] = Deferred()

        async def stubborn() -> Any:
            try:
                return await Deferred()
            except CancelledError:
                return await late

        wire = self.second(lambda *_: stubborn(), hook_timeout=8)
        for _ in range(11):
            self.clock.advance(1)
        self.assertEqual((wire.codes, wire.closed), ([451, 421], True))
        wire.hang_up()
        self.assertEqual(self.backend.hooks.count("close"), 1)
        late.callback(self.backend.sessions[0])
        self.assertEqual(self.backend.hooks.count("close"), 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lost(self) -> None:
        """A connection that is lost meanwhile cancels the hook."""
        cancelled: list[object] = []
        wire = self.second(Deferred(cancelled.append))
        wire.hang_up()
        self.assertEqual(len(cancelled), 1)
        self.assertEqual(self.flushLoggedErrors(CancelledError), [])

    def test_secured(self) -> None:
        """The new session sees the TLS that stays, and may refuse it."""
        for answer, codes in ((None, [220]), (Reply(250, "fine"), [220]), (Reply(554, "weak"), [554])):
            with self.subTest(answer):
                self.make(ScriptedBackend(secured=answer, provides=[ISecured]))
                wire = self.connect()
                self.peer.tls = TLS
                wire.say("XCLIENT ADDR=192.0.2.7")
                self.assertEqual((wire.codes, wire.closed), (codes, codes == [554]))
                self.assertEqual(self.backend.called("secured"), [(TLS,)])

    def test_secured_late(self) -> None:
        """One that does not answer in time has not taken it: the connection ends."""
        self.make(ScriptedBackend(secured=Deferred(), provides=[ISecured]), hook_timeout=8)
        wire = self.connect()
        self.peer.tls = TLS
        wire.receive(b"XCLIENT ADDR=192.0.2.7\r\nNOOP\r\n")
        for _ in range(11):
            self.clock.advance(1)
        self.assertEqual((wire.codes, wire.closed), ([451, 421], True))


class LastReplyTests(SynchronousTestCase):
    """A reply after which the connection is closed."""

    def test_closes(self) -> None:
        """It closes whatever its code, and is else like any other."""
        self.assertFalse(Reply(554, "no").closes)
        self.assertTrue(LastReply(554, "no").closes)
        self.assertEqual(LastReply(554, "no", "5.7.1"), Reply(554, "no", "5.7.1"))

    def test_copied(self) -> None:
        """A copy closes too."""
        self.assertTrue(pickle.loads(pickle.dumps(LastReply(554, "no"))).closes)
