"""Tests of smtpsvc.backends.relaying: what goes on with a message, and what is refused where that lacks something."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.parameters import Notify, Ret
from smtpsvc.testing import ScriptedBackend
from smtpsvc.values import Account, Forwarded, TLSInfo
from tests.meetings import BARE, CHUNKING, EHLO, GO, OK
from tests.relays import MAIL, RCPT, TEXT, Relayed, meeting, talk

_ENABLED = frozenset({"MT-PRIORITY", "XOORG", "NO-SOLICITING:org.example:ADV", "DELIVERBY", "RRVS"})
TRUSTED = {"trusted_proxies": (ip_network("192.0.2.0/24"),)}


def passed(mail: str = MAIL, rcpt: str = RCPT) -> Any:
    """Pass a message on between two servers that have everything; give the envelope that arrives."""
    backend = ScriptedBackend()
    relayed = Relayed(meeting(backend, enable=_ENABLED), settings={"enable": _ENABLED})
    relayed.say(mail, rcpt, "DATA", TEXT)
    assert relayed.codes == [250, 250, 354, 250], relayed.wire.replies
    return backend.messages[0].envelope


class HandedOnTests(SynchronousTestCase):
    def test_mail(self) -> None:
        """Parameters of MAIL arrive with the values that the client gave."""
        for text, name in (
            ("RET=HDRS ENVID=a+20b", "ENVID"),
            ("SIZE=1000", "SIZE"),
            ("BODY=8BITMIME", "BODY"),
            ("SMTPUTF8", "SMTPUTF8"),
            ("BY=120;N", "BY"),
            ("BY=120;RT", "BY"),
            ("MT-PRIORITY=3", "MT-PRIORITY"),
        ):
            with self.subTest(text=text):
                self.assertIn(name, passed(f"{MAIL} {text}").mail_params)
        params = passed(f"{MAIL} RET=HDRS ENVID=a+20b").mail_params
        self.assertEqual((params["RET"], params["ENVID"]), (Ret.HDRS, "a b"))

    def test_rcpt(self) -> None:
        """Parameters of RCPT do too."""
        envelope = passed(rcpt=f"{RCPT} NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c+2Bd@z.example RRVS=2026-01-01T00:00:00Z")
        params = envelope.recipients[0].params
        self.assertEqual(params["NOTIFY"], {Notify.SUCCESS, Notify.DELAY})
        self.assertEqual(params["ORCPT"].address, "c+d@z.example")
        self.assertEqual(params["RRVS"].time.year, 2026)

    def test_international(self) -> None:
        """International addresses arrive."""
        envelope = passed("MAIL FROM:<jürgen@x.example> SMTPUTF8", "RCPT TO:<βήτα@y.example>")
        self.assertEqual((str(envelope.sender), str(envelope.recipients[0])), ("jürgen@x.example", "βήτα@y.example"))

    def test_null_sender(self) -> None:
        """Notifications go on as such."""
        self.assertTrue(passed("MAIL FROM:<>").sender.is_null)

    def test_binary(self) -> None:
        """Binary content goes on by BDAT, octet by octet."""
        backend = ScriptedBackend()
        relayed = Relayed(meeting(backend, settings={"add_received": False}))
        relayed.say(f"{MAIL} BODY=BINARYMIME", RCPT)
        content = b"a: b\r\n\r\n\0\r\n.\r\n\nc\rd"
        relayed.wire.receive(b"BDAT %d\r\n%bBDAT 0 LAST\r\n" % (len(content), content))
        relayed.settle()
        self.assertEqual(relayed.codes[-1], 250)
        self.assertEqual(backend.messages[0].content, content)

    def test_requiretls(self) -> None:
        """REQUIRETLS goes on under TLS that was verified, to a server that has it."""
        backend = ScriptedBackend()
        tls = TLSInfo("TLSv1.3", "x")

        def make(_: object) -> Any:
            made = meeting(backend, enable={"REQUIRETLS"}, server_tls=tls)({})
            made.connection.tls = tls
            made.connection.options = made.connection.options.changed(tls="required")
            return made

        relayed = Relayed(make)
        relayed.wire.pretend_tls()
        relayed.wire.greeted()
        relayed.say(f"{MAIL} REQUIRETLS")
        self.assertEqual(relayed.codes[-1], 250)
        self.assertIn("REQUIRETLS", backend.called("mail")[0][0].mail_params)


class LackingTests(SynchronousTestCase):
    def say(self, mail: str = MAIL, rcpt: str = "", *, secure: bool = False) -> str:
        """Say MAIL and RCPT to a relay whose next server has nothing; give the last reply."""
        relayed = Relayed(talk(BARE), settings={"enable": _ENABLED})
        if secure:
            relayed.wire.pretend_tls()
            relayed.wire.greeted()
        relayed.say(mail)
        if rcpt:
            relayed.hops[0].made[0].receive(OK)
            relayed.say(rcpt)
        return str(relayed.wire.replies[-1])[:10].strip()

    def test_refused(self) -> None:
        """What must not be lost is refused, with the code that its RFC has."""
        self.assertEqual(self.say(f"{MAIL} REQUIRETLS", secure=True), "550 5.7.30")
        self.assertEqual(self.say(f"{MAIL} SMTPUTF8"), "553 5.6.7")
        self.assertEqual(self.say("MAIL FROM:<ü@x.example> SMTPUTF8"), "553 5.6.7")
        self.assertEqual(self.say(f"{MAIL} BODY=BINARYMIME"), "554 5.6.1")
        self.assertEqual(self.say(f"{MAIL} BY=120;R"), "550 5.3.3")
        self.assertEqual(self.say(rcpt=f"{RCPT} RRVS=2026-01-01T00:00:00Z"), "550 5.7.19")

    def test_left_out(self) -> None:
        """What is a wish only is left out."""
        relayed = Relayed(talk(BARE), settings={"enable": _ENABLED})
        relayed.say(f"{MAIL} RET=HDRS ENVID=x SIZE=5 BODY=8BITMIME BY=120;N MT-PRIORITY=3")
        hop = relayed.hops[0].made[0]
        self.assertTrue(hop.transport.take().endswith(b"MAIL FROM:<a@x.example>\r\n"))
        hop.receive(OK)
        relayed.say(f"{RCPT} NOTIFY=NEVER ORCPT=rfc822;b@y.example RRVS=2026-01-01T00:00:00Z;C")
        self.assertEqual(hop.transport.take(), b"RCPT TO:<b@y.example>\r\n")

    def test_too_big(self) -> None:
        """A message that is declared larger than the next server takes is refused at MAIL."""
        relayed = Relayed(talk(EHLO)).say(f"{MAIL} SIZE=1000001")
        self.assertEqual(str(relayed.wire.replies[-1])[:9], "552 5.3.4")

    def test_eight_bit(self) -> None:
        """8-bit content is refused where the next server takes seven; it gets no final dot."""
        relayed = Relayed(talk(BARE)).say(MAIL)
        hop = relayed.hops[0].made[0]
        for line in (RCPT, "DATA", "Subject: é", "", "."):
            hop.receive(GO if line.startswith("Subject") else OK)
            relayed.say(line)
        self.assertEqual(str(relayed.wire.replies[-1])[:9], "554 5.6.3")
        self.assertTrue(hop.transport.gone)

    def test_connection_stays(self) -> None:
        """Such a refusal does not cost the connection."""
        relayed = Relayed(talk(CHUNKING)).say(f"{MAIL} SMTPUTF8")
        hop = relayed.hops[0].made[0]
        hop.receive(OK)
        relayed.say(MAIL)
        hop.receive(OK)
        self.assertEqual((relayed.codes, relayed.hops[0].tried), ([553, 250], 1))

    def test_announced(self) -> None:
        """Once the next server is known, EHLO announces nothing that only it could keep and does not."""
        relayed = Relayed(talk(CHUNKING))
        keywords = {"SMTPUTF8", "DSN", "BINARYMIME", "8BITMIME", "CHUNKING"}
        for expected in (keywords, keywords - {"SMTPUTF8", "DSN"}):
            relayed.wire.forget()
            relayed.say("EHLO c.example")
            said = {line.partition(" ")[0] for line in relayed.wire.replies[-1].text.split("\n")}
            self.assertEqual(said & keywords, expected)
            relayed.say(MAIL)
            relayed.hops[0].made[0].receive(OK)


class ToldTests(SynchronousTestCase):
    """XCLIENT and XFORWARD."""

    def test_xclient(self) -> None:
        """The next server takes our client for its own; the connection is used for that message only."""
        backend = ScriptedBackend()
        relayed = Relayed(meeting(backend, settings={**TRUSTED, "xclient_login": True}), xclient=True)
        peer = relayed.wire.protocol.conversation.peer
        peer.account, peer.name = Account("anna"), "c.example"
        relayed.say(MAIL, RCPT, "DATA", TEXT, MAIL)
        seen = backend.messages[0].envelope.peer
        self.assertEqual((seen.host, seen.port, seen.helo), ("192.0.2.1", 50000, "client.example"))
        self.assertEqual((seen.name, seen.account.name, seen.extended), ("c.example", "anna", True))
        self.assertEqual(relayed.hops[0].tried, 2)
        self.assertTrue(relayed.hops[0].made[0].lost)

    def test_xforward(self) -> None:
        """XFORWARD says where a message came from, on a connection that goes on to be used."""
        backend = ScriptedBackend()
        relayed = Relayed(meeting(backend, settings=TRUSTED), xforward=True)
        relayed.wire.protocol.conversation.peer.address = IPv4Address("TCP", "192.0.2.1", 50000)
        relayed.say(MAIL, RCPT, "DATA", TEXT, MAIL)
        forwarded = backend.messages[0].envelope.forwarded
        assert forwarded is not None
        self.assertEqual((forwarded.address, forwarded.port, forwarded.helo), ("192.0.2.1", 50000, "client.example"))
        self.assertEqual((forwarded.protocol, forwarded.source), ("ESMTP", "REMOTE"))
        self.assertIsNone(forwarded.name)
        self.assertEqual(relayed.hops[0].tried, 1)

    def test_xforward_on(self) -> None:
        """What our client has said with XFORWARD goes on in place of the client's own."""
        backend = ScriptedBackend()
        relayed = Relayed(meeting(backend, settings=TRUSTED), xforward=True)
        relayed.wire.protocol.conversation.peer.forwarded = Forwarded(name="far.example", address="2001:db8::1")
        relayed.say(MAIL, RCPT, "DATA", TEXT)
        forwarded = backend.messages[0].envelope.forwarded
        assert forwarded is not None
        self.assertEqual((forwarded.name, forwarded.address, forwarded.port), ("far.example", "2001:db8::1", None))

    def test_not_taken(self) -> None:
        """A server that does not take XFORWARD is given none, and the mail all the same."""
        self.assertEqual(Relayed(meeting(), xforward=True).say(MAIL).codes, [250])
