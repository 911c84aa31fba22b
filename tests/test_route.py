"""
Tests of the routing backend: which backend gets a message, and what becomes of one that goes several ways.
"""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Invalid, implementer
from zope.interface.verify import verifyObject

from smtpsvc.backends.null import NullBackend
from smtpsvc.backends.route import Route, parse_route
from smtpsvc.backends.routing import APART
from smtpsvc.grammar import replies
from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.replies import PermanentError, Reply, SMTPError, TemporaryError
from smtpsvc.interfaces import IAuthenticated, IBackend, IGreeting, IStorage, IVerifier
from smtpsvc.service import MailService
from smtpsvc.session import Backend
from smtpsvc.settings import Role
from smtpsvc.tap import Options
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Account, Peer
from tests.hooks import MAIL, Late
from tests.support import settings_with

BUSY = Reply(451, "Busy", "4.3.0")
NO = Reply(550, "Never", "5.7.1")
TEXT = ("Subject: x", "", "text", ".")


class RouteTestCase(SynchronousTestCase):
    """Routes a.example and b.example to backends of their own, and all else to a third."""

    def setUp(self) -> None:
        self.a, self.b, self.c = (ScriptedBackend() for _ in range(3))
        self.clock = Clock()

    def connect(self, role: Role = Role.SMTP, **settings: Any) -> Wire:
        """Connect a client that has been greeted."""
        route = Route([("a.example", self.a), ("b.example", self.b)], self.c)
        factory, self.clock = clocked_factory(route, settings_with(**settings), role=role)
        return Wire(factory).greeted()

    def several(self, *recipients: str, **settings: Any) -> Wire:
        """Begin a message over LMTP; replies start afresh."""
        wire = self.connect(Role.LMTP, **settings)
        wire.say(MAIL, *(f"RCPT TO:<{recipient}>" for recipient in recipients), "DATA")
        self.assertEqual(wire.codes[-1], 354, wire.output)
        return wire.forget()

    def kept(self, backend: ScriptedBackend) -> list[list[str]]:
        """Give the recipients of each message that a backend took, whole."""
        for message in backend.messages:
            self.assertTrue(message.content.endswith(b"\r\ntext\r\n") or not message.finished)
        return [[str(each) for each in message.recipients] for message in backend.messages if message.finished]


