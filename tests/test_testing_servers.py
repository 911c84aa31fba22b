"""Tests of the servers for tests: in the reactor, and in a thread."""

from __future__ import annotations

import asyncio
import gc
import os
import smtplib
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from unittest import IsolatedAsyncioTestCase
from unittest import TestCase as PlainTestCase

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from smtpsvc import Backend, IBackend, Role, Settings, on_message
from smtpsvc.client import connect
from smtpsvc.current import current_reactor
from smtpsvc.testing import (
    LocalServer,
    RecordingBackend,
    ScriptedBackend,
    ServerMixin,
    ThreadedServer,
    cut,
    drop,
    stall,
)
from tests.live import ROOT, need, run

MAIL = "Subject: hello\r\n\r\ntext\r\n"
#: Every way to be served.
KINDS: list[dict[str, Any]] = [
    {"tls": tls, "role": role, "unix": unix}
    for tls in ("", "starttls", "implicit")
    for role, unix in ((Role.SMTP, False), (Role.LMTP, False), (Role.LMTP, True))
]


def deliver(server: Any, recipient: str = "b@y.example", login: bool = False) -> None:
    """Send a message by smtplib, and part."""
    with server.connect() as client:
        if login:
            client.login("joe", "secret")
        client.sendmail("a@x.example", [recipient], MAIL)


