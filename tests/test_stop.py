"""
The end of the service: ports close at once, transactions may end, and nothing that was acknowledged is lost.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.backends.null import NullBackend
from smtpsvc.launch import Interrupts, LaunchedService, Plan
from smtpsvc.service import FAREWELL, MailService
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire
from smtpsvc.tlstesting import TLSWire
from tests.certificates import TLSTestCase, store
from tests.hooks import MAIL, RCPT, Late
from tests.live import PATIENCE, Server, until
from tests.support import settings_with
from tests.test_service import FakeEndpoint, ServiceBackend
from tests.test_twistd import FOREGROUND, ProcessTestCase, is_running, ports_in, wait_for

GRACE = 30.0

#: What the log says when a stop begins with one client in a transaction.
BEGUN = "stopping; clients not done yet: 1"


class StopTestCase(TLSTestCase):
    """A service that listens nowhere, and a Clock."""

    def serve(self, backend: Any = None, **settings: Any) -> MailService:
        """Make a service, and start it."""
        self.clock = Clock()
        self.backend = backend or ScriptedBackend()
        mail = MailService(self.backend, settings_with(grace=GRACE, **settings), clock=self.clock, tls=store())
        # The store is a service that looks at its files by the reactor's clock.
        mail.services.clear()
        mail.startService()
        self.mail = mail
        return mail

    def connect(self, *lines: str, role: Role = Role.SMTP) -> Wire:
        """Connect a client, and let it say lines; replies start afresh."""
        wire = Wire(self.mail.factory(role))
        hello = "LHLO client.example" if role is Role.LMTP else "EHLO client.example"
        return wire.say(hello, *lines).forget()

    def check_gone(self, wire: Wire, stopped: Deferred[None]) -> None:
        """The connection was closed; when it is lost the service has stopped, and left nothing behind."""
        self.assertTrue(wire.closed)
        wire.hang_up(ConnectionDone())
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class IdleTests(StopTestCase):
    def test_no_transaction(self) -> None:
        """Who has no transaction open is told 421 4.3.2 at once, and closed."""
        self.serve()
        wires = [self.connect(), Wire(self.mail.factory()).forget(), self.connect(MAIL, "RSET")]
        stopped = self.mail.stopService()
        for wire in wires:
            self.assertEqual([(r.code, r.enhanced) for r in wire.replies][-1][0], 421)
            self.assertTrue(wire.closed)
            wire.hang_up()
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_hook(self) -> None:
        """Who waits for the reply to MAIL gets that first."""
        late = Late()
        self.serve(ScriptedBackend(mail=late))
        wire = self.connect(MAIL)
        self.mail.stopService()
        self.assertEqual(wire.codes, [])
        late.fire()
        self.assertEqual((wire.codes, wire.closed), ([250, 421], True))

    def test_newcomer(self) -> None:
        """A client that was being accepted is told so in place of a greeting; the backend hears nothing of it."""
        self.serve()
        self.connect(MAIL)
        self.mail.stopService()
        wire = Wire(self.mail.factory())
        self.assertEqual((wire.codes, wire.closed), ([421], True))
        self.assertEqual(len(self.backend.sessions), 1)

    def test_handshake(self) -> None:
        """Who is in the middle of a TLS handshake is closed without a word."""
        self.serve()
        wire = TLSWire(self.mail.factory())
        wire.greeted().say("STARTTLS").forget()
        self.mail.stopService()
        self.assertEqual((wire.output, wire.closed), (b"", True))

    def test_dropped_chunk(self) -> None:
        """A chunk that is being dropped ends with the connection."""
        self.serve()
        wire = self.connect().receive(b"BDAT 100\r\nhalf")
        self.mail.stopService()
        self.assertEqual((wire.codes, wire.closed), ([421], True))


class GraceTests(StopTestCase):
    #: What opens a transaction, what ends it, and the codes of the replies to the latter.
    WAYS: tuple[tuple[tuple[str, ...], tuple[str, ...], list[int]], ...] = (
        ((MAIL,), (RCPT, "DATA", "text", "."), [250, 354, 250]),
        ((MAIL, RCPT), ("DATA", "text", "."), [354, 250]),
        ((MAIL, RCPT, "DATA"), ("text", "."), [250]),
        ((MAIL, RCPT), ("BDAT 4", "ab", "BDAT 4 LAST", "cd"), [250, 250]),
        ((MAIL, RCPT, "BDAT 4", "ab"), ("BDAT 4 LAST", "cd"), [250]),
        ((MAIL, RCPT), ("RSET",), [250]),
        ((MAIL, RCPT), ("EHLO again.example",), [250]),
        ((MAIL,), ("NOOP", "RSET"), [250, 250]),
        ((MAIL,), ("QUIT",), [221]),
    )

    def test_ends(self) -> None:
        """An open transaction goes on to its end, however it ends; then comes 421 4.3.2."""
        for begin, end, codes in self.WAYS:
            for late in (False, True):
                with self.subTest(begin=begin, end=end, late=late):
                    hook = Late()
                    self.serve(ScriptedBackend(reset=hook if late else None))
                    wire = self.connect(*begin)
                    hook.fire_all()
                    wire.forget()
                    stopped = self.mail.stopService()
                    self.assertEqual((wire.codes, wire.closed), ([], False))
                    wire.say(*end)
                    hook.fire_all()
                    self.assertEqual(wire.codes, codes if codes == [221] else [*codes, 421])
                    self.check_gone(wire, stopped)

    def test_pipelined(self) -> None:
        """What the client has sent behind the end is not begun."""
        self.serve()
        wire = self.connect(MAIL, RCPT, "DATA")
        self.mail.stopService()
        wire.receive(b"text\r\n.\r\n" + f"{MAIL}\r\n{RCPT}\r\nNOOP\r\n".encode())
        self.assertEqual(wire.codes, [250, 421])
        self.assertEqual(len(self.backend.called("mail")), 1)

    def test_each_recipient(self) -> None:
        """LMTP's replies for each recipient all come before the farewell, also when they come late."""
        outcomes: list[Deferred[None]] = [Deferred(), Deferred()]
        self.serve(ScriptedBackend(finish=lambda: outcomes))
        wire = self.connect(MAIL, RCPT, RCPT, "DATA", "text", ".", role=Role.LMTP).forget()
        self.mail.stopService()
        for outcome in outcomes:
            outcome.callback(None)
        self.assertEqual((wire.codes, wire.closed), ([250, 250, 421], True))

    def test_over(self) -> None:
        """When the grace is over the transaction is broken off with 421 4.3.2, and its delivery aborted."""
        for begin, _, _ in self.WAYS:
            with self.subTest(begin):
                self.serve()
                wire = self.connect(*begin)
                stopped = self.mail.stopService()
                self.clock.advance(GRACE - 0.1)
                self.assertEqual(wire.codes, [])
                self.clock.advance(0.1)
                self.assertEqual(wire.codes, [421])
                self.assertTrue(all(message.aborted for message in self.backend.messages))
                self.check_gone(wire, stopped)

    def test_none(self) -> None:
        """With no grace the transactions are broken off at once."""
        self.serve()
        self.mail = MailService(self.backend, settings_with(grace=0), clock=self.clock)
        wire = self.connect(MAIL)
        self.mail.stopService()
        self.clock.advance(0)
        self.assertEqual(wire.codes, [421])

    def test_pending_finish(self) -> None:
        """A message that is not kept by then is answered 421; the hook is asked to stop, waited for, and logged."""
        pending: Deferred[None] = Deferred(lambda _: None)
        self.serve(ScriptedBackend(finish=lambda: pending))
        wire = self.connect(MAIL, RCPT, "DATA", "text", ".").forget()
        stopped = self.mail.stopService()
        self.clock.advance(GRACE)
        self.assertEqual(wire.codes, [421])
        self.check_gone(wire, stopped)
        self.assertIn("was given up after its client", self.logged("message")[0])

    def test_stubborn_finish(self) -> None:
        """A hook that goes on all the same is waited for before the backend stops, and its outcome logged."""
        gate: Deferred[None] = Deferred()

        async def stubborn() -> None:
            try:
                await Deferred()
            except BaseException:
                await gate

        self.serve(ScriptedBackend(finish=stubborn))
        wire = self.connect(MAIL, RCPT, "DATA", "text", ".").forget()
        stopped = self.mail.stopService()
        self.clock.advance(GRACE)
        self.assertEqual(wire.codes, [421])
        wire.hang_up()
        self.assertNoResult(stopped)
        gate.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(len(self.logged("was kept after its client had been told otherwise")), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_never(self) -> None:
        """A hook that never ends is given up, with a line in the log."""
        self.serve(ScriptedBackend(close=lambda reason: Deferred()))
        self.connect().hang_up()
        stopped = self.mail.stopService()
        self.clock.advance(FAREWELL - 0.1)
        self.assertNoResult(stopped)
        self.clock.advance(0.1)
        self.successResultOf(stopped)
        self.assertEqual(len(self.logged("1 hooks of the backend have not ended in time")), 1)

    def test_close_is_awaited(self) -> None:
        """The session's close() and the delivery's abort() end before the backend stops."""
        for hook in ("close", "abort"):
            with self.subTest(hook):
                late = Late()
                self.serve(ScriptedBackend({hook: late}))
                self.connect(MAIL, RCPT, "DATA").receive(b"x").hang_up()
                stopped = self.mail.stopService()
                self.assertNoResult(stopped)
                late.fire()
                self.successResultOf(stopped)

    def test_deaf(self) -> None:
        """Who does not take the farewell is dropped, with or without a transaction before it."""
        self.serve()
        idle, busy = self.connect(), self.connect(MAIL)
        for wire in (idle, busy):
            wire.lost = True  # The transport does not end by itself.
        stopped = self.mail.stopService()
        self.clock.advance(FAREWELL)
        self.assertEqual([wire.transport.disconnected for wire in (idle, busy)], [True, False])
        self.clock.advance(GRACE - FAREWELL)
        self.assertTrue(busy.closed)
        self.clock.advance(FAREWELL)
        self.assertTrue(busy.transport.disconnected)
        for wire in (idle, busy):
            wire.lost = False
            wire.hang_up()
        self.successResultOf(stopped)


class HurryTests(StopTestCase):
    def test_before(self) -> None:
        """While the service runs there is nothing to hurry."""
        self.serve()
        wire = self.connect(MAIL)
        self.mail.hurry()
        self.assertEqual((wire.codes, wire.closed), ([], False))

    def test_steps(self) -> None:
        """The first call breaks transactions off, the second drops clients, the third gives up hooks."""
        self.serve(ScriptedBackend(close=lambda reason: Deferred()))
        wire = self.connect(MAIL)
        wire.lost = True
        stopped = self.mail.stopService()
        self.mail.hurry()
        self.assertEqual((wire.codes, wire.transport.disconnected), ([421], False))
        self.mail.hurry()
        self.assertTrue(wire.transport.disconnected)
        wire.lost = False
        wire.hang_up()
        self.assertNoResult(stopped)
        self.mail.hurry()
        self.successResultOf(stopped)
        self.mail.hurry()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ServiceTests(StopTestCase):
    def test_ports_first(self) -> None:
        """Ports close before clients have gone, and the backend stops behind all."""
        events: list[str] = []
        backend = ServiceBackend(events)
        mail = MailService(backend, clock=Clock())
        endpoint = FakeEndpoint(events)
        endpoint.port.closing = Deferred()
        mail.listen(endpoint)
        mail.startService()
        wire = Wire(endpoint.factory).greeted().say(MAIL)
        stopped = mail.stopService()
        self.assertEqual(events[2:], ["port closed"])
        wire.say("RSET")
        self.assertEqual(events[2:], ["port closed"])
        endpoint.port.closing.callback(None)
        self.assertEqual(events[2:], ["port closed", "backend stopped"])
        self.successResultOf(stopped)

    def test_twice(self) -> None:
        """A second stop is the first one: both Deferreds fire when all is done."""
        self.serve()
        wire = self.connect(MAIL)
        first, second = self.mail.stopService(), self.mail.stopService()
        self.assertNoResult(first)
        self.assertNoResult(second)
        wire.say("RSET")
        self.successResultOf(first)
        self.successResultOf(second)

    def test_again(self) -> None:
        """Started again it serves as before."""
        self.serve()
        wire = self.connect(MAIL)
        stopped = self.mail.stopService()
        wire.say("RSET")
        self.successResultOf(stopped)
        self.mail.startService()
        self.assertEqual(self.connect().say(MAIL).codes, [250])

    def test_no_signals(self) -> None:
        """The service itself touches no signal handler."""
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
        parent = MultiService()
        self.serve().setServiceParent(parent)
        after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
        self.successResultOf(self.mail.stopService())
        self.assertEqual(after, before)


class FakeReactor:
    """Runs what it is given."""

    def __init__(self) -> None:
        self.ending: list[Callable[[], object]] = []

    def callWhenRunning(self, function: Callable[[], object]) -> None:
        """Call now."""
        function()

    def callFromThread(self, function: Callable[[], object]) -> None:
        """Call now."""
        function()

    def addSystemEventTrigger(self, phase: str, event: str, function: Callable[[], object]) -> int:
        """Keep a trigger of the end."""
        self.ending.append(function)
        return 0

    def removeSystemEventTrigger(self, trigger: int) -> None:
        """Forget it."""
        self.ending.pop(trigger)


class InterruptsTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Handle the signals as a reactor would."""
        self.seen: list[object] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
            signal.signal(number, lambda number, frame: self.seen.append(signal.Signals(number).name))
        self.reactor = FakeReactor()
        self.interrupts = Interrupts(self.reactor, lambda: self.seen.append("hurry"))

    def test_second(self) -> None:
        """The first signal is the reactor's, each behind it hurries, whichever of the two it is."""
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        self.assertEqual(self.seen, ["SIGINT", "hurry", "hurry"])

    def test_last(self) -> None:
        """After four the process is no longer protected from signals."""
        for _ in range(4):
            signal.raise_signal(signal.SIGTERM)
        self.assertEqual(self.seen, ["SIGTERM", "hurry", "hurry", "hurry"])
        self.assertEqual(signal.getsignal(signal.SIGTERM), signal.SIG_DFL)
        self.assertEqual(signal.getsignal(signal.SIGINT), signal.SIG_DFL)

    def test_other_end(self) -> None:
        """Where the reactor stops for another reason the first signal hurries already."""
        (end,) = self.reactor.ending
        end()
        signal.raise_signal(signal.SIGTERM)
        self.assertEqual(self.seen, ["hurry"])

    def test_stopped(self) -> None:
        """A service that is stopped alone leaves the signals as they were."""
        self.interrupts.stop()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        self.assertEqual(self.seen, ["SIGTERM", "SIGTERM"])
        self.assertEqual(self.reactor.ending, [])

    def test_ignored(self) -> None:
        """A signal that nobody handles, or that is ignored, stays so."""
        for handler in (signal.SIG_IGN, signal.SIG_DFL, signal.default_int_handler):
            signal.signal(signal.SIGINT, handler)
            Interrupts(FakeReactor(), lambda: None)
            self.assertEqual(signal.getsignal(signal.SIGINT), handler)


class HangupTests(SynchronousTestCase):
    def test_terminal(self) -> None:
        """SIGHUP is heeded where there are certificates to read, and no terminal on the standard input."""
        for terminal, certificates, heeded in ((False, True, True), (True, True, False), (False, False, False)):
            with self.subTest(terminal=terminal, certificates=certificates):
                self.patch(os, "isatty", lambda descriptor, answer=terminal: answer)
                plan = Plan(
                    settings=settings_with(), backend_name="null:", backend=NullBackend(), listeners=[],
                    certificates=store() if certificates else None,
                )  # fmt: skip
                service = LaunchedService(plan)
                service.startService()
                self.assertEqual(service._hangup is not None, heeded)
                self.successResultOf(service.stopService())


class CommandTests(ProcessTestCase):
    """Whatever runs the service."""

    def check(self, pid: int, ended: Callable[[], bool]) -> None:
        """SIGTERM leaves an open transaction its time, and a second one breaks it off."""
        with socket.create_connection(("127.0.0.1", ports_in(self.log.read_text())[0]), PATIENCE) as client:
            lines = client.makefile("rb")
            client.sendall(f"HELO client.example\r\n{MAIL}\r\n".encode())
            self.assertEqual([lines.readline()[:3] for _ in range(3)], [b"220", b"250", b"250"])
            os.kill(pid, signal.SIGTERM)
            wait_for(lambda: BEGUN in self.log.read_text(), "the end")
            client.sendall(f"{RCPT}\r\n".encode())
            self.assertEqual(lines.readline()[:3], b"250")
            os.kill(pid, signal.SIGTERM)
            self.assertEqual([lines.readline()[:3] for _ in range(2)], [b"421", b""])
        wait_for(ended, "the end of the process")
        self.assertNotIn("Traceback", self.log.read_text())

    def test_foreground(self) -> None:
        """twistd -n, twist and python -m."""
        for name, command in FOREGROUND.items():
            with self.subTest(name):
                process = self.start(*command, "--port", "0", "--backend", "null:", "--grace", "1000")
                self.check(process.pid, lambda process=process: process.poll() is not None)
                self.assertIn(process.returncode, (0, -signal.SIGTERM))

    def test_daemon(self) -> None:
        """A daemon, whose pid file is removed."""
        pid = self.daemon("--port", "0", "--backend", "null:", "--grace", "1000")
        self.check(pid, lambda: not is_running(pid))
        self.assertFalse((self.home / "pid").exists())


class ProcessTests(SynchronousTestCase):
    """The real service, and real signals."""

    def begin(self, *options: str) -> tuple[Server, socket.socket, Any]:
        """Start the service, and open a transaction; the client waits for the 354's content."""
        server = Server(*options)
        self.addCleanup(server.close)
        client = server.connect()
        self.addCleanup(client.close)
        lines = client.makefile("rb")
        self.addCleanup(lines.close)
        client.sendall(b"HELO client.example\r\n" + f"{MAIL}\r\n{RCPT}\r\nDATA\r\n".encode())
        while not lines.readline().startswith(b"354"):
            pass
        return server, client, lines

    def test_transaction(self) -> None:
        """After SIGTERM the port is closed, the message in flight is kept and answered, and the process ends."""
        server, client, lines = self.begin()
        server.process.terminate()
        until(lambda: BEGUN in server.log.read_text(), "the service stops")
        self.assertRaises(ConnectionRefusedError, server.connect)
        self.assertIsNone(server.process.poll())
        client.sendall(b"text\r\n.\r\n")
        self.assertEqual([lines.readline()[:3] for _ in range(3)], [b"250", b"421", b""])
        self.assertIn(server.process.wait(PATIENCE), (0, -signal.SIGTERM))
        self.assertEqual(len(server.mails()), 1)
        self.assertNotIn("Traceback", server.log.read_text())

    def test_grace(self) -> None:
        """``--grace`` says how long it may take; then the client hears 421, and nothing is kept."""
        server, client, lines = self.begin("--grace", "0.2")
        client.sendall(b"text\r\n")
        server.process.terminate()
        self.assertEqual([lines.readline()[:3] for _ in range(2)], [b"421", b""])
        self.assertIn(server.process.wait(PATIENCE), (0, -signal.SIGTERM))
        self.assertEqual(server.mails(), [])
        self.assertNotIn("Traceback", server.log.read_text())

    def test_hurry(self) -> None:
        """A second signal breaks the transaction off."""
        for first, second in ((signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)):
            with self.subTest(first):
                server, _, lines = self.begin("--grace", "1000")
                server.process.send_signal(first)
                until(lambda server=server: BEGUN in server.log.read_text(), "the service stops")
                server.process.send_signal(second)
                self.assertEqual([lines.readline()[:3] for _ in range(2)], [b"421", b""])
                self.assertIn(server.process.wait(PATIENCE), (0, -first))
                self.assertNotIn("Traceback", server.log.read_text())
