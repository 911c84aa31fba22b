"""
One message to one destination: server after server, until everybody is answered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

from smtpsvc.client.commands import address_of
from smtpsvc.client.composing import Outgoing
from smtpsvc.client.errors import ClientError, Disconnected, Refused, Stage, Unsupported
from smtpsvc.client.exchangers import NoRoute
from smtpsvc.client.pool import Lease, Pool
from smtpsvc.client.report import Fate, RecipientReport
from smtpsvc.client.result import RecipientResult, Result
from smtpsvc.grammar.replies import Reply
from smtpsvc.values import Recipient


class How(NamedTuple):
    """What is said of a message beside its envelope; see :meth:`smtpsvc.client.Connection.send`."""

    params: Mapping[str, Any]
    recipient_params: Mapping[str, Any]
    forward: Mapping[str, object] | None
    normalize: bool
    #: Send it again where nobody knows whether it was taken.
    repeat: bool


class Delivering:
    """
    Brings a message to those of its recipients who have one destination.

    :param places: which of the recipients, as numbers.
    :ivar found: the fates so far, by number.
    """

    def __init__(self, outgoing: Outgoing, places: list[int], how: How) -> None:
        self._outgoing = outgoing
        self._how = how
        self._left = places
        self.found: dict[int, RecipientReport] = {}
        self.dropped: dict[str, None] = {}

    async def run(self, pools: AsyncIterator[Pool], most: int) -> None:
        """
        Try the servers until all are answered.

        A recipient who is refused with 5yz is answered. With 4yz the next server is asked (RFC 5321 §5.1), and if a
        connection cannot be made or is lost; not if it is lost when the whole message was sent (RFC 1047).

        :param pools: of the servers, the first to try first.
        :param most: servers to try.
        """
        if not self._left or not most:
            return
        try:
            async with aclosing(pools) as each:  # type: ignore[type-var]
                async for pool in each:
                    await self._at(pool)
                    most -= 1
                    if not self._left or not most:
                        return
        except NoRoute as error:
            self._note_all("", Fate.DEFERRED if error.reply.code < 500 else Fate.REFUSED, reply=error.reply)

    async def _at(self, pool: Pool) -> None:
        """Try one server; on a connection that turns out to be dead, once more."""
        again = True
        while True:
            try:
                lease = await pool.acquire()
            except ClientError as error:
                self._note_error(pool.name, error)
                return
            used = lease.used
            try:
                result = await self._send(lease)
            except ClientError as error:
                if again and used and is_stale(error):
                    again = False
                    pool.purge()
                    continue
                self.take_error(pool.name, error)
            else:
                self.take(pool.name, result)
            finally:
                pool.release(lease)
            return

    async def _send(self, lease: Lease) -> Result:
        outgoing, how = self._outgoing, self._how
        recipients = [outgoing.recipients[place] for place in self._left]
        send = lease.connection.send
        params, recipient_params, forward, normalize, _ = how
        try:
            return await send(
                outgoing.sender, recipients, outgoing.body(), params=params, recipient_params=recipient_params,
                forward=forward, normalize=normalize,
            )  # fmt: skip
        except Unsupported:
            if outgoing.seven_bit is None or "8BITMIME" in lease.connection.capabilities:
                raise
        return await send(
            outgoing.sender, recipients, outgoing.seven_bit(), params=params, recipient_params=recipient_params,
            forward=forward, normalize=normalize,
        )  # fmt: skip

    # What comes of it.

    def take(self, host: str, result: Result) -> None:
        """Note the replies, and keep those who may be tried elsewhere."""
        left = self._left
        self._left = []
        self.dropped.update(dict.fromkeys(result.dropped))
        for place, each in zip(left, result.recipients, strict=True):
            self._note_reply(place, host, each)

    def _note_reply(self, place: int, host: str, each: RecipientResult) -> None:
        reply = each.reply
        fate = Fate.DELIVERED if each.taken else Fate.REFUSED if reply.code >= 500 else Fate.DEFERRED
        self._note(place, fate, host, reply)
        if fate is Fate.DEFERRED:
            self._left.append(place)

    def take_error(self, host: str, error: ClientError) -> None:
        """Note what is known, and keep those who may be tried elsewhere."""
        known = error.result.recipients if error.result is not None else ()
        if error.result is not None:
            self.dropped.update(dict.fromkeys(error.result.dropped))
        if len(known) == len(self._left):
            left, self._left = self._left, []
            for place, each in zip(left, known, strict=True):
                self._note_reply(place, host, each)
            return
        if isinstance(error, Refused) and not known:
            # The opening, not the message.
            self._note_error(host, error)
            return
        answers = {each.address: each for each in known}
        left, self._left = self._left, []
        lost: list[int] = []
        for place in left:
            given = self._outgoing.recipients[place]
            answer = answers.get(str(address_of(given.address if isinstance(given, Recipient) else given)))
            if answer is not None:
                self._note_reply(place, host, answer)
            else:
                lost.append(place)
        if error.maybe_delivered and not self._how.repeat:
            for place in lost:
                self._note(place, Fate.UNKNOWN, host, error=error)
            return
        rest, self._left = self._left, lost
        self._note_error(host, error)
        self._left += rest

    def _note_error(self, host: str, error: ClientError) -> None:
        """What holds for all who are left; they may be tried elsewhere."""
        fate = Fate.DEFERRED if error.temporary else Fate.REFUSED
        self._note_all(host, fate, error.reply, error)

    def _note_all(self, host: str, fate: Fate, reply: Reply | None = None, error: ClientError | None = None) -> None:
        for place in self._left:
            self._note(place, fate, host, reply, error)

    def _note(
        self, place: int, fate: Fate, host: str, reply: Reply | None = None, error: ClientError | None = None
    ) -> None:
        name = self._outgoing.names[place]
        before = self.found.get(place)
        if before is not None and before.fate is Fate.DEFERRED and fate is Fate.REFUSED and error is not None:
            # A server that could be better later is worth more than one that never will.
            return
        self.found[place] = RecipientReport(name, fate, host, reply, error)


def is_stale(error: ClientError) -> bool:
    """Tell whether a connection was dead before the message: it was kept for longer than the server would."""
    if error.maybe_delivered:
        return False
    if isinstance(error, Refused):
        return error.reply is not None and error.reply.code == 421 and _nobody_past(error, Stage.MAIL)
    return isinstance(error, Disconnected) and (error.result is None or not error.result.recipients)


def _nobody_past(error: ClientError, stage: Stage) -> bool:
    return error.result is None or all(each.stage is stage for each in error.result.recipients)