class SMTPTests(RouteTestCase):
    def test_recipient(self) -> None:
        """A message goes to the backend of its recipients, and to no other."""
        wire = self.connect()
        for recipient in ("1@a.example", "2@b.example", "3@c.example"):
            wire.say(MAIL, f"RCPT TO:<{recipient}>", "DATA", *TEXT)
        self.assertEqual(wire.codes, [250, 250, 354, 250] * 3)
        kept = [self.kept(backend) for backend in (self.a, self.b, self.c)]
        self.assertEqual(kept, [[["1@a.example"]], [["2@b.example"]], [["3@c.example"]]])

    def test_one_way(self) -> None:
        """A recipient that goes another way than those before it is 452 4.5.3, so that clients send it apart."""
        wire = self.connect().say(
            MAIL, "RCPT TO:<1@a.example>", "RCPT TO:<2@b.example>", "RCPT TO:<3@a.example>", "DATA", *TEXT
        )
        self.assertEqual(wire.codes, [250, 250, 452, 250, 354, 250])
        self.assertEqual(wire.replies[2], APART)
        self.assertEqual(self.kept(self.a), [["1@a.example", "3@a.example"]])
        self.assertEqual(self.b.hooks, ["open_session", "helo"])

    def test_refused_first(self) -> None:
        """A recipient that was refused does not say which way the message goes."""
        self.a.answers["rcpt"] = NO
        wire = self.connect().say(MAIL, "RCPT TO:<1@a.example>", "RCPT TO:<2@b.example>", "DATA", *TEXT)
        self.assertEqual(wire.codes, [250, 550, 250, 354, 250])
        self.assertEqual((self.kept(self.a), self.kept(self.b)), ([], [["2@b.example"]]))
        self.assertEqual(len(self.a.called("reset")), 1)

    def test_one_recipient_each(self) -> None:
        """A backend that cannot undo gets one recipient a message, and the others any number."""
        self.a.per_recipient = True
        wire = self.connect().say(MAIL, "RCPT TO:<1@a.example>", "RCPT TO:<2@a.example>")
        self.assertEqual(wire.last_reply, replies.ONE_RECIPIENT_EACH)
        wire = self.connect().say(MAIL, "RCPT TO:<1@b.example>", "RCPT TO:<2@b.example>")
        self.assertEqual(wire.codes, [250, 250, 250])

    def test_sender(self) -> None:
        """A backend hears of the sender with the first recipient that is for it, once, and may refuse then."""
        self.a.answers["mail"] = NO
        wire = self.connect().say(MAIL, "RCPT TO:<1@a.example>", "RCPT TO:<2@a.example>", "RCPT TO:<3@b.example>")
        self.assertEqual(wire.codes, [250, 550, 550, 250])
        self.assertEqual((self.a.hooks[2:], self.b.hooks[2:]), (["mail"], ["mail", "rcpt"]))

    def test_raised(self) -> None:
        """A refusal may be raised, and a mistake of one backend is 451 for its recipients only."""
        self.a.answers.update(mail=[PermanentError("no"), ValueError("oops")], rcpt=TemporaryError("later"))
        wire = self.connect()
        for code in (550, 451, 451):
            wire.forget().say(MAIL, "RCPT TO:<1@a.example>", "RCPT TO:<2@b.example>", "RSET")
            self.assertEqual(wire.codes, [250, code, 250, 250])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_nonsense(self) -> None:
        """What is no answer does not pass for consent."""
        for hook in ("mail", "rcpt"):
            self.a.answers = {hook: lambda *_: False}
            wire = self.connect().say(MAIL, "RCPT TO:<1@a.example>")
            self.assertEqual(wire.codes, [250, 451], hook)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 2)

    def test_late(self) -> None:
        """Every hook of every backend may take its time."""
        answers = {hook: (lambda *_: succeed(None)) for hook in ("helo", "mail", "rcpt", "finish", "reset")}
        late: list[Deferred[None]] = []

        def wait(*_: Any) -> Deferred[None]:
            late.append(Deferred())
            return late[-1]

        for hook in ("helo", "mail", "rcpt", "finish", "reset"):
            self.a = ScriptedBackend({**answers, hook: wait})
            wire = self.connect().say(MAIL, "RCPT TO:<1@a.example>", "DATA", *TEXT)
            while late:
                late.pop(0).callback(None)
            with self.subTest(hook=hook):
                self.assertEqual(wire.codes[-2:], [354, 250])
                self.assertEqual(self.kept(self.a), [["1@a.example"]])

    def test_delivery_itself(self) -> None:
        """A message that goes one way has that backend's own delivery, with nothing in front of it."""
        made: list[Any] = []

        def data(envelope: Any) -> Any:
            made.append(self.a.new_delivery(envelope))
            return made[-1]

        self.a.answers["data"] = data
        wire = self.connect().say(MAIL, "RCPT TO:<1@a.example>", "DATA")
        self.assertIs(wire.protocol.conversation.receiver.delivery, made[0])

    def test_size(self) -> None:
        """The largest size is announced, and a message too large for its own backend is 552 5.3.4."""
        self.a.max_message_size, self.b.max_message_size, self.c.max_message_size = 500, 1000, 2000
        wire = self.connect(add_received=False)
        self.assertIn("SIZE 2000", wire.say("EHLO x.example").last_reply.text)
        for recipient, code in (("1@a.example", 552), ("2@b.example", 250), ("3@c.example", 250)):
            wire.forget().say(MAIL, f"RCPT TO:<{recipient}>", "DATA", "x" * 700, ".")
            self.assertEqual(wire.codes[-1], code, recipient)
        self.assertIsNotNone(self.a.messages[0].aborted)

    def test_prdr(self) -> None:
        """With PRDR each recipient is answered, so that a message may go several ways (draft-hall-prdr)."""
        self.b.answers["finish"] = NO
        wire = self.connect(enable=frozenset({"PRDR"}))
        wire.say(MAIL + " PRDR", "RCPT TO:<1@a.example>", "RCPT TO:<2@b.example>", "DATA", *TEXT)
        self.assertEqual(wire.codes, [250, 250, 250, 354, 353, 250, 550, 250])


