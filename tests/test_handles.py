"""
Tests of what a session may do with its connection at any time: pause, resume, close.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.hooks import MAIL, RCPT, Late, connect, in_data, lines, usual
from tests.support import uncounted

BUSY = Reply(421, "Too busy", "4.3.2")

#: The hooks that see a connection which has been greeted, with the codes of their commands in :data:`ROUND`.
CALLED = {"helo": 0, "mail": 1, "rcpt": 2, "data": 3, "write": 4, "finish": 4, "reset": 4}
ROUND = lines("EHLO again.example", MAIL, RCPT, "DATA", "text", ".", "NOOP", "NOOP")
ROUND_CODES = [250, 250, 250, 354, 250, 250, 250]


def connected(backend: ScriptedBackend, **settings: Any) -> tuple[Wire, Any, Clock]:
    """Connect; give the wire, the session's handle and the clock."""
    factory, clock = clocked_factory(backend, uncounted(**settings))
    wire = Wire(factory).forget()
    return wire, backend.sessions[0].connection, clock


class PauseTests(SynchronousTestCase):
    def test_outside(self) -> None:
        """Paused outside of hooks, the client is not read until resume, and then all of it."""
        wire, connection, _ = connected(ScriptedBackend())
        connection.pause()
        self.assertFalse(wire.reading)
        wire.receive(ROUND[:30]).receive(ROUND[30:])
        self.assertEqual(wire.codes, [])
        connection.resume()
        self.assertEqual((wire.codes, wire.reading), (ROUND_CODES, True))

    def test_in_a_hook(self) -> None:
        """Paused within a hook, its reply still goes out, and nothing behind it is read until resume."""
        for hook, late in itertools.product(CALLED, (False, True)):
            with self.subTest(hook=hook, late=late):
                backend = ScriptedBackend(add_received=False)
                wire, connection, _ = connected(backend)

                def pause(*args: Any, connection: Any = connection) -> None:
                    connection.pause()

                pending = Late(partial(usual, backend, hook))
                backend.answers[hook] = pending if late else pause
                wire.receive(ROUND)
                if pending.waiting:
                    connection.pause()
                    pending.fire()
                # What ends within the content has no reply yet, unless its end was read with it.
                self.assertEqual(wire.codes[: CALLED[hook]], ROUND_CODES[: CALLED[hook]])
                self.assertLess(len(wire.codes), len(ROUND_CODES))
                while len(wire.codes) < len(ROUND_CODES) and not wire.reading:
                    connection.resume()
                    pending.fire_all()
                self.assertEqual((wire.codes, wire.reading), (ROUND_CODES, True))

    def test_opened_paused(self) -> None:
        """Paused in open_session, the client is greeted and not read."""
        backend = ScriptedBackend()
        handles: list[Any] = []

        def open_session(peer: Any, connection: Any) -> Any:
            connection.pause()
            handles.append(connection)
            return backend.new_session(peer, connection)

        backend.answers["open_session"] = open_session
        wire = Wire(clocked_factory(backend, uncounted())[0]).say("NOOP")
        self.assertEqual(wire.codes, [220])
        handles[0].resume()
        self.assertEqual(wire.codes, [220, 250])

    def test_twice(self) -> None:
        """Pauses do not add up: one resume ends them; a resume without a pause is nothing."""
        wire, connection, _ = connected(ScriptedBackend())
        connection.resume()
        connection.pause()
        connection.pause()
        connection.resume()
        self.assertEqual((wire.say("NOOP").codes, wire.reading), ([250], True))

    def test_resumed_within_the_hook(self) -> None:
        """A pause that ends within its hook changes nothing."""
        backend = ScriptedBackend()
        wire, connection, _ = connected(backend)

        def breathe(*args: Any) -> None:
            connection.pause()
            connection.resume()

        backend.answers.update(dict.fromkeys(("helo", "mail", "rcpt", "write", "finish", "reset"), breathe))
        self.assertEqual((wire.receive(ROUND).codes, wire.reading), (ROUND_CODES, True))

    def test_deadlines_stand_still(self) -> None:
        """While the session has paused it no client is late; its time begins again with resume."""
        for prepare in ((), ("EHLO x", MAIL, RCPT, "DATA")):
            with self.subTest(prepare=prepare):
                wire, connection, clock = connected(ScriptedBackend(), command_timeout=20, data_timeout=20)
                wire.say(*prepare).forget()
                clock.pump([1] * 15)
                connection.pause()
                clock.pump([1] * 100)
                connection.resume()
                clock.pump([1] * 15)
                self.assertEqual((wire.codes, wire.closed), ([], False))
                clock.pump([1] * 15)
                self.assertEqual((wire.codes, wire.closed), ([421], True))

    def test_behind_read_ahead(self) -> None:
        """A pause while a hook is pending and much has gathered holds beyond the hook."""
        late = Late()
        backend = ScriptedBackend(mail=late)
        wire, connection, _ = connected(backend, read_ahead=4096)
        wire.say("EHLO x", MAIL).receive(b"NOOP\r\n" * 2000).forget()
        connection.pause()
        late.fire()
        self.assertEqual((wire.codes, wire.reading), ([250], False))
        connection.resume()
        self.assertEqual((len(wire.codes), wire.reading), (2001, True))

    def test_after_the_end(self) -> None:
        """Behind the end of the connection the handle does nothing."""
        wire, connection, _ = connected(ScriptedBackend())
        wire.say("QUIT").forget()
        connection.pause()
        connection.resume()
        connection.close(BUSY)
        self.assertEqual(wire.output, b"")


