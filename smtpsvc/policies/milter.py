"""
Ask a filter that speaks the milter protocol: rspamd, OpenDKIM, ClamAV, SpamAssassin and all others that Postfix and
Sendmail ask. It needs the extra milter: pip install 'smtpsvc[milter]'.

The value is where the filter listens: inet:HOST:PORT or unix:/PATH. It is told of the connection, EHLO, MAIL, RCPT,
DATA, the header and the body, as far as it wants. What it refuses is refused in its own words, or with 550 5.7.1, or
for now with 451 4.7.1; in place of the greeting with 554 or 421. It may change the header, the body, the sender and
the recipients, discard a message, or have it kept apart (quarantine). Each message is held back until its end.

on-failure= says what becomes of mail while the filter cannot be had, is late, or says what it may not: 451 refuses it
for now [the default, unless on-timeout= says something else], accept lets it pass. timeout= is the time for each of
its answers [default: 30s], end-timeout= for that to the end of a message [default: 4m]; while it says that it is busy,
time begins anew. connect-timeout= is the time for a connection [default: 5s]. With reuse=yes one connection serves one
client after the other, where the filter knows how to. name= is what it is told this host is called [default:
--hostname], daemon= what it is told this service is called [default: smtpsvc].
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service

from smtpsvc.extras import need
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import Outcome
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.chain import Policy
from smtpsvc.policies.held import HeldMessage
from smtpsvc.policies.reaching import NOT_AVAILABLE, ProgramFailed, Reach, as_greeting, endpoint_of, read_failure
from smtpsvc.values import Envelope, Peer, Recipient

if TYPE_CHECKING:
    from smtpsvc.policies.milters.client import Client
    from smtpsvc.policies.milters.filter import Filter
    from smtpsvc.policies.milters.macros import Names


class _Clients(dict[int, "Client"]):
    """In the results of a client: what each milter policy knows of it."""


class Milter(Policy, Service):  # type: ignore[misc]
    """
    Asks a filter.

    :param filter: which.
    :param names: what it is told of this server.
    :param on_failure: what mail is answered while it cannot be asked; None to let it pass.
    :param name: of the policy, in the log.
    :param reactor: in its threads messages are read that are in a file.
    """

    tidies = True

    def __init__(
        self,
        filter: Filter,
        names: Names,
        *,
        on_failure: Reply | None = NOT_AVAILABLE,
        name: str = "milter",
        reactor: Any,
    ) -> None:
        self.name = name  # type: ignore[misc]
        self._filter = filter
        self._names = names
        self._on_failure = on_failure
        self._reactor = reactor

    def connect(self, peer: Peer) -> Outcome:
        """Tell of the client, whose greeting waits."""
        return self._greeting(self._client(peer))

    async def _greeting(self, client: Client) -> Reply | None:
        return as_greeting(await self._or_later(client.connect()))

    def helo(self, peer: Peer, name: str) -> Outcome:
        """Tell of its name."""
        return self._or_later(self._client(peer).helo(name))

    def mail(self, envelope: Envelope) -> Outcome:
        """Tell of the sender."""
        return self._asked(self._client(envelope.peer).mail(envelope))

    def rcpt(self, envelope: Envelope, recipient: Recipient) -> Outcome:
        """Tell of a recipient."""
        return self._in(envelope, "rcpt", recipient)

    def data(self, envelope: Envelope) -> Outcome:
        """Tell that there is a message."""
        return self._in(envelope, "data")

    def examine(self, envelope: Envelope, held: HeldMessage) -> Outcome:
        """Show it the message, and do what it wants."""
        return self._in(envelope, "message", held)

    def _in(self, envelope: Envelope, stage: str, *args: Any) -> Outcome:
        client = self._client(envelope.peer)
        if client.asks(envelope):
            return self._asked(getattr(client, stage)(envelope, *args))
        # It does not know of the transaction, mostly because it has failed in it.
        return self._on_failure if client.lost is envelope else None

    def _client(self, peer: Peer) -> Client:
        from smtpsvc.policies.milters.client import Client

        clients = peer.results.get(_Clients)
        if clients is None:
            clients = _Clients()
            peer.results.put(clients)
        client = clients.get(id(self))
        if client is None:
            client = clients[id(self)] = Client(self._filter, self._names, peer, self._reactor)
        return client

    async def _or_later(self, pending: Awaitable[Reply | None]) -> Reply | None:
        """Wait; where the filter fails before there is mail, that is seen when mail comes."""
        try:
            reply = await pending
        except ProgramFailed as error:
            self._filter.reach.failed(error)
            return None
        return reply

    async def _asked(self, pending: Awaitable[Reply | None]) -> Reply | None:
        try:
            reply = await pending
        except ProgramFailed as error:
            self._filter.reach.failed(error)
            return self._on_failure
        self._filter.reach.worked()
        return reply

    def stopService(self) -> Any:
        """Close the connections that no client uses."""
        self._filter.stop()
        return super().stopService()  # type: ignore[no-untyped-call]


def milter(
    endpoint: Any,
    reactor: Any,
    *,
    on_failure: Reply | None = NOT_AVAILABLE,
    connect_timeout: float = 5.0,
    timeout: float = 30.0,
    end_timeout: float = 240.0,
    reuse: bool = False,
    hostname: str = "",
    daemon: str = "smtpsvc",
    name: str = "milter",
) -> Milter:
    """
    Make the policy.

    :param endpoint: where the filter listens, an ``IStreamClientEndpoint``.
    :param on_failure: what mail is answered while the filter cannot be asked; None to let it pass.
    :param connect_timeout: in seconds, as the other two; see :class:`~smtpsvc.policies.milters.dialogue.Waits`.
    :param reuse: a connection serves one client after the other.
    :param hostname: what the filter is told this host is called; "" for its own name.
    :param daemon: what it is told this service is called.
    :param name: of the policy, in the log.
    :raises ValueError: with a sentence, if the library is not installed.
    """
    need("kilter.protocol", "milter", "the policy milter")
    from smtpsvc.policies.milters.dialogue import Waits
    from smtpsvc.policies.milters.filter import Filter
    from smtpsvc.policies.milters.macros import Names

    reach = Reach(endpoint, name, clock=reactor, seconds=connect_timeout)
    filter = Filter(reach, clock=reactor, waits=Waits(timeout, end_timeout), reuse=reuse)
    return Milter(filter, Names(hostname, daemon), on_failure=on_failure, name=name, reactor=reactor)


def make(arguments: Arguments, reactor: Any) -> Milter:
    """
    Make the policy of ``--policy milter``.

    :raises ValueError: with a sentence.
    """
    place = arguments.value("the place of the filter")
    return milter(
        endpoint_of(place, reactor),
        reactor,
        on_failure=read_failure(arguments),
        connect_timeout=arguments.seconds("connect-timeout", 5.0),
        timeout=arguments.seconds("timeout", 30.0),
        end_timeout=arguments.seconds("end-timeout", 240.0),
        reuse=arguments.yes("reuse"),
        hostname=arguments.text("name", arguments.hostname),
        daemon=arguments.text("daemon", "smtpsvc"),
        name=f"milter {place}",
    )