class SeveralTests(RouteTestCase):
    def test_each(self) -> None:
        """Each backend gets the whole message with its own recipients, and answers come in the order of RCPT."""
        self.b.answers["finish"] = NO
        self.c.answers["finish"] = lambda: [succeed(BUSY), None]
        wire = self.several("1@c.example", "2@a.example", "3@b.example", "4@a.example", "5@c.example", "2@a.example")
        wire.say(*TEXT)
        self.assertEqual(wire.codes, [451, 250, 550, 250, 250, 250])
        self.assertEqual(self.kept(self.a), [["2@a.example", "4@a.example", "2@a.example"]])
        self.assertEqual(self.kept(self.c), [["1@c.example", "5@c.example"]])
        ids = {message.envelope.id for backend in (self.a, self.b, self.c) for message in backend.messages}
        self.assertEqual(len(ids), 1)

    def test_early_answers(self) -> None:
        """A recipient's answer does not wait for those behind it."""
        late: list[Deferred[Any]] = [Deferred(), Deferred()]
        self.a.answers["finish"], self.b.answers["finish"] = late
        wire = self.several("1@a.example", "2@b.example", "3@a.example").say(*TEXT)
        late[0].callback([None, NO])
        self.assertEqual(wire.codes, [250])
        late[1].callback(None)
        self.assertEqual(wire.codes, [250, 250, 550])

    def test_late_list_of_late(self) -> None:
        """A list may come late, and its items later still."""
        item: Deferred[Any] = Deferred()
        listed: Deferred[Any] = Deferred()
        self.a.answers["finish"] = listed
        wire = self.several("1@a.example", "2@b.example", "3@a.example").say(*TEXT)
        listed.callback([None, item])
        self.assertEqual(wire.codes, [250, 250])
        item.callback(BUSY)
        self.assertEqual(wire.codes, [250, 250, 451])

    def test_finish_fails(self) -> None:
        """A finish that fails, or gives too few outcomes, is 451 for its recipients only."""
        for outcome in (ValueError("oops"), fail(ValueError("oops")), lambda: [None]):
            self.a = ScriptedBackend(finish=outcome)
            wire = self.several("1@a.example", "2@b.example", "3@a.example").say(*TEXT)
            self.assertEqual(wire.codes, [451, 250, 451])
            self.assertGreater(len(self.flushLoggedErrors(ValueError)), 0)

    def test_refused_at_data(self) -> None:
        """A backend that refuses at DATA refuses its recipients only; if all do, the DATA is refused."""
        self.a.answers["data"] = NO
        wire = self.several("1@a.example", "2@b.example").say(*TEXT)
        self.assertEqual(wire.codes, [550, 250])
        self.b.answers["data"] = BUSY
        wire = self.connect(Role.LMTP).say(MAIL, "RCPT TO:<1@a.example>", "RCPT TO:<2@b.example>", "DATA")
        self.assertEqual(wire.last_reply, BUSY)

    def test_write_fails(self) -> None:
        """A backend that fails while content comes is aborted alone, and the others keep the message."""
        for error, code in ((SMTPError(NO), 550), (ValueError("oops"), 451), (fail(SMTPError(NO)), 550)):
            self.a, self.b = ScriptedBackend(write=[None, error]), ScriptedBackend()
            wire = self.several("1@a.example", "2@b.example").say(*TEXT)
            self.assertEqual(wire.codes, [code, 250])
            self.assertEqual((self.kept(self.a), self.kept(self.b)), ([], [["2@b.example"]]))
            self.assertEqual(len(self.a.called("abort")), 1)
            self.assertEqual(self.b.called("abort"), [])
            self.flushLoggedErrors(ValueError)

    def test_all_fail(self) -> None:
        """If all fail while content comes, each recipient is refused, and each backend aborted once."""
        self.a.answers["write"] = [None, SMTPError(NO)]
        self.b.answers["write"] = [None, None, SMTPError(BUSY)]
        wire = self.several("1@a.example", "2@b.example").say(*TEXT)
        self.assertEqual(wire.codes, [451, 451])
        self.assertEqual([len(each.called("abort")) for each in (self.a, self.b)], [1, 1])

    def test_backpressure(self) -> None:
        """The client is paused until every backend has taken a piece."""
        late: list[Deferred[None]] = [Deferred(), Deferred()]
        self.a.answers["write"], self.b.answers["write"] = [late[0]], [late[1]]
        wire = self.several("1@a.example", "2@b.example")
        wire.say("text", ".")
        self.assertEqual((len(self.a.called("write")), wire.codes), (1, []))
        late[0].callback(None)
        self.assertEqual((len(self.a.called("write")), wire.codes), (1, []))
        late[1].callback(None)
        self.assertEqual(wire.codes, [250, 250])

    def test_connection_lost(self) -> None:
        """A lost connection aborts each backend once, and closes each session once."""
        wire = self.several("1@a.example", "2@b.example").say("text")
        wire.hang_up(ConnectionLost())
        for backend in (self.a, self.b):
            [(reason,)] = backend.called("abort")
            self.assertTrue(reason.check(ConnectionLost))
            self.assertEqual(len(backend.called("close")), 1)
        self.assertEqual(self.c.hooks, ["open_session", "helo", "close"])

    def test_lost_while_writing(self) -> None:
        """A connection that is lost while a piece is being taken cancels that, and aborts each backend once."""
        late = Late()
        self.a.answers["write"] = [late]
        wire = self.several("1@a.example", "2@b.example").say("text")
        wire.hang_up(ConnectionLost())
        self.assertEqual([len(each.called("abort")) for each in (self.a, self.b)], [1, 1])

    def test_deadline(self) -> None:
        """A backend that does not answer in time is asked to stop, is 420 4.4.7, and holds up no other."""
        cancelled: list[int] = []
        late: Deferred[None] = Deferred(lambda _: cancelled.append(1))
        self.a.answers["finish"] = late
        wire = self.several("1@a.example", "2@b.example", "3@a.example", hook_timeout=100).say(*TEXT)
        self.clock.pump([30.0] * 4)
        self.assertEqual((wire.codes, bool(cancelled)), ([420, 250, 420], True))
        self.assertEqual(self.a.called("abort"), [])

    def test_too_large(self) -> None:
        """A backend for which a message is too large refuses it alone."""
        self.a.max_message_size, self.b.max_message_size = 500, 1000
        wire = self.several("1@a.example", "2@b.example").say("x" * 700, ".")
        self.assertEqual(wire.codes, [552, 250])
        self.assertEqual(len(self.a.called("abort")), 1)

    def test_removed_recipient(self) -> None:
        """A recipient that a policy takes away at the end is not for its backend either."""
        wire = self.several("1@a.example", "2@b.example", "3@a.example")
        envelope = wire.protocol.conversation.envelope
        del envelope.recipients[:2]
        wire.say(*TEXT)
        self.assertEqual(wire.codes, [250])
        self.assertEqual([str(each.address) for each in self.a.messages[0].envelope.recipients], ["3@a.example"])
        self.assertEqual((len(self.b.called("abort")), self.kept(self.b)), (1, []))

    def test_one_way(self) -> None:
        """A message whose recipients all go one way has that backend's own delivery here too."""
        self.a.answers["finish"] = lambda: [None, NO]
        wire = self.several("1@a.example", "2@a.example").say(*TEXT)
        self.assertEqual(wire.codes, [250, 550])


