"""
Tests of smtpsvc.backends.dedupe: a message that comes again is kept once.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Invalid
from zope.interface.verify import verifyObject

from smtpsvc.backends.dedupe import GRACE, Duplicate, with_dedupe
from smtpsvc.backends.maildir import MaildirBackend
from smtpsvc.grammar.replies import PermanentError, Reply, TemporaryError
from smtpsvc.interfaces import IBackend, IDelivery, ISession, IStorage
from smtpsvc.policies.chain import Policy, with_policies
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Account, Envelope
from tests.disk import Disk, envelope
from tests.support import settings_with

MAIL = "MAIL FROM:<a@x.example>"
RCPTS = ("RCPT TO:<b@y.example>", "RCPT TO:<c@y.example>")
CONTENT = ("Subject: x", "", "text", ".")
HELD = 3600.0


class DedupeTestCase(SynchronousTestCase):
    """A backend that follows a script, and remembers messages for an hour."""

    remembered = 100
    role = Role.SMTP

    def setUp(self) -> None:
        self.script = ScriptedBackend()
        self.clock = Clock()
        self.serve()

    def serve(self, *policies: Any, **settings: Any) -> None:
        """Make the factory anew, with policies in front of it all."""
        backend = with_dedupe(self.script, HELD, clock=self.clock, remembered=self.remembered)
        self.factory, self.wall = clocked_factory(
            with_policies(backend, *policies), settings_with(**settings), role=self.role
        )

    def send(
        self,
        *,
        host: str = "192.0.2.1",
        login: str | None = None,
        mail: str = MAIL,
        rcpts: tuple[str, ...] = RCPTS,
        content: tuple[str, ...] = CONTENT,
        address: Any = None,
        helo: str = "c.example",
    ) -> Wire:
        """Send a message in a connection of its own, and give that."""
        wire = Wire(self.factory, address or IPv4Address("TCP", host, 40000))
        wire.say(f"{'LHLO' if self.role is Role.LMTP else 'EHLO'} {helo}").forget()
        if login is not None:
            wire.protocol.conversation.peer.account = Account(login)
        wire.say(mail, *rcpts, "DATA").forget()
        return wire.say(*content)

    @property
    def kept(self) -> int:
        """How many messages the backend was asked to keep."""
        return sum(message.finished for message in self.script.messages)

    def check(self, copies: int, first: dict[str, Any] | None = None, **second: Any) -> None:
        """Send a message and another, and say how many are kept."""
        self.setUp()
        for options in (first or {}, second):
            self.assertEqual(self.send(**options).codes, [250])
        self.assertEqual(self.kept, copies, second)


class SameTests(DedupeTestCase):
    """Which messages are the same."""

    def test_again(self) -> None:
        """A message that comes again is answered 250 with the id of the first, and not kept again."""
        first = self.send()
        id = self.script.messages[0].envelope.id
        again = self.send()
        self.assertEqual(first.codes, [250])
        self.assertEqual(again.replies, [Reply(250, f"OK, kept before as {id}", "2.0.0")])
        self.assertEqual(self.kept, 1)

    def test_aborted(self) -> None:
        """The backend hears that the second copy is aborted, and why."""
        self.send()
        self.send()
        aborted = self.script.messages[1].aborted
        assert aborted is not None
        aborted.trap(Duplicate)
        self.assertFalse(self.script.messages[1].finished)

    def test_trace(self) -> None:
        """The Received field, which has another time and id each time, does not tell them apart."""
        for helo in ("c.example", "not a domain; Fri, 20 Nov 2026 08:00:00 +0000"):
            for rcpts in (RCPTS, RCPTS[:1], ("RCPT TO:<" + "b" * 64 + "@y.example>",)):
                with self.subTest(helo=helo, rcpts=rcpts):
                    self.setUp()
                    self.send(helo=helo, rcpts=rcpts)
                    self.wall.advance(10_000)
                    self.send(helo="elsewhere.example", rcpts=rcpts)
                    contents = [message.content for message in self.script.messages]
                    self.assertNotEqual(*contents)
                    self.assertEqual(self.kept, 1, contents)

    def test_folded(self) -> None:
        """A message whose first line looks like the rest of that field is told apart by it."""
        self.check(2, {"content": ("\tone", "", ".")}, content=("\ttwo", "", "."))

    def test_no_trace(self) -> None:
        """Where the server adds no Received, that of the client is part of the message."""
        field = "Received: from a by b id %s; Fri, 20 Nov 2026 08:00:00 +0000"
        for ids, copies in ((("1", "1"), 1), (("1", "2"), 2)):
            with self.subTest(ids=ids):
                self.setUp()
                self.serve(add_received=False)
                for id in ids:
                    self.send(content=(field % id, "", "text", "."))
                self.assertEqual(self.kept, copies)

    def test_differences(self) -> None:
        """Another client, sender, recipient, or octet of content is another message."""
        differences: list[dict[str, Any]] = [
            {"host": "192.0.2.2"},
            {"mail": "MAIL FROM:<A@x.example>"},
            {"mail": "MAIL FROM:<>"},
            {"rcpts": RCPTS[:1]},
            {"rcpts": (*RCPTS, "RCPT TO:<d@y.example>")},
            {"content": ("Subject: y", "", "text", ".")},
            {"content": ("Subject: x", "", "text", "", ".")},
            {"login": "ann"},
        ]
        for difference in differences:
            self.check(2, **difference)

    def test_recipients(self) -> None:
        """The recipients are a set: neither their order nor a repetition makes another message."""
        self.check(1, rcpts=RCPTS[::-1])
        self.check(1, rcpts=(*RCPTS, RCPTS[0]))

    def test_login(self) -> None:
        """Who has logged in is the same client at any address, and no other is, at the same one."""
        self.check(1, {"login": "ann"}, login="ann", host="192.0.2.2")
        self.check(2, {"login": "ann"}, login="bob")
        # The name could be mistaken for an address.
        self.check(2, {"login": "192.0.2.1"})

    def test_guests(self) -> None:
        """Guests, who have no name, are told apart by their addresses."""
        self.check(1, {"login": ""}, login="")
        self.check(2, {"login": ""}, login="", host="192.0.2.2")

    def test_unix(self) -> None:
        """Clients of unix sockets are one client."""
        there = UNIXAddress("/run/smtp")
        self.check(1, {"address": there}, address=there)

    def test_cuts(self) -> None:
        """However the content is cut, it is the same."""
        self.send()
        wire = Wire(self.factory, IPv4Address("TCP", "192.0.2.1", 40001)).greeted().say(MAIL, *RCPTS, "DATA").forget()
        for octet in b"Subject: x\r\n\r\ntext\r\n.\r\n":
            wire.receive(bytes([octet]))
        self.assertEqual((wire.codes, self.kept), ([250], 1))

    def test_empty(self) -> None:
        """An empty message is a message; with and without a Received in front."""
        for add_received in (True, False):
            self.setUp()
            self.serve(add_received=add_received)
            for _ in range(2):
                self.assertEqual(self.send(content=(".",)).codes, [250])
            self.assertEqual(self.kept, 1)


class MemoryTests(DedupeTestCase):
    """What is remembered, and for how long."""

    remembered = 3

    def test_forgotten(self) -> None:
        """After the time given it is kept again; a copy in between does not make that longer."""
        for seconds, copies in ((0, 1), (HELD - 1, 1), (1, 2), (HELD - 1, 2)):
            self.clock.advance(seconds)
            self.send()
            self.assertEqual(self.kept, copies)

    def test_bounded(self) -> None:
        """Only so many are remembered; the oldest is forgotten first."""
        for number in (1, 2, 3, 4, 2, 1):
            self.send(content=(f"Subject: {number}", "", "."))
        self.assertEqual(self.kept, 5)

    def test_refused(self) -> None:
        """What was refused is not remembered, however the backend says it."""

        def late(outcome: Any) -> Any:
            async def answer() -> Any:
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome

            return answer()

        reply = Reply(451, "Try later", "4.3.0")
        answers = [
            reply,
            PermanentError("No"),
            lambda: late(reply),
            lambda: late(TemporaryError("No")),
            lambda: [None, reply],
            lambda: [None, late(reply)],
            lambda: late([reply, None]),
        ]
        for answer in answers:
            self.setUp()
            self.script.answers["finish"] = [answer]
            self.assertGreaterEqual(self.send().codes[0], 400)
            self.assertEqual(self.send().codes, [250])
            self.assertEqual(self.kept, 2)

    def test_error(self) -> None:
        """What failed is not remembered."""
        self.script.answers["finish"] = [KeyError("x")]
        self.assertEqual([self.send().codes, self.send().codes], [[451], [250]])
        self.assertEqual(self.kept, 2)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_kept(self) -> None:
        """What was kept is remembered, however the backend says it."""

        def late(value: Any) -> Any:
            async def answer() -> Any:
                return value

            return answer()

        for answer in (
            Reply(250, "OK, queued"),
            lambda: [None, Reply(250, "OK")],
            lambda: [late(None), late(Reply(250, "OK"))],
            lambda: late([None, late(None)]),
        ):
            self.setUp()
            self.script.answers["finish"] = [answer]
            self.assertEqual(self.send().codes, [250])
            self.assertEqual(self.send().codes, [250])
            self.assertEqual(self.kept, 1)

    def test_aborted(self) -> None:
        """A message that did not come whole is not remembered."""
        wire = Wire(self.factory, IPv4Address("TCP", "192.0.2.1", 40000)).greeted()
        wire.say(MAIL, *RCPTS, "DATA", *CONTENT[:-1]).hang_up()
        self.assertEqual(self.send().codes, [250])
        self.assertEqual(self.kept, 1)

    def test_policies(self) -> None:
        """What a policy in front refuses at the end of its content is not remembered."""
        answers = [Reply(451, "Try later", "4.7.1")]

        class Once(Policy):
            def message(self, envelope: Envelope) -> Any:
                return answers.pop() if answers else None

        self.serve(Once())
        self.assertEqual([self.send().codes, self.send().codes], [[451], [250]])
        self.assertEqual(self.kept, 1)

    def test_nothing_to_remember(self) -> None:
        """To remember nothing is a mistake; so is what is no backend."""
        for seconds, remembered in ((0, 1), (-1, 1), (1, 0)):
            with self.assertRaises(ValueError):
                with_dedupe(self.script, seconds, clock=self.clock, remembered=remembered)
        with self.assertRaises(Invalid):
            with_dedupe(object(), 1, clock=self.clock)  # type: ignore[arg-type]


class PendingTests(DedupeTestCase):
    """A message comes again while the first is still being kept."""

    def setUp(self) -> None:
        super().setUp()
        self.first: Deferred[Any] = Deferred()
        self.script.answers["finish"] = [self.first]

    def test_kept(self) -> None:
        """The second waits; when the first is kept, it is answered 250."""
        wires = [self.send(), self.send(), self.send()]
        self.assertEqual([wire.codes for wire in wires], [[], [], []])
        self.first.callback(None)
        self.assertEqual([wire.codes for wire in wires], [[250], [250], [250]])
        self.assertEqual(self.kept, 1)

    def test_client_gone(self) -> None:
        """A message whose client has gone meanwhile counts if it was kept."""
        self.send().hang_up()
        again = self.send()
        self.first.callback(None)
        self.assertEqual((again.codes, self.kept), ([250], 1))

    def test_refused(self) -> None:
        """When the first is refused, one of the others is tried, and so on."""
        second: Deferred[Any] = Deferred()
        self.script.answers["finish"].append(second)
        wires = [self.send(), self.send(), self.send()]
        self.first.errback(TemporaryError("No"))
        self.assertEqual([wire.codes for wire in wires], [[451], [], []])
        second.callback(None)
        self.assertEqual([wire.codes for wire in wires], [[451], [250], [250]])
        self.assertEqual(self.kept, 2)

    def test_deadline(self) -> None:
        """One that waits too long is aborted and answered 451, and the next one waits for the first all the same."""
        self.send().hang_up()
        again = self.send()
        self.wall.pump([1] * 298)
        self.assertEqual(again.codes, [])
        self.wall.pump([1] * 4)
        self.assertEqual(again.codes, [451])
        self.assertIsNotNone(self.script.messages[1].aborted)
        third = self.send()
        self.first.callback(None)
        self.assertEqual((third.codes, self.kept), ([250], 1))

    def test_told_otherwise(self) -> None:
        """A message that was kept after its client was told 451 counts as kept."""
        first = self.send()
        self.wall.pump([1] * 302)
        self.assertEqual(first.codes, [451])
        self.first.callback(None)
        self.assertEqual((self.send().codes, self.kept), ([250], 1))

    def test_given_up(self) -> None:
        """What nothing becomes of is cancelled after a while, and counts as not kept."""
        self.send().hang_up()
        again = self.send()
        self.clock.advance(GRACE - 1)
        self.assertEqual(again.codes, [])
        self.clock.advance(1)
        self.assertEqual((again.codes, self.kept), ([250], 2))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_in_time(self) -> None:
        """When something becomes of it, nothing is left behind."""
        self.send().hang_up()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.first.callback(None)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_list(self) -> None:
        """The fate of a message is known when that for each recipient is."""
        outcomes: list[Deferred[None]] = [Deferred(), Deferred()]
        self.script.answers["finish"] = [lambda: outcomes]
        wires = [self.send(), self.send()]
        outcomes[1].callback(None)
        self.assertEqual(wires[1].codes, [])
        outcomes[0].callback(None)
        self.assertEqual([wire.codes for wire in wires], [[250], [250]])
        self.assertEqual(self.kept, 1)


class EachRecipientTests(DedupeTestCase):
    """LMTP, where each recipient has a reply."""

    role = Role.LMTP

    def test_again(self) -> None:
        """Each recipient of the second copy is answered 250."""
        self.assertEqual([self.send().codes, self.send().codes], [[250, 250], [250, 250]])
        self.assertEqual(self.kept, 1)

    def test_in_part(self) -> None:
        """What one recipient did not get is not remembered; what comes for that one alone is another message."""
        self.script.answers["finish"] = [lambda: [None, Reply(451, "Later", "4.3.0")]]
        self.assertEqual(self.send().codes, [250, 451])
        self.assertEqual(self.send(rcpts=RCPTS[1:]).codes, [250])
        self.assertEqual(self.kept, 2)


class FrontTests(DedupeTestCase):
    """What stands behind is seen through it."""

    def test_interfaces(self) -> None:
        """Backend, session and delivery provide what they provided, a service and a disk as well."""
        disk = Disk()
        maildir = MaildirBackend(self.mktemp(), disk.reactor, system=disk.system, threads=disk.threads)
        backend = with_dedupe(maildir, HELD, clock=self.clock)
        verifyObject(IBackend, backend)
        verifyObject(IStorage, backend)
        self.assertEqual(backend.destination, maildir.destination)
        maildir.startService()
        made = envelope()
        session = backend.open_session(made.peer, None)
        verifyObject(ISession, session)
        verifyObject(IDelivery, session.data(made))
        self.assertEqual(repr(backend), f"<a memory in front of {maildir!r}>")
        maildir.stopService()

    def test_refusals(self) -> None:
        """A refusal in place of a session or a delivery goes through, at once or later."""
        for hook in ("open_session", "data"):
            for late in (False, True):
                with self.subTest(hook=hook, late=late):
                    answer: Deferred[Any] = Deferred()
                    reply = Reply(421, "No", "4.3.2")
                    self.script.answers = {hook: [answer if late else reply]}
                    wire = Wire(self.factory).say("EHLO c.example", MAIL, RCPTS[0], "DATA")
                    if late:
                        answer.callback(reply)
                    self.assertEqual((wire.last_reply.code, wire.last_reply.text), (421, "No"))

    def test_asyncio(self) -> None:
        """What waits may be a Future of asyncio."""
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        future = loop.create_future()
        future.set_result(None)
        self.script.answers["finish"] = [lambda: future]
        wire = self.send()
        loop.run_until_complete(asyncio.sleep(0))
        self.assertEqual(wire.codes, [250])

    def test_abort_fails(self) -> None:
        """A mistake in the abort of the second copy is logged, and the client is answered 250."""
        self.send()
        self.script.answers["abort"] = [KeyError("x")]
        self.assertEqual(self.send().codes, [250])
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)


class MaildirTests(SynchronousTestCase):
    """In front of a Maildir."""

    def test_one_file(self) -> None:
        """A message that comes again, small or large, leaves one file in new/ and none in tmp/."""
        disk = Disk()
        directory = Path(self.mktemp()).absolute()
        maildir = MaildirBackend(str(directory), disk.reactor, system=disk.system, threads=disk.threads)
        maildir.startService()
        disk.run()
        factory, _ = clocked_factory(with_dedupe(maildir, HELD, clock=Clock()), settings_with())
        for count, line in enumerate(("text", *["x" * 998] * 1), 1):
            content = "\r\n".join([line] * (1 if line == "text" else 400))
            for _ in range(2):
                wire = Wire(factory).greeted().say(MAIL, *RCPTS, "DATA").forget().say(content, ".")
                disk.run()
                self.assertEqual(wire.codes, [250])
            self.assertEqual(len(list((directory / "new").iterdir())), count)
            self.assertEqual(list((directory / "tmp").iterdir()), [])
        maildir.stopService()
