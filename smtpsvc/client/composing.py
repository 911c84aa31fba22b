"""
What is to be sent, and to whom: made of the message itself where the caller does not say.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass
from email.message import Message
from email.utils import format_datetime, getaddresses, localtime, make_msgid
from functools import lru_cache, partial
from typing import IO, Any, Final, TypeAlias

from smtpsvc.client.commands import address_of
from smtpsvc.grammar.addresses import Address
from smtpsvc.message.fields import LONGEST_HEADER, Field, Header, field, header_end
from smtpsvc.message.parsing import Email, Mailbox, parse
from smtpsvc.message.splitting import Bounds
from smtpsvc.values import Recipient

#: A message: octets with whole line ends, an open binary file, pieces, or what :mod:`email` makes.
Sendable: TypeAlias = "bytes | bytearray | memoryview | IO[bytes] | Iterable[bytes] | AsyncIterable[bytes] | Message"
#: Whom it is to: one, or several.
Recipients: TypeAlias = "str | Address | Recipient | Iterable[str | Address | Recipient]"

#: What comes in pieces is kept in memory up to this, and in a file beyond.
MEMORY: Final = 1024 * 1024
#: Recipients of one message at most.
MOST_RECIPIENTS: Final = 100_000
_PIECE: Final = 64 * 1024

_BLIND: Final = re.compile(rb"^(?:resent-)?bcc[ \t]*:", re.IGNORECASE | re.MULTILINE)
_BLIND_NAMES: Final = ("bcc", "resent-bcc")
_ADDRESSED: Final = ("From", "Sender", "Reply-To", "To", "Cc", "Bcc", "Resent-From", "Resent-To", "Resent-Cc")


class Shared:
    """
    A file that several servers get, each from its beginning.

    :param head: goes before the rest of the file, which begins at *start*.
    """

    def __init__(self, file: IO[bytes], head: bytes, start: int) -> None:
        self.file = file
        self.head = head
        self.start = start
        self.size = len(head) + file.seek(0, 2) - start


class View:
    """
    One reader's place in a shared file; as much of a file as is needed to send it.

    Reads of several may alternate: each seeks its place.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._place = 0

    def tell(self) -> int:
        """Give the place of the next read."""
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place: from the beginning, from here, or from the end."""
        self._place = max(0, offset + (0, self._place, self._shared.size)[whence])
        return self._place

    def read(self, size: int) -> bytes:
        """Give at most so many octets; none at the end."""
        shared = self._shared
        head = shared.head
        if self._place < len(head):
            data = head[self._place : self._place + size]
        else:
            shared.file.seek(shared.start + self._place - len(head))
            data = shared.file.read(size)
        self._place += len(data)
        return data


@dataclass(slots=True)
class Outgoing:
    """
    A message with its envelope.

    :ivar names: the recipients' addresses as text, each once.
    :ivar seven_bit: makes the same of octets below 128, where that can be done.
    """

    sender: str | Address
    recipients: list[str | Address | Recipient]
    names: list[str]
    content: bytes | Shared
    seven_bit: Callable[[], bytes] | None = None

    def body(self) -> Any:
        """Give the content, to be sent from its beginning."""
        return View(self.content) if isinstance(self.content, Shared) else self.content


async def gather(pieces: Any) -> Any:
    """
    Keep what can be read once in a temporary file, from which it can be read again.

    :param pieces: an iterable or an asynchronous one, or a file that cannot seek.
    :returns: a file; closed, it is gone.
    """
    kept = tempfile.SpooledTemporaryFile(max_size=MEMORY)  # noqa: SIM115, whoever asked closes it
    try:
        if isinstance(pieces, AsyncIterable):
            async for piece in pieces:
                kept.write(piece)
        else:
            for piece in iter(lambda: pieces.read(_PIECE), b"") if hasattr(pieces, "read") else pieces:
                kept.write(piece)
    except BaseException:
        kept.close()
        raise
    kept.seek(0)
    return kept


def once(message: Any) -> bool:
    """
    Tell whether a message can be read once only.

    :raises TypeError: if it is none.
    """
    if isinstance(message, bytes | bytearray | memoryview | Message):
        return False
    if hasattr(message, "read"):
        try:
            message.seek(message.tell())
        except (OSError, AttributeError, ValueError):
            return True
        return False
    if isinstance(message, str) or not isinstance(message, AsyncIterable | Iterable):
        kind = type(message).__name__
        raise TypeError(f"a message is bytes, a binary file, an iterable of bytes or an EmailMessage, not {kind}")
    return True


def compose(message: Any, sender: str | Address | None, recipients: Recipients | None) -> Outgoing:
    """
    Make what is sent: the fields Bcc and Resent-Bcc are not in it.

    :param message: anything that can be read again, see :func:`once`.
    :param sender: None for the message's own: Resent-Sender or Resent-From of the last time it was sent on, else
        Sender or From.
    :param recipients: None for those of To, Cc and Bcc, or of the same fields with Resent-.
    :raises ValueError: if there is no sender or recipient, an address is none, or the header is longer than 1 MiB.
    """
    seven_bit: Callable[[], bytes] | None = None
    content: bytes | Shared
    if isinstance(message, Message):
        octets, make = _serialized(message)
        added = _missing(_split(octets)[0], sender)
        head, content = _split(added + octets)
        seven_bit = partial(_seven, added, make)
    elif hasattr(message, "read"):
        start = message.tell()
        head = _read_header(message)
        content = Shared(message, head, start + len(head))
    else:
        head, content = _split(message if type(message) is bytes else bytes(message))
    if sender is None or recipients is None:
        origin = _origin(head)
        sender = _sender(origin) if sender is None else sender
        recipients = _addressed(origin) if recipients is None else recipients
    if b"bcc" in head.lower() and _BLIND.search(head) is not None:
        content = _without_blind(head, content)
    address_of(sender, sender=True)
    chosen, names = _each_once(recipients)
    return Outgoing(sender, chosen, names, content, seven_bit)


def _split(octets: bytes) -> tuple[bytes, bytes]:
    """Give the header, and the whole."""
    place = octets.find(b"\n\r\n")
    if place > 1 and octets[place - 1] == 13 and octets.find(b"\n\n", 0, place) < 0 and octets[:1] not in b"\r\n":
        # What header_end would find, in a fifth of the time.
        return octets[: place + 3], octets
    end = header_end(octets)
    return (octets if end < 0 else octets[:end]), octets


def _read_header(file: Any) -> bytes:
    held = bytearray()
    while (end := header_end(held, max(0, len(held) - _PIECE - 3))) < 0:
        piece = file.read(_PIECE)
        if not piece:
            return bytes(held)
        held += piece
        if len(held) > LONGEST_HEADER + _PIECE:
            break
    if end < 0 or end > LONGEST_HEADER:
        raise ValueError(f"the header of the message is longer than {LONGEST_HEADER} bytes")
    return bytes(held[:end])


def _without_blind(head: bytes, content: bytes | Shared) -> bytes | Shared:
    header = Header(head)
    for name in _BLIND_NAMES:
        header.remove(name)
    octets = bytes(header)
    if isinstance(content, Shared):
        return Shared(content.file, octets, content.start)
    return octets + content[len(head) :]


@lru_cache(maxsize=4096)
def _name(recipient: str) -> str:
    return str(address_of(recipient))


def _each_once(recipients: Recipients) -> tuple[list[str | Address | Recipient], list[str]]:
    if type(recipients) is str:
        return [recipients], [_name(recipients)]
    given = [recipients] if isinstance(recipients, str | Address | Recipient) else list(recipients)
    if not given:
        raise ValueError("the message has no recipients")
    if len(given) > MOST_RECIPIENTS:
        raise ValueError(f"a message can have {MOST_RECIPIENTS} recipients, not {len(given)}")
    chosen: dict[str, str | Address | Recipient] = {}
    for each in given:
        chosen.setdefault(str(address_of(each.address if isinstance(each, Recipient) else each)), each)
    return list(chosen.values()), list(chosen)


# The envelope.


def _origin(head: bytes) -> Email:
    """Read who sent it to whom: this time, if it was sent on as it is (RFC 5322 §3.6.6)."""
    resent: list[bytes] = []
    seen: set[str] = set()
    for each in Header(head):
        name = each.name.lower()
        if not name.startswith("resent-"):
            if resent and name in ("received", "return-path"):
                break
            continue
        if name in seen:
            # The fields of the time before.
            break
        seen.add(name)
        resent.append(each.raw[len("resent-") :])
    bounds = Bounds(addresses=MOST_RECIPIENTS)
    return parse(b"".join(resent) + b"\r\n" if resent else head, bounds)


def _sender(origin: Email) -> str:
    if origin.sender is not None:
        return _good(origin.sender, "Sender")
    if not origin.from_:
        raise ValueError("the message has no field From, and no sender was given")
    return _good(origin.from_[0], "From")


def _addressed(origin: Email) -> list[str]:
    groups = (("To", origin.to), ("Cc", origin.cc), ("Bcc", origin.bcc))
    found = [_good(each, name) for name, group in groups for each in group]
    if origin.defects:
        # Somebody would get no mail, and nobody would know.
        raise ValueError(origin.defects[0])
    return found


def _good(mailbox: Mailbox, name: str) -> str:
    if mailbox.parsed is None:
        raise ValueError(f"the field {name} has {mailbox.address!r:.200}, which is no address")
    return str(mailbox.parsed)


# Messages of the standard library.


def _serialized(message: Message) -> tuple[bytes, Callable[[], bytes]]:
    """Make octets of a message, and what makes others, of 7 bits, of it."""
    changes: dict[str, Any] = {"linesep": "\r\n"}
    if hasattr(message.policy, "utf8"):
        # SMTPUTF8 is needed where an address is no ASCII; of a name encoded words are made.
        values = [str(value) for name in _ADDRESSED for value in message.get_all(name, [])]
        changes["utf8"] = not all(address.isascii() for _, address in getaddresses(values))
    policy = message.policy.clone(**changes)
    return message.as_bytes(policy=policy), lambda: message.as_bytes(policy=policy.clone(cte_type="7bit"))


def _missing(head: bytes, sender: str | Address | None) -> bytes:
    """Make the fields that a message must have (RFC 5322 §3.6), as far as we can know them."""
    header = Header(head)
    added = b""
    if header.find("Date") is None:
        added += field("Date", format_datetime(localtime()))
    if header.find("Message-ID") is None:
        written = header.find("From")
        author = parse(written.raw + b"\r\n").from_ if isinstance(written, Field) else ()
        address = author[0].parsed if author else None
        domain = address.domain if address is not None else str(sender or "").rpartition("@")[2]
        added += field("Message-ID", make_msgid(domain=domain if domain.isascii() and domain else "localhost"))
    return added


def _seven(added: bytes, make: Callable[[], bytes]) -> bytes:
    head, content = _split(added + make())
    made = _without_blind(head, content) if _BLIND.search(head) else content
    assert isinstance(made, bytes)
    return made
