"""
Any dialogue, cut anywhere, with hooks that answer in any form and at any time: the octets sent are the same.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar.replies import PermanentError
from smtpsvc.session import Backend, Delivery, Session
from smtpsvc.testing import Wire, clocked_factory
from tests.hooks import REFUSAL, coroutine
from tests.support import given, settings_with, st, without_ids

LINES = [
    b"EHLO client.example",
    b"HELO client.example",
    b"EHLO no.example",
    b"MAIL FROM:<a@x.example>",
    b"MAIL FROM:<> SIZE=10",
    b"MAIL FROM:<no@x.example>",
    b"MAIL FROM:<",
    b"RCPT TO:<b@y.example>",
    b"RCPT TO:<no@y.example>",
    b"RCPT TO:<error@y.example>",
    b"DATA",
    b".",
    b"..",
    b"",
    b"text",
    b"x" * 80,
    b"a\nb",
    b"RSET",
    b"NOOP",
    b"VRFY b",
    b"NONSENSE",
]

#: Dialogues that get somewhere, with all kinds of lines between.
dialogues = st.lists(
    st.sampled_from(LINES) | st.just(b"\r\n".join([LINES[3], LINES[7], b"DATA", b"text", b"."])),
    max_size=25,
).map(lambda lines: b"".join(line + b"\r\n" for line in [LINES[0], *lines]))

forms = st.lists(st.sampled_from(["plain", "fired", "coroutine", "pending"]))


class Moody(Backend, Session, Delivery):
    """Its own session and delivery; refuses by what it is asked, and answers when and how it likes."""

    def __init__(self, forms: list[str]) -> None:
        self.forms = forms
        self.asked = 0
        self.pending: list[tuple[Deferred[Any], Any]] = []
        self.content = b""
        self.calls: list[str] = []

    def give(self, hook: str, value: Any) -> Any:
        """Give an answer in the form whose turn it is."""
        self.calls.append(hook)
        form = self.forms[self.asked % len(self.forms)] if self.forms else "plain"
        self.asked += 1
        if form == "plain":
            if isinstance(value, Exception):
                raise value
            return value
        if form == "coroutine":
            return coroutine(value)
        if form == "fired":
            return fail(value) if isinstance(value, Exception) else succeed(value)
        deferred: Deferred[Any] = Deferred()
        self.pending.append((deferred, value))
        return deferred

    def fire(self) -> bool:
        """Let a pending answer come; say whether there was one."""
        if not self.pending:
            return False
        deferred, value = self.pending.pop()
        if isinstance(value, Exception):
            deferred.errback(value)
        else:
            deferred.callback(value)
        return True

    def open_session(self, peer: Any, connection: Any) -> Any:
        return self.give("open_session", self)

    def helo(self, name: str) -> Any:
        return self.give("helo", REFUSAL if name.startswith("no") else None)

    def mail(self, envelope: Any) -> Any:
        return self.give("mail", PermanentError("No") if envelope.sender.local == "no" else None)

    def rcpt(self, envelope: Any, recipient: Any) -> Any:
        answers = {"no": REFUSAL, "error": KeyError("x")}
        return self.give("rcpt", answers.get(recipient.address.local))

    def data(self, envelope: Any) -> Any:
        return self.give("data", self)

    def write(self, content: bytes) -> Any:
        self.content += content
        # Pieces are cut anywhere, so the hooks are those of writes in a row.
        if self.calls[-1] == "write":
            self.calls.pop()
        return self.give("write", None)

    def finish(self) -> Any:
        return self.give("finish", None)

    def abort(self, reason: Any) -> Any:
        return self.give("abort", None)

    def reset(self, envelope: Any, upgraded: bool) -> Any:
        return self.give("reset", None)


def connected(backend: Moody) -> Wire:
    """Connect to a factory of the backend."""
    return Wire(clocked_factory(backend, settings_with(message_size=100, add_received=False, read_ahead=4096))[0])


class AnyDialogueTests(SynchronousTestCase):
    @given(dialogues, st.lists(st.integers(1, 60), min_size=1), forms)
    def test_same(self, dialogue: bytes, cuts: list[int], forms: list[str]) -> None:
        """Whatever the forms and moments of the answers, and the cuts, replies and hooks are those of plain ones."""
        plain = Moody([])
        expected = connected(plain).receive(dialogue)
        moody = Moody(forms)
        wire = connected(moody)
        place = turn = 0
        while place < len(dialogue):
            size = cuts[turn % len(cuts)]
            wire.receive(dialogue[place : place + size])
            place += size
            turn += 1
            if turn % 3 == 0:
                moody.fire()
        while moody.fire():
            pass
        self.flushLoggedErrors(KeyError)
        self.assertEqual(without_ids(wire.output), without_ids(expected.output))
        self.assertEqual([hook for hook in moody.calls if hook != "write"], [h for h in plain.calls if h != "write"])
        self.assertEqual(wire.protocol.conversation.state, expected.protocol.conversation.state)

    @given(dialogues)
    def test_hooks(self, dialogue: bytes) -> None:
        """Each message that is begun ends in exactly one of finish and abort, whatever comes."""
        backend = Moody([])
        connected(backend).receive(dialogue).hang_up()
        self.flushLoggedErrors(KeyError)
        ends = backend.calls.count("finish") + backend.calls.count("abort")
        self.assertEqual(backend.calls.count("data"), ends)