class SessionTests(RouteTestCase):
    def test_refused_client(self) -> None:
        """A backend that refuses a client refuses its recipients, without closing; if all do, so does the greeting."""
        self.a.answers["open_session"] = Reply(421, "Not you", "4.3.2")
        wire = self.connect().say(MAIL, "RCPT TO:<1@a.example>", "RCPT TO:<2@b.example>")
        self.assertEqual((wire.codes, wire.closed), ([250, 451, 250], False))
        self.b.answers["open_session"] = NO
        self.c.answers["open_session"] = BUSY
        factory, _ = clocked_factory(Route([("a.example", self.a), ("b.example", self.b)], self.c))
        wire = Wire(factory)
        self.assertEqual((wire.last_reply.code, wire.closed), (451, True))

    def test_session_fails(self) -> None:
        """A backend whose session cannot be opened is 451 for its recipients, and is logged."""
        self.a.answers["open_session"] = ValueError("oops")
        wire = self.connect().say(MAIL, "RCPT TO:<1@a.example>", "RCPT TO:<2@b.example>", "QUIT")
        self.assertEqual(wire.codes, [250, 451, 250, 221])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_late_session(self) -> None:
        """A session that comes late is waited for before the greeting."""
        late: Deferred[Any] = Deferred()
        self.a.answers["open_session"] = lambda peer, connection: late
        factory, _ = clocked_factory(Route([("a.example", self.a)], self.c), settings_with())
        wire = Wire(factory)
        self.assertEqual(wire.codes, [])
        late.callback(self.a.new_session(wire.protocol.conversation.peer, wire.protocol.conversation))
        self.assertEqual(wire.codes, [220])
        self.assertEqual(wire.greeted().say(MAIL, "RCPT TO:<1@a.example>").codes, [250, 250])

    def test_helo(self) -> None:
        """A backend that refuses the client's name refuses its recipients; if all do, the client is refused."""
        self.a.answers["helo"] = NO
        wire = self.connect().say(MAIL, "RCPT TO:<1@a.example>", "RCPT TO:<2@b.example>")
        self.assertEqual(wire.codes, [250, 550, 250])
        self.b.answers["helo"] = self.c.answers["helo"] = NO
        wire.forget().say("EHLO other.example")
        self.assertEqual(wire.codes, [550])

    def test_reset(self) -> None:
        """Who had a part in a transaction hears of its end; all hear when the session begins anew."""
        wire = self.connect().say(MAIL, "RCPT TO:<1@a.example>", "RSET", "RSET")
        [(first, _), (second, _)] = self.a.called("reset")
        self.assertEqual((first.sender, second), (Address("a", "x.example"), None))
        self.assertEqual([envelope for envelope, _ in self.b.called("reset")], [None])
        wire.say(MAIL, "RCPT TO:<1@b.example>", "DATA", *TEXT)
        self.assertEqual(wire.codes[-1], 250)

    def test_verify(self) -> None:
        """VRFY and EXPN are asked of the mailbox's backend, where that answers them."""
        self.a = ScriptedBackend({"verify": ["<1@a.example>"]}, provides=[IVerifier])
        self.a.answers["verify"] = lambda query: ["<1@a.example>"]
        wire = self.connect().say("VRFY 1@a.example", "VRFY 1@b.example", "VRFY name", "EXPN 1@b.example")
        self.assertEqual([reply.code for reply in wire.replies], [250, 252, 252, 502])

    def test_authenticated(self) -> None:
        """A login is asked of all backends that care, and mechanisms are those that all choose."""
        self.a = ScriptedBackend(provides=[IAuthenticated], mechanisms=lambda offered: ["PLAIN", "LOGIN"])
        self.b = ScriptedBackend(provides=[IAuthenticated], mechanisms=lambda offered: ["LOGIN"], authenticated=NO)
        session = self.connect().protocol.conversation.session
        self.assertTrue(IAuthenticated.providedBy(session))
        self.assertFalse(session.wants_credentials)
        self.assertEqual(session.mechanisms(["SCRAM", "PLAIN", "LOGIN"]), ["LOGIN"])
        self.assertEqual(session.authenticated(Account("me"), "secret"), NO)
        self.assertEqual(self.a.called("authenticated"), [(Account("me"), None)])

    def test_other_interfaces(self) -> None:
        """What is for no recipient is of the default backend."""
        self.a = ScriptedBackend(provides=[IGreeting], ehlo=lambda lines: [])
        self.c = ScriptedBackend(provides=[IGreeting], ehlo=lambda lines: [*lines, "XMINE"])
        wire = self.connect()
        self.assertIn("XMINE", wire.say("EHLO x.example").last_reply.text)
        self.c.provides = ()
        self.assertIn("PIPELINING", self.connect().say("EHLO x.example").last_reply.text)

    def test_account_and_role(self) -> None:
        """The login, the role and the listener choose as well."""
        a, b, c, d = (ScriptedBackend() for _ in range(4))
        route = Route([("account:me", a), ("role:lmtp", b), ("listener:26", c)], d)
        factory, _ = clocked_factory(route)
        wire = Wire(factory).greeted()
        wire.protocol.conversation.peer.account = Account("me")
        wire.say(MAIL, "RCPT TO:<1@x.example>")
        Wire(clocked_factory(route, role=Role.LMTP)[0]).greeted().say(MAIL, "RCPT TO:<1@x.example>")
        Wire(factory).greeted().say(MAIL, "RCPT TO:<1@x.example>")
        self.assertEqual([len(each.called("rcpt")) for each in (a, b, c, d)], [1, 1, 0, 1])
        self.assertEqual(wire.protocol.conversation.host.port, 25)


