"""
A session that stands for those of several backends.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Final

from twisted.python.failure import Failure
from zope.interface import providedBy

from smtpsvc.backends.several import Part, SeveralDelivery, settle_all, waits
from smtpsvc.grammar import replies
from smtpsvc.grammar.addresses import Address, SyntaxProblem, parse_mailbox
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.interfaces import IAccount, IAuthenticated, IConnection, IDelivery, ISession, IVerifier, Outcome
from smtpsvc.policies.front import Front
from smtpsvc.session import Session
from smtpsvc.settings import Role
from smtpsvc.values import Envelope, Peer, Recipient

__all__ = ["APART", "RouteSession", "Side", "open_sides"]

#: To a recipient whose mail goes elsewhere than that of those before it.
APART: Final = Reply(452, "Goes another way than those before it, send it a message of its own", "4.5.3")

#: Chooses the number of a side for a recipient, or for what has none.
Choose = Callable[[Address | None, Role | None], int]


class Side:
    """
    One backend's part in a connection.

    :ivar refusal: why it takes nothing, or None.
    """

    __slots__ = ("backend", "refusal", "session", "shut")

    def __init__(self, backend: Any, session: Any) -> None:
        self.backend = backend
        self.session: Any = session if ISession.providedBy(session) else Session()
        #: Why its backend opened no session.
        self.shut: Reply | None = session if isinstance(session, Reply) else None
        if self.shut is None and not ISession.providedBy(session):
            raise TypeError(f"{backend!r} opened {session!r}, which does not provide ISession")
        self.refusal = self.shut


def open_sides(backends: Sequence[Any], peer: Peer, connection: IConnection, choose: Choose) -> Any:
    """
    Open a session of each backend.

    :param choose: gives the number of one of *backends*; of what has no recipient and no role, that of the last.
    :returns: a :class:`RouteSession`, or a Reply if no backend opens any; or an awaitable of these.
    """

    def opened(sessions: list[Any]) -> Any:
        sides = [Side(backend, session) for backend, session in zip(backends, sessions, strict=True)]
        if all(side.shut is not None for side in sides):
            return sides[-1].shut
        return RouteSession(sides, peer, choose)

    return settle_all([partial(each.open_session, peer, connection) for each in backends], opened)


class _Transaction:
    """
    What is known of a message.

    :ivar envelopes: as each side that has taken the sender knows it.
    :ivar refusals: of the sender, by side.
    """

    __slots__ = ("_chosen", "envelope", "envelopes", "refusals")

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self.envelopes: dict[Side, Envelope] = {}
        self.refusals: dict[Side, Reply] = {}
        # By identity, since a recipient may come twice; the recipients are kept, so that no identity is used again.
        self._chosen: dict[int, tuple[Recipient, Side]] = {}

    def known_to(self, side: Side) -> Envelope:
        """Give the envelope for a side: where each recipient is answered, it has that side's recipients only."""
        if side not in self.envelopes:
            envelope = self.envelope
            if envelope.each_answered:
                envelope = copy.copy(envelope)
                envelope.recipients = []
            self.envelopes[side] = envelope
        return self.envelopes[side]

    def take(self, recipient: Recipient, side: Side) -> None:
        """A side has consented to a recipient."""
        self._chosen[id(recipient)] = (recipient, side)
        envelope = self.known_to(side)
        if envelope is not self.envelope:
            envelope.recipients.append(recipient)

    def side_of(self, recipient: Recipient) -> Side | None:
        """Say who is to have a recipient; None for one that came by another way than RCPT."""
        found = self._chosen.get(id(recipient))
        return None if found is None else found[1]


