"""
How content goes out: by DATA with its dots, or in chunks by BDAT.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable
from typing import Final

from smtpsvc.client.body import PIECE
from smtpsvc.client.dialogue import Dialogue
from smtpsvc.client.errors import ClientError, ContentRefused, Stage
from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.stuffing import ContentCheck, DotEncoder

#: Chunks that may be unanswered where the server has PIPELINING: it need not wait for us, nor we for it.
WINDOW: Final = 4


class Outlet:
    """
    Sends content; what it sends was looked at.

    :param check: looks at the content; None if it is binary, or was looked at before.
    :param eight_bit: the server takes octets above 127.
    :ivar refusal: what the server said against the content, or None; nothing more need be sent then.
    """

    def __init__(self, dialogue: Dialogue, check: ContentCheck | None, eight_bit: bool) -> None:
        self._dialogue = dialogue
        self._check = check
        self._eight_bit = eight_bit
        self.refusal: Reply | None = None

    #: Octets of a piece that it is given.
    most = PIECE

    @property
    def blocked(self) -> bool:
        """True while nothing more should be sent: see :meth:`Dialogue.room`."""
        return self._dialogue.paused

    def write(self, data: bytes) -> None:
        """
        Send a piece.

        :raises ContentRefused: if it cannot be sent. What was sent before is no message.
        """
        check = self._check
        if check is not None:
            damage = check.feed(data)
            if damage is not None:
                raise ContentRefused(f"the content has a {damage} in it", Stage.CONTENT)
            if check.eight_bit and not self._eight_bit:
                raise ContentRefused("the content has 8-bit octets, and the server lacks 8BITMIME", Stage.CONTENT)
        self._send(data)

    def finish(
        self, took: Callable[[Reply], object], failed: Callable[[ClientError], object], last: bytes = b""
    ) -> None:
        """
        Send the end, and wait for its reply.

        :param failed: is told of a loss.
        :param last: the last piece, which goes out with the end; it was looked at.
        :raises ContentRefused: if the content ends in a bare CR.
        """
        damage = self._check.finish() if self._check is not None else None
        if damage is not None:
            raise ContentRefused(f"the content has a {damage} in it", Stage.CONTENT)
        self._dialogue.expect(Stage.END, took, failed)
        self._end(last)

    def _send(self, data: bytes) -> None:
        raise NotImplementedError

    def _end(self, last: bytes) -> None:
        raise NotImplementedError


class DotOutlet(Outlet):
    """Sends by DATA."""

    def __init__(self, dialogue: Dialogue, check: ContentCheck | None, eight_bit: bool) -> None:
        super().__init__(dialogue, check, eight_bit)
        self._encoder = DotEncoder()

    def _send(self, data: bytes) -> None:
        # A transport copies what it cannot send; it is given little at a time.
        self._dialogue.channel.write(self._encoder.feed(data))

    def _end(self, last: bytes) -> None:
        encoder = self._encoder
        self._dialogue.channel.write(encoder.feed(last) + encoder.finish())


class ChunkOutlet(Outlet):
    """
    Sends by BDAT (RFC 3030 §2).

    :param size: octets of a chunk.
    :param window: chunks that may be unanswered.
    """

    def __init__(
        self, dialogue: Dialogue, check: ContentCheck | None, eight_bit: bool, *, size: int, window: int, text: bool
    ) -> None:
        super().__init__(dialogue, check, eight_bit)
        self._size = size
        self.most = min(PIECE, size)
        self._window = window
        self._text = text
        self._held: list[bytes] = []
        self._held_size = 0
        self._tail = b"\r\n"
        self._open = 0

    @property
    def blocked(self) -> bool:
        """True while the transport takes no more, or too many chunks are unanswered."""
        return self._dialogue.paused or self._open >= self._window

    def _send(self, data: bytes) -> None:
        if not data:
            return
        if self._held_size and self._held_size + len(data) > self._size:
            self._chunk(b"")
        self._held.append(data)
        self._held_size += len(data)
        self._tail = data[-2:] if len(data) > 1 else self._tail[-1:] + data

    def _end(self, last: bytes) -> None:
        self._send(last)
        if self._text and self._tail != b"\r\n":
            # As by DATA, where the last line must have an end.
            self._held.append(b"\r\n")
            self._held_size += 2
        self._chunk(b" LAST")

    def _chunk(self, mark: bytes) -> None:
        held, self._held = self._held, []
        header = b"BDAT %d%b\r\n" % (self._held_size, mark)
        self._held_size = 0
        if not mark:
            self._open += 1
            self._dialogue.expect(Stage.CONTENT, self._answered)
        self._dialogue.channel.write(b"".join((header, *held)))

    def _answered(self, reply: Reply) -> None:
        self._open -= 1
        if not 200 <= reply.code < 300 and self.refusal is None:
            self.refusal = reply
        self._dialogue.wake()


async def pour(dialogue: Dialogue, pieces: Iterable[bytes] | AsyncIterable[bytes], outlet: Outlet) -> bool:
    """
    Send all of *pieces* but the end, no faster than the server takes them.

    :returns: False if that became pointless: the connection is lost, or the server refused.
    :raises ContentRefused: if something cannot be sent. Whatever *pieces* raises, it raises too.
    """

    async def send(piece: bytes) -> bool:
        for part in _parts(piece, outlet.most):
            outlet.write(part)
            while outlet.blocked and dialogue.error is None:
                await dialogue.room()
            if dialogue.error is not None or outlet.refusal is not None:
                return False
        return True

    if isinstance(pieces, AsyncIterable):
        try:
            async for piece in pieces:
                if not await send(piece):
                    return False
        finally:
            close = getattr(pieces, "aclose", None)
            if close is not None:
                await close()
    else:
        for piece in pieces:
            if not await send(piece):
                return False
    return dialogue.error is None and outlet.refusal is None


def _parts(piece: bytes, most: int) -> Iterable[bytes]:
    if len(piece) <= most:
        return (piece,) if piece else ()
    return (piece[start : start + most] for start in range(0, len(piece), most))
