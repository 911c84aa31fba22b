"""
Tests of what AUTH means for the rest: who must log in, hooks, monitors, MAIL AUTH=, and secrets that stay so.
"""

from __future__ import annotations

from typing import Any

from twisted.cred.credentials import IUsernamePassword
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.extensions.auth import parse_submitter
from smtpsvc.grammar.addresses import NULL, SyntaxProblem, parse_mailbox
from smtpsvc.grammar.replies import PermanentError, Reply
from smtpsvc.interfaces import IAuthenticated, IAuthorizer
from smtpsvc.sasl.credentials import IBearerToken
from smtpsvc.server.watch import Monitor
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Account, Peer
from tests.logins import (
    PASSWORD,
    AnswerChecker,
    Client,
    CountingRealm,
    b64,
    challenge,
    logged,
    offered,
    plain,
    wire_with,
)
from tests.support import MESSAGE, settings_with

AUTH = f"AUTH PLAIN {plain()}"
REQUIRED = Reply(530, "Authentication required", "5.7.0")
REFUSED = Reply(535, "Authentication credentials invalid", "5.7.8")


class RequireTests(SynchronousTestCase):
    def test_before(self) -> None:
        """Before a login only what leads to it is served; the rest is 530 5.7.0 (RFC 4954 §6)."""
        for line, code in (
            ("MAIL FROM:<a@x.example>", 530),
            ("MAIL FROM:nonsense", 530),
            ("RCPT TO:<a@x.example>", 530),
            ("DATA", 530),
            ("VRFY joe", 530),
            ("EXPN list", 530),
            ("NOOP", 250),
            ("RSET", 250),
            ("HELP", 214),
            ("EHLO client.example", 250),
            ("HELO client.example", 250),
            ("TURN", 502),
            ("FROB", 500),
            ("AUTH PLAIN", 334),
            ("QUIT", 221),
        ):
            with self.subTest(line=line):
                self.assertEqual(wire_with(require_auth=True).say(line).codes, [code])
        self.assertEqual(wire_with(require_auth=True).say("MAIL FROM:<a@x.example>").replies, [REQUIRED])

    def test_after(self) -> None:
        """After a login everything is served."""
        wire = wire_with(require_auth=True).say(AUTH).receive(MESSAGE).say("VRFY joe")
        self.assertEqual(wire.codes, [235, 250, 250, 354, 250, 252])

    def test_not_required(self) -> None:
        """Where it is not required, mail is taken without it."""
        self.assertEqual(wire_with().receive(MESSAGE).codes, [250, 250, 354, 250])

    def test_roles(self) -> None:
        """Submission always requires a login, LMTP never; SMTP as the settings say (RFC 6409 §4.3)."""
        for role, require_auth, code in (
            (Role.SUBMISSION, False, 530),
            (Role.SMTP, True, 530),
            (Role.SMTP, False, 250),
            (Role.LMTP, True, 250),
        ):
            wire = wire_with(role=role, require_auth=require_auth, allow_insecure_auth=True)
            with self.subTest(role=role, require_auth=require_auth):
                self.assertEqual(wire.say("MAIL FROM:<a@x.example>").last_reply.code, code)

    def test_nobody_could(self) -> None:
        """To require what nobody can do is refused at the start, also if AUTH is disabled."""
        with self.assertRaisesRegex(ValueError, "--require-auth needs --auth"):
            clocked_factory(ScriptedBackend(), settings_with(require_auth=True))
        with self.assertRaisesRegex(ValueError, "--require-auth needs --auth"):
            wire_with(require_auth=True, disable=frozenset({"AUTH"}))

    def test_costs_nothing(self) -> None:
        """Where no login is required, the rows of the verbs are those of a server without AUTH."""
        with_auth, without = wire_with().factory, clocked_factory(ScriptedBackend(), settings_with())[0]
        for name, verb in without.tables.verbs.items():
            self.assertIs(with_auth.tables.verbs[name].proceed.__class__, verb.proceed.__class__)
            self.assertEqual(with_auth.tables.verbs[name].allowed, verb.allowed)


