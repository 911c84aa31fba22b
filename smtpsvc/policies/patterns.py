"""
Which addresses: patterns for senders and recipients, and lists of them in files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

from smtpsvc.grammar.addresses import Address, is_address_literal, parse_domain, parse_mailbox
from smtpsvc.message.mailboxes import unquoted
from smtpsvc.policies.clients import Clients
from smtpsvc.values import Peer
from smtpsvc.watched import WatchedFile

_Thing_contra = TypeVar("_Thing_contra", contravariant=True)


class Addresses:
    """
    A set of addresses; to look one up costs a step for each label of its domain, however many there are.

    ``user@example.com`` is that address, ``example.com`` all in the domain, ``.example.com`` all in its
    subdomains, ``user@`` that user anywhere, ``<>`` the null sender and ``*`` everybody. ``*@example.com`` and
    ``*.example.com`` may be written too. Case and needless quotes do not matter, and a U-label is the same as its
    A-label.

    :raises ValueError: with a sentence, if one is none of these.
    """

    __slots__ = ("_all", "_domains", "_exact", "_found", "_locals", "_null", "_suffixes")

    def __init__(self, patterns: Iterable[str]) -> None:
        self._all = self._null = False
        self._exact: set[tuple[str, str]] = set()
        self._domains: set[str] = set()
        self._suffixes: set[str] = set()
        self._locals: set[str] = set()
        for pattern in patterns:
            self._add(pattern)
        # The same addresses come again and again; to look one up anew costs ten times as much.
        self._found = lru_cache(maxsize=1024)(self._look)

    def _add(self, pattern: str) -> None:
        if pattern == "<>":
            self._null = True
            return
        local, at, domain = pattern.rpartition("@")
        if not at:
            local = "*"
        local = _local(pattern, local) if local not in ("", "*") else "*"
        if domain in ("", "*"):
            if local == "*":
                self._all = self._all or pattern in ("*", "@*", "*@*")
                if not self._all:
                    raise ValueError(f"{pattern!r} is no pattern; write such as user@example.com, example.com or <>")
                return
            self._locals.add(local)
            return
        sub = domain.startswith((".", "*."))
        name = _domain(pattern, domain.removeprefix("*").removeprefix(".") if sub else domain)
        if sub and local != "*":
            raise ValueError(f"{pattern!r} names a user in all subdomains; write {local}@ or .{name}")
        if local != "*":
            self._exact.add((local, name))
        else:
            (self._suffixes if sub else self._domains).add(name)

    def has(self, address: Address) -> bool:
        """Tell whether an address is one of them."""
        return self._all or self._found(address.local, address.domain)

    def _look(self, local: str, domain: str) -> bool:
        if not local:
            return self._null
        domain = Address(local, domain).ascii_domain
        if domain in self._domains:
            return True
        if self._exact or self._locals:
            local = unquoted(local).lower()
            if (local, domain) in self._exact or local in self._locals:
                return True
        if self._suffixes:
            rest = domain.partition(".")[2]
            while rest:
                if rest in self._suffixes:
                    return True
                rest = rest.partition(".")[2]
        return False


def _local(pattern: str, text: str) -> str:
    try:
        return unquoted(parse_mailbox(f"{text}@x.example").local).lower()
    except ValueError as error:
        raise ValueError(f"{pattern!r} is no pattern: {error}") from None


def _domain(pattern: str, text: str) -> str:
    if is_address_literal(text):
        return text
    try:
        return parse_domain(text)
    except ValueError as error:
        raise ValueError(f"{pattern!r} is no pattern: {error}") from None


class Listing(Protocol[_Thing_contra]):
    """A set of things, such as :class:`Addresses` and :class:`~smtpsvc.policies.clients.Clients`."""

    def has(self, thing: _Thing_contra, /) -> bool:
        """Tell whether it is one of them."""


class Listed(Generic[_Thing_contra]):
    """
    Things that are listed on the command line or in files, which are read again when they change.

    :param items: what is listed, and paths of files, which begin with ``/`` or ``./``. A file has one a line; what
        stands behind ``#`` at the beginning of a line or behind a blank is a comment.
    :param make: makes a set of items; raises ValueError with a sentence.
    :raises ValueError: with a sentence, if an item is none, or a file cannot be read.
    """

    def __init__(self, items: Iterable[str], make: Callable[[list[str]], Listing[_Thing_contra]]) -> None:
        items = list(items)
        self.here = [item for item in items if not item.startswith(("/", "./"))]
        self._here = make(self.here)
        self._files = [WatchedFile(item, lambda data: _read(data, make)) for item in items if item not in self.here]
        self._empty = not items
        if not self._files:
            self.has = self._here.has  # type: ignore[assignment, method-assign]

    def __bool__(self) -> bool:
        return not self._empty

    def has(self, thing: _Thing_contra) -> bool:
        """Tell whether it is listed; costs a ``stat`` for each file."""
        return self._here.has(thing) or any(file.current().has(thing) for file in self._files)


def _read(data: bytes, make: Callable[[list[str]], Listing[_Thing_contra]]) -> Listing[_Thing_contra]:
    try:
        return make(file_lines(data))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None


def file_lines(data: bytes) -> list[str]:
    """
    Give the lines of a file without comments and empty lines.

    :raises UnicodeDecodeError: if it is not UTF-8.
    """
    lines = (f" {line}".partition(" #")[0].strip() for line in data.decode("utf-8").splitlines())
    return [line for line in lines if line]


def listed_addresses(items: Iterable[str]) -> Listed[Address]:
    """
    Make a list of addresses.

    :raises ValueError: with a sentence.
    """
    return Listed(items, Addresses)


def listed_clients(items: Iterable[str]) -> Listed[Peer]:
    """
    Make a list of clients.

    :raises ValueError: with a sentence.
    """
    return Listed(items, Clients)
