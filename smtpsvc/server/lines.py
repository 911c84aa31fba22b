"""
Command lines: the part of a conversation that finds out what they mean, has it done, and answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.python.failure import Failure

from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import LastReply, Reply, SMTPError
from smtpsvc.grammar.states import State, out_of_sequence
from smtpsvc.server.channel import CLOSED, LINES, TURN
from smtpsvc.server.contents import Contents
from smtpsvc.server.faults import count_refusal, is_foreign
from smtpsvc.server.outcomes import LATER

if TYPE_CHECKING:
    from smtpsvc.server.tables import Command, Tables
    from smtpsvc.server.verbs import Verb

_WHITE: Final = b" \t"

#: Enough of a line to see which verb it was meant to have.
_LONGEST_VERB: Final = 64


class Lines(Contents):
    """The part of a conversation that takes command lines."""

    __slots__ = ("tables",)

    tables: Tables

    if TYPE_CHECKING:

        @property
        def trusted(self) -> bool: ...

        def _close(self, reply: Reply) -> None: ...

    def lines_received(self, buffer: bytes, start: int) -> int:
        """
        Take the command lines that begin at *start*, as long as each is one that came before.

        :returns: the offset of the first that was not taken.
        """
        known = self.tables.commands
        channel = self.channel
        out = channel.out
        while self.mode is LINES and not channel.paused and len(out) < TURN:
            end = buffer.find(b"\n", start) + 1
            command = known.get(buffer[start:end])
            if command is None or not self.obey(command):
                break
            start = end
        return start

    def obey(self, command: Command) -> bool:
        """
        Do what a command says, and answer it. Nearly all that a server does passes here.

        :returns: False if it is not allowed in this state: nothing was done then.
        """
        allowed, proceed, value, verb = command
        if not self._state & allowed:
            return False
        try:
            outcome = proceed(self, value)
        except SMTPError as error:
            outcome = error.reply
        except Exception:
            outcome = self.failed(Failure(), verb.name)
        if type(outcome) is Reply and not (outcome.notable or self.mode is CLOSED or self.factory.watch.replied):
            # As _answer does for what needs no note.
            self.channel.out.append(outcome.wire(self.enhanced and not verb.plain))
        elif outcome is not LATER:
            self._proceeded(verb, outcome)
        return True

    def line_received(self, line: bytes) -> None:
        """
        Take a command line.

        :param line: without its CRLF; free of CR, LF and NUL.
        """
        command = self._understand(line)
        if command is not None:
            self.obey(command)

    def _proceeded(self, verb: Verb, outcome: Any) -> None:
        """Answer what a verb's proceed gave: now, or when it comes."""
        if isinstance(outcome, Reply):
            self._answer(verb, outcome)
        else:
            self.settle(outcome, lambda value: self._settled(verb, value), hook=verb.name)

    def _understand(self, line: bytes) -> Command | None:
        """
        Find what a command line means.

        :returns: None if it was answered with a refusal.
        """
        whole = line
        if line and line[-1] in _WHITE:
            # RFC 5321 §4.1.1: white space at the end is let pass.
            line = line.rstrip(b" \t")
        name, _, argument = line.partition(b" ")
        verbs = self.tables.verbs
        verb = verbs.get(name) or verbs.get(name.upper())
        if verb is None:
            self.refuse_line(replies.UNKNOWN_COMMAND, line)
            return None
        if not self._state & verb.allowed:
            refusal = out_of_sequence(State(verb.allowed), State(self._state), lmtp=self.tables.lmtp)
            outcome = verb.refuse(self, argument, refusal)  # type: ignore[arg-type]
            if outcome is not LATER:
                self._answer(verb, outcome)
            return None
        try:
            value = verb.parse(argument)
        except SMTPError as error:
            self._answer(verb, error.reply)
            return None
        except ValueError as problem:
            self._answer(verb, Reply(501, str(problem), "5.5.4"))
            return None
        except Exception:
            # A stranger's parser: a mistake of its own, not of the client.
            self._answer(verb, self.failed(Failure(), verb.name))
            return None
        return self.tables.remember(whole, verb, value)

    def _settled(self, verb: Verb, value: Any) -> None:
        """What a verb's proceed has promised is there."""
        self._answer(verb, value if type(value) is Reply else self.judge(value, verb.name) or replies.OK)

    def refuse_line(self, reply: Reply, line: bytes) -> None:
        """
        Answer a line that is no command line: too long, damaged, or of no known verb.

        :param line: what has come of it.
        """
        if self.pending_prompt is not None:
            self.end_prompt(reply)
        elif is_foreign(line):
            if not self.trusted:
                # A proxy may check in this way that we are alive; that is no news.
                self.factory.log.info(
                    "{peer_id}: {host} speaks TLS or HTTP where SMTP is spoken; closed",
                    peer_id=self.peer.id,
                    host=self.peer.host or "local",
                )
            self._answer(None, replies.ONLY_SMTP)
        elif line[:_LONGEST_VERB].upper().startswith(self.tables.laden):
            # How many octets follow cannot be known, and none of them may be read as a command.
            self._answer(None, LastReply(reply.code, reply.text, reply.enhanced))
        else:
            self._answer(None, reply)

    def _answer(self, verb: Verb | None, reply: Reply, last: bool = True) -> None:
        """
        Send the reply to a command.

        :param last: no other reply to it follows: one that closes the connection does so now.
        """
        if self.mode is CLOSED:
            return
        self.channel.out.append(reply.wire(self.enhanced and (verb is None or not verb.plain)))
        if last and reply.notable:
            if reply.closes:
                self._close(reply)
            else:
                count_refusal(self, verb.name if verb is not None else "", reply)  # type: ignore[arg-type]
        watch = self.factory.watch.replied
        if watch is not None:
            watch(self.peer, verb.name if verb is not None else "", reply)
