"""Tests of smtpsvc.grammar.states, and of the conversation that keeps to it."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.grammar import replies
from smtpsvc.grammar.states import ALLOWED, ANY, FOLLOWS, NOT_SERVED, TRANSACTION, State, out_of_sequence
from smtpsvc.testing import ScriptedBackend, Wire
from tests.support import connect, given, st

LINES = {
    "EHLO": b"EHLO client.example\r\n",
    "HELO": b"HELO client.example\r\n",
    "MAIL": b"MAIL FROM:<a@x.example>\r\n",
    "RCPT": b"RCPT TO:<b@y.example>\r\n",
    "DATA": b"DATA\r\ntext\r\n.\r\n",
    "RSET": b"RSET\r\n",
    "NOOP": b"NOOP\r\n",
    "VRFY": b"VRFY a\r\n",
    "EXPN": b"EXPN a\r\n",
    "HELP": b"HELP\r\n",
    "QUIT": b"QUIT\r\n",
}
WAY = {
    State.CONNECTED: b"",
    State.GREETED: LINES["EHLO"],
    State.MAIL: LINES["EHLO"] + LINES["MAIL"],
    State.RCPT: LINES["EHLO"] + LINES["MAIL"] + LINES["RCPT"],
}

#: RFC 5321 §4.1.4: in which states which verb is served, and where it leads.
SEQUENCE = {
    #                CONNECTED         GREETED        MAIL           RCPT
    "EHLO": (State.GREETED, State.GREETED, State.GREETED, State.GREETED),
    "HELO": (State.GREETED, State.GREETED, State.GREETED, State.GREETED),
    "MAIL": (None, State.MAIL, None, None),
    "RCPT": (None, None, State.RCPT, State.RCPT),
    "DATA": (None, None, None, State.GREETED),
    "RSET": (State.CONNECTED, State.GREETED, State.GREETED, State.GREETED),
    **dict.fromkeys(
        ("NOOP", "VRFY", "EXPN", "HELP", "QUIT"), (State.CONNECTED, State.GREETED, State.MAIL, State.RCPT)
    ),
}
SENTENCES = {
    (State.CONNECTED, "MAIL"): replies.SAY_HELLO,
    (State.CONNECTED, "RCPT"): replies.SAY_HELLO,
    (State.CONNECTED, "DATA"): replies.SAY_HELLO,
    (State.GREETED, "RCPT"): replies.SAY_MAIL,
    (State.GREETED, "DATA"): replies.SAY_MAIL,
    (State.MAIL, "MAIL"): replies.NESTED_MAIL,
    (State.MAIL, "DATA"): replies.SAY_RCPT,
    (State.RCPT, "MAIL"): replies.NESTED_MAIL,
}


def wire_in(state: State) -> Wire:
    """Connect and go to a state."""
    return connect().receive(WAY[state]).forget()


class TableTests(SynchronousTestCase):
    def test_one_bit_each(self) -> None:
        """Each state is one bit, and together they are all."""
        self.assertEqual(sorted(State), [1 << n for n in range(len(State))])
        self.assertEqual(sum(State), ANY)

    def test_transaction(self) -> None:
        """A transaction is open from MAIL on."""
        self.assertEqual(ANY & ~TRANSACTION, State.CONNECTED | State.GREETED)

    def test_allowed(self) -> None:
        """The table allows each core verb in exactly the states of RFC 5321 §4.1.4."""
        self.assertEqual(set(ALLOWED), set(SEQUENCE))
        for name, leads in SEQUENCE.items():
            with self.subTest(name=name):
                allowed = {state for state in WAY if state & ALLOWED[name]}
                self.assertEqual(allowed, {state for state, to in zip(WAY, leads, strict=True) if to is not None})

    def test_follows(self) -> None:
        """The table says where each core verb leads, from each state that allows it."""
        for name, leads in SEQUENCE.items():
            for state, to in zip(WAY, leads, strict=True):
                if to is not None and (name, state) != ("RSET", State.CONNECTED):
                    with self.subTest(name=name, state=state):
                        self.assertIs(FOLLOWS.get(name, state), to)

    def test_known_names(self) -> None:
        """No verb is both served and not served, and only served ones lead anywhere."""
        self.assertFalse(set(ALLOWED) & set(NOT_SERVED))
        self.assertLessEqual(set(FOLLOWS), set(ALLOWED))


class ReplyTests(SynchronousTestCase):
    def test_sentences(self) -> None:
        """The 503 names the step that is missing."""
        for (state, name), reply in SENTENCES.items():
            with self.subTest(state=state, name=name):
                self.assertEqual(out_of_sequence(ALLOWED[name], state), reply)

    @given(st.sampled_from(State), st.sampled_from(sorted(set(ALLOWED.values()))))
    def test_code(self, state: State, allowed: State) -> None:
        """Whatever is missing, the reply is 503 5.5.1."""
        reply = out_of_sequence(allowed, state)
        self.assertEqual((reply.code, reply.enhanced), (503, "5.5.1"))


class ConversationTests(SynchronousTestCase):
    def test_ways(self) -> None:
        """EHLO, MAIL and RCPT lead through the states."""
        for state in WAY:
            with self.subTest(state=state):
                self.assertIs(wire_in(state).protocol.conversation.state, state)

    def test_sequence(self) -> None:
        """Each verb in each state is served and leads on, or is 503 and leaves the state as it was."""
        for name, leads in SEQUENCE.items():
            for state, to in zip(WAY, leads, strict=True):
                with self.subTest(name=name, state=state):
                    wire = wire_in(state).receive(LINES[name])
                    if to is None:
                        self.assertEqual(wire.replies[0].text, SENTENCES[state, name].text)
                        self.assertEqual(wire.codes[0], 503)
                    else:
                        self.assertLess(max(wire.codes), 503)
                    self.assertIs(wire.protocol.conversation.state, to or state)

    def test_sequence_before_syntax(self) -> None:
        """A verb out of sequence is 503 whatever stands behind it."""
        for name in ("MAIL", "RCPT", "DATA"):
            for argument in (b"", b" x", b" FROM:<a b>", b" \xff\x01"):
                with self.subTest(name=name, argument=argument):
                    self.assertEqual(connect().say(name.encode() + argument).codes, [503])

    def test_envelope(self) -> None:
        """An envelope is there in a transaction, and only then."""
        for state in WAY:
            with self.subTest(state=state):
                envelope = wire_in(state).protocol.conversation.envelope
                self.assertEqual(envelope is not None, bool(state & TRANSACTION))

    def test_message_ends_transaction(self) -> None:
        """A message, taken or refused, ends its transaction (RFC 5321 §4.1.1.4)."""
        for finish in (None, replies.NO_SUCH_USER, replies.LOCAL_ERROR):
            with self.subTest(finish=finish):
                wire = connect(ScriptedBackend(finish=[finish])).receive(WAY[State.RCPT]).receive(LINES["DATA"])
                conversation = wire.protocol.conversation
                self.assertEqual((conversation.state, conversation.envelope), (State.GREETED, None))

    def test_refused_at_data(self) -> None:
        """A refusal at DATA leaves the transaction open."""
        wire = connect(ScriptedBackend(data=[replies.LOCAL_ERROR])).receive(WAY[State.RCPT]).say("DATA")
        self.assertEqual(wire.last_reply, replies.LOCAL_ERROR)
        self.assertIs(wire.protocol.conversation.state, State.RCPT)

    @given(st.lists(st.sampled_from(sorted(set(LINES) - {"QUIT"})), max_size=25))
    def test_any_order(self, names: list[str]) -> None:
        """Verbs in any order lead where the table says."""
        states = list(WAY)
        state = State.CONNECTED
        wire = connect()
        for name in names:
            to = SEQUENCE[name][states.index(state)]
            wire.forget().receive(LINES[name])
            self.assertEqual(wire.codes[0] == 503, to is None)
            state = to or state
            self.assertIs(wire.protocol.conversation.state, state)
