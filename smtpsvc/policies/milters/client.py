"""
One client of ours, as a filter is told of it.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from twisted.internet.threads import deferToThreadPool

from smtpsvc.grammar.replies import Reply
from smtpsvc.policies.endings import at_end
from smtpsvc.policies.held import HeldMessage
from smtpsvc.policies.milters.dialogue import CHUNK, Answer, Content, Dialogue, Verdict
from smtpsvc.policies.milters.edits import edit, own_received
from smtpsvc.policies.milters.filter import Filter
from smtpsvc.policies.milters.macros import Names, macros_of, macros_of_peer
from smtpsvc.policies.reaching import ProgramFailed
from smtpsvc.values import Envelope, Peer, Recipient

_Result = TypeVar("_Result")


class Client:
    """
    A client, and what a filter has said of it.

    Each stage gives a refusal or None, and raises :class:`~smtpsvc.policies.reaching.ProgramFailed`. When that, or a
    cancellation, has ended one, the filter hears no more of the transaction: :attr:`lost` says which that is.
    """

    def __init__(self, filter: Filter, names: Names, peer: Peer, reactor: Any) -> None:
        self._filter = filter
        self._names = names
        self._peer = peer
        self._reactor = reactor
        self._dialogue: Dialogue | None = None
        self._name = ""
        #: What holds for all that the client may still do.
        self._settled: Answer | None = None
        self._envelope: Envelope | None = None
        self._told: list[Recipient] = []
        self._passed: Verdict | None = None
        #: The transaction in which the filter has failed.
        self.lost: Envelope | None = None
        at_end(peer, self.end)

    def asks(self, envelope: Envelope) -> bool:
        """Say whether the filter is to be asked, or to be obeyed, in a transaction."""
        return self._envelope is envelope

    async def connect(self) -> Reply | None:
        """The client has connected."""
        return await self._kept(None, self._greet(""))

    async def helo(self, name: str) -> Reply | None:
        """It introduces itself."""
        self._name = ""
        return await self._kept(None, self._greet(name))

    async def mail(self, envelope: Envelope) -> Reply | None:
        """It opens a transaction."""
        self.lost = None
        return await self._kept(envelope, self._mail(envelope))

    async def rcpt(self, envelope: Envelope, recipient: Recipient) -> Reply | None:
        """It names a recipient."""
        return await self._kept(envelope, self._rcpt(envelope, recipient))

    async def data(self, envelope: Envelope) -> Reply | None:
        """The content is about to come."""
        return await self._kept(envelope, self._data(envelope))

    async def message(self, envelope: Envelope, held: HeldMessage) -> Reply | None:
        """The content is there."""
        return await self._kept(envelope, self._message(envelope, held))

    async def _greet(self, name: str) -> Reply | None:
        """Make the client known, as far as it is not."""
        if self._settled is not None:
            return refusal(self._settled)
        macros = macros_of_peer(self._names, self._peer)
        if self._dialogue is None or not self._dialogue.usable:
            self._dialogue = await self._filter.take()
            self._name = ""
            answer = await self._dialogue.connect(self._peer, macros)
            if answer is not Verdict.CONTINUE:
                return self._settle(answer)
        if name and name != self._name:
            answer = await self._dialogue.helo(name, macros)
            if answer is not Verdict.CONTINUE:
                return self._settle(answer)
            self._name = name
        return None

    def _settle(self, answer: Answer) -> Reply | None:
        """Take what a filter says of the client itself."""
        if answer is Verdict.DISCARD:
            raise ProgramFailed("it would discard a message before there is one")
        self._settled = answer
        return refusal(answer)

    async def _mail(self, envelope: Envelope) -> Reply | None:
        self._abort()
        refused = await self._greet(self._peer.helo)
        if refused is not None or self._settled is not None:
            return refused
        assert self._dialogue is not None, "the client has been made known on it"
        at_end(envelope, self._over)
        self._envelope, self._passed, self._told = envelope, None, []
        answer = await self._dialogue.mail(str(envelope.sender), envelope.mail_params, self._macros(envelope))
        refused = self._take(answer)
        if refused is not None:
            self._abort()
        return refused

    async def _rcpt(self, envelope: Envelope, recipient: Recipient) -> Reply | None:
        if self._passed is not None:
            return None
        assert self._dialogue is not None, "its transaction is open"
        refused = self._take(await self._dialogue.rcpt(recipient, self._macros(envelope, recipient)))
        if refused is None:
            self._told.append(recipient)
        return refused

    async def _data(self, envelope: Envelope) -> Reply | None:
        dialogue = self._dialogue
        if self._passed is not None or dialogue is None:
            return None
        if self._told != envelope.recipients and dialogue.hears("rcpt"):
            # Others have refused recipients of which it knows; it would judge, and count, a message to them too.
            refused = await self._mail(envelope)
            for recipient in envelope.recipients:
                refused = refused or await self._rcpt(envelope, recipient)
            if refused is not None or self._passed is not None:
                return refused
        return self._take(await dialogue.data(self._macros(envelope)))

    async def _message(self, envelope: Envelope, held: HeldMessage) -> Reply | None:
        dialogue = self._dialogue
        if self._passed is None and dialogue is not None:
            own = own_received(held)
            with held.open() as file:
                file.seek(len(bytes(held.header)))

                async def read() -> bytes:
                    if held.in_memory:
                        return file.read(CHUNK)
                    pool = self._reactor.getThreadPool()
                    piece: bytes = await deferToThreadPool(self._reactor, pool, file.read, 16 * CHUNK)
                    return piece

                content = Content([each for each in held.header if each.name and each is not own], read, held.size)
                answer, edits = await dialogue.message(content, self._macros(envelope))
            refused = self._take(answer)
            if refused is not None:
                return refused
            edit(held, edits, leading_space=dialogue.leading_space)
        if self._passed is Verdict.DISCARD:
            held.discard()
        return None

    def _macros(self, envelope: Envelope, recipient: Recipient | None = None) -> dict[str, str]:
        return macros_of(self._names, envelope, recipient)

    def _take(self, answer: Answer) -> Reply | None:
        """Take what a filter says of the message."""
        if answer in (Verdict.ACCEPT, Verdict.DISCARD):
            self._passed = answer  # type: ignore[assignment]
        return refusal(answer)

    async def _kept(self, envelope: Envelope | None, pending: Awaitable[_Result]) -> _Result:
        """Wait; when that fails or is cancelled, nobody knows what the filter would say next."""
        try:
            return await pending
        except BaseException:
            self.lost = envelope
            self._envelope = None
            dialogue, self._dialogue = self._dialogue, None
            if dialogue is not None:
                dialogue.drop()
            raise

    def _over(self) -> None:
        self.lost = None
        self._abort()

    def _abort(self) -> None:
        """The transaction is over, whatever has become of it."""
        self._envelope = None
        if self._dialogue is not None:
            try:
                self._dialogue.abort()
            except ProgramFailed:
                self._dialogue.drop()
                self._dialogue = None

    def end(self) -> None:
        """The client is gone."""
        self._abort()
        dialogue, self._dialogue = self._dialogue, None
        if dialogue is not None:
            self._filter.give_back(dialogue)


def refusal(answer: Answer) -> Reply | None:
    """Give the refusal that an answer is, or None."""
    return answer if isinstance(answer, Reply) else None
