"""Tests of smtpsvc.server.tables: what a factory makes of its settings and extensions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.extensions import Extension
from smtpsvc.extensions.flags import EnhancedStatusCodes, Pipelining
from smtpsvc.extensions.size import Size
from smtpsvc.grammar import replies
from smtpsvc.grammar.commands import parse_nothing
from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.states import ANY, State
from smtpsvc.interfaces import IConversation, IGreeting, IVerifier
from smtpsvc.server.tables import PlainReply, Tables
from smtpsvc.server.verbs import Verb
from smtpsvc.settings import Role, Settings
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Peer, TLSInfo
from tests.support import HOST, basics, connect, settings_with


def pong(conversation: Any, _: object) -> Reply:
    """Answer an extension's verb."""
    return Reply(250, "Pong", "2.0.0")


class Other(Extension):
    """An extension of somebody else."""

    def __init__(self, keyword: str = "XOTHER", **attributes: Any) -> None:
        self.keyword = keyword
        self.asked = 0
        for name, value in attributes.items():
            setattr(self, name, value)

    def advertise(self, conversation: IConversation) -> str | None:
        """Count how often it is asked."""
        self.asked += 1
        return f"{self.asked}"


def tables(*extensions: Extension, role: Role = Role.SMTP, **settings: Any) -> Tables:
    """Make tables of our extensions and these."""
    return Tables(settings_with(**settings), ScriptedBackend(), role, [*basics(), *extensions])


def verb(allowed: State = ANY) -> Verb:
    """Make a row."""
    return Verb(allowed, parse_nothing, pong)


class ClashTests(SynchronousTestCase):
    def check(self, sentence: str, *extensions: Extension) -> None:
        """The extensions clash."""
        error = self.assertRaises(ValueError, tables, *extensions)
        self.assertEqual(str(error), sentence)

    def test_keyword(self) -> None:
        """Two extensions cannot have one keyword, in any case."""
        for keyword in ("SIZE", "size"):
            sentence = f"the keyword SIZE belongs to SIZE already; {keyword} cannot have it too"
            self.check(sentence, Other(keyword))

    def test_mail_parameter(self) -> None:
        """Nor one parameter of MAIL."""
        for name in ("SIZE", "Size"):
            sentence = "the MAIL parameter SIZE belongs to SIZE already; XOTHER cannot have it too"
            self.check(sentence, Other(mail_params={name: int}))

    def test_rcpt_parameter(self) -> None:
        """Nor one parameter of RCPT."""
        sentence = "the RCPT parameter XR belongs to XONE already; XTWO cannot have it too"
        self.check(sentence, Other("XONE", rcpt_params={"XR": int}), Other("XTWO", rcpt_params={"xr": int}))

    def test_core_verb(self) -> None:
        """No extension can have a verb of the server, not even one that is not served."""
        for name in ("MAIL", "noop", "TURN"):
            sentence = f"the verb {name.upper()} belongs to the server already; XOTHER cannot have it too"
            self.check(sentence, Other(verbs={name: verb()}))

    def test_verb(self) -> None:
        """Nor one of another extension."""
        sentence = "the verb XV belongs to XONE already; XTWO cannot have it too"
        self.check(sentence, Other("XONE", verbs={"XV": verb()}), Other("XTWO", verbs={"xv": verb()}))

    def test_twice(self) -> None:
        """An extension given twice clashes with itself."""
        self.check("the keyword PIPELINING belongs to PIPELINING already; PIPELINING cannot have it too", Pipelining())

    def test_mail_and_rcpt(self) -> None:
        """One name may be a parameter of MAIL for one and of RCPT for another."""
        tables(Other("XONE", mail_params={"XP": int}), Other("XTWO", rcpt_params={"XP": int}))

    def test_other_roles(self) -> None:
        """Extensions for different roles do not clash."""
        lmtp = Other("XOTHER", roles=frozenset({Role.LMTP}))
        both = (Other("XOTHER", roles=frozenset({Role.SMTP})), lmtp)
        for role, there in ((Role.SMTP, True), (Role.LMTP, True), (Role.SUBMISSION, False)):
            self.assertEqual("XOTHER" in tables(*both, role=role).keywords, there)

    def test_factory(self) -> None:
        """A factory refuses what clashes when it is made."""
        self.assertRaises(ValueError, clocked_factory, ScriptedBackend(), extensions=[Size(), Size()])