class RouteSession(Front):
    """
    A session that stands for one of each backend.

    What is for a recipient is asked of that recipient's backend: it hears of a sender with the first
    RCPT that is for it. What is for no recipient, such as IGreeting and ISecured, is of the last. A login all
    are asked about that care.

    :param sides: in the order of their numbers.
    """

    what: ClassVar[str] = "routes"

    def __init__(self, sides: Sequence[Side], peer: Peer, choose: Choose) -> None:
        self._behind = sides[-1].session
        self._sides = sides
        self._peer = peer
        self._choose = choose
        self._transaction: _Transaction | None = None
        self._provided: Any = providedBy(self._behind)
        for interface in (IVerifier, IAuthenticated):
            if not self._provided.isOrExtends(interface) and self._which(interface):
                self._provided = self._provided + interface

    @property
    def __providedBy__(self) -> Any:
        return self._provided

    def _which(self, interface: Any) -> list[Side]:
        return [side for side in self._sides if side.shut is None and interface.providedBy(side.session)]

    def helo(self, name: str) -> Outcome:
        """Tell all; who refuses takes no recipients, and only if all do is the client refused."""
        sides = [side for side in self._sides if side.shut is None]

        def told(answers: list[Any]) -> Reply | None:
            for side, answer in zip(sides, answers, strict=True):
                side.refusal = None if _consents(answer, side.session.helo) else answer
            return None if any(side.refusal is None for side in sides) else sides[-1].refusal

        outcome: Outcome = settle_all([partial(side.session.helo, name) for side in sides], told)
        return outcome

    def mail(self, envelope: Envelope) -> Outcome:
        """Take any sender for now: who is to be asked, the recipients say."""
        return None

    def rcpt(self, envelope: Envelope, recipient: Recipient) -> Any:
        """Ask the recipient's backend, and before the first one about the sender."""
        side = self._side(recipient.address, envelope.role)
        if side.refusal is not None:
            return _for_recipient(side.refusal)
        transaction = self._of(envelope)
        if not envelope.each_answered and envelope.recipients:
            first = transaction.side_of(envelope.recipients[0])
            if first is not side:
                return APART
            if side.backend.per_recipient:
                return replies.ONE_RECIPIENT_EACH
        if side in transaction.refusals:
            return _for_recipient(transaction.refusals[side])
        if side in transaction.envelopes:
            return self._rcpt(transaction, side, recipient)
        ask = partial(side.session.mail, transaction.known_to(side))
        return settle_all([ask], partial(self._mailed, transaction, side, recipient))

    def _mailed(self, transaction: _Transaction, side: Side, recipient: Recipient, answers: list[Any]) -> Any:
        [answer] = answers
        if not _consents(answer, side.session.mail):
            transaction.refusals[side] = answer
            del transaction.envelopes[side]
            return _for_recipient(answer)
        return self._rcpt(transaction, side, recipient)

    def _rcpt(self, transaction: _Transaction, side: Side, recipient: Recipient) -> Any:
        outcome = side.session.rcpt(transaction.known_to(side), recipient)

        def answered(answers: list[Any]) -> Any:
            [answer] = answers
            if answer is None or (isinstance(answer, Reply) and answer.positive):
                transaction.take(recipient, side)
            return answer

        return settle_all([lambda: outcome], answered) if waits(outcome) else answered([outcome])

    def data(self, envelope: Envelope) -> Any:
        """Begin the message at each backend that has a recipient of it."""
        transaction = self._of(envelope)
        sides = list(dict.fromkeys(map(transaction.side_of, envelope.recipients)))
        known = [side for side in sides if side is not None]
        if not known:
            raise TypeError("data() is for recipients that rcpt() has taken")
        for side in known:
            of_side = transaction.known_to(side)
            if of_side is not envelope:
                of_side.recipients = [each for each in envelope.recipients if transaction.side_of(each) is side]
        if len(sides) == 1:
            [side] = known
            envelope = transaction.known_to(side)
            limit = self._limit(side)
            delivery = side.session.data(envelope)
            if limit is None:
                return delivery
            return settle_all([lambda: delivery], lambda given: _limited(given[0], envelope, limit))

        def begun(answers: list[Any]) -> Any:
            parts = {}
            for side, answer in zip(known, answers, strict=True):
                refusal = None if IDelivery.providedBy(answer) else _refusal(side, answer)
                delivery = answer if refusal is None else None
                parts[side] = Part(delivery, transaction.known_to(side), self._limit(side), refusal)
            refusals = [part.refusal for part in parts.values() if isinstance(part.refusal, Reply)]
            if len(refusals) == len(parts):
                return next((each for each in refusals if each.code < 500), refusals[0])
            return SeveralDelivery(
                envelope, list(parts.values()), lambda recipient: _part(parts, transaction.side_of(recipient))
            )

        return settle_all([partial(side.session.data, transaction.known_to(side)) for side in known], begun)

    def reset(self, envelope: Envelope | None, upgraded: bool) -> Any:
        """Tell those who had a part in the transaction; all, if the session begins anew."""
        transaction, self._transaction = self._transaction, None
        known = transaction.envelopes if transaction is not None and transaction.envelope is envelope else {}
        calls = [
            partial(side.session.reset, known.get(side), upgraded)
            for side in self._sides
            if side.shut is None and (side in known or upgraded or envelope is None)
        ]
        return settle_all(calls, lambda _: None)

    def close(self, reason: Failure) -> Any:
        """Tell all."""
        calls = [partial(side.session.close, reason) for side in self._sides if side.shut is None]
        return settle_all(calls, lambda _: None)

    # IVerifier.

    def verify(self, query: str) -> Any:
        """Ask the backend of the mailbox, if it is one."""
        session = self._verifier(query)
        return replies.CANNOT_VERIFY if session is None else session.verify(query)

    def expand(self, query: str) -> Any:
        """Ask the backend of the list, if it is one."""
        session = self._verifier(query)
        return replies.NO_EXPANSION if session is None else session.expand(query)

    def _verifier(self, query: str) -> Any:
        try:
            address: Address | None = parse_mailbox(query.strip("<> "))
        except SyntaxProblem:
            address = None
        side = self._side(address, None)
        return side.session if side in self._which(IVerifier) else None

    # IAuthenticated.

    @property
    def wants_credentials(self) -> bool:
        """True if any backend asks for them."""
        return any(getattr(side.session, "wants_credentials", False) for side in self._which(IAuthenticated))

    def mechanisms(self, offered: Sequence[str]) -> Sequence[str]:
        """Choose those that all backends choose."""
        for side in self._which(IAuthenticated):
            chosen = side.session.mechanisms(offered)
            offered = [name for name in offered if name in chosen]
        return offered

    def authenticated(self, account: IAccount, credentials: object) -> Any:
        """Ask all backends; the first that refuses decides."""
        calls = []
        for side in self._which(IAuthenticated):
            wanted = getattr(side.session, "wants_credentials", False)
            calls.append(partial(side.session.authenticated, account, credentials if wanted else None))

        def asked(answers: list[Any]) -> Any:
            given = [each for each in answers if isinstance(each, Reply)]
            return next((each for each in given if not each.positive), given[-1] if given else None)

        return settle_all(calls, asked)

    def _side(self, address: Address | None, role: Role | None) -> Side:
        return self._sides[self._choose(address, role)]

    def _of(self, envelope: Envelope) -> _Transaction:
        if self._transaction is None or self._transaction.envelope is not envelope:
            self._transaction = _Transaction(envelope)
        return self._transaction

    def _limit(self, side: Side) -> int | None:
        """Give the size that a side takes, where the client was told that there is more room."""
        own: int | None = side.backend.max_message_size
        return own if own and any(other.backend.max_message_size != own for other in self._sides) else None


