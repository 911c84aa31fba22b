"""
Messages that policies may read whole, and change.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred

from smtpsvc.awaiting import settled
from smtpsvc.backends.function import ContentReader, Message, TemporaryContent
from smtpsvc.grammar import replies
from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.replies import SMTPError
from smtpsvc.message.fields import LONGEST_HEADER, Header, header_end
from smtpsvc.settings import KIB
from smtpsvc.values import Envelope, Quarantine, Recipient

_PIECE: Final = 64 * KIB


class Stored(Protocol):
    """Content that can be read from any place, such as a :class:`~smtpsvc.backends.function.TemporaryContent`."""

    def __len__(self) -> int: ...

    def read(self, size: int, offset: int) -> bytes:
        """Read at most *size* bytes from *offset* on."""


class _Octets(bytes):
    """Content in memory."""

    __slots__ = ()

    def read(self, size: int, offset: int) -> bytes:
        return self[offset : offset + size]


class _Parts:
    """
    Several contents, one after the other.

    :param parts: each a content, and where it begins in it.
    """

    def __init__(self, parts: Iterable[tuple[Stored, int]]) -> None:
        self._parts = [(content, start, len(content) - start) for content, start in parts]
        self._size = sum(size for _, _, size in self._parts)

    def __len__(self) -> int:
        return self._size

    def read(self, size: int, offset: int) -> bytes:
        """Read at most *size* bytes, of one content."""
        before = 0
        for content, start, length in self._parts:
            place = offset - before
            if place < length:
                return content.read(min(size, length - place), start + place)
            before += length
        return b""


class HeldMessage(Message):
    """
    A whole message before the backend has it, for :meth:`~smtpsvc.policies.chain.Policy.examine`.

    What one policy changes, the next one sees. ``size`` is that of the content as it came; ``recipients`` and
    ``sender`` are as the client said.
    """

    __slots__ = ("_added", "_body", "_came", "_header", "_header_size", "_last", "_removed", "_sender", "_stored")

    def __init__(self, envelope: Envelope, content: bytes | TemporaryContent) -> None:
        super().__init__(envelope, content)
        self._stored: Stored = _Octets(content) if isinstance(content, bytes) else content
        self._came: Header | None = None
        self._header: Header | None = None
        self._header_size = 0
        self._body: Stored | None = None
        self._sender: Address | None = None
        # By their places in the envelope.
        self._removed: set[int] = set()
        self._added: list[Recipient] = []
        self._last: dict[Hashable, Callable[[Header], object]] = {}

    @property
    def header(self) -> Header:
        """
        The header, to be read and changed; octets that are not touched stay as they are.

        :raises SMTPError: 552 5.3.4, if it is larger than a MiB.
        :raises ValueError: if the message is closed.
        """
        self._check()
        if self._header is None:
            self._header = self.header_as_it_came()
        return self._header

    def _read_header(self) -> tuple[Header, int]:
        octets = self._stored.read(_PIECE, 0)
        end = header_end(octets)
        while end < 0 and len(octets) < len(self._stored):
            if len(octets) > LONGEST_HEADER:
                raise SMTPError(replies.HEADER_TOO_BIG)
            more = self._stored.read(_PIECE, len(octets))
            end = header_end(octets + more, max(0, len(octets) - 3))
            octets += more
        size = len(octets) if end < 0 else end
        return Header(octets[:size]), size

    def header_as_it_came(self) -> Header:
        """
        Read the header without what policies have changed, to look at it.

        :raises SMTPError: 552 5.3.4, if it is larger than a MiB.
        :raises ValueError: if the message is closed.
        """
        self._check()
        if self._came is None:
            # Several policies look at it, and to read one of a MiB takes up to half a second.
            self._came, self._header_size = self._read_header()
        return self._came.copy()

    def open_as_it_came(self) -> io.BufferedReader:
        """
        Open the content without what policies have changed, from its beginning.

        :raises ValueError: if the message is closed.
        """
        return super().open()

    def edit_last(self, key: Hashable, edit: Callable[[Header], object]) -> None:
        """
        Have the header edited when all policies have consented.

        :param key: of edits with the same one, only the last takes place.
        :param edit: gets the header, and changes it.
        :raises ValueError: if the message is closed.
        """
        self._check()
        self._last.pop(key, None)
        self._last[key] = edit

    def make_last_edits(self) -> None:
        """Make the edits of :meth:`edit_last`."""
        for edit in self._last.values():
            edit(self.header)

    def replace_body(self, body: bytes | Stored) -> None:
        """
        Put another body in the place of what follows the header.

        :param body: lines end in CRLF.
        :raises ValueError: if the message is closed.
        """
        header = bytes(self.header)
        if len(self.header) and not header.endswith(b"\r\n\r\n"):
            # There was no body, and so no empty line.
            self._header = Header(header.removesuffix(b"\r\n") + b"\r\n\r\n")
        self._body = _Octets(body) if isinstance(body, bytes) else body

    def remove_recipient(self, address: Address | str) -> bool:
        """
        Let the message not go to a recipient, who is answered as if it had.

        :param address: as the client said it.
        :returns: False if it is none of the recipients.
        :raises ValueError: if the message is closed.
        """
        self._check()
        text = str(address)
        added = [each for each in self._added if str(each) != text]
        places = {place for place, each in enumerate(self.envelope.recipients) if str(each) == text}
        found = bool(places - self._removed) or len(added) < len(self._added)
        self._added = added
        self._removed |= places
        return found

    def add_recipient(self, recipient: Recipient) -> None:
        """
        Let the message go to one more, if the backend's ``rcpt`` takes it; if not, the message is refused.

        :raises ValueError: if the message is closed.
        """
        self._check()
        self._added.append(recipient)

    def change_sender(self, sender: Address) -> None:
        """
        Give the message another sender.

        :raises ValueError: if the message is closed.
        """
        self._check()
        self._sender = sender

    def discard(self) -> None:
        """
        Let the message go to nobody, and the client hear that it was taken.

        :raises ValueError: if the message is closed.
        """
        self._check()
        self._added.clear()
        self._removed.update(range(len(self.envelope.recipients)))

    def quarantine(self, reason: str) -> None:
        """Put a :class:`~smtpsvc.values.Quarantine` into the results of the envelope, for the backend."""
        self.envelope.results.put(Quarantine(reason))

    @property
    def content(self) -> bytes:
        """
        The whole content, as it is now. :meth:`open` is the way to less memory.

        :raises ValueError: if the message is closed.
        """
        with self.open() as file:
            return file.read()

    def open(self) -> io.BufferedReader:
        """
        Open the content as it is now, from its beginning; what is changed later does not show.

        :raises ValueError: if the message is closed.
        """
        self._check()
        return io.BufferedReader(ContentReader(_Parts(self._parts())))

    def _parts(self) -> list[tuple[Stored, int]]:
        if self._header is None:
            return [(self._stored, 0)]
        header = _Octets(bytes(self._header))
        return [(header, 0), (self._stored, self._header_size) if self._body is None else (self._body, 0)]

    def _check(self) -> None:
        if self._content is None:
            raise ValueError("the message is closed: it may be read and changed until the check's outcome has settled")

    def close(self) -> None:
        """Forget the content."""
        super().close()
        self._stored, self._body = _Octets(), None
        self._last.clear()
        self._came = None

    @property
    def in_memory(self) -> bool:
        """True if nothing of it is to be read from a file."""
        return all(isinstance(content, bytes) for content, _ in self._parts())

    def addressed(self) -> Envelope:
        """
        Give the envelope for the backend, without those that are added.

        :returns: the client's own if sender and recipients are as they were.
        """
        envelope = self.envelope
        if self._sender is None and not self._removed and not self._added:
            return envelope
        sender = envelope.sender if self._sender is None else self._sender
        made = Envelope(envelope.id, envelope.peer, sender, envelope.mail_params, envelope.role)
        made.forwarded = envelope.forwarded
        for value in envelope.results:
            made.results.put(value)
        made.recipients = [each for place, each in enumerate(envelope.recipients) if place not in self._removed]
        return made

    @property
    def added(self) -> Sequence[Recipient]:
        """The recipients that policies have added."""
        return self._added

    def answers(self, outcome: Any) -> Any:
        """
        Make outcomes for the client's recipients of what the backend's ``finish`` gave for its own.

        :raises ValueError: if there are too few or too many.
        """
        if not isinstance(outcome, (list, tuple)) or not (self._removed or self._added):
            return outcome
        count = len(self.envelope.recipients)
        wanted = count - len(self._removed) + len(self._added)
        if len(outcome) != wanted:
            raise ValueError(f"finish() gave {len(outcome)} outcomes for {wanted} recipients")
        own = iter(outcome)
        given = [None if place in self._removed else next(own) for place in range(count)]
        # Of one that was added nobody could be told otherwise: all hear of it.
        return _all_refused(given, list(own)) if self._added else given


async def _all_refused(given: list[Any], added: list[Any]) -> list[Any]:
    for outcome in added:
        try:
            reply = await settled(outcome)
        except SMTPError as error:
            reply = error.reply
        if reply is not None and reply.code >= 300:
            for one in given:
                _forget(one)
            return [reply] * len(given)
    return given


def _forget(outcome: Any) -> None:
    """Take what comes of an outcome that nobody waits for."""

    async def wait() -> None:
        await settled(outcome)

    Deferred.fromCoroutine(wait()).addErrback(lambda failure: None)
