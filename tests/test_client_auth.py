"""Tests of smtpsvc.client's logins: each mechanism against our server, and what servers do wrong."""

from __future__ import annotations

import base64
from typing import Any

from twisted.cred.portal import Portal

from smtpsvc.client import ClientError, Login, LoginFailed, ServerMisbehaved
from smtpsvc.client.options import Login as OptionsLogin
from smtpsvc.client.sasl import MECHANISMS, Context, choose
from smtpsvc.sasl import default_mechanisms
from smtpsvc.sasl.credentials import IBearerToken
from smtpsvc.testing import ScriptedBackend, clocked_factory
from tests.logins import PASSWORD, TLS, AnswerChecker, CountingRealm, joes
from tests.meetings import ClientTestCase, Meeting, Talk
from tests.support import settings_with

JOE = Login("joe", PASSWORD, in_clear=True)


def b64(text: bytes) -> bytes:
    """Encode a challenge."""
    return base64.b64encode(text)


def offering(*mechanisms: str) -> bytes:
    """A reply to EHLO."""
    return b"250-mx.example\r\n250 AUTH %b\r\n" % " ".join(mechanisms).encode()


class OurServerTests(ClientTestCase):
    def meet(self, login: Login, *checkers: Any, **more: Any) -> Meeting:
        """Log in to our server."""
        portal = Portal(CountingRealm(), checkers or [joes()])
        factory, _ = clocked_factory(
            ScriptedBackend(), settings_with(enable=frozenset({"CRAM-MD5"})), portal=portal, **more
        )
        return Meeting(factory=factory, server_tls=TLS, login=login)

    def test_each(self) -> None:
        """Each mechanism with a password logs in."""
        for name in ("SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN"):
            meeting = self.meet(Login("joe", PASSWORD, in_clear=True, mechanisms=[name]))
            self.assertEqual(self.successResultOf(meeting.opened).mechanism, name)
            self.assertEqual(meeting.wire.protocol.conversation.peer.account.name, "joe")

    def test_strongest(self) -> None:
        """The strongest that is offered is taken, and the password does not leave."""
        meeting = self.meet(JOE)
        self.assertEqual(self.successResultOf(meeting.opened).mechanism, "SCRAM-SHA-256")
        self.assertNotIn(b"AUTH PLAIN", b"".join(meeting.said))

    def test_wrong_password(self) -> None:
        """A wrong password is the server's refusal, tried once."""
        for name in ("SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN"):
            meeting = self.meet(Login("joe", "wrong", in_clear=True, mechanisms=[name, "PLAIN"]))
            error = self.failure(meeting.opened, LoginFailed)
            self.assertEqual((error.reply.code, error.temporary), (535, False))
            self.assertEqual(b"".join(meeting.said).count(b"AUTH "), 1)
            self.assertNotIn("wrong", str(error))

    def test_tokens(self) -> None:
        """A token logs in by OAUTHBEARER and XOAUTH2; a wrong one is refused after its error was acknowledged."""
        for name in ("OAUTHBEARER", "XOAUTH2"):
            for answer, works in ((b"joe", True), (None, False)):
                checker = AnswerChecker(answer or self.refusal(), IBearerToken)
                meeting = self.meet(Login("joe", token="abc", in_clear=True, mechanisms=[name]), checker)
                if works:
                    self.assertEqual(self.successResultOf(meeting.opened).mechanism, name)
                else:
                    self.assertEqual(self.failure(meeting.opened, LoginFailed).reply.code, 535)

    def refusal(self) -> Exception:
        """What a checker raises."""
        from twisted.cred.error import UnauthorizedLogin

        return UnauthorizedLogin()

    def test_ours_are_all_known(self) -> None:
        """Whatever mechanism the server has, the client has."""
        self.assertEqual({each.name for each in default_mechanisms()}, set(MECHANISMS))


class ChoiceTests(ClientTestCase):
    def chosen(self, login: Login, *offered: str, trusted: bool = True, binding: Any = None) -> list[str]:
        """Give the mechanisms that may be tried."""
        return choose(login, Context("mx", binding, offered), trusted=trusted)[0]

    def test_order(self) -> None:
        """The strongest come first: bound before unbound, proofs before passwords."""
        every = [*MECHANISMS][::-1]
        self.assertEqual(
            self.chosen(Login("joe", "x"), *every, binding=("tls-exporter", b"x")),
            ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN"],
        )
        self.assertEqual(self.chosen(Login("joe", token="x"), *every), ["OAUTHBEARER", "XOAUTH2"])
        self.assertEqual(self.chosen(Login(external=True), *every), ["EXTERNAL"])
        self.assertEqual(self.chosen(Login("me", anonymous=True), *every), ["ANONYMOUS"])

    def test_in_clear(self) -> None:
        """Without verified TLS no password and no token is shown, unless it was said."""
        self.assertEqual(self.chosen(Login("joe", "x"), "PLAIN", "LOGIN", "CRAM-MD5", trusted=False), ["CRAM-MD5"])
        self.assertEqual(self.chosen(Login("joe", token="x"), "XOAUTH2", trusted=False), [])
        self.assertEqual(self.chosen(Login("joe", "x", in_clear=True), "PLAIN", trusted=False), ["PLAIN"])

    def test_named(self) -> None:
        """Named mechanisms are tried in their order, and no other."""
        login = Login("joe", "x", mechanisms=["login", "PLAIN"])
        self.assertEqual(self.chosen(login, "PLAIN", "LOGIN", "CRAM-MD5"), ["LOGIN", "PLAIN"])


