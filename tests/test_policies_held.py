"""
Tests of smtpsvc.policies.held, holding and prepended: messages that policies see whole, and change.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from smtpsvc.backends.function import TemporaryContent
from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.replies import PermanentError, Reply, SMTPError
from smtpsvc.message.fields import Header, field
from smtpsvc.policies import held as held_module
from smtpsvc.policies.chain import Policy, with_policies
from smtpsvc.policies.held import HeldMessage
from smtpsvc.policies.prepended import prepend, put_before
from smtpsvc.settings import MIB, Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from smtpsvc.values import Envelope, Peer, Quarantine, Recipient
from tests.support import settings_with

MAIL = ("MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>", "RCPT TO:<c@y.example>")
MESSAGE = (*MAIL, "DATA", "Subject: x", "", "Hello", ".")
CONTENT = b"Subject: x\r\n\r\nHello\r\n"
NO = Reply(550, "No", "5.7.1")


class SameThread:
    """A reactor whose thread pool works at once, in the same thread, and counts its jobs."""

    def __init__(self) -> None:
        self.jobs = 0

    def getThreadPool(self) -> SameThread:
        return self

    def callInThreadWithCallback(self, done: Callable[..., object], job: Callable[..., object]) -> None:
        self.jobs += 1
        done(True, job())

    def callFromThread(self, call: Callable[..., object], *args: object) -> None:
        call(*args)


class Examining(Policy):
    """Examines messages with a function."""

    def __init__(self, examine: Callable[[HeldMessage], Any]) -> None:
        self.function = examine

    def examine(self, envelope: Envelope, held: HeldMessage) -> Any:
        return self.function(held)


def serve(
    *examine: Callable[[HeldMessage], Any], policies: Any = (), role: Role = Role.SMTP, **answers: Any
) -> tuple[Wire, ScriptedBackend, Clock]:
    """Connect to a server with policies that examine."""
    backend = ScriptedBackend(**answers)
    chain = with_policies(backend, *policies, *map(Examining, examine), reactor=SameThread())
    factory, clock = clocked_factory(chain, settings_with(add_received=False), role=role)
    return Wire(factory).greeted(), backend, clock


def message(content: bytes = CONTENT, *recipients: str) -> HeldMessage:
    """Make a message that is held."""
    envelope = Envelope("t1", Peer(None, "c1"), Address("a", "x.example"))
    envelope.recipients = [Recipient(Address(each, "y.example")) for each in recipients or ("b", "c")]
    return HeldMessage(envelope, content)


class LastEditTests(SynchronousTestCase):
    def test_last(self) -> None:
        """An edit that is to come last is made when all have consented, once, and not to what came."""
        seen = []

        def first(held: HeldMessage) -> None:
            for word in ("one", "two"):
                held.edit_last("X", lambda header, word=word: header.insert(field("X", word)))

        def second(held: HeldMessage) -> None:
            held.header.insert(field("Y", "three"))
            seen.append(bytes(held.header_as_it_came()) + held.open_as_it_came().read())

        wire, backend, _ = serve(first, second)
        wire.say(*MESSAGE)
        self.assertEqual(backend.messages[0].content, b"X: two\r\nY: three\r\n" + CONTENT)
        self.assertEqual(seen, [CONTENT.partition(b"Hello")[0] + CONTENT])

    def test_refused(self) -> None:
        """Of a message that is refused nothing is edited."""
        wire, _, _ = serve(lambda held: held.edit_last("X", self.fail), lambda held: NO)
        wire.say(*MESSAGE)
        self.assertEqual(wire.last_reply.code, 550)


class HoldingTests(SynchronousTestCase):
    def test_unchanged(self) -> None:
        """A message that is examined reaches the backend as it came, and is finished."""
        seen = []
        wire, backend, _ = serve(lambda held: seen.append(held.content))
        wire.say(*MESSAGE)
        self.assertEqual(wire.codes, [250, 250, 250, 354, 250])
        self.assertEqual((seen, backend.messages[0].content, backend.messages[0].finished), ([CONTENT], CONTENT, True))

    def test_late(self) -> None:
        """The backend is asked for its delivery only when the policies have consented."""
        verdict: Deferred[None] = Deferred()
        wire, backend, _ = serve(lambda held: verdict)
        wire.say(*MESSAGE)
        self.assertNotIn("data", backend.hooks)
        verdict.callback(None)
        self.assertEqual(backend.hooks[-4:], ["data", "write", "finish", "reset"])
        self.assertEqual(wire.last_reply.code, 250)

    def test_refusal(self) -> None:
        """The backend does not hear of a message that is refused."""
        for refuse in (lambda held: NO, lambda held: fail(PermanentError("No", "5.7.1"))):
            wire, backend, _ = serve(refuse)
            wire.say(*MESSAGE)
            self.assertEqual((wire.last_reply.code, wire.last_reply.enhanced), (550, "5.7.1"))
            self.assertRegex(wire.last_reply.text, r"^No \(\w+\)$")
            self.assertEqual(backend.messages, [])

    def test_backend_refuses(self) -> None:
        """What the backend's data refuses is the answer at the end of the message."""
        wire, _, _ = serve(lambda held: None, data=Reply(452, "Full", "4.3.1"))
        self.assertEqual(wire.say(*MESSAGE).last_reply, Reply(452, "Full", "4.3.1"))

    def test_order(self) -> None:
        """Checks of the end are asked in the order of their policies, whether they examine or not."""

        class Ending(Policy):
            def message(self, envelope: Envelope) -> None:
                order.append("message")

        order: list[str] = []
        wire, _, _ = serve(lambda held: order.append("second"), policies=[Ending()])
        wire.say(*MESSAGE)
        self.assertEqual(order, ["message", "second"])

    def test_content_refused(self) -> None:
        """A piece that is refused drops the rest, and the message is not examined."""

        class Reading(Policy):
            def content(self, envelope: Envelope, content: bytes) -> Reply:
                return NO

        examined: list[Any] = []
        wire, backend, _ = serve(examined.append, policies=[Reading()])
        self.assertEqual(wire.say(*MESSAGE).last_reply.code, 550)
        self.assertEqual((examined, backend.messages), ([], []))

    def test_large(self) -> None:
        """A large message goes through a temporary file, read and written in threads, and comes out whole."""
        size = 3 * MIB
        wire, backend, _ = serve(lambda held: None)
        wire.say(*MAIL, "DATA", "Subject: x", "").receive(b"y" * 998 + b"\r\n" + b"z" * 998 + b"\r\n")
        for _ in range(size // 4000):
            wire.receive((b"y" * 998 + b"\r\n") * 4)
        wire.say(".")
        self.assertEqual(wire.last_reply.code, 250)
        self.assertEqual(len(backend.messages[0].content), len(b"Subject: x\r\n\r\n") + 2000 + size // 4000 * 4000)
        self.assertGreater(backend.hooks.count("write"), 2)
        self.assertGreater(wire.factory.backend._holding.reactor.jobs, 2)
        self.assertEqual(wire.factory.backend._holding.budget.used, 0)

    def test_memory(self) -> None:
        """Memory is given back whatever becomes of a message."""
        for outcome in (None, NO, KeyError("oops")):
            wire, _, _ = serve(lambda held, outcome=outcome: outcome if not isinstance(outcome, KeyError) else 1 / 0)
            wire.say(*MESSAGE)
            self.assertEqual(wire.factory.backend._holding.budget.used, 0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        wire, _, _ = serve(lambda held: None)
        wire.say(*MAIL, "DATA", "Subject: x").hang_up()
        self.assertEqual(wire.factory.backend._holding.budget.used, 0)

    def test_write_fails(self) -> None:
        """A delivery that cannot take the content is aborted, and the refusal is the answer."""
        wire, backend, _ = serve(lambda held: None, write=PermanentError("Bad", "5.6.0", 554))
        self.assertEqual(wire.say(*MESSAGE).last_reply, Reply(554, "Bad", "5.6.0"))
        self.assertIsNotNone(backend.messages[0].aborted)
        self.assertFalse(backend.messages[0].finished)

    def test_backpressure(self) -> None:
        """The hand-over waits where the backend does."""
        written: Deferred[None] = Deferred()
        wire, backend, _ = serve(lambda held: None, write=[written])
        wire.say(*MESSAGE)
        self.assertNotIn("finish", backend.hooks)
        written.callback(None)
        self.assertEqual(wire.last_reply.code, 250)

    def test_cancelled(self) -> None:
        """A check that takes longer than the server waits is cancelled, and the message is forgotten."""
        cancelled = []
        wire, backend, clock = serve(lambda held: Deferred(cancelled.append))
        wire.say(*MESSAGE)
        clock.advance(400)
        self.assertEqual((wire.last_reply.code, len(cancelled), backend.messages), (451, 1, []))

    def test_memory_of_kept(self) -> None:
        """Memory is given back when the backend has all of a message, before it has kept it."""
        kept: Deferred[None] = Deferred()
        wire, backend, _ = serve(lambda held: None, finish=kept)
        wire.say(*MESSAGE)
        self.assertIn("finish", backend.hooks)
        self.assertEqual(wire.factory.backend._holding.budget.used, 0)
        kept.callback(None)
        self.assertEqual(wire.last_reply.code, 250)

    def test_closed(self) -> None:
        """When its check has settled, a message can be neither read nor changed."""
        kept: list[HeldMessage] = []
        wire, _, _ = serve(kept.append)
        wire.say(*MESSAGE)
        (held,) = kept
        for use in (held.open, held.discard, lambda: held.header, lambda: held.remove_recipient("b@y.example")):
            self.assertRaises(ValueError, use)

    def test_empty(self) -> None:
        """An empty message is handed over without a piece."""
        wire, backend, _ = serve(lambda held: None)
        wire.say(*MAIL, "DATA", ".")
        self.assertEqual((wire.last_reply.code, backend.hooks.count("write")), (250, 0))

    def test_streams_without(self) -> None:
        """Where no policy examines, content goes to the backend as it comes."""
        wire, backend, _ = serve(policies=[type("Ending", (Policy,), {"message": lambda self, envelope: None})()])
        wire.say(*MESSAGE[:-1])
        self.assertEqual(backend.hooks.count("write"), 3)


class ThreadTests(TestCase):
    async def test_real(self) -> None:
        """Real threads write a large message to a file and read it again, and the file is closed at the end."""
        backend = ScriptedBackend()
        chain: Any = with_policies(backend, Examining(lambda held: held.header.insert(field("X-Seen", "yes"))))
        envelope = message().envelope
        delivery = chain.open_session(envelope.peer, None).data(envelope)
        piece = b"x" * 98 + b"\r\n"
        for part in range(300):
            written = delivery.write(b"A: b\r\n\r\n" if part == 0 else piece * 100)
            if written is not None:
                await written
        self.assertIsNone(await delivery.finish())
        self.assertEqual(backend.messages[0].content[:22], b"X-Seen: yes\r\nA: b\r\n\r\nx")
        self.assertEqual(len(backend.messages[0].content), 21 + 100 * 29900)
        while delivery._file._file is not None:
            await deferToThread(lambda: None)


class ChangeTests(SynchronousTestCase):
    def test_header(self) -> None:
        """Header fields are added and removed, and every other octet stays."""
        wire, backend, _ = serve(lambda held: held.header.insert(field("X-Seen", "yes")))
        wire.say(*MESSAGE)
        self.assertEqual(backend.messages[0].content, b"X-Seen: yes\r\n" + CONTENT)

    def test_next_sees(self) -> None:
        """What one policy changes, the next one sees."""
        seen = []
        wire, backend, _ = serve(
            lambda held: held.header.remove("Subject") and None, lambda held: seen.append(held.open().read())
        )
        wire.say(*MESSAGE)
        self.assertEqual((seen, backend.messages[0].content), ([b"\r\nHello\r\n"], b"\r\nHello\r\n"))

    def test_body(self) -> None:
        """A body is replaced by octets, or by a file, and the header stays."""
        stored = TemporaryContent()
        stored.write(bytearray(b"Bye\r\n"))
        for body in (b"Bye\r\n", stored):
            wire, backend, _ = serve(lambda held, body=body: held.replace_body(body))
            wire.say(*MESSAGE)
            self.assertEqual(backend.messages[0].content, b"Subject: x\r\n\r\nBye\r\n")
        stored.close()

    def test_body_of_none(self) -> None:
        """A message without a body gets the empty line with its body."""
        for content in (b"A: b\r\n", b"A: b\r\n\r\n"):
            held = message(content)
            held.replace_body(b"Bye\r\n")
            self.assertEqual(held.content, b"A: b\r\n\r\nBye\r\n")

    @given(st.binary(max_size=200), st.integers(0, 250))
    def test_read_is_identical(self, body: bytes, place: int) -> None:
        """To read the header changes nothing, and a file may be read from any place."""
        held = message(b"A: b\r\nC: d\r\n\r\n" + body)
        len(held.header)
        self.assertEqual(held.content, b"A: b\r\nC: d\r\n\r\n" + body)
        file = held.open()
        file.seek(place)
        self.assertEqual(file.read(), held.content[place:])
        self.assertEqual(file.seek(0, io.SEEK_END), len(held.content))

    def test_read_once(self) -> None:
        """However many policies look at the header, it is read once; and none sees what another does to its own."""
        held = message(b"Subject: x\r\n\r\nbody")
        made = []
        self.patch(held_module, "Header", lambda octets: made.append(octets) or Header(octets))
        held.header.remove("Subject")
        headers = [held.header_as_it_came() for _ in range(3)]
        headers[0].remove("Subject")
        self.assertEqual([len(each) for each in (held.header, *headers)], [0, 0, 1, 1])
        self.assertEqual(len(made), 1)
        self.assertEqual(held.content, b"\r\nbody")

    def test_long_header(self) -> None:
        """A header that is longer than a piece is found whole; beyond a MiB it is refused with 552."""
        header = b"".join(b"X-%d: %s\r\n" % (place, b"x" * 900) for place in range(200))
        self.assertEqual(len(message(header + b"\r\nbody").header), 200)
        self.assertIn("552", str(self.assertRaises(SMTPError, lambda: message(header * 7).header)))

    def test_remove_recipient(self) -> None:
        """A recipient that is removed is not the backend's any more, and is answered as if he were, over LMTP too."""
        wire, backend, _ = serve(lambda held: held.remove_recipient("b@y.example") and None)
        wire.say(*MESSAGE)
        self.assertEqual([str(each) for each in backend.messages[0].recipients], ["c@y.example"])
        self.assertEqual(wire.codes[-1], 250)
        wire, backend, _ = serve(
            lambda held: held.remove_recipient("b@y.example") and None, role=Role.LMTP, finish=lambda: [NO]
        )
        wire.say(*MESSAGE)
        self.assertEqual(wire.codes[-2:], [250, 550])

    def test_discard(self) -> None:
        """A message that is discarded is answered 250, and the backend does not hear of it."""
        wire, backend, _ = serve(lambda held: held.discard())
        wire.say(*MESSAGE)
        self.assertEqual((wire.codes[-1], backend.messages), (250, []))

    def test_add_recipient(self) -> None:
        """The backend is asked about a recipient that is added, and gets the message for him too."""
        added = Recipient(Address("d", "y.example"))
        wire, backend, _ = serve(lambda held: held.add_recipient(added))
        wire.say(*MESSAGE)
        self.assertEqual([str(each) for each in backend.messages[0].recipients][2:], ["d@y.example"])
        self.assertEqual(backend.called("rcpt")[-1][1], added)
        self.assertEqual(wire.codes[-1], 250)

    def test_added_refused(self) -> None:
        """Where one that was added is refused, so is the message: at the backend's rcpt, and at its end."""
        added = Recipient(Address("d", "y.example"))
        wire, backend, _ = serve(lambda held: held.add_recipient(added), rcpt=[None, None, NO])
        self.assertEqual((wire.say(*MESSAGE).last_reply, backend.messages), (NO, []))
        for refused in (NO, succeed(NO), fail(PermanentError("No", "5.7.1"))):
            outcomes = [None, None, refused]
            wire, _, _ = serve(lambda held: held.add_recipient(added), finish=lambda given=outcomes: given)
            self.assertEqual(wire.say(*MESSAGE).last_reply, NO)

    def test_change_sender(self) -> None:
        """The backend gets the sender that a policy gives; the client's envelope stays."""
        wire, backend, _ = serve(lambda held: held.change_sender(Address("z", "x.example")))
        wire.say(*MESSAGE)
        self.assertEqual(str(backend.messages[0].sender), "z@x.example")
        self.assertEqual(str(backend.called("reset")[-1][0].sender), "a@x.example")

    def test_same_envelope(self) -> None:
        """A backend gets the envelope that its other hooks got, where nobody has changed it."""
        wire, backend, _ = serve(lambda held: None)
        wire.say(*MESSAGE)
        self.assertIs(backend.messages[0].envelope, backend.called("mail")[0][0])

    def test_wrong_count(self) -> None:
        """A backend that gives too few outcomes is wrong, whatever was removed."""
        held = message(CONTENT, "b", "c", "d")
        held.remove_recipient("c@y.example")
        self.assertEqual(held.answers([NO, None]), [NO, None, None])
        self.assertRaises(ValueError, held.answers, [None])

    def test_quarantine(self) -> None:
        """A quarantine is in the results of the envelope that the backend gets."""

        def examine(held: HeldMessage) -> None:
            held.quarantine("smells")
            held.remove_recipient("b@y.example")

        wire, backend, _ = serve(examine)
        wire.say(*MESSAGE)
        self.assertEqual(backend.messages[0].envelope.results.get(Quarantine), Quarantine("smells"))


class PrependTests(SynchronousTestCase):
    class Stamping(Policy):
        """Puts a field before each message."""

        prepends = True

        def rcpt(self, envelope: Envelope, recipient: Recipient) -> None:
            prepend(envelope, field("X-To", recipient.address.local))

    def test_streamed(self) -> None:
        """Fields stand before the content, the last on top, and nothing is held back."""
        wire, backend, _ = serve(policies=[self.Stamping()])
        wire.say(*MESSAGE)
        self.assertEqual(backend.messages[0].content, b"X-To: c\r\nX-To: b\r\n" + CONTENT)
        self.assertGreater(backend.hooks.count("write"), 1)

    def test_held(self) -> None:
        """They stand there where the message is held back, too."""
        wire, backend, _ = serve(lambda held: None, policies=[self.Stamping()])
        wire.say(*MESSAGE)
        self.assertEqual(backend.messages[0].content, b"X-To: c\r\nX-To: b\r\n" + CONTENT)

    def test_no_field(self) -> None:
        """What is not one whole field is refused."""
        envelope = message().envelope
        for raw in (b"", b"x", b"A: b\r\nC: d\r\n", b"A: b\n"):
            self.assertRaises(ValueError, prepend, envelope, raw)

    def test_continuation(self) -> None:
        """Content that would continue the field comes behind an empty line."""
        self.assertEqual(put_before(b"A: b\r\n", b" c"), b"A: b\r\n\r\n c")
        self.assertEqual(put_before(b"A: b\r\n", b"C: d"), b"A: b\r\nC: d")
        self.assertEqual(put_before(b"", b" c"), b" c")
