"""
Messages between a parent and its workers, over a pair of pipes.

A message has a kind, a number, which joins an answer to its question, and a payload. Each begins
with the lengths: both ends are ours, so what does not fit is an error.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

#: The longest payload, in bytes.
MOST: Final = 8 * 1024 * 1024

_HEAD: Final = struct.Struct("!IIB")


class Frame(NamedTuple):
    """A message."""

    kind: bytes
    number: int = 0
    payload: bytes = b""

    def encode(self) -> bytes:
        """
        Write it as octets.

        :raises ValueError: if a part is too long.
        """
        if len(self.payload) > MOST or len(self.kind) > 255:
            raise ValueError(f"{len(self.payload)} bytes are too many for one message between processes")
        return _HEAD.pack(len(self.payload), self.number, len(self.kind)) + self.kind + self.payload


class FrameReader:
    """Finds messages in what comes from a pipe."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """
        Take the next octets.

        :param data: any number of them, split anywhere.
        :returns: the messages that are whole.
        :raises ValueError: if one would be too long; the pipe is of no use any more.
        """
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            length, number, name = _HEAD.unpack_from(self._buffer)
            if length > MOST:
                raise ValueError(f"a message of {length} bytes is too long")
            start = _HEAD.size + name
            end = start + length
            if len(self._buffer) < end:
                return
            frame = Frame(bytes(self._buffer[_HEAD.size : start]), number, bytes(self._buffer[start:end]))
            del self._buffer[:end]
            yield frame


def read_frame(descriptor: int) -> Frame:
    """
    Read one message from a pipe and nothing beyond it; waits for it.

    :raises EOFError: if the other end is closed first.
    """

    def take(count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = os.read(descriptor, count - len(data))
            if not more:
                raise EOFError("the other end is closed")
            data += more
        return data

    length, number, name = _HEAD.unpack(take(_HEAD.size))
    if length > MOST:
        raise EOFError(f"a message of {length} bytes is too long")
    return Frame(take(name), number, take(length))
