"""
What a message says, for programs: its fields decoded, its texts, and the files in it.

``parse`` reads the header, and the parts when they are asked for. It raises nothing on whatever a stranger
has sent: what is wrong with a message is in ``defects``, and what can be read is there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import getaddresses, parsedate_to_datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

from smtpsvc.grammar.addresses import Address, parse_mailbox
from smtpsvc.message.parts import Part
from smtpsvc.message.reading import Fields, open_source
from smtpsvc.message.splitting import Bounds, Splitter, whole_message
from smtpsvc.message.words import decode_charset, decode_words

__all__ = ["Email", "Mailbox", "Resent", "parse"]

#: A field of addresses or ids is read so far.
_LONGEST_LIST: Final = 256 * 1024
_LONGEST_DATE: Final = 200
_PIECE: Final = 64 * 1024

_ID = re.compile(rb"<([^<>\s]{1,998})>")
_ENCODED_WORD: Final = b"=?"


@dataclass(frozen=True, slots=True)
class Mailbox:
    """
    Somebody in a header field.

    :param name: as it is shown, decoded; "" for none.
    :param address: ``local@domain`` as it is written there, which need not be a good address.
    """

    name: str
    address: str

    def __str__(self) -> str:
        return f"{self.name} <{self.address}>" if self.name else self.address

    @property
    def parsed(self) -> Address | None:
        """The address by the rules of SMTP, or None if it is none."""
        try:
            return parse_mailbox(self.address)
        except ValueError:
            return None


class _Origin:
    """Who sent a message to whom, and when: from the fields with a prefix."""

    _prefix = ""
    _bounds: Bounds
    _fields: Fields

    def _note(self, sentence: str) -> None:
        raise NotImplementedError

    @cached_property
    def from_(self) -> tuple[Mailbox, ...]:
        """Who wrote it."""
        return self._mailboxes("From")

    @cached_property
    def sender(self) -> Mailbox | None:
        """Who sent it for those who wrote it."""
        return next(iter(self._mailboxes("Sender")), None)

    @cached_property
    def to(self) -> tuple[Mailbox, ...]:
        """To whom it is."""
        return self._mailboxes("To")

    @cached_property
    def cc(self) -> tuple[Mailbox, ...]:
        """Who else was to have it."""
        return self._mailboxes("Cc")

    @cached_property
    def bcc(self) -> tuple[Mailbox, ...]:
        """Who else was to have it without the others' knowing; mostly empty."""
        return self._mailboxes("Bcc")

    @cached_property
    def date(self) -> datetime | None:
        """When; aware of its zone. None if there is none that can be understood."""
        name = f"{self._prefix}Date"
        octets = self._fields.raw(name)
        if octets is None:
            return None
        try:
            found = parsedate_to_datetime(octets[:_LONGEST_DATE].decode("ascii", "replace"))
            # "-0000": a time in UTC, of which nobody says where (RFC 5322 §3.3).
            return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
        except Exception:
            # The parser raises whatever its arithmetic comes upon: ValueError, TypeError, OverflowError, IndexError.
            self._note(f"the field {name} has no date")
            return None

    @cached_property
    def message_id(self) -> str:
        """Its id without angle brackets, or ""."""
        return next(iter(self._ids(f"{self._prefix}Message-ID")), "")

    def _mailboxes(self, name: str) -> tuple[Mailbox, ...]:
        name = self._prefix + name
        found: list[Mailbox] = []
        for octets in self._fields.all_raw(name):
            if len(octets) > _LONGEST_LIST:
                self._note(f"the field {name} is longer than {_LONGEST_LIST} bytes; it is cut there")
                octets = octets[:_LONGEST_LIST].rpartition(b",")[0]
            found += self._read_mailboxes(name, octets)
            if len(found) > self._bounds.addresses:
                self._note(f"the field {name} has more than {self._bounds.addresses} addresses; the rest is left out")
                break
        return tuple(found[: self._bounds.addresses])

    def _read_mailboxes(self, name: str, octets: bytes) -> list[Mailbox]:
        # Encoded words are decoded last: a comma in one separates nothing (RFC 2047 §5).
        text, good = decode_charset(octets)
        try:
            pairs = getaddresses([text])
        except Exception:
            # Comments within comments, say, are read by recursion.
            pairs = []
        found = []
        for shown, address in pairs:
            if not address or address == "@":
                continue
            if _ENCODED_WORD in shown.encode("utf-8", "replace"):
                shown, fine = decode_words(shown.encode("utf-8", "replace"))
                good = good and fine
            found.append(Mailbox(_one_line(shown), _one_line(address)))
        if not good or (not found and octets.strip(b" ,;\t") and not octets.rstrip(b" \t").endswith(b";")):
            self._note(f"the field {name} cannot be read as a whole")
        return found

    def _ids(self, name: str) -> tuple[str, ...]:
        octets = b" ".join(self._fields.all_raw(name))
        if len(octets) > _LONGEST_LIST:
            self._note(f"the field {name} is longer than {_LONGEST_LIST} bytes; it is cut there")
        found = _ID.findall(octets[:_LONGEST_LIST])[: self._bounds.addresses]
        if not found and octets.strip(b" \t<>"):
            # Without the angle brackets, as some write it.
            found = octets[:998].split()[:1]
        return tuple(_one_line(decode_charset(each)[0]) for each in found)


