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

from collections.abc import Iterable
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger

from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import Outcome
from smtpsvc.policies.arguments import Arguments, parse_choice
from smtpsvc.policies.chain import Policy
from smtpsvc.policies.held import HeldMessage
from smtpsvc.policies.policyactions import follow, printable
from smtpsvc.policies.policyattributes import STATES, attributes_of, attributes_of_peer
from smtpsvc.policies.policyserver import PolicyServer
from smtpsvc.policies.reaching import (
    NOT_AVAILABLE,
    ProgramFailed,
    Reach,
    as_greeting,
    endpoint_of,
    read_failure,
)
from smtpsvc.values import Envelope, Peer, Recipient

#: What the client hears of an answer that cannot be followed.
MISTAKE: Final = Reply(451, "Server configuration error", "4.3.5")

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
            return follow(action, envelope, held, self.name)
        except ValueError as error:
            fields = {"policy": self.name, "said": printable(action), "problem": printable(str(error))}
            log.error("{policy} cannot be followed in {said!r}: {problem}", **fields)
            return MISTAKE

    def stopService(self) -> Any:
        """Close the connections."""
        self._server.stop()
        return super().stopService()  # type: ignore[no-untyped-call]


def policyd(
    endpoint: IStreamClientEndpoint,
    reactor: Any,
    stages: Iterable[str] = ("rcpt",),
    *,
    on_failure: Reply | None = NOT_AVAILABLE,
    connect_timeout: float = 5.0,
    timeout: float = 30.0,
    context: str = "",
    name: str = "policyd",
) -> Policyd:
    """
    Make the policy.

    :param endpoint: where the policy server listens.
    :param stages: see :class:`Policyd`, as for *on_failure*, *context* and *name*.
    :param timeout: seconds for each answer; *connect_timeout* for a connection.
    :raises ValueError: with a sentence, if a stage is none.
    """
    reach = Reach(endpoint, name, clock=reactor, seconds=connect_timeout)
    server = PolicyServer(reach, clock=reactor, seconds=timeout)
    return Policyd(server, stages, on_failure=on_failure, context=context, name=name)


def make(arguments: Arguments, reactor: Any) -> Policyd:
    """
    Make the policy of ``--policy policyd``.

    :raises ValueError: with a sentence.
    """
    place = arguments.value("the place of the policy server")
    return policyd(
        endpoint_of(place, reactor),
        reactor,
        arguments.texts("at") or ["rcpt"],
        on_failure=read_failure(arguments),
        connect_timeout=arguments.seconds("connect-timeout", 5.0),
        timeout=arguments.seconds("timeout", 30.0),
        context=arguments.text("context"),
        name=f"policyd {place}",
    )
