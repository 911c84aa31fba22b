"""
What several test modules share: ways to cut a dialogue, transcripts, and one import for hypothesis.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.extensions import Extension
from smtpsvc.extensions.eightbit import EightBitMIME
from smtpsvc.extensions.flags import EnhancedStatusCodes, Pipelining
from smtpsvc.extensions.size import Size
from smtpsvc.extensions.smtputf8 import SMTPUTF8
from smtpsvc.settings import Limits, Settings
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory

__all__ = [
    "HOST",
    "MESSAGE",
    "DialogueTestCase",
    "Transcript",
    "assume",
    "basics",
    "connect",
    "cuts",
    "example",
    "given",
    "read_transcript",
    "settings",
    "settings_with",
    "st",
    "transcripts",
    "uncounted",
    "without_ids",
]

HOST = "mx.example"

#: A whole dialogue's worth of commands, from MAIL to the message's end.
MESSAGE = b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\nSubject: x\r\n\r\ntext\r\n.\r\n"

_ID = re.compile(rb"(taken as |\bid )[0-9A-Za-z-]+")
_DATE = re.compile(rb"[A-Z][a-z]{2}, \d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000")
_TRANSCRIPTS = Path(__file__).with_name("transcripts")


def settings_with(*, hostname: str = HOST, **fields: Any) -> Settings:
    """Make settings with a host name that is the same everywhere; names of limits are limits."""
    limits = {name: fields.pop(name) for name in list(fields) if name in Limits.__dataclass_fields__}
    return Settings(hostname=hostname, limits=Limits(**limits), **fields)


def uncounted(**fields: Any) -> Settings:
    """Make settings without the limits to how much a client does, for tests that do very much."""
    return settings_with(**{"junk": 0, "errors": 0, "connections": 0, "connections_per_client": 0, **fields})


def basics() -> list[Extension]:
    """The extensions that no server of today lacks: what these tests say does not hang on the others."""
    return [Pipelining(), Size(), EightBitMIME(), SMTPUTF8(), EnhancedStatusCodes()]


def connect(backend: Any = None, settings: Settings | None = None, **options: Any) -> Wire:
    """Connect to a factory of its own with :func:`basics`, whose time stands still; its greeting is not counted."""
    options.setdefault("extensions", basics())
    factory, _ = clocked_factory(backend or ScriptedBackend(), settings or settings_with(), **options)
    return Wire(factory).forget()


#: What is no end of a message, though servers have taken it for one.
FALSE_ENDS = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r\n.\r",
    b"\r.\r\n",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n",
    b"\n\n.\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\r\0\n.\r\n",
]


def without_ids(data: bytes) -> bytes:
    """Put ``ID`` and ``DATE`` in the places of ids and dates, which differ from run to run."""
    return _DATE.sub(b"DATE", _ID.sub(rb"\1ID", data))


def cuts(data: bytes) -> Iterator[Sequence[bytes]]:
    """Give *data* as one packet, as one packet for each octet, and as two cut at each place (over sockets, at some)."""
    yield (data,)
    yield [data[place : place + 1] for place in range(len(data))]
    for place in range(1, len(data), 7 if os.environ.get("SMTPSVC_WIRE") else 1):
        yield (data[:place], data[place:])


class DialogueTestCase(SynchronousTestCase):
    """For claims that hold however a client's octets come."""

    def check_cuts(
        self,
        connect: Callable[[], Wire],
        data: bytes,
        expected: bytes | Sequence[int],
        after: Callable[[Wire], object] | None = None,
        same: object = None,
    ) -> None:
        """
        Send *data* in every way of :func:`cuts`, each time to a new connection.

        :param expected: the server's output without ids, or the codes of its replies.
        :param after: looks at a connection; it must give *same* each time.
        """
        for packets in cuts(data):
            wire = connect()
            for packet in packets:
                wire.receive(packet)
            got = without_ids(wire.output) if isinstance(expected, bytes) else wire.codes
            shown = (len(packets), packets[0][-40:])
            self.assertEqual(got, expected, f"cut {shown}")
            if after is not None:
                self.assertEqual(after(wire), same, f"cut {shown}")


class Transcript(NamedTuple):
    """A dialogue from a file: everything the client sends, and everything the server does."""

    name: str
    client: bytes
    server: bytes


def read_transcript(path: Path) -> Transcript:
    r"""
    Read a dialogue.

    A line begins with ``C:`` for the client, ``S:`` for the server or ``#`` for a comment. What
    follows has the escapes of Python (``\0``, ``\n``) and gets a CRLF; ``C|`` gets none. Ids and dates of the
    server are written ``ID`` and ``DATE``.
    """
    sent = {"C": b"", "S": b""}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        side, mark, text = line[0], line[1:2], line[2:].removeprefix(" ")
        octets = text.encode().decode("unicode_escape").encode("latin-1")
        sent[side] += octets if mark == "|" else octets + b"\r\n"
    return Transcript(path.stem, sent["C"], sent["S"])


def transcripts() -> list[Transcript]:
    """Read all of ``tests/transcripts``."""
    return [read_transcript(path) for path in sorted(_TRANSCRIPTS.glob("*.txt"))]