class BackendTests(SynchronousTestCase):
    def test_promises(self) -> None:
        """It promises what all of its backends keep."""

        class Deliverer(Backend):
            supports = frozenset({"DELIVERBY", "RRVS"})
            max_message_size = 1000
            shareable = False

        class Other(Backend):
            supports = frozenset({"RRVS"})
            max_message_size = 2000

        route = Route([("x.example", Deliverer())], Other())
        verifyObject(IBackend, route)
        self.assertEqual((route.supports, route.max_message_size, route.shareable), (frozenset({"RRVS"}), 2000, False))
        self.assertIsNone(Route([("x.example", Deliverer())], NullBackend()).max_message_size)
        self.assertFalse(IStorage.providedBy(route))

    def test_space(self) -> None:
        """There is as much room as where there is least."""

        @implementer(IStorage)
        class Disk(Backend):
            def __init__(self, size: int | None) -> None:
                self.size = size

            def free_space(self) -> int | None:
                return self.size

        route = Route([("a.example", Disk(5)), ("b.example", Disk(None)), ("c.example", Disk(9))], NullBackend())
        self.assertTrue(IStorage.providedBy(route))
        self.assertEqual(route.free_space(), 5)  # type: ignore[no-untyped-call]
        self.assertIsNone(Route([], Disk(None)).free_space())

    def test_services(self) -> None:
        """Backends that are services start and stop with it, each once."""

        class Serving(Backend, Service):
            pass

        one, two = Serving(), Serving()
        route = Route([("a.example", one), ("b.example", one), ("c.example", NullBackend())], two)
        service = MailService(route)
        service.startService()
        self.assertEqual((one.running, two.running), (1, 1))
        self.successResultOf(service.stopService())
        self.assertEqual((one.running, two.running), (0, 0))

    def test_choose(self) -> None:
        """A program can ask which backend it would be."""
        a, b = NullBackend(), NullBackend()
        route = Route([("a.example", a)], b)
        self.assertIs(route.choose(Address("x", "A.example"), Peer(None, "c")), a)
        self.assertIs(route.choose(None, Peer(None, "c")), b)
        self.assertIn("for a.example; ", route.destination)

    def test_mistakes(self) -> None:
        """A pattern that is none, and a backend that is none, are mistakes that are told."""
        self.assertRaises(ValueError, Route, [("a b", NullBackend())], NullBackend())
        self.assertRaises(Invalid, Route, [], object())


