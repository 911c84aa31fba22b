"""
Tests of what happens in the exchange of AUTH: long lines, base64, SCRAM, tokens, and waiting.
"""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Any

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.extensions.auth import decode
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.sasl import Challenge, Context, Mechanism, Steps
from smtpsvc.sasl.credentials import IBearerToken
from smtpsvc.settings import AUTH_LINE
from smtpsvc.testing import Wire
from tests.logins import (
    PASSWORD,
    AnswerChecker,
    Client,
    CountingRealm,
    b64,
    challenge,
    plain,
    wire_with,
)
from tests.support import MESSAGE, given, st

GOOD = Reply(235, "Authentication succeeded", "2.7.0")
REFUSED = Reply(535, "Authentication credentials invalid", "5.7.8")


class LengthTests(SynchronousTestCase):
    # The most octets of base64 in a line with its CRLF, and their response.
    WHOLE = (AUTH_LINE - 2) // 4 * 4

    def test_longest(self) -> None:
        """A response may have 12,288 octets with its CRLF, in AUTH and after it."""
        checker = AnswerChecker(UnauthorizedLogin())
        response = b"\0joe\0".ljust(self.WHOLE // 4 * 3, b"x")
        self.assertEqual(len(b64(response)), self.WHOLE)
        self.assertEqual(wire_with(checker).say("AUTH PLAIN", b64(response)).codes, [334, 535])
        shorter = b64(response[: -3 * 3])
        self.assertEqual(wire_with(checker).say(f"AUTH PLAIN {shorter}").codes, [535])
        self.assertEqual(len(checker.asked), 2)

    def test_too_long(self) -> None:
        """A longer one is 500 5.5.6, whole or as it comes, and the connection goes on."""
        for line in (b"A" * AUTH_LINE + b"\r\n", b"A" * (AUTH_LINE + 70000) + b"\r\n"):
            wire = wire_with().say("AUTH PLAIN").forget()
            wire.receive(line[:AUTH_LINE]).receive(line[AUTH_LINE:]).say("NOOP")
            with self.subTest(length=len(line)):
                self.assertEqual(wire.replies[0].enhanced, "5.5.6")
                self.assertEqual(wire.codes, [500, 250])

    def test_long_challenge(self) -> None:
        """A challenge goes out in one line, however long it is."""

        class Long(Mechanism):
            name = "LONG"
            credentials = (IUsernamePassword,)

            def exchange(self, context: Context, response: bytes | None) -> Steps:
                yield Challenge(bytes(3000))
                raise UnauthorizedLogin

        wire = wire_with(mechanisms=[Long()]).say("AUTH LONG")
        self.assertEqual(wire.output, b"334 " + b"A" * 4000 + b"\r\n")

    @given(st.binary() | st.text("ABab+/=09 \t-_", max_size=12).map(str.encode))
    def test_strict(self, line: bytes) -> None:
        """Exactly what the grammar of RFC 4954 §8 has is decoded."""
        good = re.fullmatch(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", line)
        if good:
            self.assertEqual(decode(line), b64decode(line))
        else:
            self.assertRaises(SMTPError, decode, line)

    @given(st.binary())
    def test_round(self, data: bytes) -> None:
        """What was encoded is decoded."""
        self.assertEqual(decode(b64(data).encode()), data)


def go_to_proof(wire: Wire, client: Client, name: str = "SCRAM-SHA-256") -> None:
    """Go as far as the client's proof."""
    wire.forget().say(f"AUTH {name} {b64(client.first())}")
    wire.say(b64(client.final(challenge(wire))))


class ScramTests(SynchronousTestCase):
    def test_good(self) -> None:
        """The server's proof is a last challenge, and an empty line the answer to it."""
        wire, client = wire_with(), Client("SHA-256")
        go_to_proof(wire, client)
        client.check(challenge(wire))
        self.assertIsNone(wire.protocol.conversation.peer.account)
        self.assertEqual(wire.say("").last_reply, GOOD)
        self.assertEqual(wire.protocol.conversation.peer.account.name, "joe")

    def test_refused(self) -> None:
        """A wrong proof is 535 5.7.8 after the same steps for a user who is there and one who is not."""
        for client in (Client("SHA-256", password="x"), Client("SHA-256", name="jim")):
            wire = wire_with()
            go_to_proof(wire, client)
            self.assertEqual((wire.codes, wire.last_reply), ([334, 535], REFUSED))

    def test_last_answer(self) -> None:
        """Any other answer to the server's proof ends the exchange without a login."""
        for answer, code in (("*", 501), ("AA==", 501), ("x", 501)):
            realm = CountingRealm()
            wire, client = wire_with(realm=realm), Client("SHA-256")
            go_to_proof(wire, client)
            with self.subTest(answer=answer):
                self.assertEqual(wire.say(answer).last_reply.code, code)
                self.assertIsNone(wire.protocol.conversation.peer.account)
                self.assertEqual(realm.logouts, ["joe"])

    def test_plus(self) -> None:
        """The exchange is bound to the connection's TLS."""
        for data, codes in ((b"E" * 32, [334, 334, 235]), (b"X" * 32, [334, 535, 500])):
            wire = wire_with()
            wire.protocol.channel_binding = {"tls-exporter": b"E" * 32}.get
            client = Client("SHA-256", header="p=tls-exporter,,", binding=data)
            go_to_proof(wire, client, "SCRAM-SHA-256-PLUS")
            self.assertEqual(wire.say("").codes, codes)


class BearerTests(SynchronousTestCase):
    def test_refused(self) -> None:
        """A token that is refused is explained in a challenge; whatever the client answers, 535 follows."""
        for name, response in (
            ("OAUTHBEARER", "n,,\x01auth=Bearer abc\x01\x01"),
            ("XOAUTH2", "user=joe\x01auth=Bearer abc\x01\x01"),
        ):
            for answer in ("AQ==", "", "*", "?"):
                wire = wire_with(AnswerChecker(UnauthorizedLogin(), IBearerToken))
                wire.say(f"AUTH {name} {b64(response)}")
                with self.subTest(name=name, answer=answer):
                    self.assertIn(b'"schemes": "bearer"', challenge(wire))
                    self.assertEqual(wire.say(answer).last_reply, REFUSED)
                    self.assertEqual(wire.say("NOOP").last_reply.code, 250)

    def test_good(self) -> None:
        """A good token is 235; the name it is for must be the one that the client gives, if it gives one."""
        for name, code in (("joe", 235), ("", 235), ("boss", 535)):
            wire = wire_with(AnswerChecker(b"joe", IBearerToken))
            response = f"user={name}\x01auth=Bearer abc\x01\x01"
            self.assertEqual(wire.say(f"AUTH XOAUTH2 {b64(response)}").codes, [code])


class WaitingTests(SynchronousTestCase):
    def waiting(self, **options: Any) -> tuple[Wire, Deferred[Any], list[str]]:
        """Log in to a checker that takes its time; the list tells whether it was cancelled."""
        cancelled: list[str] = []
        pending: Deferred[Any] = Deferred(lambda _: cancelled.append("cancelled"))
        return wire_with(AnswerChecker(lambda _: pending), **options), pending, cancelled

    def test_pipelined(self) -> None:
        """What the client sends behind AUTH waits until the checker has answered."""
        wire, pending, _ = self.waiting(require_auth=True)
        wire.receive(b"AUTH PLAIN " + plain().encode() + b"\r\n" + MESSAGE)
        self.assertEqual(wire.codes, [])
        pending.callback(b"joe")
        self.assertEqual(wire.codes, [235, 250, 250, 354, 250])

    def test_pipelined_responses(self) -> None:
        """Responses may come before they are asked for."""
        wire = wire_with()
        wire.receive(f"AUTH LOGIN\r\n{b64('joe')}\r\n{b64(PASSWORD)}\r\nNOOP\r\n".encode())
        self.assertEqual(wire.codes, [334, 334, 235, 250])

    def test_lost(self) -> None:
        """A connection that is lost meanwhile cancels the checker, and nothing is logged."""
        wire, _, cancelled = self.waiting()
        wire.say(f"AUTH PLAIN {plain()}").hang_up()
        self.assertEqual(cancelled, ["cancelled"])

    def test_lost_in_exchange(self) -> None:
        """A connection that is lost while a response is waited for ends quietly."""
        wire_with().say("AUTH LOGIN").hang_up()
        realm = CountingRealm()
        wire, client = wire_with(realm=realm), Client("SHA-256")
        go_to_proof(wire, client)
        wire.hang_up()
        self.assertEqual(realm.logouts, ["joe"])

    def test_slow_checker(self) -> None:
        """A checker that takes too long is cancelled and answered 451 4.3.0."""
        clock: list[Any] = []
        wire, _, cancelled = self.waiting(clock=clock, hook_timeout=5.0)
        wire.say(f"AUTH PLAIN {plain()}")
        clock[0].pump([1] * 8)
        self.assertEqual((wire.codes, wire.last_reply.enhanced, cancelled), ([451], "4.3.0", ["cancelled"]))

    def test_slow_client(self) -> None:
        """A client that does not answer a challenge is told 421 4.4.2."""
        clock: list[Any] = []
        wire = wire_with(clock=clock, command_timeout=5.0).say("AUTH LOGIN")
        clock[0].pump([1] * 8)
        self.assertEqual((wire.codes, wire.closed), ([334, 421], True))

    def test_shut_down(self) -> None:
        """When the service ends in the middle of an exchange, the client is told 421."""
        wire = wire_with().say("AUTH LOGIN")
        wire.factory.shut_down()
        self.assertEqual((wire.codes, wire.closed), ([334, 421], True))