class RowTests(SynchronousTestCase):
    def test_names(self) -> None:
        """Rows stand under the octets of their upper-case names and know these."""
        made = tables(Other(verbs={"xv": verb()}))
        self.assertEqual(made.verbs[b"XV"].name, "XV")
        self.assertTrue(all(row.name.encode() == name == name.upper() for name, row in made.verbs.items()))

    def test_plain_integers(self) -> None:
        """States in rows are plain integers, which are ten times as quick to compare."""
        self.assertEqual({type(row.allowed) for row in tables(Other(verbs={"XV": verb()})).verbs.values()}, {int})

    def test_help(self) -> None:
        """HELP names the verbs of extensions too, where EHLO shows these."""
        for advertise, named in ((lambda conversation: "", True), (lambda conversation: None, False)):
            other = Other(verbs={"XV": verb()}, advertise=advertise)
            wire = Wire(clocked_factory(ScriptedBackend(), extensions=[other])[0])
            self.assertEqual("XV" in wire.say("HELP").last_reply.text.split(), named)

    def test_keywords(self) -> None:
        """Keywords are upper case, and there also where they are not shown."""
        silent = Other("xsilent", advertise=lambda conversation: None)
        self.assertLessEqual({"XSILENT", "SIZE"}, tables(silent).keywords)

    def test_enhanced(self) -> None:
        """Enhanced codes are sent if their extension is there."""
        settings, backend = settings_with(), ScriptedBackend()
        for extensions, enhanced in (([EnhancedStatusCodes()], True), ([Pipelining()], False), ([], False)):
            self.assertIs(Tables(settings, backend, Role.SMTP, extensions).enhanced, enhanced)

    def test_plain_reply(self) -> None:
        """A plain reply never shows an enhanced code."""
        self.assertEqual(PlainReply(220, "a\nb").wire(True), b"220-a\r\n220 b\r\n")


class RecipientsTests(SynchronousTestCase):
    def limits(self, role: Role, per_recipient: bool) -> tuple[int, Reply]:
        """Make tables for a backend."""
        backend = ScriptedBackend()
        backend.per_recipient = per_recipient
        made = Tables(settings_with(recipients=7), backend, role, [])
        return made.max_recipients, made.one_more

    def test_settings(self) -> None:
        """The settings say how many recipients a message may have."""
        for role in Role:
            self.assertEqual(self.limits(role, False), (7, replies.TOO_MANY_RECIPIENTS))

    def test_per_recipient(self) -> None:
        """A backend that cannot undo gets one recipient a message, but for LMTP, where each has its reply."""
        for role in (Role.SMTP, Role.SUBMISSION):
            self.assertEqual(self.limits(role, True), (1, replies.ONE_RECIPIENT_EACH))
        self.assertEqual(self.limits(Role.LMTP, True), (7, replies.TOO_MANY_RECIPIENTS))


