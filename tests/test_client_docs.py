"""The examples of the page on sending mail do what they show."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Any

from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.trial.unittest import TestCase

from smtpsvc.grammar.replies import NO_SUCH_USER, Reply
from smtpsvc.parameters import Notify
from smtpsvc.server.factory import SMTPFactory
from smtpsvc.testing import ScriptedBackend
from tests.certificates import AUTHORITY, store
from tests.live import ROOT
from tests.logins import PASSWORD, CountingRealm
from tests.meetings import MESSAGE
from tests.support import settings_with

EXAMPLE = ROOT / "docs" / "examples" / "sending.py"


class SendingTests(TestCase):
    def setUp(self) -> None:
        """Load the example."""
        self.example: dict[str, Any] = {}
        exec(compile(EXAMPLE.read_text(), str(EXAMPLE), "exec"), self.example)

    async def call(self, name: str, *args: Any, backend: Any = None, **more: Any) -> Any:
        """Run one of its functions against a server, and keep what it prints."""
        self.backend = backend or ScriptedBackend()
        portal = None
        if "trust" in more:
            from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse

            portal = Portal(CountingRealm(), [InMemoryUsernamePasswordDatabaseDontUse(anna=PASSWORD.encode())])
        factory = SMTPFactory(self.backend, settings_with(), tls=store() if portal else None, portal=portal)
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        self.printed = io.StringIO()
        with redirect_stdout(self.printed):
            return await self.example[name](("127.0.0.1", port.getHost().port), *args, **more)

    async def test_post(self) -> None:
        """One call sends, and the report is printed."""
        await self.call("post")
        names = ("bert@example.org", "cleo@example.net")
        lines = "".join(rf"delivered {name} by 127\.0\.0\.1: 250 .*\n" for name in names)
        self.assertRegex(self.printed.getvalue(), rf"\A{lines}\Z")
        self.assertNotIn(b"Bcc", self.backend.messages[0].content)

    async def test_newsletter(self) -> None:
        """The mailer sends to many, and tells who is gone."""
        readers = [f"r{number}@example.org" for number in range(5)]
        self.assertEqual(await self.call("newsletter", readers, MESSAGE), [])
        self.assertEqual(len(self.backend.messages), 5)
        gone = await self.call("newsletter", readers[:1], MESSAGE, backend=ScriptedBackend(rcpt=[NO_SUCH_USER]))
        self.assertEqual(gone, readers[:1])

    def test_branches(self) -> None:
        """Routes are for domains."""
        mailer = self.example["branches"](self.example["OFFICE"])
        self.assertIs(mailer._routes.find("a.Example.com"), self.example["OFFICE"])
        self.assertEqual(mailer._routes.find("example.org").servers, ())

    async def test_send(self) -> None:
        """The first example sends, and prints who was refused."""
        backend = ScriptedBackend(rcpt=[None, NO_SUCH_USER])
        self.assertEqual((await self.call("send", MESSAGE, backend=backend)).taken, ("bert@example.org",))
        self.assertEqual(self.printed.getvalue(), "not for cleo@example.org: 550 5.1.1 No such user here\n")

    async def test_submit(self) -> None:
        """The second logs in under TLS."""
        trust = trustRootFromCertificates([Certificate.loadPEM(AUTHORITY.pem)])
        await self.call("submit", MESSAGE, PASSWORD, trust=trust)
        self.assertEqual(self.backend.messages[0].envelope.peer.account.name, "anna")

    async def test_notify(self) -> None:
        """Parameters arrive."""
        await self.call("notify", MESSAGE)
        envelope = self.backend.messages[0].envelope
        self.assertEqual(envelope.recipients[0].params["NOTIFY"], {Notify.SUCCESS, Notify.FAILURE})
        self.assertEqual(envelope.mail_params["ENVID"], "invoice 17")

    async def test_stream(self) -> None:
        """What is made on the way arrives."""

        async def numbers() -> Any:
            for number in range(3):
                yield number

        await self.call("stream", numbers())
        self.assertTrue(self.backend.messages[0].content.endswith(b"\r\n\r\n0\r\n1\r\n2\r\n"))

    async def test_attempt(self) -> None:
        """An error says whether to try again."""
        for refusal, said in ((Reply(450, "busy"), "later"), (NO_SUCH_USER, "never: 550 5.1.1 No such user here")):
            backend = ScriptedBackend(rcpt=[refusal, refusal])
            self.assertEqual(await self.call("attempt", MESSAGE, backend=backend), said)

    async def test_step_by_step(self) -> None:
        """A relay's steps give their replies."""
        reply = await self.call("step_by_step", [MESSAGE])
        self.assertEqual(reply.code, 250)
        self.assertEqual(self.printed.getvalue(), "250 2.1.0 Sender OK\n250 2.1.5 Recipient OK\n")
