"""
Ask a policy server of Postfix, such as postgrey or policyd-spf, by the protocol of check_policy_service.

The value is where it listens: inet:HOST:PORT or unix:/PATH. It is told all that Postfix would tell it, at the stages
that at= says: connect, helo, mail, rcpt, data or end; at= may be given several times [default: rcpt]. With at=end each
message is held back until its end.

OK and DUNNO let the next policy decide; REJECT refuses with 554 5.7.1, DEFER and DEFER_IF_PERMIT with 450 4.7.1, each
with the text that follows; 4NN and 5NN with text are replies; DISCARD forgets the message; HOLD has it kept apart;
PREPEND puts a header field before it; WARN and INFO write into the log. All else, such as FILTER and REDIRECT, is a
mistake: 451 4.3.5, and a line in the log.

on-failure= says what becomes of mail while the server cannot be had: 451 refuses it for now [the default, unless
on-timeout= says something else], accept lets it pass. timeout= is the time for each answer [default: 30s],
connect-timeout= that for a connection [default: 5s]. context= is policy_context, by which one server can serve several
purposes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from twisted.application.service import Service
from twisted.logger import Logger

from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.shown import shown
from smtpsvc.interfaces import Outcome
from smtpsvc.message.fields import field
from smtpsvc.policies.arguments import Arguments, parse_choice
from smtpsvc.policies.chain import Policy
from smtpsvc.policies.discarded import discard
from smtpsvc.policies.held import HeldMessage
from smtpsvc.policies.policyattributes import STATES, attributes_of, attributes_of_peer
from smtpsvc.policies.policyserver import PolicyServer
from smtpsvc.policies.prepended import prepend
from smtpsvc.policies.reaching import (
    NOT_AVAILABLE,
    ProgramFailed,
    Reach,
    as_greeting,
    endpoint_of,
    read_failure,
    refusal_of,
)
from smtpsvc.values import Envelope, Peer, Quarantine, Recipient

#: What the client hears of an answer that cannot be followed.
MISTAKE: Final = Reply(451, "Server configuration error", "4.3.5")

_CODE = re.compile(r"[45][0-9][0-9]")
_REFUSALS: Final = {
    "REJECT": (554, "Access denied", "5.7.1"),
    "DEFER": (450, "Access denied for now, try again later", "4.7.1"),
    "DEFER_IF_PERMIT": (450, "Access denied for now, try again later", "4.7.1"),
}

log = Logger()


class Policyd(Policy, Service):  # type: ignore[misc]
    """
    Asks a policy server of Postfix.

    :param stages: at which: ``connect``, ``helo``, ``mail``, ``rcpt``, ``data`` or ``end``.
    :param on_failure: what is answered while it cannot be asked; None to let mail pass.
    :param context: its ``policy_context``.
    :param name: of the policy, in the log.
    :raises ValueError: with a sentence, if a stage is none.
    """

    prepends = True

    def __init__(
        self,
        server: PolicyServer,
        stages: Iterable[str] = ("rcpt",),
        *,
        on_failure: Reply | None = NOT_AVAILABLE,
        context: str = "",
        name: str = "policyd",
    ) -> None:
        self.name = name  # type: ignore[misc]
        self._server = server
        self._on_failure = on_failure
        self._context = context
        asked = {parse_choice(stage, tuple(STATES)) for stage in stages}
        for stage in STATES:
            if stage not in asked:
                # What need not be looked at is not asked, and holds nothing back.
                check = "examine" if stage == "end" else stage
                setattr(self, check, getattr(super(), check))

    def connect(self, peer: Peer) -> Outcome:
        """Ask about the client, whose greeting waits."""
        return self._greeting(peer)

    async def _greeting(self, peer: Peer) -> Reply | None:
        return as_greeting(await self._ask(attributes_of_peer("connect", peer, "", self._context), None))

    def helo(self, peer: Peer, name: str) -> Outcome:
        """Ask about its name."""
        return self._ask(attributes_of_peer("helo", peer, name, self._context), None)

    def mail(self, envelope: Envelope) -> Outcome:
        """Ask about the sender."""
        return self._ask(attributes_of("mail", envelope, context=self._context), envelope)

    def rcpt(self, envelope: Envelope, recipient: Recipient) -> Outcome:
        """Ask about a recipient."""
        return self._ask(attributes_of("rcpt", envelope, recipient, context=self._context), envelope)

    def data(self, envelope: Envelope) -> Outcome:
        """Ask about the transaction."""
        return self._ask(attributes_of("data", envelope, context=self._context), envelope)

    def examine(self, envelope: Envelope, held: HeldMessage) -> Outcome:
        """Ask when the message is there."""
        return self._ask(attributes_of("end", envelope, size=held.size, context=self._context), envelope, held)

    async def _ask(
        self, attributes: dict[str, str], envelope: Envelope | None, held: HeldMessage | None = None
    ) -> Reply | None:
        try:
            action = await self._server.ask(attributes)
        except ProgramFailed as error:
            self._server.reach.failed(error)
            return self._on_failure
        self._server.reach.worked()
        try:
            return self._follow(action, envelope, held)
        except ValueError as error:
            fields = {"policy": self.name, "said": _shown(action), "problem": _shown(str(error))}
            log.error("{policy} cannot be followed in {said!r}: {problem}", **fields)
            return MISTAKE

    def _follow(self, action: str, envelope: Envelope | None, held: HeldMessage | None) -> Reply | None:
        """
        Do what an answer says.

        :raises ValueError: if that is not possible.
        """
        word, _, text = action.partition(" ")
        word, text = word.upper(), text.strip()
        if word in ("OK", "DUNNO", "DEFER_IF_REJECT", "") or (word.isdigit() and not _CODE.fullmatch(word)):
            return None
        if word in _REFUSALS:
            code, words, enhanced = _REFUSALS[word]
            return refusal_of(code, text or words, enhanced)
        if _CODE.fullmatch(word):
            return refusal_of(int(word), text or "Access denied", f"{word[0]}.7.1")
        if word in ("WARN", "INFO"):
            log.info("{policy} says: {text}", policy=self.name, text=_shown(text), id=getattr(envelope, "id", ""))
            return None
        if word not in ("DISCARD", "HOLD", "PREPEND"):
            raise ValueError("there is no such action here")
        if envelope is None:
            raise ValueError("there is no message yet")
        if word == "HOLD":
            envelope.results.put(Quarantine(_shown(text or self.name)))
        elif word == "PREPEND":
            name, colon, value = text.partition(":")
            raw = field(name.strip() if colon else "", value.strip())
            prepend(envelope, raw) if held is None else held.header.insert(raw)
        elif held is None:
            discard(envelope)
        else:
            held.discard()
        return None

    def stopService(self) -> Any:
        """Close the connections."""
        self._server.stop()
        return super().stopService()  # type: ignore[no-untyped-call]


def _shown(text: str) -> str:
    return shown(text[:500].encode("utf-8", "backslashreplace"))


def make(arguments: Arguments, reactor: Any) -> Policyd:
    """
    Make the policy of ``--policy policyd``.

    :raises ValueError: with a sentence.
    """
    place = arguments.value("the place of the policy server")
    name = f"policyd {place}"
    seconds = arguments.seconds("connect-timeout", 5.0)
    reach = Reach(endpoint_of(place, reactor), name, clock=reactor, seconds=seconds)
    server = PolicyServer(reach, clock=reactor, seconds=arguments.seconds("timeout", 30.0))
    return Policyd(
        server,
        arguments.texts("at") or ["rcpt"],
        on_failure=read_failure(arguments),
        context=arguments.text("context"),
        name=name,
    )
