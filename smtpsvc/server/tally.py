"""
Counts of connections that several processes share, so that limits hold for all of them together.

Each process writes to a column of its own and reads those of all: nobody waits for a lock, and what a
process has counted that ended without a word is wiped out. In a column are the number of connections,
and counts by client under four keyed digests. Of these the smallest is the client's: it is too high only
where others share all four, for one client in a million while there are a thousand.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from typing import Final

#: Counts by one digest; a power of two.
_ROW: Final = 32768
#: Digests of a client.
_ROWS: Final = 4
#: Where the rows begin; in front of them is the sum, in a page of its own.
_BEGIN: Final = 1024
#: 32-bit numbers in a column.
_CELLS: Final = _BEGIN + _ROWS * _ROW
_WIDTH: Final = 4
_STARTS: Final = range(_BEGIN, _CELLS, _ROW)
_DIGESTS: Final = struct.Struct(f"={_ROWS}H")


def size_for(columns: int) -> int:
    """Say how many bytes of memory so many processes need."""
    return columns * _CELLS * _WIDTH


class Tally:
    """
    The counts of all processes, seen by one of them.

    :param descriptor: of a file of :func:`size_for` bytes, all of them 0 at first; it may be closed afterwards.
    :param columns: processes.
    :param column: which of them this is, from 0.
    :param key: secret, and the same for all, so that no client chooses whose counts it shares.
    """

    __slots__ = ("_cells", "_columns", "_key", "_mine", "_octets")

    def __init__(self, descriptor: int, columns: int, column: int, key: bytes) -> None:
        self._octets = memoryview(mmap.mmap(descriptor, size_for(columns)))
        self._cells = self._octets.cast("I")
        self._columns = range(0, columns * _CELLS, _CELLS)
        self._mine = column * _CELLS
        self._key = key

    @property
    def open(self) -> int:
        """All connections of all processes."""
        return sum([self._cells[column] for column in self._columns])

    def of(self, client: str) -> int:
        """Give the number of a client's connections, in all processes."""
        cells = self._cells
        return min(sum([cells[column + place] for column in self._columns]) for place in self._places(client))

    def enter(self, client: str | None) -> None:
        """Count a connection of this process."""
        self._add(client, 1)

    def leave(self, client: str | None) -> None:
        """Count it no longer."""
        self._add(client, -1)

    @property
    def ready(self) -> bool:
        """Whether this process takes connections."""
        return bool(self._cells[self._mine + 1])

    @ready.setter
    def ready(self, value: bool) -> None:
        self._cells[self._mine + 1] = value

    @property
    def ahead(self) -> bool:
        """Whether this process has clearly more connections than another that takes them: a quarter, and two."""
        cells = self._cells
        mine = cells[self._mine]
        return mine > 1 and any(
            mine > cells[column] + cells[column] // 4 + 1 for column in self._columns if cells[column + 1]
        )

    def wipe(self) -> None:
        """Forget what this process has counted."""
        begin = self._mine * _WIDTH
        self._octets[begin : begin + _CELLS * _WIDTH] = bytes(_CELLS * _WIDTH)

    def _add(self, client: str | None, number: int) -> None:
        self._cells[self._mine] += number
        if client is not None:
            for place in self._places(client):
                self._cells[self._mine + place] += number

    def _places(self, client: str) -> list[int]:
        digest = hashlib.blake2b(client.encode("utf-8", "surrogateescape"), key=self._key, digest_size=_DIGESTS.size)
        return [start + number % _ROW for start, number in zip(_STARTS, _DIGESTS.unpack(digest.digest()), strict=True)]