class StateTests(SynchronousTestCase):
    def test_account(self) -> None:
        """The peer's account is the avatar, and it stays at a further EHLO and at RSET."""
        wire = wire_with().say(AUTH)
        peer = wire.protocol.conversation.peer
        self.assertEqual(peer.account, Account("joe"))
        wire.say("EHLO again.example", "RSET")
        self.assertEqual(peer.account, Account("joe"))

    def test_upgraded(self) -> None:
        """When TLS begins, the login is forgotten, and its realm is told (RFC 3207 §4.2)."""
        realm = CountingRealm()
        wire = wire_with(realm=realm).say(AUTH)
        conversation = wire.protocol.conversation
        conversation.begin_again(upgraded=True)
        self.assertEqual((conversation.peer.account, realm.logouts), (None, ["joe"]))
        self.assertEqual(wire.say("EHLO client.example", AUTH).codes, [235, 250, 235])

    def test_logout(self) -> None:
        """The realm is told once that the client is gone; its name is still known then."""
        realm, seen = CountingRealm(), []
        backend = ScriptedBackend(close=lambda reason: seen.append(backend.sessions[0].peer.account))
        wire = wire_with(realm=realm, backend=backend).say(AUTH)
        self.assertEqual(realm.logouts, [])
        wire.hang_up()
        self.assertEqual((realm.logouts, seen), (["joe"], [Account("joe")]))

    def test_received(self) -> None:
        """``Received:`` says ESMTPA, from the first message after the login on (RFC 4954 §7)."""
        backend = ScriptedBackend()
        wire_with(backend=backend).receive(MESSAGE).say(AUTH).receive(MESSAGE)
        before, after = (message.content for message in backend.messages)
        self.assertRegex(before, rb"with ESMTPS? id")
        self.assertRegex(after, rb"with ESMTPS?A id")


class ParameterTests(SynchronousTestCase):
    def sent(self, wire: Wire, parameter: str, backend: ScriptedBackend) -> Any:
        """Send MAIL with a parameter; give what the hook sees."""
        wire.say(f"MAIL FROM:<a@x.example> {parameter}")
        return backend.called("mail")[-1][0].mail_params["AUTH"]

    def test_hook(self) -> None:
        """The hook sees the address, or the null one for ``<>`` (RFC 4954 §5.1)."""
        for value, expected in (
            ("e+3Dmc2@example.com", "e=mc2@example.com"),
            ("<>", ""),
            ("joe@[192.0.2.1]", "joe@[192.0.2.1]"),
            ("+22a+20b+22@x.example", '"a b"@x.example'),
        ):
            backend = ScriptedBackend()
            wire = wire_with(backend=backend).say(AUTH)
            with self.subTest(value=value):
                self.assertEqual(str(self.sent(wire, f"AUTH={value}", backend)), expected)

    def test_stranger(self) -> None:
        """Of a client that has not logged in it is taken, and read as ``<>`` (RFC 4954 §5)."""
        backend = ScriptedBackend()
        self.assertIs(self.sent(wire_with(backend=backend), "SIZE=1 AUTH=joe@x.example", backend), NULL)
        self.assertEqual(backend.called("mail")[-1][0].size, 1)

    def test_malformed(self) -> None:
        """What is no mailbox in xtext is 501 5.5.4."""
        for value in ("AUTH", "AUTH=", "AUTH=joe", "AUTH=a=b@x.example", "AUTH=<joe@x.example>", "AUTH=a+3db@x.example",
                      "AUTH=+C3+A9@x.example", "AUTH=a@x.example AUTH=<>", "AUTH=+0D+0A@x.example"):  # fmt: skip
            with self.subTest(value=value):
                reply = wire_with().say(AUTH, f"MAIL FROM:<a@x.example> {value}").last_reply
                self.assertEqual((reply.code, reply.enhanced), (501, "5.5.4"))

    def test_parser(self) -> None:
        """The parser gives addresses."""
        self.assertEqual(parse_submitter("joe@x.example"), parse_mailbox("joe@x.example"))
        self.assertRaises(SyntaxProblem, parse_submitter, None)


