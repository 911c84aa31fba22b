"""Tests of smtpsvc.client against servers of others: Postfix, smtp-sink, aiosmtpd; and our own as a process."""

from __future__ import annotations

import socket
import subprocess
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

from smtpsvc.client import Connection, Refused, Timeouts, connect
from smtpsvc.parameters import Notify, Ret
from tests.live import PATIENCE, Postfix, Server, need, until
from tests.meetings import MESSAGE

SENDER, JOE, ANN = "a@x.example", "joe@y.example", "ann@y.example"
LARGE = b"Subject: large\r\n\r\n" + b".a line with a dot\r\n" * 100_000


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        number: int = found.getsockname()[1]
        return number


def listening(port: int) -> bool:
    """Tell whether somebody listens there."""
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


class LiveTestCase(TestCase):
    """Sends the same to each server."""

    timeout = PATIENCE * 2

    async def connected(self, where: Any, **options: Any) -> Connection:
        """Connect without TLS, and close at the end."""
        waits = Timeouts(greeting=PATIENCE, command=PATIENCE, end=PATIENCE)
        connection = await connect(where, tls="none", hostname="client.example", timeouts=waits, **options)
        self.addCleanup(connection.quit)
        return connection

    async def check(self, connection: Connection) -> None:
        """Send small and large messages, one after the other."""
        for content in (MESSAGE, LARGE, MESSAGE):
            result = await connection.send(SENDER, [JOE, ANN], content)
            self.assertEqual(result.taken, (JOE, ANN))
        self.assertTrue(connection.usable)


class PostfixTests(LiveTestCase):
    def postfix(self, **settings: str) -> Postfix:
        """Start a Postfix that takes all mail, and keeps it in its queue."""
        made = Postfix(
            relay_domains="y.example",
            smtpd_recipient_restrictions=f"check_recipient_access inline:{{{ANN}=REJECT}}, reject_unauth_destination",
            defer_transports="smtp", **settings,
        )  # fmt: skip
        self.addCleanup(made.close)
        return made

    async def test_mail(self) -> None:
        """Postfix takes messages by BDAT and by DATA, with DSN, and its refusals come with their codes."""
        postfix = await deferToThread(self.postfix)
        await deferToThread(until, lambda: postfix.conf, "Postfix has begun")
        for chunking in (True, False):
            connection = await self.connected(UNIXClientEndpoint(reactor, postfix.socket), chunking=chunking)
            self.assertEqual(connection.chunking, chunking)
            for content in (MESSAGE, LARGE):
                result = await connection.send(
                    SENDER, [JOE, ANN], content, params={"RET": Ret.HDRS, "ENVID": "x y"},
                    recipient_params={"NOTIFY": {Notify.FAILURE}},
                )  # fmt: skip
                self.assertEqual((result.taken, result.dropped), ((JOE,), ()))
                self.assertEqual(result.refused[ANN].enhanced, "5.7.1")
            try:
                await connection.send(SENDER, [ANN], MESSAGE)
            except Refused as error:
                self.assertEqual(error.reply.code, 554)
            await connection.send(SENDER, [JOE], MESSAGE)


class SinkTests(LiveTestCase):
    def sink(self, *options: str) -> int:
        """Start smtp-sink, and give its port."""
        port = free_port()
        process = subprocess.Popen(
            [need("smtp-sink"), *options, f"127.0.0.1:{port}", "100"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        until(lambda: process.poll() is not None or listening(port), "smtp-sink listens")
        if process.poll() is not None:
            raise SkipTest("smtp-sink cannot be started")
        return port

    async def test_mail(self) -> None:
        """smtp-sink takes all, with and without PIPELINING and ESMTP, and over LMTP."""
        for options, lmtp in (((), False), (("-p",), False), (("-e",), False), (("-L",), True)):
            await self.check(await self.connected(("127.0.0.1", self.sink("-u", "nobody", *options)), lmtp=lmtp))

    async def test_refusals(self) -> None:
        """Hard and soft refusals at each command come back as such."""
        for command in ("mail", "rcpt", "data", "."):
            for letter, code in (("-f", 500), ("-r", 450)):
                connection = await self.connected(("127.0.0.1", self.sink("-u", "nobody", letter, command)))
                try:
                    await connection.send(SENDER, [JOE], MESSAGE)
                except Refused as error:
                    self.assertEqual(error.reply.code // 100, code // 100)
                    self.assertTrue(connection.usable)
                else:
                    raise AssertionError(f"{command} was not refused")


class AiosmtpdTests(LiveTestCase):
    async def test_mail(self) -> None:
        """aiosmtpd takes messages whole."""
        try:
            from aiosmtpd.controller import Controller
        except ImportError:
            raise SkipTest("aiosmtpd is not installed") from None
        got: list[bytes] = []

        class Handler:
            async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
                got.append(envelope.original_content)
                return "250 OK"

        controller = Controller(Handler(), hostname="127.0.0.1", port=free_port())
        controller.start()
        self.addCleanup(controller.stop)
        await self.check(await self.connected(("127.0.0.1", controller.port)))
        self.assertEqual(got, [MESSAGE, LARGE, MESSAGE])


class OurServerTests(LiveTestCase):
    async def test_mail(self) -> None:
        """What our server keeps is what was sent."""
        server = await deferToThread(Server, "--hostname", "mx.example")
        self.addCleanup(server.close)
        await self.check(await self.connected(("127.0.0.1", server.port)))
        ends = sorted(len(mail[mail.index(b"Subject: ") :].replace(b"\r\n", b"\n")) for mail in server.mails())
        self.assertEqual(ends, sorted(len(each.replace(b"\r\n", b"\n")) for each in (MESSAGE, LARGE, MESSAGE)))