class ThreadedTests(SynchronousTestCase):
    def test_kinds(self) -> None:
        """Each kind of server takes mail from a client that trusts its certificate, with a login."""
        for kind in KINDS:
            with self.subTest(**kind), ThreadedServer(accounts={"joe": "secret"}, **kind) as server:
                deliver(server, login=True)
                [message] = server.wait_for(1)
                self.assertEqual((message.content, message.account), (MAIL.encode(), "joe"))
                self.assertEqual(message.tls is not None, bool(kind["tls"]))
                self.assertEqual(bool(server.path), kind["unix"])

    def test_submission(self) -> None:
        """A submission server wants a login."""
        with ThreadedServer(role=Role.SUBMISSION, accounts={"joe": "secret"}) as server:
            self.assertRaises(smtplib.SMTPSenderRefused, deliver, server)
            deliver(server, login=True)
            with server.connect() as client:
                self.assertRaises(smtplib.SMTPAuthenticationError, client.login, "joe", "wrong")

    def test_certificate(self) -> None:
        """Who does not know the authority does not believe the server; who does, by file too, does, by any name."""
        with ThreadedServer(tls="starttls") as server:
            with smtplib.SMTP("localhost", server.port) as client:
                self.assertRaises(ssl.SSLError, client.starttls, context=ssl.create_default_context())
            for name in ("localhost", "127.0.0.1"):
                with smtplib.SMTP(name, server.port) as client:
                    client.starttls(context=ssl.create_default_context(cafile=server.ca_file))
        self.assertRaises(RuntimeError, lambda: server.ca_file)
        self.flushLoggedErrors()

    def test_curl(self) -> None:
        """A program that wants the authority in a file finds it there."""
        curl = need("curl")
        for tls, url in (("starttls", "smtp"), ("implicit", "smtps")):
            with ThreadedServer(tls=tls) as server:
                options = ("-sS", "--ssl-reqd", "--cacert", server.ca_file, "--mail-from", "a@x.example")
                run(
                    *(curl, *options, "--mail-rcpt", "b@y.example", "-T", "-", f"{url}://localhost:{server.port}"),
                    input=MAIL.encode(),
                )
                self.assertEqual(server.messages[0].content, MAIL.encode())

    def test_again(self) -> None:
        """A server may be started many times, and leaves neither descriptors nor threads nor files."""
        server = ThreadedServer(tls="starttls", unix=True)
        with server:
            deliver(server)
        gc.collect()
        before = (len(os.listdir("/proc/self/fd")), threading.active_count())
        for _ in range(10):
            with server:
                deliver(server)
                directory = Path(server.path).parent
            self.assertFalse(directory.exists())
        gc.collect()
        self.assertEqual((len(os.listdir("/proc/self/fd")), threading.active_count()), before)
        self.assertEqual(len(server.messages), 11)

    def test_at_once(self) -> None:
        """Several servers run at once, and several threads use one."""
        with ThreadedServer() as first, ThreadedServer() as second:
            threads = [
                threading.Thread(target=deliver, args=(server, f"{number}@y.example"))
                for number in range(4)
                for server in (first, second)
            ]
            for thread in threads:
                thread.start()
            for server in (first, second):
                self.assertEqual({message.recipients[0][0] for message in server.wait_for(4)}, set("0123"))
            for thread in threads:
                thread.join()

    def test_stops_with_clients(self) -> None:
        """A server that stops waits neither for clients that say nothing nor for hooks that never answer."""
        server = ThreadedServer(ScriptedBackend(mail=stall())).start()
        idle = socket.create_connection(("127.0.0.1", server.port))
        waiting = socket.create_connection(("127.0.0.1", server.port))
        for client in (idle, waiting):
            client.settimeout(30)
            self.assertTrue(client.recv(100).startswith(b"220 "))
        waiting.sendall(b"EHLO c.example\r\nMAIL FROM:<>\r\n")
        waiting.recv(1000)
        server.stop()
        server.stop()
        self.assertTrue(idle.recv(100).startswith(b"421 "))
        for client in (idle, waiting):
            client.close()

    def test_faults(self) -> None:
        """A client of one's own can be tried against faults."""
        with ThreadedServer(ScriptedBackend(rcpt=[451, drop()])) as server:
            with self.assertRaises(smtplib.SMTPRecipientsRefused) as refused:
                deliver(server)
            self.assertEqual(refused.exception.recipients["b@y.example"][0], 451)
            self.assertRaises(smtplib.SMTPServerDisconnected, deliver, server)
            deliver(server)

    def test_lost(self) -> None:
        """A client loses its connection at whatever step, in clear and under TLS, however large its message is."""
        faults: list[dict[str, Any]] = [{"mail": drop()}, {"write": cut(100_000)}, {"finish": drop()}]
        for tls in ("", "starttls", "implicit"):
            for fault in faults:
                with self.subTest(tls=tls, fault=fault), ThreadedServer(ScriptedBackend(**fault), tls=tls) as server:
                    client = server.connect()
                    lost = (smtplib.SMTPServerDisconnected, ConnectionError, ssl.SSLError)
                    self.assertRaises(lost, client.sendmail, "a@x.example", "b@y.example", "text\r\n" * 100_000)
                    client.close()

    def test_wait(self) -> None:
        """What does not come in time is an error that tells what is there."""
        with ThreadedServer() as server:
            deliver(server)
            error = self.assertRaises(AssertionError, server.wait_for, 2, timeout=0.05)
            self.assertIn("2 messages were to come in 0.05 s; there are [<RecordedMessage 'hello'", str(error))
            self.assertEqual(len(server.wait_for()), 1)

    def test_run(self) -> None:
        """Functions are called in the server's thread, plain ones and others, and their errors are raised."""
        with ThreadedServer() as server:
            self.assertIs(server.run(current_reactor), server.reactor)
            self.assertIs(server.run(threading.current_thread), server._thread)
            self.assertEqual(server.run(asyncless, 3), 4)
            self.assertRaises(ZeroDivisionError, server.run, lambda: 1 // 0)
            cancelled = threading.Event()
            self.assertRaises(TimeoutError, server.run, lambda: Deferred(lambda _: cancelled.set()), timeout=0.05)
            self.assertTrue(cancelled.wait(30))
            self.assertRaises(RuntimeError, server.run, server.run, int)
            self.assertRaises(RuntimeError, server.start)
        self.assertRaises(RuntimeError, server.run, int)

    def test_backend(self) -> None:
        """A backend that is a service starts and stops in the server's thread; its error is raised by the start."""
        served = Served()
        with ThreadedServer(served) as server:
            self.assertIs(served.reactors[0], server.reactor)
        self.assertEqual(len(served.reactors), 2)
        served = Served(KeyError("no"))
        self.assertRaises(KeyError, ThreadedServer(served).start)

    def test_spooled(self) -> None:
        """A function that gets a large message gets it from the server's own threads."""
        sizes: list[int] = []

        @on_message(spool_at=10)
        async def backend(message: Any) -> None:
            sizes.append(message.size)

        with ThreadedServer(backend, settings=Settings(hostname="mx.example")) as server:
            deliver(server)
        self.assertGreater(sizes[0], len(MAIL))

    def test_client(self) -> None:
        """A backend may send mail on from the server's thread, under TLS too, as a relay does."""
        for tls, mode in (("", "none"), ("starttls", "required"), ("implicit", "implicit")):
            with self.subTest(tls=tls), ThreadedServer(tls=tls) as last, ThreadedServer() as first:

                async def relay(last: ThreadedServer = last, mode: str = mode) -> None:
                    authority = Certificate.loadPEM(last.authority.pem)
                    connection = await connect(("localhost", last.port), tls=mode, trust=authority)
                    await connection.send("a@x.example", ["b@y.example"], MAIL.encode() * 1000)
                    await connection.quit()

                first.run(relay)
                self.assertEqual(len(last.wait_for()[0].content), 1000 * len(MAIL))

    def test_reactor(self) -> None:
        """The reactor of the process is not chosen by it, under TLS neither."""
        code = (
            "import sys\n"
            "from smtpsvc.testing import ThreadedServer\n"
            "for tls in ('', 'starttls', 'implicit'):\n"
            "    with ThreadedServer(tls=tls, accounts={'a': 'b'}) as server, server.connect() as client:\n"
            "        client.login('a', 'b')\n"
            "        client.sendmail('a@x.example', 'b@y.example', 'x')\n"
            "        assert len(server.wait_for()) == 1\n"
            "assert 'twisted.internet.reactor' not in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)

    def test_select(self) -> None:
        """On a system without epoll it is run by select."""
        code = (
            "import select\n"
            "if hasattr(select, 'epoll'):\n"
            "    del select.epoll\n"
            "from smtpsvc.testing import ThreadedServer\n"
            "from twisted.internet.selectreactor import SelectReactor\n"
            "with ThreadedServer(tls='starttls') as server, server.connect() as client:\n"
            "    client.sendmail('a@x.example', 'b@y.example', 'x')\n"
            "    print(len(server.wait_for()), isinstance(server.reactor, SelectReactor))\n"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, timeout=60)
        self.assertEqual(done.stdout, b"1 True\n")

    def test_words(self) -> None:
        """A mode of TLS that does not exist is refused, and a server shows what it is."""
        self.assertRaises(ValueError, ThreadedServer, tls="ssl")
        server = ThreadedServer(tls="implicit", role=Role.LMTP)
        self.assertEqual(repr(server), "<ThreadedServer lmtp implicit not started>")
        with server:
            self.assertEqual(repr(server), f"<ThreadedServer lmtp implicit 127.0.0.1:{server.port}>")


async def asyncless(number: int) -> int:
    """A coroutine of Twisted's kind."""
    value: Deferred[int] = Deferred()
    current_reactor().callLater(0, value.callback, 1)
    return number + await value


@implementer(IBackend)
class Served(Service, Backend):
    """A backend that is a service, and notes the reactor it starts and stops in."""

    def __init__(self, error: Exception | None = None) -> None:
        self.reactors: list[Any] = []
        self.error = error

    def startService(self) -> None:
        """Note it, or fail."""
        if self.error is not None:
            raise self.error
        super().startService()
        self.reactors.append(current_reactor())

    def stopService(self) -> Any:
        """Note it."""
        super().stopService()
        self.reactors.append(current_reactor())


class AsyncioTests(IsolatedAsyncioTestCase):
    async def test_asyncio(self) -> None:
        """In a test of asyncio the server is there beside the loop, which goes on meanwhile."""
        async with ThreadedServer() as server:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            self.assertTrue((await reader.readline()).startswith(b"220 "))
            writer.close()
            await asyncio.gather(*(asyncio.to_thread(deliver, server) for _ in range(2)))
            messages = await asyncio.to_thread(server.wait_for, 2)
        self.assertEqual(len(messages), 2)


class PlainTests(PlainTestCase):
    def test_unittest(self) -> None:
        """The test cases of the standard library can use it as they use any context."""
        server = self.enterContext(ThreadedServer())
        deliver(server)
        self.assertEqual(server.messages[0].subject, "hello")


class Hello(Protocol):
    """A client of Twisted's that waits for the greeting."""

    def __init__(self) -> None:
        self.greeting: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        """Take it, and part."""
        greeting, self.greeting = self.greeting, Deferred()
        greeting.callback(data)
        assert self.transport is not None
        self.transport.loseConnection()


class LocalTests(ServerMixin, TestCase):
    async def test_kinds(self) -> None:
        """Each kind of server takes mail in the reactor of the test."""
        for kind in KINDS:
            server = self.serve(accounts={"joe": "secret"}, **kind)
            await deferToThread(deliver, server, login=True)
            [message] = await server.backend.wait_for(1)
            self.assertEqual((message.content, message.account), (MAIL.encode(), "joe"))

    async def test_endpoint(self) -> None:
        """A client of Twisted's connects by the server's endpoint, and believes its certificate."""
        from twisted.internet import reactor

        for kind in ({}, {"tls": "implicit"}, {"unix": True}):
            server = self.serve(**kind)
            client = await server.endpoint(reactor).connect(Factory.forProtocol(Hello))
            self.assertTrue((await client.greeting).startswith(b"220 localhost "))

    async def test_beside(self) -> None:
        """A server in a thread works beside the reactor of the test."""
        server = await deferToThread(ThreadedServer(tls="starttls").start)
        await deferToThread(deliver, server)
        self.assertEqual(len(server.messages), 1)
        await deferToThread(server.stop)

    async def test_stop(self) -> None:
        """It can be stopped in the test already, and started again, but not twice."""
        server = self.serve(RecordingBackend())
        self.assertRaises(RuntimeError, server.start)
        await server.stop()
        await server.stop()
        self.assertIsInstance(server, LocalServer)
        server.start()
        await deferToThread(deliver, server)
        self.assertEqual(len(server.messages), 1)
