"""
Tests of smtpsvc.extensions.chunking: hooks that refuse, fail or wait, and connections that end between.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.extensions import Extension, defaults
from smtpsvc.extensions.chunking import DROPPED
from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import PermanentError, Reply, SMTPError
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.chunks import chunk, in_rcpt
from tests.hooks import MAIL, RCPT, Late, connect, lines
from tests.support import settings_with

NO = Reply(550, "Never", "5.7.1")
LATER = Reply(452, "Full", "4.3.1")


class Deaf(Late):
    """An answer that goes on when it is cancelled."""

    def __call__(self, *args: Any) -> Any:
        answer = super().__call__(*args)

        async def stubborn() -> Any:
            try:
                return await answer
            except CancelledError:
                again: Deferred[Any] = Deferred()
                self.waiting[0] = again
                return await again

        return stubborn()


class RefusalTests(SynchronousTestCase):
    def test_data_hook(self) -> None:
        """What data() refuses is dropped: each chunk is answered, and LAST ends the transaction."""
        cases: list[tuple[Reply, Reply]] = [(NO, DROPPED), (LATER, LATER)]
        for refusal, behind in cases:
            with self.subTest(refusal=refusal):
                backend = ScriptedBackend(data=[refusal])
                wire = in_rcpt(backend).receive(chunk(b"NOOP\r\n") + chunk(b"NOOP\r\n") + chunk(b"NOOP\r\n", last=True))
                self.assertEqual(wire.replies, [refusal, behind, behind])
                self.assertEqual((len(backend.called("data")), backend.hooks[-2:]), (1, ["data", "reset"]))

    def test_data_hook_at_once(self) -> None:
        """A message of one chunk that is refused ends its transaction, so that the next may stand behind it."""
        backend = ScriptedBackend(data=[NO])
        message = lines(MAIL, RCPT) + chunk(b"NOOP\r\n", last=True)
        self.assertEqual(connect(backend).receive(message * 2).codes, [250, 250, 550, 250, 250, 250])

    def test_data_hook_fails(self) -> None:
        """A mistake in data() is 451 4.3.0 behind the chunk, logged once."""
        for answer in (KeyError("x"), lambda _: fail(KeyError("x")), 7, Reply(250, "Fine")):
            with self.subTest(answer=answer):
                wire = in_rcpt(ScriptedBackend(data=answer)).receive(chunk(b"NOOP\r\n", last=True) + b"NOOP\r\n")
                self.assertEqual(wire.codes, [451, 250])
                self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_write(self) -> None:
        """What write() refuses is the answer to its chunk; the rest is dropped, and abort comes once."""
        for outcome in (NO, SMTPError(NO), lambda _: fail(SMTPError(NO))):
            with self.subTest(outcome=outcome):
                backend = ScriptedBackend(write=[None, outcome])
                wire = in_rcpt(backend)
                for place in range(4):
                    wire.receive(chunk(b"NOOP\r\n", last=place == 3))
                self.assertEqual(wire.replies, [replies.OK, NO, DROPPED, DROPPED])
                self.assertEqual(backend.hooks[-3:], ["write", "abort", "reset"])

    def test_reset_behind(self) -> None:
        """RSET ends a message that was refused (RFC 3030 §2), and everything else is 503 until then."""
        wire = in_rcpt(ScriptedBackend(data=[NO])).receive(chunk(b"NOOP\r\n"))
        self.assertEqual(wire.say(MAIL, RCPT, "DATA", "RSET", MAIL).codes, [550, 503, 503, 503, 250, 250])

    def test_monitors(self) -> None:
        """The monitors hear once of a message that was refused: at its refusal, not at its LAST."""
        seen: list[Any] = []
        for rest in (chunk(b"c", last=True), b"RSET\r\n"):
            factory, _ = clocked_factory(ScriptedBackend(write=[NO]), settings_with())
            factory.watch.message = lambda *args: seen.append(args[3])
            Wire(factory).greeted().receive(lines(MAIL, RCPT, RCPT) + chunk(b"a") + chunk(b"b") + rest)
        self.assertEqual(seen, [[NO, NO]] * 2)

    def test_closing(self) -> None:
        """A 421 closes behind its chunk."""
        enough = Reply(421, "Enough", "4.3.2")
        for backend in (
            ScriptedBackend(data=[enough]),
            ScriptedBackend(write=[enough]),
            ScriptedBackend(finish=enough),
        ):
            wire = in_rcpt(backend).receive(chunk(b"a", last=True) + b"NOOP\r\n")
            self.assertEqual((wire.codes, wire.closed), ([421], True))

    def test_guard(self) -> None:
        """A guard or a check of an extension refuses BDAT, and its octets are dropped all the same."""

        class Guard(Extension):
            keyword = "XGUARD"

            def guards(self, settings: Any, role: Any) -> Any:
                return {"BDAT": lambda conversation: NO}

        class Check(Extension):
            keyword = "XCHECK"

            def checks(self, settings: Any, role: Any) -> Any:
                return {"BDAT": lambda conversation, value: NO}

        for extension in (Guard(), Check()):
            for before in (b"", lines(MAIL), lines(MAIL, RCPT)):
                with self.subTest(extension=extension.keyword, before=before):
                    backend = ScriptedBackend()
                    factory, _ = clocked_factory(backend, settings_with(), extensions=[*defaults(), extension])
                    wire = Wire(factory).greeted().receive(before).forget()
                    wire.receive(chunk(b"NOOP\r\n") + b"RSET\r\n")
                    self.assertEqual((wire.codes[-1], len(wire.codes)), (250, 2))
                    self.assertGreaterEqual(wire.codes[0], 500)
                    self.assertEqual(backend.called("data"), [])


class WaitingTests(SynchronousTestCase):
    def test_data(self) -> None:
        """While data() is pending nothing is taken; then the chunk is."""
        backend = ScriptedBackend()
        late = backend.answers["data"] = Late(backend.new_delivery)
        wire = in_rcpt(backend).receive(chunk(b"NOOP\r\n") + chunk(b"x", last=True) + b"NOOP\r\n")
        self.assertEqual(wire.codes, [])
        late.fire()
        self.assertEqual((wire.codes, backend.messages[0].content), ([250] * 3, b"NOOP\r\nx"))

    def test_data_too_late(self) -> None:
        """Where data() takes too long the chunk is dropped and answered 451; the delivery that comes is aborted."""
        backend = ScriptedBackend()
        late = backend.answers["data"] = Deaf(backend.new_delivery)
        factory, clock = clocked_factory(backend, settings_with(hook_timeout=10))
        wire = Wire(factory).greeted().receive(lines(MAIL, RCPT) + chunk(b"NOOP\r\n", last=True) + b"NOOP\r\n")
        clock.pump([1] * 20)
        self.assertEqual(wire.codes, [250, 250, 451, 250])
        late.fire()
        aborted = backend.messages[0].aborted
        assert aborted is not None
        self.assertEqual(aborted.value.reply, replies.HOOK_TIMED_OUT)

    def test_data_lost(self) -> None:
        """A delivery that comes when the client is gone is aborted for that, by DATA as by BDAT."""
        for data in (chunk(b"a", last=True), b"DATA\r\n"):
            backend = ScriptedBackend()
            late = backend.answers["data"] = Deaf(backend.new_delivery)
            in_rcpt(backend).receive(data).hang_up()
            late.fire()
            aborted = backend.messages[0].aborted
            assert aborted is not None
            self.assertIsInstance(aborted.value, ConnectionLost)

    def test_write(self) -> None:
        """The reply to a chunk waits for its write."""
        late = Late()
        backend = ScriptedBackend(write=late)
        wire = in_rcpt(backend).receive(chunk(b"one") + chunk(b"two") + chunk(b"", last=True))
        self.assertEqual((wire.codes, backend.called("write")), ([], [(b"one",)]))
        late.fire()
        self.assertEqual((wire.codes, backend.called("write")), ([250], [(b"one",), (b"two",)]))
        late.fail(PermanentError("Full", "5.2.2", 552))
        self.assertEqual(wire.codes, [250, 552, 503])

    def test_write_pauses(self) -> None:
        """A client whose chunk is not written fast enough is paused, and its octets come whole."""
        late = Late()
        backend = ScriptedBackend(write=late)
        content = bytes(range(32, 127)) * 1000
        wire = in_rcpt(backend, read_ahead=4096).receive(b"BDAT %d LAST\r\n" % len(content))
        for start in range(0, len(content), 1000):
            wire.receive(content[start : start + 1000])
        self.assertFalse(wire.reading)
        late.fire_all()
        self.assertEqual((wire.codes, wire.reading, backend.messages[0].content), ([250], True, content))

    def test_finish(self) -> None:
        """The reply to LAST waits for finish(), and what is behind it for that."""
        late = Late()
        wire = in_rcpt(ScriptedBackend(finish=late)).receive(chunk(b"a", last=True) + b"NOOP\r\n")
        self.assertEqual(wire.codes, [])
        late.fire(NO)
        self.assertEqual(wire.codes, [550, 250])

    def test_silence(self) -> None:
        """Within a chunk the client has data_timeout, between two command_timeout; then 421 4.4.2 and abort."""
        for data, patience in ((b"BDAT 10\r\nhalf", 5), (chunk(b"whole"), 50)):
            backend = ScriptedBackend()
            factory, clock = clocked_factory(backend, settings_with(data_timeout=5, command_timeout=50))
            wire = Wire(factory).greeted().receive(lines(MAIL, RCPT) + data).forget()
            clock.pump([1] * (patience - 2))
            self.assertEqual(wire.codes, [])
            clock.pump([1] * 6)
            self.assertEqual((wire.codes, wire.closed, backend.hooks[-1]), ([421], True, "abort"))


class LossTests(SynchronousTestCase):
    def test_no_message(self) -> None:
        """A connection that is cut in a chunk, behind one, or behind LAST's line leaves no message."""
        for data in (b"BDAT 10\r\n", b"BDAT 10\r\nhalf", chunk(b"whole"), chunk(b"whole") + b"BDAT 5 LAST\r\nhalf"):
            with self.subTest(data=data):
                backend = ScriptedBackend()
                in_rcpt(backend).receive(data).hang_up(ConnectionLost("gone"))
                message = backend.messages[0]
                assert message.aborted is not None
                self.assertIsInstance(message.aborted.value, ConnectionLost)
                self.assertFalse(message.finished)
                self.assertEqual(backend.hooks[-2:], ["abort", "close"])

    def test_shut_down(self) -> None:
        """A client that has shut down its side in a chunk leaves no message either."""
        backend = ScriptedBackend()
        wire = in_rcpt(backend).receive(b"BDAT 10 LAST\r\nhalf").shut_down_sending().hang_up()
        self.assertEqual((wire.codes, backend.hooks[-2:]), ([], ["abort", "close"]))

    def test_quit(self) -> None:
        """QUIT between two chunks leaves no message."""
        backend = ScriptedBackend()
        wire = in_rcpt(backend).receive(chunk(b"a")).say("QUIT")
        self.assertEqual((wire.codes, backend.messages[0].finished), ([250, 221], False))
        self.assertEqual(backend.hooks.count("abort"), 1)

    def test_service_ends(self) -> None:
        """A service that ends says so between two chunks, and keeps nothing."""
        backend = ScriptedBackend()
        wire = in_rcpt(backend).receive(chunk(b"a"))
        wire.factory.shut_down()
        self.assertEqual((wire.codes, wire.closed, backend.hooks.count("abort")), ([250, 421], True, 1))

    def test_lost_in_data(self) -> None:
        """A delivery that data() makes while it loses the connection is aborted, by DATA as by BDAT."""
        for data in (b"DATA\r\n", b"BDAT 0\r\n", b"BDAT 0 LAST\r\n", chunk(b"a", last=True)):
            backend = ScriptedBackend()
            wire = in_rcpt(backend)

            def lose(envelope: Any, wire: Wire = wire, backend: ScriptedBackend = backend) -> Any:
                wire.hang_up()
                return backend.new_delivery(envelope)

            backend.answers["data"] = lose
            wire.receive(data + b"NOOP\r\n")
            self.assertEqual((wire.codes, backend.hooks[-3:]), ([], ["data", "close", "abort"]))

    def test_lost_in_write(self) -> None:
        """A connection that is lost within write() is over: abort once, no reply, nothing logged."""
        for last in (False, True):
            backend = ScriptedBackend()
            wire = in_rcpt(backend)
            backend.answers["write"] = lambda _, wire=wire: wire.hang_up() and None
            wire.receive(chunk(b"a", last=last) + b"NOOP\r\n")
            self.assertEqual((wire.codes, backend.hooks[-3:]), ([], ["write", "abort", "close"]))
