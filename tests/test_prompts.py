"""
Tests of smtpsvc.server.hooks: a verb that converses, by prompts for a line each.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.extensions import Extension, defaults
from smtpsvc.grammar import replies
from smtpsvc.grammar.commands import parse_optional_text
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.grammar.states import State
from smtpsvc.server.verbs import Verb
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.hooks import MAIL, lines
from tests.support import cuts, settings_with

NAME = Reply(334, "Name?")
WORD = Reply(334, "Word?")
DONE = Reply(235, "Done", "2.7.0")


class Asking(Extension):
    """A verb XASK that asks for two lines."""

    keyword = "XASK"

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        #: What ended an exchange before its end.
        self.ended: list[BaseException] = []
        #: Awaited between the two prompts, if there is one.
        self.between: Deferred[None] | None = None
        self.verbs = {"XASK": Verb(State.GREETED, parse_optional_text, self.proceed)}

    async def proceed(self, conversation: Any, text: str) -> Reply:
        """Ask for a name and a word."""
        try:
            name = await conversation.prompt(NAME)
            if name == b"*":
                return Reply(501, "Given up", "5.7.0")
            if self.between is not None:
                await self.between
            word = await conversation.prompt(WORD)
        except BaseException as error:
            self.ended.append(error)
            raise
        self.heard += [name, word]
        return DONE


def connected(asking: Extension, backend: ScriptedBackend | None = None, **settings: Any) -> tuple[Wire, Clock]:
    """Connect, greeted, to a factory with an extension."""
    factory, clock = clocked_factory(
        backend or ScriptedBackend(), settings_with(**settings), extensions=[*defaults(), asking]
    )
    return Wire(factory).greeted(), clock


class ExchangeTests(SynchronousTestCase):
    def test_exchange(self) -> None:
        """Each prompt is sent at once and takes one line, which is no command; then lines are commands again."""
        asking = Asking()
        wire, _ = connected(asking)
        self.assertEqual(wire.say("XASK").replies, [NAME])
        self.assertEqual(wire.say("QUIT").replies, [NAME, WORD])
        self.assertEqual(wire.say(b"\xff open", "NOOP").replies, [NAME, WORD, DONE, replies.OK])
        self.assertEqual(asking.heard, [b"QUIT", b"\xff open"])

    def test_cuts(self) -> None:
        """The whole exchange may come in one packet, or be cut anywhere: the replies are the same."""
        for packets in cuts(lines("NOOP", "XASK x", "a name", "a word", MAIL, "XASK", "RSET")):
            asking = Asking()
            wire, _ = connected(asking)
            for packet in packets:
                wire.receive(packet)
            self.assertEqual(wire.codes, [250, 334, 334, 235, 250, 503, 250], packets)
            self.assertEqual(asking.heard, [b"a name", b"a word"], packets)

    def test_ended_early(self) -> None:
        """What follows an exchange that ends early is a command."""
        wire, _ = connected(Asking())
        self.assertEqual(wire.receive(lines("XASK", "*", "NOOP")).codes, [334, 501, 250])

    def test_empty_line(self) -> None:
        """An empty line is an answer, and white space in it is kept."""
        asking = Asking()
        connected(asking)[0].say("XASK", "", " a ")
        self.assertEqual(asking.heard, [b"", b" a "])

    def test_pending_between(self) -> None:
        """While the verb waits for something else the pipelined lines stay where they are."""
        asking = Asking()
        asking.between = Deferred()
        wire, _ = connected(asking)
        wire.receive(lines("XASK", "name", "word", "NOOP"))
        self.assertEqual(wire.codes, [334])
        asking.between.callback(None)
        self.assertEqual((wire.codes, asking.heard), ([334, 334, 235, 250], [b"name", b"word"]))

    def test_one_write(self) -> None:
        """The replies of an exchange that came in one packet leave in one write."""
        wire, _ = connected(Asking())
        self.assertEqual(wire.receive(lines("XASK", "name", "word", "NOOP")).write_count, 1)

    def test_long_line(self) -> None:
        """A line of an exchange may have 12,288 octets with its CRLF, whatever the limit of commands is."""
        asking = Asking()
        wire, _ = connected(asking, line_length=512)
        wire.say("XASK", b"x" * 12_286, b"y")
        self.assertEqual((wire.codes, len(asking.heard[0])), ([334, 334, 235], 12_286))

    def test_two_at_once(self) -> None:
        """A second prompt while one is open is the verb's error: 451, logged."""

        class Twice(Asking):
            """Asks twice at once."""

            async def proceed(self, conversation: Any, text: str) -> Any:
                """Ask."""
                first = conversation.prompt(NAME)
                try:
                    conversation.prompt(WORD)
                finally:
                    first.addErrback(lambda _: None)
                    first.cancel()

        wire, _ = connected(Twice())
        self.assertEqual(wire.say("XASK", "NOOP").codes, [334, 451, 250])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class RefusedLineTests(SynchronousTestCase):
    def test_refused(self) -> None:
        """A line that is too long or damaged ends the exchange: one 500 5.5.2, and what follows is a command."""
        cases = [
            (b"x" * 12_287 + b"\r\n", replies.LINE_TOO_LONG),
            (b"x" * 20_000 + b"\r\n", replies.LINE_TOO_LONG),
            (b"a\nNOOP\r\n", replies.BAD_LINE_END),
            (b"a\rb\r\n", replies.BAD_LINE_END),
            (b"\0\r\n", replies.BAD_LINE_END),
        ]
        for line, reply in cases:
            for pieces in ([line], [line[:1], line[1:]], [line[:-1], line[-1:]], [line[:-2], line[-2:]]):
                with self.subTest(line=line[:10], pieces=len(pieces[0])):
                    asking = Asking()
                    wire, _ = connected(asking)
                    wire.say("XASK")
                    for piece in pieces:
                        wire.receive(piece)
                    self.assertEqual(wire.say("NOOP").replies, [NAME, reply, replies.OK])
                    self.assertIsInstance(asking.ended[0], SMTPError)

    def test_at_once(self) -> None:
        """A bare line end is answered before the CRLF comes."""
        wire, _ = connected(Asking())
        self.assertEqual(wire.say("XASK").receive(b"name\n").codes, [334, 500])

    def test_caught(self) -> None:
        """A verb may catch it and answer in its own words."""

        class Polite(Asking):
            """Catches what ends its exchange."""

            async def proceed(self, conversation: Any, text: str) -> Reply:
                """Ask, and forgive."""
                try:
                    return await super().proceed(conversation, text)
                except SMTPError:
                    return Reply(501, "Once more", "5.5.2")

        wire, _ = connected(Polite())
        self.assertEqual(wire.say("XASK", b"\0", "NOOP").codes, [334, 501, 250])