class HookTests(SynchronousTestCase):
    def backend(self, authenticated: Any = None, mechanisms: Any = None, **more: Any) -> ScriptedBackend:
        """Make a backend whose sessions take part in AUTH."""
        more.update(authenticated=authenticated, mechanisms=mechanisms or (lambda offered: offered))
        return ScriptedBackend(more, provides=[IAuthenticated])

    def test_mechanisms(self) -> None:
        """The session chooses from what is offered, in any order and case; the rest is 504."""
        backend = self.backend(mechanisms=lambda offered: ["login", "PLAIN", "GSSAPI"])
        wire = wire_with(backend=backend)
        self.assertEqual(offered(wire), ["PLAIN", "LOGIN"])
        self.assertEqual(wire.forget().say("AUTH SCRAM-SHA-256", "AUTH GSSAPI").codes, [504, 504])

    def test_none(self) -> None:
        """A session that chooses none hides AUTH."""
        wire = wire_with(backend=self.backend(mechanisms=lambda offered: []))
        self.assertEqual(offered(wire), [])
        self.assertEqual(wire.forget().say(AUTH).codes, [504])

    def test_consent(self) -> None:
        """``authenticated`` is called once, with the account; the password comes only where it is asked for."""
        backend = self.backend()
        wire_with(backend=backend).say(AUTH)
        self.assertEqual(backend.called("authenticated"), [(Account("joe"), None)])
        backend = self.backend()
        wire = wire_with(backend=backend)
        backend.sessions[0].wants_credentials = True  # type: ignore[attr-defined]
        wire.say(AUTH)
        self.assertEqual(backend.called("authenticated")[0][1].password, PASSWORD.encode())

    def test_outcomes(self) -> None:
        """Its outcome decides: consent is 235, in its words too; a refusal leaves the client logged out."""
        refusal = PermanentError("Not before nine", "5.7.1", 535)
        for outcome, reply, account in (
            (None, Reply(235, "Authentication succeeded", "2.7.0"), Account("joe")),
            (Reply(250, "Hello Joe", "2.0.0"), Reply(235, "Hello Joe", "2.7.0"), Account("joe")),
            (succeed(None), Reply(235, "Authentication succeeded", "2.7.0"), Account("joe")),
            (refusal, refusal.reply, None),
            (refusal.reply, refusal.reply, None),
        ):
            realm = CountingRealm()
            wire = wire_with(backend=self.backend(outcome), realm=realm).say(AUTH)
            with self.subTest(outcome=outcome):
                self.assertEqual(wire.replies, [reply])
                self.assertEqual(wire.protocol.conversation.peer.account, account)
                self.assertEqual(realm.logouts, [] if account else ["joe"])

    def test_pending(self) -> None:
        """It may wait; the account is set when it has consented, and not before."""
        pending: Deferred[Any] = Deferred()
        wire = wire_with(backend=self.backend(pending)).say(AUTH)
        peer = wire.protocol.conversation.peer
        self.assertEqual((wire.codes, peer.account), ([], None))
        pending.callback(None)
        self.assertEqual((wire.codes, peer.account), ([235], Account("joe")))

    def test_broken(self) -> None:
        """A hook that breaks is 451 4.3.0, logged, and nobody is logged in."""
        wire = wire_with(backend=self.backend(KeyError("x"))).say(AUTH)
        self.assertEqual((wire.codes, wire.protocol.conversation.peer.account), ([451], None))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)


class IdentityTests(SynchronousTestCase):
    LINE = f"AUTH PLAIN {plain(identity='boss')}"

    def test_refused(self) -> None:
        """Nobody acts as someone else where nothing permits it: the same 535 5.7.8, and logged out."""
        realm = CountingRealm()
        self.assertEqual(wire_with(realm=realm).say(self.LINE).replies, [REFUSED])
        self.assertEqual(realm.logouts, ["joe"])

    def test_own(self) -> None:
        """To name oneself is no request."""
        self.assertEqual(wire_with().say(f"AUTH PLAIN {plain(identity='joe')}").codes, [235])

    def test_authorizer(self) -> None:
        """A session that provides IAuthorizer decides: another account, a refusal, now or later."""
        no = Reply(535, "Ask again", "5.7.1")
        for outcome, code, name in (
            (Account("boss"), 235, "boss"),
            (succeed(Account("boss")), 235, "boss"),
            (None, 535, ""),
            (no, 535, ""),
            (PermanentError("No", "5.7.1", 535), 535, ""),
        ):
            backend = ScriptedBackend({"authorize": outcome}, provides=[IAuthorizer])
            wire = wire_with(backend=backend).say(self.LINE)
            account = wire.protocol.conversation.peer.account
            with self.subTest(outcome=outcome):
                self.assertEqual((wire.codes, account.name if account else ""), ([code], name))
                self.assertEqual(backend.called("authorize"), [(Account("joe"), "boss")])

    def test_wrong(self) -> None:
        """Without good credentials it is not even asked; nonsense of it is 454."""
        backend = ScriptedBackend({"authorize": Account("boss")}, provides=[IAuthorizer])
        wire_with(backend=backend).say(f"AUTH PLAIN {plain(password='x', identity='boss')}")
        self.assertEqual(backend.called("authorize"), [])
        backend = ScriptedBackend({"authorize": Reply(250, "OK")}, provides=[IAuthorizer])
        self.assertEqual(wire_with(backend=backend).say(self.LINE).codes, [454])
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)


