"""
Several backends behind one: a recipient, the client's login or the listener decides which of them gets a message.

Over SMTP one reply stands for a whole message, so the recipients of one must all go the same way: a further RCPT
for another backend is answered 452 4.5.3, and clients send that recipient a message of its own. Where each
recipient has a reply (LMTP, PRDR) one message may go several ways at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from twisted.application.service import IService, MultiService
from zope.interface import alsoProvides
from zope.interface.verify import verifyObject

from smtpsvc.backends.patterns import Patterns
from smtpsvc.backends.routing import open_sides
from smtpsvc.grammar.addresses import Address
from smtpsvc.interfaces import IBackend, IConnection, IStorage
from smtpsvc.session import Backend
from smtpsvc.settings import Role
from smtpsvc.values import Peer

__all__ = ["Route", "parse_route"]


class Route(Backend, MultiService):
    """
    A backend that hands each message to one of several.

    It is a service: backends that are services too are started and stopped with it. It promises what all of its
    backends keep (``supports``, ``shareable``), and announces the largest size that one of them takes; a message
    that is too large for its own is refused as it comes, 552 5.3.4, counted with its ``Received:``.

    :param routes: patterns, each with its backend; the first that fits counts. See
        :class:`~smtpsvc.backends.patterns.Patterns`.
    :param default: for mail that none of them fits.
    :raises ValueError: with a sentence, if a pattern is none.
    :raises zope.interface.Invalid: if a backend is none.
    """

    def __init__(self, routes: Iterable[tuple[str, IBackend]], default: IBackend) -> None:
        MultiService.__init__(self)
        listed = list(routes)
        self._patterns = Patterns([pattern for pattern, _ in listed])
        #: The backends, each once, the default last.
        self.backends: Sequence[Any] = _each_once([backend for _, backend in listed], default)
        for backend in self.backends:
            verifyObject(IBackend, backend)
        self._targets = [self.backends.index(backend) for _, backend in listed]
        self._listed = listed
        self.supports = frozenset.intersection(  # type: ignore[misc]
            *(each.supports for each in self.backends)
        )
        sizes = [each.max_message_size for each in self.backends]
        self.max_message_size = max(sizes) if all(sizes) else None
        self.shareable = all(each.shareable for each in self.backends)
        for backend in self.backends:
            if IService.providedBy(backend) and backend.parent is None:
                backend.setServiceParent(self)
        if any(map(IStorage.providedBy, self.backends)):
            alsoProvides(self, IStorage)

    def __repr__(self) -> str:
        return f"<Route {self.destination}>"

    @property
    def destination(self) -> str:
        """Where mail goes, for people."""
        ways = [f"{_destination(backend)} for {pattern}" for pattern, backend in self._listed]
        return "; ".join([*ways, f"{_destination(self.backends[-1])} for all else"])

    def choose(self, address: Address | None, peer: Peer, role: Role | None = None, host: Any = None) -> Any:
        """
        Say which backend gets mail.

        :param address: the recipient; None if there is none.
        :param role: of the listener.
        :param host: where the client has connected to, as a transport's ``getHost`` gives it.
        """
        return self.backends[self._number(address, peer, role, host)]

    def open_session(self, peer: Peer, connection: IConnection) -> Any:
        """Open a session of each backend; one that refuses takes no recipients. If all refuse, so does this."""
        host = getattr(connection, "host", None)

        def choose(address: Address | None, role: Role | None) -> int:
            return self._number(address, peer, role, host)

        return open_sides(self.backends, peer, connection, choose)

    def free_space(self) -> int | None:
        """Tell how much room there is where there is least."""
        found = [each.free_space() for each in self.backends if IStorage.providedBy(each)]
        return min((size for size in found if size is not None), default=None)

    def check(self) -> None:
        """
        Say whether the backends could start, as far as they can tell.

        :raises Exception: what the first says that could not.
        """
        for backend in self.backends:
            getattr(backend, "check", lambda: None)()

    def _number(self, address: Address | None, peer: Peer, role: Role | None, host: Any) -> int:
        found = self._patterns.choose(address, peer, role, host)
        return len(self.backends) - 1 if found is None else self._targets[found]


def parse_route(text: str) -> tuple[str, str]:
    """
    Read what ``--route`` was given.

    :returns: the pattern and the description of the backend.
    :raises ValueError: with a sentence for the person who typed it.
    """
    pattern, equals, backend = text.partition("=")
    if not equals or not pattern.strip() or not backend.strip():
        raise ValueError(f"{text!r} is no route; write PATTERN=NAME:ARGUMENT, such as example.com=maildir:/var/mail")
    Patterns([pattern.strip()])
    return pattern.strip(), backend.strip()


def _each_once(backends: Iterable[Any], default: Any) -> list[Any]:
    found: list[Any] = []
    for backend in backends:
        if backend is not default and not any(backend is each for each in found):
            found.append(backend)
    return [*found, default]


def _destination(backend: Any) -> str:
    return str(getattr(backend, "destination", None) or repr(backend))