class WelcomeTests(SynchronousTestCase):
    def hello(self, wire: Wire) -> list[str]:
        """Say EHLO and give the lines."""
        return wire.say("EHLO x").last_reply.text.splitlines()

    def test_once(self) -> None:
        """The reply is made once for all clients of a kind."""
        other = Other()
        factory, _ = clocked_factory(ScriptedBackend(), extensions=[other])
        for _ in range(3):
            self.assertEqual(self.hello(Wire(factory))[1:], ["XOTHER 1"])

    def test_kinds(self) -> None:
        """It is made anew for a client with TLS, one that has logged in, a trusted one, and one who may verify."""
        other = Other()
        settings = settings_with(trusted_proxies=(ip_network("192.0.2.0/24"),))
        backend = ScriptedBackend()
        factory, _ = clocked_factory(backend, settings, extensions=[other])
        stranger = IPv4Address("TCP", "198.51.100.1", 1)
        wires = {kind: Wire(factory, stranger) for kind in ("plain", "tls", "account")}
        wires["tls"].protocol.conversation.peer.tls = TLSInfo("TLSv1.3", "x")
        wires["account"].protocol.conversation.peer.account = object()
        wires["trusted"] = Wire(factory)
        backend.provides = (IVerifier,)
        wires["verifier"] = Wire(factory, stranger)
        for _ in range(2):
            shown = {kind: self.hello(wire)[1] for kind, wire in wires.items()}
        self.assertEqual(shown, {kind: f"XOTHER {number}" for number, kind in enumerate(wires, 1)})

    def test_varies(self) -> None:
        """If an extension varies, it is made each time."""
        other = Other(varies=True)
        factory, _ = clocked_factory(ScriptedBackend(), extensions=[other])
        self.assertEqual([self.hello(Wire(factory))[1] for _ in range(3)], ["XOTHER 1", "XOTHER 2", "XOTHER 3"])

    def test_empty_argument(self) -> None:
        """Without arguments the keyword stands alone, without a space."""
        wire = connect(extensions=[Other("XQUIET", advertise=lambda conversation: "")]).say("EHLO x")
        self.assertEqual(wire.output, f"250-{HOST}\r\n250 XQUIET\r\n".encode())

    def test_session_edits(self) -> None:
        """A session that is an IGreeting edits the lines, each time and without the host name."""
        edit = lambda lines: [line for line in lines if line != "PIPELINING"] + ["XMINE"]  # noqa: E731
        backend = ScriptedBackend(ehlo=edit, provides=[IGreeting])
        wire = connect(backend)
        for _ in range(2):
            shown = self.hello(wire)
            self.assertEqual((shown[0], shown[-1], "PIPELINING" in shown), (HOST, "XMINE", False))
        self.assertEqual(len(backend.called("ehlo")), 2)
        self.assertNotIn(HOST, backend.called("ehlo")[0][0])

    def test_edit_that_breaks(self) -> None:
        """An edit that breaks, or gives nonsense, is 451, logged once, and none of it is sent."""
        for wrong, kind in ((ValueError("secret"), ValueError), (KeyError("secret"), KeyError), (7, TypeError)):
            with self.subTest(wrong=wrong):
                wire = connect(ScriptedBackend(ehlo=wrong, provides=[IGreeting])).say("EHLO x")
                self.assertEqual(wire.output, f"451 {replies.LOCAL_ERROR.text}\r\n".encode())
                self.assertEqual(len(self.flushLoggedErrors(kind)), 1)

    def test_edit_that_breaks_greets_nobody(self) -> None:
        """A client whose EHLO was answered 451 has not been greeted."""
        wire = connect(ScriptedBackend(ehlo=KeyError("x"), provides=[IGreeting])).say("EHLO x", "MAIL FROM:<>")
        self.assertEqual(wire.codes, [451, 503])
        self.flushLoggedErrors(KeyError)

    def test_advertise_that_breaks(self) -> None:
        """An extension that breaks while it is announced is 451, logged once, and none of it is sent."""
        for error in (ValueError("secret"), KeyError("secret")):
            with self.subTest(error=error):
                advertise = ScriptedBackend(advertise=error)
                other = Other(advertise=lambda conversation, script=advertise: script.answer("advertise"))
                wire = connect(extensions=[other]).say("EHLO x")
                self.assertEqual(wire.output, f"451 {replies.LOCAL_ERROR.text}\r\n".encode())
                self.assertEqual(len(self.flushLoggedErrors(type(error))), 1)