def _consents(answer: Any, hook: object) -> bool:
    """
    Say whether a hook has consented; else its answer is a reply.

    :raises TypeError: if it is nonsense: False, say, must not pass for consent.
    """
    if answer is None:
        return True
    if not isinstance(answer, Reply) or answer.code // 100 == 3:
        raise TypeError(f"{hook!r} gave {answer!r:.80}: None or a 2xx, 4xx or 5xx Reply was expected")
    return answer.positive


def _for_recipient(reply: Reply) -> Reply:
    """Word for one recipient what was meant for the whole connection: the others may go on."""
    return Reply(451 if reply.code < 500 else 550, reply.text, reply.enhanced) if reply.closes else reply


def _refusal(side: Side, answer: Any) -> Reply:
    """Give the reply of a side that gave no delivery."""
    if isinstance(answer, Reply) and not answer.positive:
        return answer
    raise TypeError(f"data() of {side.backend!r} gave {answer!r:.80}: an IDelivery was expected")


def _limited(delivery: Any, envelope: Envelope, limit: int) -> Any:
    """Put a limit to the size of a message that goes one way only."""
    return _Limited(delivery, limit) if IDelivery.providedBy(delivery) else delivery


class _Limited(Front):
    """A delivery that takes so many bytes."""

    what: ClassVar[str] = "a limit"

    def __init__(self, delivery: Any, limit: int) -> None:
        self._behind = delivery
        self._left = limit

    def write(self, content: bytes) -> Any:
        """Hand on a piece, if there is room for it."""
        self._left -= len(content)
        if self._left < 0:
            raise SMTPError(replies.TOO_BIG)
        return self._behind.write(content)


def _part(parts: dict[Side, Part], side: Side | None) -> Part | None:
    return None if side is None else parts.get(side)