class OptionTests(SynchronousTestCase):
    def options(self, *words: str) -> Options:
        options = Options()
        options.parseOptions(["--backend", "null:", *words])
        return options

    def test_routes(self) -> None:
        """--route may be given several times, and descriptions that are equal mean one backend."""
        options = self.options("--route", "a.example=debug:", "--route", ".b.example=debug:", "--route", "c@*=null:")
        backend = options.plan.backend
        self.assertEqual(len(backend.backends), 2)
        self.assertIn("route = .b.example=debug:", options.shown_routes())

    def test_none(self) -> None:
        """Without --route the backend is itself."""
        self.assertIsInstance(self.options().plan.backend, NullBackend)

    def test_mistakes(self) -> None:
        """A mistake is one line that names the option."""
        for text, sentence in (
            ("a.example", "--route: 'a.example' is no route; write PATTERN=NAME:ARGUMENT"),
            ("=null:", "is no route"),
            ("a.example=", "is no route"),
            ("a b=null:", "--route: 'a b' is no domain"),
            ("a.example=nul:", "--route: there is no backend 'nul' (did you mean null?)"),
        ):
            with self.subTest(text=text):
                error = self.assertRaises(UsageError, self.options, "--route", text)
                self.assertIn(sentence, str(error))

    def test_parse(self) -> None:
        """A route is a pattern and a description, split at the first equals sign."""
        self.assertEqual(parse_route("a.example = python:a.b=c"), ("a.example", "python:a.b=c"))
