"""
Holding messages back until policies have seen them whole.

A :class:`HeldDelivery` takes the content in the place of the backend's delivery. When every policy has consented, it
asks the backend for that, and hands the message over: as it came, but for what the policies have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from smtpsvc.awaiting import settled
from smtpsvc.backends.function import TemporaryContent
from smtpsvc.backends.spool import Budget, Spool
from smtpsvc.current import current_reactor
from smtpsvc.grammar.replies import Reply, SMTPError
from smtpsvc.interfaces import IDelivery
from smtpsvc.policies.asking import Check, abort, first_refusal
from smtpsvc.policies.discarded import discarded
from smtpsvc.policies.held import HeldMessage
from smtpsvc.policies.prepended import prepended, put_before
from smtpsvc.settings import MIB
from smtpsvc.values import Envelope

log = Logger()


@dataclass(frozen=True, slots=True)
class Holding:
    """
    What the held deliveries of a chain share.

    :param content: the checks of each piece.
    :param ends: the checks of the end, each with True if it examines the message.
    :param budget: of memory.
    :param reactor: its thread pool writes and reads files; None for the running one.
    :param spool_at: larger messages go to a temporary file as they come.
    """

    content: Sequence[Check]
    ends: Sequence[tuple[Check, bool]]
    budget: Budget
    reactor: Any = None
    spool_at: int = MIB

    def defer(self, job: Callable[[], Any]) -> Deferred[Any]:
        """Call *job* in a thread, and give its result."""
        reactor = current_reactor() if self.reactor is None else self.reactor
        return deferToThreadPool(reactor, reactor.getThreadPool(), job)


@implementer(IDelivery)
class HeldDelivery:
    """
    Holds a message back, has the policies look at it, and hands it to the backend.

    :param session: the backend's.
    """

    __slots__ = ("_dropped", "_envelope", "_file", "_holding", "_session", "_spool")

    def __init__(self, holding: Holding, session: Any, envelope: Envelope) -> None:
        self._holding = holding
        self._session = session
        self._dropped = False
        self._envelope = envelope
        self._file = TemporaryContent()
        self._spool = Spool(self._file.write, holding.defer, holding.budget, holding.spool_at, envelope.id)

    def write(self, content: bytes) -> Any:
        """
        Take the next piece.

        :raises SMTPError: if a policy refuses it, or it cannot be kept.
        """
        checks = self._holding.content
        if checks:
            refusal = first_refusal(checks, self._envelope, content)
            if isinstance(refusal, Reply):
                raise SMTPError(refusal)
            if refusal is not None:
                return self._write_later(refusal, content)
        return self._spool.write(content)

    async def _write_later(self, pending: Any, content: bytes) -> None:
        refusal = await pending
        if refusal is not None:
            raise SMTPError(refusal)
        await settled(self._spool.write(content))

    async def finish(self) -> Any:
        """
        Have the policies look at the message, and hand it over if all consent.

        :returns: their refusal, or what the backend says.
        """
        spool = self._spool
        held: HeldMessage | None = None
        try:
            if spool.spooled:
                await spool.end()
            held = HeldMessage(self._envelope, self._file if spool.spooled else bytes(spool.take()))
            for check, examines in self._holding.ends:
                args = (self._envelope, held) if examines else (self._envelope,)
                refusal = await settled(first_refusal((check,), *args))
                if refusal is not None:
                    return refusal
            if discarded(self._envelope):
                held.discard()
            held.make_last_edits()
            return await self._hand_over(held)
        finally:
            if held is not None:
                held.close()
            self._drop()

    def abort(self, reason: Failure) -> Deferred[None] | None:
        """
        Forget the message, of which the backend does not know.

        :returns: None, or a Deferred that fires when its temporary file is gone.
        """
        return self._drop()

    def _drop(self) -> Deferred[None] | None:
        if self._dropped:
            return None
        self._dropped = True
        idle = self._spool.drop()
        return idle.addCallback(self._close) if self._spool.spooled else None

    def _close(self, _: None) -> None:
        self._holding.defer(self._file.close)

    async def _hand_over(self, held: HeldMessage) -> Any:
        envelope = held.addressed()
        for recipient in held.added:
            reply = await settled(self._session.rcpt(envelope, recipient))
            if reply is not None and reply.code >= 300:
                return reply
            envelope.recipients.append(recipient)
        if not envelope.recipients:
            log.info("{peer_id}: message {id} is discarded by a policy", peer_id=envelope.peer.id, id=envelope.id)
            return None
        delivery = await settled(self._session.data(envelope))
        if isinstance(delivery, Reply):
            return delivery
        if not IDelivery.providedBy(delivery):
            raise TypeError(f"data() gave {delivery!r}, which does not provide IDelivery")
        try:
            await self._write_all(held, delivery)
        except BaseException as error:  # a cancelled hand-over has kept nothing
            abort(envelope, delivery, error)
            raise
        # The backend has it now; while that is kept, it need not be in memory twice.
        held.close()
        self._drop()
        return await settled(held.answers(await settled(delivery.finish())))

    async def _write_all(self, held: HeldMessage, delivery: Any) -> None:
        before = prepended(held.envelope)
        in_memory = held.in_memory
        with held.open() as file:
            while True:
                read = partial(file.read, MIB)
                piece = read() if in_memory else await self._holding.defer(read)
                if not piece and not before:
                    return
                await settled(delivery.write(put_before(before, piece)))
                before = b""
