"""
What clients do in a benchmark: the script of each workload, and the body of its messages.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

MIB: Final = 1 << 20

_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_HEADER: Final = (
    b"From: <a@example.org>\r\nTo: <b@example.org>\r\nSubject: benchmark\r\nMessage-ID: <1@example.org>\r\n\r\n"
)

#: What a line begins with, and its length without CRLF, by the kind of a body.
_KINDS: Final = {"text": (b"", 62), "base64": (b"", 76), "dots": (b"..", 77), "short": (b"", 1)}


@cache
def body(kind: str, size: int) -> bytes:
    """
    Make a message as it stands on the wire, dots doubled.

    :param kind: ``text``, ``base64`` (76 columns), ``dots`` (each line begins with one) or ``short`` (one column).
    :param size: about how many octets.
    """
    begin, columns = _KINDS[kind]
    letters = random.Random(size).choices(_ALPHABET, k=65536)
    text = bytes(letters)
    lines = [_HEADER]
    length, place = len(_HEADER), 0
    while length < size:
        place = (place + columns) % (65536 - columns)
        lines.append(begin + text[place : place + columns - len(begin)] + b"\r\n")
        length += columns + 2
    return b"".join(lines)


def _step(part: str, replies: int, octets: bytes = b"", messages: int = 0) -> bytes:
    return b"%s %d %d %d\n%s" % (part.encode(), replies, messages, len(octets), octets)


def _envelope(recipients: int, data: bool = True) -> bytes:
    names = (b"RCPT TO:<user%d@example.net>\r\n" % number for number in range(recipients))
    return b"MAIL FROM:<sender@example.org>\r\n" + b"".join(names) + (b"DATA\r\n" if data else b"")


_HELLO: Final = _step("O", 1) + _step("O", 1, b"EHLO bench.example.org\r\n")
_QUIT: Final = _step("C", 1, b"QUIT\r\n")
_FRESH: Final = b"N 0 0 0\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """
    A dialogue that is repeated.

    :ivar connections: at the same time.
    :ivar dialogue: makes the script from the load.
    """

    dialogue: Callable[[Load], bytes]
    connections: int = 10
    size: int = 1024
    kind: str = "text"
    recipients: int = 1
    #: Transactions in one write, or octets of a chunk.
    window: int = 32
    chunk: int = MIB

    def script(self) -> bytes:
        """Write it for the player."""
        return self.dialogue(self)

    def octets(self) -> int:
        """Count what is sent for a message, dots doubled."""
        return len(body(self.kind, self.size))


def _one_by_one(load: Load) -> bytes:
    lines = _envelope(load.recipients).splitlines(keepends=True)
    content = body(load.kind, load.size) + b".\r\n"
    return b"".join(_step("R", 1, line) for line in lines) + _step("R", 1, content, 1)


def new_connections(load: Load) -> bytes:
    """A connection for each message; one command each round trip."""
    return _FRESH + _HELLO + _one_by_one(load) + _QUIT


def kept_connections(load: Load) -> bytes:
    """Connections that stay; one command each round trip."""
    return _HELLO + _one_by_one(load) + _QUIT


def pipelined(load: Load) -> bytes:
    """Connections that stay; content, and the envelope of the next message, in one write (RFC 2920)."""
    content, envelope = body(load.kind, load.size) + b".\r\n", _envelope(load.recipients)
    return b"".join(
        (
            _HELLO + _step("O", load.recipients + 2, envelope),
            _step("R", load.recipients + 3, content + envelope, 1),
            _step("C", 1, content, 1) + _QUIT,
        )
    )


def grouped(load: Load) -> bytes:
    """Connections that stay; the envelope in one write, then the content."""
    content, envelope = body(load.kind, load.size) + b".\r\n", _envelope(load.recipients)
    return _HELLO + _step("R", load.recipients + 2, envelope) + _step("R", 1, content, 1) + _QUIT


def _chunks(load: Load) -> tuple[bytes, int]:
    content = body(load.kind, load.size)
    pieces = [content[place : place + load.chunk] for place in range(0, len(content), load.chunk)]
    last = len(pieces) - 1
    commands = (
        b"BDAT %d%s\r\n" % (len(piece), b" LAST" if number == last else b"") + piece
        for number, piece in enumerate(pieces)
    )
    return b"".join(commands), len(pieces)


def chunked(load: Load) -> bytes:
    """Connections that stay; the envelope, then all chunks, in one write (RFC 3030)."""
    content, replies = _chunks(load)
    envelope = _envelope(load.recipients, data=False)
    return _HELLO + _step("R", load.recipients + 1 + replies, envelope + content, 1) + _QUIT


def chunked_groups(load: Load) -> bytes:
    """Connections that stay; many whole transactions by BDAT in one write."""
    content, replies = _chunks(load)
    transaction = _envelope(load.recipients, data=False) + content
    count = (load.recipients + 1 + replies) * load.window
    return _HELLO + _step("R", count, transaction * load.window, load.window) + _QUIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """
    A row of the table.

    :ivar what: in words.
    :ivar unit: ``msg/s``, ``MB/s``, ``conn/s``, or for memory ``KiB`` and ``MiB``, where less is better.
    :ivar load: what the player plays; None for those of another kind.
    :ivar least: messages of the first, short try.
    :ivar most: messages of a round.
    """

    what: str
    unit: str = "msg/s"
    load: Load | None = None
    least: int = 200
    most: int = 60_000
    #: For the TLS player: ``handshake``, ``starttls`` or ``data``.
    secured: str = ""
    #: It needs BDAT.
    chunking: bool = False
    #: The peers that it compares; all but the special ones if there are none.
    only: tuple[str, ...] = ()
    #: Servers and players each have a core of their own.
    bound: bool = True


WORKLOADS: Final[dict[str, Workload]] = {
    "small-10": Workload(
        what="1 KiB, a new connection each, 10 clients", load=Load(dialogue=new_connections), most=20_000
    ),
    "small-50": Workload(
        what="1 KiB, a new connection each, 50 clients",
        load=Load(dialogue=new_connections, connections=50),
        most=20_000,
    ),
    "reuse-10": Workload(what="1 KiB, connections that stay, 10 clients", load=Load(dialogue=kept_connections)),
    "pipe-10": Workload(what="1 KiB, pipelined, 10 clients", load=Load(dialogue=pipelined)),
    "pipe-1": Workload(what="1 KiB, pipelined, 1 client", load=Load(dialogue=pipelined, connections=1)),
    "bdatpipe": Workload(
        what="1 KiB by BDAT, 32 transactions a write, 2 clients",
        load=Load(dialogue=chunked_groups, connections=2),
        least=320,
        most=90_000,
        chunking=True,
    ),
    "data-b64": Workload(
        what="25 MiB of base64 by DATA",
        unit="MB/s",
        load=Load(dialogue=grouped, connections=1, size=25 * MIB, kind="base64"),
        least=2,
        most=24,
    ),
    "data-dots": Workload(
        what="25 MiB by DATA, every line dot-stuffed",
        unit="MB/s",
        load=Load(dialogue=grouped, connections=1, size=25 * MIB, kind="dots"),
        least=2,
        most=24,
    ),
    "data-short": Workload(
        what="4 MiB by DATA, lines of one column",
        unit="MB/s",
        load=Load(dialogue=grouped, connections=1, size=4 * MIB, kind="short"),
        least=1,
        most=24,
    ),
    "bdat": Workload(
        what="25 MiB by BDAT in chunks of 1 MiB",
        unit="MB/s",
        load=Load(dialogue=chunked, connections=1, size=25 * MIB, kind="base64"),
        least=2,
        most=60,
        chunking=True,
    ),
    "rcpt-100": Workload(
        what="1 KiB for 100 recipients, one a round trip, 4 clients",
        load=Load(dialogue=kept_connections, connections=4, recipients=100),
        least=20,
        most=2_000,
    ),
    "rcpt-100-group": Workload(
        what="1 KiB for 100 recipients in one write, 4 clients",
        load=Load(dialogue=grouped, connections=4, recipients=100),
        least=20,
        most=4_000,
    ),
    "tls-handshake": Workload(
        what="implicit TLS, to the greeting", unit="conn/s", secured="handshake", least=40, most=3_000
    ),
    "starttls": Workload(
        what="STARTTLS, to the end of the handshake", unit="conn/s", secured="starttls", least=40, most=3_000
    ),
    "tls-data": Workload(what="25 MiB of base64 by DATA over TLS", unit="MB/s", secured="data", least=1, most=20),
    "durable-50": Workload(
        what="4 KiB kept in a Maildir, a new connection each, 50 clients",
        load=Load(dialogue=new_connections, connections=50, size=4096),
        most=10_000,
        only=("smtpsvc-maildir", "smtpsvc-classic"),
    ),
    "workers-8": Workload(
        what="25 MiB of base64 by DATA, 8 clients, all cores",
        unit="MB/s",
        load=Load(dialogue=grouped, connections=8, size=25 * MIB, kind="base64"),
        least=8,
        most=200,
        only=("smtpsvc", "smtpsvc-2-workers"),
        bound=False,
    ),
    "idle": Workload(what="memory of an idle connection after EHLO", unit="KiB"),
    "rss": Workload(
        what="memory that one message of 200 MiB adds",
        unit="MiB",
        load=Load(dialogue=grouped, connections=1, size=200 * MIB, kind="base64"),
        least=1,
        most=1,
    ),
}