class CloseTests(SynchronousTestCase):
    def test_idle(self) -> None:
        """An idle client hears the last reply at once."""
        wire, connection, _ = connected(ScriptedBackend())
        connection.close(BUSY)
        self.assertEqual(([str(reply) for reply in wire.replies], wire.closed), (["421 Too busy"], True))

    def test_twice(self) -> None:
        """A second close is ignored."""
        wire, connection, _ = connected(ScriptedBackend())
        connection.close(BUSY)
        connection.close(Reply(421, "Again"))
        self.assertEqual(wire.codes, [421])

    def test_in_a_hook(self) -> None:
        """Within a hook the reply to its command goes first; the pipelined ones behind are not read."""
        for hook, place in CALLED.items():
            with self.subTest(hook=hook):
                backend = ScriptedBackend()
                wire, connection, _ = connected(backend)
                backend.answers[hook] = lambda *args, c=connection: c.close(BUSY)
                wire.receive(ROUND)
                # write() has no command of its own: the message is given up, or answered where its end was there.
                self.assertEqual(wire.codes, [*ROUND_CODES[: place + 1], 421], backend.hooks)
                self.assertTrue(wire.transport.disconnecting)

    def test_in_a_pending_hook(self) -> None:
        """While a hook is pending its reply goes first too."""
        for hook, place in CALLED.items():
            with self.subTest(hook=hook):
                backend = ScriptedBackend()
                wire, connection, _ = connected(backend)
                late = backend.answers[hook] = Late(partial(usual, backend, hook))
                wire.receive(ROUND)
                connection.close(BUSY)
                self.assertEqual(wire.codes, ROUND_CODES[:place])
                late.fire()
                self.assertEqual(wire.codes, [*ROUND_CODES[: place + 1], 421], backend.hooks)
                self.assertTrue(wire.transport.disconnecting)

    def test_in_a_hook_behind_a_pending_one(self) -> None:
        """A hook that is called when another has come may close too: the reply that is due goes first, and alone."""
        for first, second in (("finish", "reset"), ("write", "finish"), ("helo", "reset")):
            with self.subTest(first=first, second=second):
                late = Late()
                backend = ScriptedBackend({first: late})
                wire, connection, _ = connected(backend)
                if first == "helo":
                    backend.answers.pop(first)
                    wire.say("EHLO first.example").forget()
                    backend.answers[first] = late
                wire.receive(ROUND).forget()
                backend.answers[second] = lambda *args, c=connection: c.close(BUSY)
                late.fire()
                self.assertEqual((wire.codes, wire.transport.disconnecting), ([250, 421], True))

    def test_paused_and_closed(self) -> None:
        """Pausing does not keep a connection open that is to be closed, neither within a hook nor outside."""
        for hook in (None, "mail", "write"):
            with self.subTest(hook=hook):
                backend = ScriptedBackend()
                wire, connection, _ = connected(backend)

                def end(*args: Any, connection: Any = connection) -> None:
                    connection.pause()
                    connection.close(BUSY)

                if hook is None:
                    end()
                else:
                    backend.answers[hook] = end
                wire.say("EHLO x", MAIL, RCPT, "DATA").receive(b"text\r\n")
                self.assertEqual((wire.codes[-1], wire.closed), (421, True))

    def test_in_content(self) -> None:
        """In the middle of a message the client hears at once; the delivery is aborted with the reason."""
        backend = ScriptedBackend()
        wire = in_data(backend).receive(b"text\r\n")
        backend.sessions[0].connection.close(BUSY)
        self.assertEqual((wire.replies, wire.protocol.transport.disconnecting), ([BUSY], True))
        aborted = backend.messages[0].aborted
        assert aborted is not None
        self.assertEqual(aborted.value.reply, BUSY)

    def test_in_write(self) -> None:
        """Within write() it does not wait for the rest of the message."""
        for late in (None, Late()):
            with self.subTest(late=late):
                backend = ScriptedBackend()
                wire = in_data(backend)

                def close(*args: Any, backend: ScriptedBackend = backend, late: Late | None = late) -> Any:
                    backend.sessions[0].connection.close(BUSY)
                    return None if late is None else late()

                backend.answers["write"] = close
                wire.receive(b"text\r\n")
                if late is not None:
                    late.fire()
                self.assertEqual((wire.replies, backend.hooks.count("abort")), ([BUSY], 1))

    def test_positive_reply(self) -> None:
        """Any reply closes, a 221 too; what is aborted for it hears of the end of the service."""
        bye = Reply(221, "See you", "2.0.0")
        backend = ScriptedBackend()
        wire = in_data(backend)
        backend.sessions[0].connection.close(bye)
        self.assertEqual(wire.replies, [bye])
        aborted = backend.messages[0].aborted
        assert aborted is not None
        self.assertIsInstance(aborted.value, SMTPError)

    def test_in_open_session(self) -> None:
        """In open_session the reply is the greeting; the session that is given all the same is closed."""
        backend = ScriptedBackend()

        def open_session(peer: Any, connection: Any) -> Any:
            connection.close(BUSY)
            return backend.new_session(peer, connection)

        backend.answers["open_session"] = open_session
        wire = Wire(clocked_factory(backend, uncounted())[0]).say("EHLO x")
        self.assertEqual((wire.codes, wire.closed), ([421], True))
        wire.hang_up()
        self.assertEqual(backend.hooks, ["open_session", "close"])

    def test_in_close(self) -> None:
        """In close() the handle does nothing."""
        backend = ScriptedBackend()
        wire, connection, _ = connected(backend)
        backend.answers["close"] = lambda reason: connection.close(BUSY)
        wire.hang_up()
        self.assertEqual((wire.output, backend.hooks.count("close")), (b"", 1))

    def test_by_another_connection(self) -> None:
        """A hook may close another client's connection: that one hears at once, its own dialogue goes on."""
        backend = ScriptedBackend()
        factory, _ = clocked_factory(backend, uncounted())
        first, second = Wire(factory).forget(), Wire(factory).forget()
        backend.answers["helo"] = lambda name: backend.sessions[1].connection.close(BUSY)
        first.say("EHLO x", "NOOP")
        self.assertEqual((first.codes, second.codes), ([250, 250], [421]))

    def test_shut_down(self) -> None:
        """The service's end is 421 4.3.2 to all; what a hook is asked for is answered first."""
        late = Late()
        backend = ScriptedBackend(mail=late)
        factory, _ = clocked_factory(backend, uncounted())
        idle, waiting = Wire(factory).greeted(), Wire(factory).greeted().say(MAIL)
        factory.shut_down()
        self.assertEqual((idle.replies, waiting.replies), ([replies.SHUTTING_DOWN], []))
        late.fire()
        self.assertEqual(waiting.replies, [replies.SENDER_OK, replies.SHUTTING_DOWN])

    def test_silent_behind_close(self) -> None:
        """A client cannot keep a connection open that is to be closed by falling silent in its message."""
        backend = ScriptedBackend()
        backend.answers["write"] = lambda content: backend.sessions[0].connection.close(BUSY)
        factory, clock = clocked_factory(backend, uncounted(data_timeout=20))
        wire = Wire(factory).say("EHLO x", MAIL, RCPT, "DATA").receive(b"text\r\n")
        clock.pump([1] * 60)
        self.assertEqual((wire.codes[-1], wire.closed), (421, True))

    def test_quit_wins(self) -> None:
        """A client that has said QUIT hears 221 and no more."""
        wire = connect(ScriptedBackend()).say("QUIT")
        wire.protocol.shut_down()
        self.assertEqual(wire.codes, [221])