class EndTests(SynchronousTestCase):
    def test_loss(self) -> None:
        """A loss ends the exchange, once, and closes the session; nothing is logged or sent."""
        asking = Asking()
        backend = ScriptedBackend()
        wire, clock = connected(asking, backend)
        wire.say("XASK").hang_up()
        self.assertEqual((wire.codes, backend.hooks[-1], len(asking.ended)), ([334], "close", 1))
        self.assertEqual((self.flushLoggedErrors(), clock.getDelayedCalls()), ([], []))

    def test_loss_between(self) -> None:
        """So does one between two prompts; a prompt behind the loss is none."""
        asking = Asking()
        asking.between = Deferred(lambda deferred: deferred.callback(None))
        wire, _ = connected(asking)
        wire.say("XASK", "name").hang_up()
        self.assertEqual(wire.codes, [334])
        self.assertIsInstance(asking.ended[0], CancelledError)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_half_close(self) -> None:
        """A client that shuts down its side in an exchange is closed."""
        asking = Asking()
        wire, _ = connected(asking)
        wire.say("XASK").shut_down_sending()
        self.assertEqual((wire.codes, wire.closed, len(asking.ended)), ([334], True, 1))

    def test_silence(self) -> None:
        """A client that does not answer for command_timeout hears 421 4.4.2 and is closed; the exchange ends."""
        for way in ([], ["name"]):
            with self.subTest(way=way):
                asking = Asking()
                wire, clock = connected(asking, command_timeout=20, hook_timeout=5)
                wire.say("XASK", *way).forget()
                clock.pump([1] * 20)
                self.assertEqual((wire.codes, asking.ended), ([], []))
                clock.pump([1] * 3)
                self.assertEqual((wire.replies, wire.closed, len(asking.ended)), ([replies.TIMED_OUT], True, 1))

    def test_trickle(self) -> None:
        """An octet now and then is no answer."""
        wire, clock = connected(Asking(), command_timeout=20)
        wire.say("XASK").forget()
        for _ in range(30):
            wire.receive(b"x")
            clock.pump([1])
        self.assertEqual((wire.codes, wire.closed), ([421], True))

    def test_hook_timeout_between(self) -> None:
        """Time that the verb takes between two prompts is limited as a hook's; the client's time is not counted."""
        asking = Asking()
        asking.between = Deferred()
        wire, clock = connected(asking, command_timeout=100, hook_timeout=20)
        wire.say("XASK")
        clock.pump([1] * 50)
        wire.say("name").forget()
        clock.pump([1] * 19)
        self.assertEqual(wire.codes, [])
        clock.pump([1] * 4)
        self.assertEqual(wire.say("NOOP").replies, [replies.HOOK_TIMED_OUT, replies.OK])

    def test_close(self) -> None:
        """close() ends the exchange, and says its reply once."""
        for reply in (replies.SHUTTING_DOWN, Reply(221, "Bye", "2.0.0")):
            with self.subTest(reply=reply):
                asking = Asking()
                backend = ScriptedBackend()
                wire, _ = connected(asking, backend)
                wire.say("XASK").forget()
                backend.sessions[0].connection.close(reply)
                self.assertEqual((wire.replies, wire.closed, len(asking.ended)), ([reply], True, 1))

    def test_close_is_final(self) -> None:
        """A verb that catches the end of its exchange, and goes on, is closed all the same; so is a silent client's."""

        class Stubborn(Asking):
            """Goes on whatever happens."""

            async def proceed(self, conversation: Any, text: str) -> Reply:
                """Ask again and again."""
                while True:
                    try:
                        await conversation.prompt(NAME)
                    except (SMTPError, CancelledError):
                        return DONE

        for end in ("close", "silence"):
            with self.subTest(end=end):
                backend = ScriptedBackend()
                wire, clock = connected(Stubborn(), backend, command_timeout=20)
                wire.say("XASK", "name").forget()
                if end == "close":
                    backend.sessions[0].connection.close(replies.SHUTTING_DOWN)
                clock.pump([1] * 25)
                self.assertEqual((wire.codes[-1], wire.closed), (421, True))

    def test_cancelled(self) -> None:
        """A prompt whose Deferred the verb gives up, by a timeout of its own, leaves lines commands again."""

        class Hasty(Asking):
            """Gives up after ten seconds."""

            def __init__(self, clock: list[Clock]) -> None:
                super().__init__()
                self.clock = clock

            async def proceed(self, conversation: Any, text: str) -> Reply:
                """Ask, but not for long."""
                try:
                    await conversation.prompt(NAME).addTimeout(10, self.clock[0])
                except TimeoutError:
                    return Reply(432, "Too slow", "4.4.2")
                return DONE

        clocks: list[Clock] = []
        wire, clock = connected(Hasty(clocks))
        clocks.append(clock)
        wire.say("XASK")
        clock.pump([1] * 11)
        self.assertEqual(wire.codes, [334, 432])
        self.assertEqual(wire.say("NOOP", "XASK", "name", "NOOP").codes, [334, 432, 250, 334, 235, 250])