class TrustTests(SynchronousTestCase):
    NETWORKS = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"), ip_network("fe80::/10"))

    def trusts(self, address: Any, networks: Iterable[Any] = NETWORKS) -> bool:
        """Ask about a peer."""
        return tables(trusted_proxies=tuple(networks)).trusts(Peer(address, "c1"))

    def test_networks(self) -> None:
        """A peer is trusted if its address is in one of the networks."""
        for host, trusted in (("192.0.2.7", True), ("192.0.3.7", False)):
            self.assertIs(self.trusts(IPv4Address("TCP", host, 1)), trusted)
        for host, trusted in (("2001:db8::1", True), ("2001:db9::1", False), ("fe80::1%eth0", True)):
            self.assertIs(self.trusts(IPv6Address("TCP", host, 1)), trusted)

    def test_mapped(self) -> None:
        """An IPv4 client of a socket for both is known by its IPv4 address."""
        for host, trusted in (("::ffff:192.0.2.7", True), ("::ffff:192.0.3.7", False)):
            self.assertIs(self.trusts(IPv6Address("TCP", host, 1)), trusted)

    def test_nobody(self) -> None:
        """Without networks nobody is trusted, nor is who has no IP address."""
        self.assertFalse(self.trusts(IPv4Address("TCP", "192.0.2.7", 1), ()))
        self.assertFalse(self.trusts(UNIXAddress(None)))
        self.assertFalse(self.trusts(None))


class GuardTests(SynchronousTestCase):
    NO = Reply(530, "Not yet", "5.7.0")

    def guarded(self, guards: Mapping[str, Any], **options: Any) -> Wire:
        """Connect to a server with an extension that has guards."""
        extension = Other("XGUARD", guards=lambda settings, role: guards, **options)
        return connect(extensions=[*basics(), extension])

    def test_refuses(self) -> None:
        """A guard's reply is the answer, before the verb's sequence and syntax are looked at."""
        wire = self.guarded({"MAIL": lambda conversation: self.NO}).say("MAIL", "EHLO x", "MAIL FROM:<>", "NOOP")
        self.assertEqual(wire.codes, [530, 250, 530, 250])
        self.assertEqual(wire.replies[2], self.NO)

    def test_passes(self) -> None:
        """A guard that gives None lets sequence, syntax and effect be as ever."""
        wire = self.guarded({"*": lambda conversation: None})
        wire.say("MAIL FROM:<>", "EHLO x", "MAIL FROM:<a b>", "MAIL FROM:<>", "RSET x", "DATA", "EHLO", "HELO x")
        self.assertEqual(wire.codes, [503, 250, 501, 250, 501, 503, 501, 250])

    def test_star(self) -> None:
        """A star stands for all verbs that are not named, those of extensions too; None lets a named one pass."""
        guards = {"*": lambda conversation: self.NO, "EHLO": None, "QUIT": None}
        wire = self.guarded(guards, verbs={"XV": verb()}).say("NOOP", "XV", "TURN", "EHLO x", "HELO x", "QUIT")
        self.assertEqual(wire.codes, [530, 530, 530, 250, 530, 221])

    def test_order(self) -> None:
        """The guard of the extension that was given first is asked first."""
        first = Other("XONE", guards=lambda settings, role: {"NOOP": lambda conversation: Reply(530, "First")})
        second = Other("XTWO", guards=lambda settings, role: {"NOOP": lambda conversation: Reply(530, "Second")})
        self.assertEqual(connect(extensions=[first, second]).say("NOOP").last_reply.text, "First")

    def test_plain(self) -> None:
        """A guarded EHLO is answered without enhanced codes as ever."""
        wire = self.guarded({"EHLO": lambda conversation: None}).say("EHLO x", "EHLO")
        self.assertEqual({reply.enhanced for reply in wire.replies}, {""})

    def test_asked_once(self) -> None:
        """Guards are asked for once, with the settings and the role of the factory."""
        asked: list[tuple[Settings, Role]] = []
        extension = Other(guards=lambda settings, role: asked.append((settings, role)) or {})
        made = tables(extension, role=Role.SUBMISSION)
        self.assertEqual(asked, [(made.settings, Role.SUBMISSION)])