class Resent(_Origin):
    """Who sent a message on, as it is, and to whom (RFC 5322 §3.6.6); of the last time."""

    _prefix = "Resent-"

    def __init__(self, email: Email) -> None:
        self._fields = email.headers
        self._bounds = email._bounds
        self._note = email._note  # type: ignore[method-assign]

    def __bool__(self) -> bool:
        """True if it was sent on at all."""
        return any(name.lower().startswith("resent-") for name in self._fields.names())


class Email(_Origin):
    """
    A message, understood as far as it can be; :func:`parse` makes it.

    What it was made of must stay readable: its parts are read when they are asked for. After
    :meth:`load` nothing is left to find but the content of attachments.

    Each part that has no parts is in one place: in :attr:`text`, in :attr:`html`, in :attr:`attachments` or in
    :attr:`embedded`.
    """

    def __init__(self, message: Any, bounds: Bounds) -> None:
        self._bounds = bounds
        self._defects: list[str] = []
        self._source = open_source(message)
        self._whole = whole_message(self._source, bounds, self._note)
        #: The fields of the header: ``get(name)`` decodes, ``raw(name)`` does not.
        self.headers: Fields = self._whole.headers
        self._fields = self.headers
        #: The type of the whole, in lower case: ``multipart/mixed``, say.
        self.content_type: str = self._whole.type

    def __repr__(self) -> str:
        return f"<Email {self.message_id!r}>"

    def _note(self, sentence: str) -> None:
        if sentence not in self._defects and len(self._defects) < self._bounds.defects:
            self._defects.append(sentence)

    @property
    def defects(self) -> tuple[str, ...]:
        """What is wrong with it, a sentence each, as far as it was read; none has a stranger's words."""
        return tuple(self._defects)

    @cached_property
    def subject(self) -> str:
        """The subject, decoded, in one line."""
        return self.headers.get("Subject")

    @cached_property
    def reply_to(self) -> tuple[Mailbox, ...]:
        """To whom a reply goes; empty if to who wrote it."""
        return self._mailboxes("Reply-To")

    @cached_property
    def in_reply_to(self) -> tuple[str, ...]:
        """The ids of the messages that it answers, without angle brackets."""
        return self._ids("In-Reply-To")

    @cached_property
    def references(self) -> tuple[str, ...]:
        """The ids of the messages before it, without angle brackets."""
        return self._ids("References")

    @cached_property
    def resent(self) -> Resent:
        """The same of the Resent- fields; false if there are none."""
        return Resent(self)

    @property
    def size(self) -> int:
        """The size of its content, without the header, encoded as it came, in bytes."""
        whole = self.root
        return (whole.ends or whole.begins) - whole.begins

    @cached_property
    def root(self) -> Part:
        """The message as a part, which has parts or has not."""
        try:
            Splitter(self._source, self._whole, self._bounds, self._note).split()
        except BaseException:
            # What it is read from has failed, and may do better at another time: begin anew then.
            self._whole.parts.clear()
            self._whole.is_multipart = False
            raise
        return self._whole

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """All parts, those with parts too, in the order in which they stand; the message itself is the first."""
        found: list[Part] = []
        waiting = [self.root]
        while waiting:
            part = waiting.pop()
            found.append(part)
            waiting += reversed(part.parts)
        return tuple(found)

    @cached_property
    def text(self) -> str:
        """The plain text, decoded, with ``\\n`` as line end. Of several parts one behind the other."""
        return self._texts("text/plain")

    @cached_property
    def html(self) -> str:
        """The HTML, decoded, with ``\\n`` as line end, and as dangerous as its sender."""
        return self._texts("text/html")

    @cached_property
    def attachments(self) -> tuple[Part, ...]:
        """The files: ``name``, ``type``, ``size``, ``data`` and ``open()`` of each."""
        return tuple(part for part in self._leaves() if not _is_body(part) and not _is_embedded(part))

    @cached_property
    def embedded(self) -> Mapping[str, Part]:
        """The files that the HTML shows as ``cid:ID``, by that ID: their Content-ID without angle brackets."""
        found: dict[str, Part] = {}
        for part in self._leaves():
            if not _is_body(part) and _is_embedded(part):
                if part.content_id in found:
                    self._note("two parts have one Content-ID; the first has it")
                found.setdefault(part.content_id, part)
        return MappingProxyType(found)

    def load(self) -> Email:
        """
        Read all that is to be read, texts and sizes too.

        :returns: itself.
        """
        for name in ("from_", "sender", "to", "cc", "bcc", "date", "message_id"):
            getattr(self, name)
            if self.resent:
                getattr(self.resent, name)
        for name in ("subject", "reply_to", "in_reply_to", "references", "text", "html"):
            getattr(self, name)
        for part in (*self.attachments, *self.embedded.values()):
            _ = part.size
        return self

    def _leaves(self) -> list[Part]:
        return [part for part in self.parts if not part.is_multipart]

    def _texts(self, kind: str) -> str:
        room = self._bounds.text
        found: list[str] = []
        for part in self._leaves():
            if part.type != kind or not _is_body(part):
                continue
            with part.open() as file:
                octets = file.read(room + 1)
            if len(octets) > room:
                self._note(f"there are more than {self._bounds.text} bytes of {kind}; the rest is left out")
                octets = octets[:room]
            room -= len(octets)
            text, good = decode_charset(octets, part.charset)
            if not good:
                self._note(f"a part of type {kind} cannot be decoded as a whole")
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            if found and not found[-1].endswith("\n"):
                found.append("\n")
            found.append(text)
            if not room:
                break
        return "".join(found)


def parse(message: Any, bounds: Bounds | None = None) -> Email:
    """
    Read a message.

    Only the header is read now. Reading goes to the disk where the message is there, so a large one is for a thread:
    :func:`~smtpsvc.message.threads.parse_in_thread`.

    :param message: bytes; a binary file, read from where it stands, which must stay open; or a
        :class:`~smtpsvc.backends.function.Message`.
    :param bounds: how much of it is looked at; see :class:`~smtpsvc.message.splitting.Bounds`.
    :raises TypeError: if *message* is none of these.
    :raises OSError: if it cannot be read; nothing that stands in it is an error.
    """
    return Email(message, bounds or Bounds())


def _is_body(part: Part) -> bool:
    """Say whether a part is text to be read, and no file."""
    return part.type in ("text/plain", "text/html") and part.disposition != "attachment" and not part.name


def _is_embedded(part: Part) -> bool:
    """Say whether a part is a file that the text shows. An id alone says nothing: some give one to each attachment."""
    if not part.content_id:
        return False
    within = part.within
    while within is not None and within.type != "multipart/related":
        within = within.within
    return part.disposition != "attachment" or within is not None


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else " " for each in text).strip()