class Logins(Monitor):
    """Remembers who logged in, and what commands were answered."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool]] = []
        self.answered: list[tuple[str, int]] = []

    def login(self, peer: Peer, mechanism: str, good: bool) -> None:
        """Remember."""
        self.seen.append((mechanism, good))

    def replied(self, peer: Peer, verb: str, reply: Reply) -> None:
        """Remember."""
        self.answered.append((verb, reply.code))


class MonitorTests(SynchronousTestCase):
    def test_judged(self) -> None:
        """Each judgement is told to the monitors, and what was never judged is not."""
        monitor = Logins()
        wire = wire_with(monitors=[monitor])
        wire.say(f"AUTH PLAIN {plain(password='x')}", "AUTH LOGIN", "*", "AUTH PLAIN x", AUTH)
        self.assertEqual(monitor.seen, [("PLAIN", False), ("PLAIN", True)])

    def test_verbs(self) -> None:
        """Of AUTH a monitor hears the verb and the reply."""
        monitor = Logins()
        wire_with(monitors=[monitor]).say("AUTH LOGIN", b64("joe"), b64(PASSWORD))
        self.assertEqual(monitor.answered[-3:], [("", 334), ("", 334), ("AUTH", 235)])


class SecretTests(SynchronousTestCase):
    def check(self, *secrets: str, **options: Any) -> Any:
        """Give a function that has a client talk, and checks that no log, reply or representation has a secret."""

        def talk(*lines: str | bytes, code: int, checker: Any = None) -> None:
            wire = wire_with(*([checker] if checker else []), **options)

            def say() -> None:
                wire.say(*lines)
                wire.hang_up()

            text = logged(say) + repr(wire.factory) + repr(wire.protocol.conversation.peer)
            self.flushLoggedErrors()
            self.assertEqual(wire.last_reply.code, code, lines)
            for secret in secrets:
                self.assertNotIn(secret, text)
                self.assertNotIn(secret.encode(), wire.output)

        return talk

    def test_passwords(self) -> None:
        """However AUTH goes, the password is in no log and no reply, plain or encoded."""
        talk = self.check(PASSWORD, plain(), b64(PASSWORD))
        talk(AUTH, code=235)
        talk("AUTH PLAIN", plain(), code=235)
        talk("AUTH LOGIN", b64("joe"), b64(PASSWORD), code=235)
        talk(f"AUTH PLAIN {plain('jim')}", code=535)
        talk(f"AUTH PLAIN\t{plain()}", code=501)
        talk(f"AUTH\tPLAIN {plain()}", code=500)
        talk(f"AUTH  PLAIN {plain()}", code=501)
        talk(f"AUTH PLAIN  {plain()}", code=501)
        talk(f"AUTH PLAIN {plain()} x", code=501)
        talk(f"AUTH PLAIN {plain()}\0", code=500)
        talk(f"AUTH PLAIN {plain()}!", code=501)
        talk(f"AUTH FROB {plain()}", code=504)
        talk("AUTH PLAIN", f"{plain()}\t", code=501)
        talk("AUTH PLAIN", f"{plain()}\0", code=500)
        talk("AUTH PLAIN", plain() * 600, code=500)
        talk(f"AUTH PLAIN {b64(PASSWORD)}", code=501)
        talk(AUTH, code=454, checker=AnswerChecker(KeyError("down")))
        talk(AUTH, code=454, checker=AnswerChecker(lambda login: 1 / 0))

    def test_pasted_password(self) -> None:
        """A password that comes where a command should is not logged either."""
        self.check(PASSWORD)(PASSWORD, code=500)

    def test_tokens(self) -> None:
        """The same holds for tokens."""
        response = "n,,\x01auth=Bearer s3cr3t.t0ken\x01\x01"
        talk = self.check("s3cr3t.t0ken", b64(response))
        checker = AnswerChecker(b"joe", IBearerToken)
        talk(f"AUTH OAUTHBEARER {b64(response)}", code=235, checker=checker)
        talk("AUTH OAUTHBEARER", b64(response), code=235, checker=checker)
        talk(f"AUTH OAUTHBEARER {b64(response)}", code=454, checker=AnswerChecker(KeyError("down"), IBearerToken))

    def test_scram(self) -> None:
        """The same holds for the proofs of SCRAM."""
        finals: list[str] = []

        def talk(client: Client, code: int) -> str:
            wire = wire_with()

            def say() -> None:
                wire.say(f"AUTH SCRAM-SHA-256 {b64(client.first())}")
                finals.append(client.final(challenge(wire)))
                wire.say(b64(finals[-1]), "", "NOOP")

            text = logged(say)
            self.assertEqual(wire.codes[1], code)
            return text

        for client, code in ((Client("SHA-256"), 334), (Client("SHA-256", password="x"), 535)):
            text = talk(client, code)
            for secret in (PASSWORD, finals[-1], b64(finals[-1]), finals[-1].rpartition("p=")[2]):
                self.assertNotIn(secret, text)

    def test_lmtp(self) -> None:
        """The same holds over LMTP."""
        wire = wire_with(role=Role.LMTP)
        text = logged(lambda: wire.say(f"AUTH PLAIN {plain(password='s3cr3t')}", AUTH))
        self.assertEqual(wire.codes[-2:], [535, 235])
        for secret in (PASSWORD, plain(), "s3cr3t"):
            self.assertNotIn(secret, text)

    def test_credentials_interface(self) -> None:
        """A checker that shows its credentials in an error shows no password."""
        checker = AnswerChecker(lambda login: KeyError(repr(login)), IUsernamePassword)
        self.check(PASSWORD)(AUTH, code=454, checker=checker)