class DropTests(SynchronousTestCase):
    def test_in_a_hook(self) -> None:
        """Dropped within a hook, a client hears the replies to what came before and nothing else."""
        for hook, place in CALLED.items():
            with self.subTest(hook=hook):
                backend = ScriptedBackend()
                wire, connection, _ = connected(backend)

                def drop(*args: Any, connection: Any = connection, hook: str = hook, backend: Any = backend) -> Any:
                    connection.drop()
                    return usual(backend, hook, *args)

                backend.answers[hook] = [drop]
                wire.receive(ROUND)
                self.assertEqual(wire.codes, ROUND_CODES[:place])
                self.assertTrue(wire.closed)
                self.assertEqual(backend.hooks.count("close"), 1)

    def test_outside(self) -> None:
        """Dropped at any other time, in the middle of a message too, the connection is closed at once."""
        for sent in (b"", ROUND[:40], ROUND[:-20]):
            with self.subTest(sent=sent):
                backend = ScriptedBackend()
                wire, connection, _ = connected(backend)
                wire.receive(sent).forget()
                connection.drop()
                wire.receive(b"NOOP\r\n")
                self.assertEqual((wire.output, wire.closed), (b"", True))
                self.assertEqual([one for one in backend.messages if not one.finished and not one.aborted], [])

    def test_before_the_greeting(self) -> None:
        """A client may be dropped in place of its greeting."""

        def drop(peer: Any, connection: Any) -> Any:
            connection.drop()
            return Reply(554, "Not heard", "5.0.0")

        wire = Wire(clocked_factory(ScriptedBackend(open_session=drop))[0])
        self.assertEqual((wire.output, wire.receive(b"").closed), (b"", True))
