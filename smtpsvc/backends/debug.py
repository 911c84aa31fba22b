"""
Print each message and keep nothing, for trying clients out.

It takes no argument. Messages are printed whole, one after the other; control characters, which
could play tricks on a terminal, are shown as escapes such as ``\\x1b``.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from typing import ClassVar, Final, TextIO

from smtpsvc.backends.function import FunctionBackend, Message
from smtpsvc.settings import KIB

_PIECE: Final = 64 * KIB


class _Escapes(dict[int, str]):
    """What :meth:`str.translate` puts for each character: itself if it can be printed, else its escape."""

    def __missing__(self, code: int) -> str:
        return chr(code) if chr(code).isprintable() else _escape(code)


def _escape(code: int) -> str:
    return chr(code).encode("ascii", "backslashreplace").decode() if code > 255 else f"\\x{code:02x}"


_ESCAPES: Final = _Escapes({code: _escape(code) for code in (*range(32), *range(127, 161), 173)})
_ESCAPES.update({ord("\n"): "\n", ord("\t"): "\t"})


def printable(text: str) -> str:
    """Escape what is not printable; tabs and line ends stay."""
    return text.translate(_ESCAPES)


def _lines(message: Message) -> Iterator[str]:
    """Give the content as text for a terminal, in pieces of bounded size; the last ends a line."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    held, last = "", "\n"
    with message.open() as file:
        while True:
            octets = file.read(_PIECE)
            text = held + decoder.decode(octets, final=not octets)
            # A CR at the end of a piece may be half of a CRLF.
            held = "\r" if octets and text.endswith("\r") else ""
            text = text[: len(text) - len(held)].replace("\r\n", "\n")
            if text:
                yield printable(text)
                last = text[-1]
            if not octets:
                break
    if last != "\n":
        yield "\n"


class DebugBackend(FunctionBackend):
    """
    Prints each message: its envelope, then its content, between markers that bear its id.

    :param output: a text file; None for the standard output, or for Twisted's log in a daemon.
    :param reactor: its thread pool writes what is too large for memory.
    """

    #: Where mail goes, for people.
    destination: ClassVar[str] = "standard output"

    def __init__(self, output: TextIO | None = None, reactor: object = None) -> None:
        super().__init__(self.print, reactor=reactor)
        self._output = output

    def print(self, message: Message) -> None:
        """Print a message, in one go: no other comes between."""
        output = _standard_output() if self._output is None else self._output
        encoding = getattr(output, "encoding", None) or "utf-8"
        for text in (*_head(message), *_lines(message), f"---------- end of {message.envelope.id} ----------\n"):
            output.write(text.encode(encoding, "backslashreplace").decode(encoding))
        output.flush()


def _head(message: Message) -> Iterator[str]:
    peer = message.peer
    yield f"---------- message {message.envelope.id} ----------\n"
    yield printable(f"Client: {peer.host or 'local'}, {peer.helo or 'without a name'}\n")
    yield printable(f"Sender: <{message.sender}>\n")
    for recipient in message.recipients:
        yield printable(f"Recipient: <{recipient}>\n")
    yield f"Size: {message.size}\n\n"


def _standard_output() -> TextIO:
    """
    Find the standard output.

    twistd puts its log in place of ``sys.stdout``. Where the real one leads nowhere, as in a daemon,
    the log it is.
    """
    real = sys.__stdout__
    try:
        if real is None or os.path.samestat(os.fstat(real.fileno()), os.stat(os.devnull)):
            return sys.stdout
    except (OSError, ValueError):  # closed
        return sys.stdout
    return real


def make(argument: str, reactor: object) -> DebugBackend:
    """
    Make the backend of ``--backend debug:``.

    :raises ValueError: with a sentence, if there is an argument.
    """
    if argument:
        raise ValueError(f"debug: takes no argument, so {argument!r} has no meaning; write debug:")
    return DebugBackend(reactor=reactor)