class ServerTests(ClientTestCase):
    def talk(self, login: Login, *offered: str) -> Talk:
        """Connect to a server that offers these."""
        return Talk(login=login).greeted(offering(*offered))

    def test_not_in_clear(self) -> None:
        """Where only the password itself would do, nothing is sent without TLS, and the error says why."""
        talk = self.talk(OptionsLogin("joe", "secret"), "PLAIN", "LOGIN")
        error = self.failure(talk.opened, LoginFailed)
        self.assertIn("without verified TLS", str(error))
        self.assertEqual(talk.transport.take(), b"")

    def test_nothing_fits(self) -> None:
        """If nothing that is offered fits, the error names what is."""
        self.assertIn("GSSAPI, NTLM", str(self.failure(self.talk(JOE, "GSSAPI", "NTLM").opened, LoginFailed)))
        self.failure(Talk(login=JOE).greeted(b"250 mx\r\n").opened, LoginFailed)

    def test_next(self) -> None:
        """A mechanism that is not to be had after all (504) lets the next be tried."""
        talk = self.talk(JOE, "CRAM-MD5", "PLAIN")
        self.assertEqual(talk.transport.take(), b"AUTH CRAM-MD5\r\n")
        self.assertTrue(talk.receive(b"504 5.5.4 no\r\n").startswith(b"AUTH PLAIN "))
        talk.receive(b"235 welcome\r\n")
        self.assertEqual(self.successResultOf(talk.opened).mechanism, "PLAIN")

    def test_long_response(self) -> None:
        """A response that is too long for the command goes out when it is asked for (RFC 4954 §4)."""
        login = Login("joe", token="x" * 1000, in_clear=True)
        talk = self.talk(login, "XOAUTH2")
        self.assertEqual(talk.transport.take(), b"AUTH XOAUTH2\r\n")
        self.assertGreater(len(talk.receive(b"334 \r\n")), 1000)
        talk.receive(b"235 welcome\r\n")
        self.successResultOf(talk.opened)

    def test_empty_response(self) -> None:
        """An empty initial response is written = (RFC 4954 §4)."""
        self.assertEqual(self.talk(Login(external=True), "EXTERNAL").transport.take(), b"AUTH EXTERNAL =\r\n")

    def test_asks_on(self) -> None:
        """A server that asks for more than the mechanism has is answered with a star."""
        talk = self.talk(JOE, "PLAIN")
        self.assertTrue(talk.receive(b"334 \r\n").endswith(b"\r\n*\r\n"))
        talk.receive(b"501 5.7.0 cancelled\r\n")
        self.assertEqual(self.failure(talk.opened, LoginFailed).reply.code, 501)

    def test_no_proof(self) -> None:
        """A server that takes a SCRAM login without its own proof is not believed."""
        for replies in ((b"235 welcome\r\n",), (b"334 %b\r\n", b"235 welcome\r\n")):
            talk = self.talk(JOE, "SCRAM-SHA-256")
            sent = base64.b64decode(talk.transport.take().split()[2]).decode()
            first = b64(f"r={sent.split('r=')[1]}more,s=c2FsdHNhbHRzYWx0c2FsdA==,i=4096".encode())
            talk.receive(*[reply % first if b"%b" in reply else reply for reply in replies])
            self.assertIn("proof", str(self.failure(talk.opened, LoginFailed)))
            self.assertTrue(talk.transport.gone)

    def test_wrong_server(self) -> None:
        """A server's side of SCRAM that is wrong ends the login and the connection."""
        for wrong in (b"r=other,s=c2FsdA==,i=4096", b"nonsense", b"\xff", b"", b"e=other-error"):
            talk = self.talk(JOE, "SCRAM-SHA-256")
            talk.receive(b"334 %b\r\n" % b64(wrong))
            self.failure(talk.opened, LoginFailed)
            self.assertTrue(talk.transport.gone)

    def test_too_many_iterations(self) -> None:
        """A server that asks for endless work is left."""
        talk = self.talk(JOE, "SCRAM-SHA-256")
        sent = base64.b64decode(talk.transport.take().split()[2]).decode()
        talk.receive(b"334 %b\r\n" % b64(f"r={sent.split('r=')[1]}more,s=c2FsdHNhbHRzYWx0c2FsdA==,i=9999999".encode()))
        self.assertIn("iterations", str(self.failure(talk.opened, LoginFailed)))

    def test_no_base64(self) -> None:
        """A challenge that is no base64 ends the login."""
        talk = self.talk(JOE, "CRAM-MD5")
        talk.receive(b"334 !!!\r\n")
        self.failure(talk.opened, ClientError)

    def test_wrong_reply(self) -> None:
        """354 is no reply to AUTH."""
        talk = self.talk(JOE, "PLAIN")
        talk.receive(b"354 go\r\n")
        self.failure(talk.opened, ServerMisbehaved)
