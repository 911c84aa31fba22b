"""
Sending mail without caring for connections: :class:`Mailer`, and :func:`send` for one message.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredSemaphore, FirstError, fail, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint

from smtpsvc.client.commands import address_of
from smtpsvc.client.composing import Outgoing, Recipients, Sendable, compose, gather, once
from smtpsvc.client.connecting import Where, endpoint_of
from smtpsvc.client.delivering import Delivering, How, is_stale
from smtpsvc.client.direct import Direct
from smtpsvc.client.errors import ClientError, Stage
from smtpsvc.client.exchangers import IGNORED, Exchangers, NoRoute, Place
from smtpsvc.client.options import Options, own_name
from smtpsvc.client.pool import Budget, Frugality, Pool
from smtpsvc.client.report import NotSent, RecipientReport, Report
from smtpsvc.client.result import Result
from smtpsvc.client.routes import STRANGERS, Opener, Route, Routes
from smtpsvc.current import current_reactor
from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.commands import NO_PARAMS
from smtpsvc.grammar.replies import Reply
from smtpsvc.resolver import Resolver, resolver_for
from smtpsvc.values import Recipient

#: Pools that are kept; those that hold nothing are forgotten first.
MOST_POOLS: Final = 1000

NO_DOMAIN: Final = Reply(550, "The address has no domain, and no server was named for such", "5.1.3")


class Mailer:
    """
    Sends mail, over connections that it opens, keeps, uses again and closes.

    ::

        mailer = Mailer("smtp.example.com", login=Login("anna", "secret"))
        report = await mailer.send(message)
        await mailer.close()

    :param servers: a server, as for :func:`~smtpsvc.client.connect`, or several, of which the next is tried if one
        cannot be reached or takes a recipient for now only. None for the mail exchangers of each recipient's domain.
    :param options: how to talk to them. None for the defaults: verified TLS to *servers*; to mail exchangers TLS
        where it is to be had.
    :param routes: other ways for some domains; ``.example.com`` is for all below that one.
    :param frugality: how much it may use.
    :param resolver: None for the one of the reactor.
    :param own: names and addresses of this host, beside the one in the options: it sends nothing to itself.
    :param port: of mail exchangers.
    :param ignored: networks in which no mail exchanger is believed to be; those of this machine, if nothing is said.
    :param changes: fields of *options* that are to be others.
    :raises ValueError: for options that make no sense.
    """

    def __init__(
        self,
        servers: Where | Iterable[Where] | None = None,
        options: Options | None = None,
        *,
        routes: Mapping[str, Route] | None = None,
        frugality: Frugality | None = None,
        resolver: Resolver | None = None,
        own: Iterable[str] = (),
        port: int = 25,
        ignored: Iterable[str] = IGNORED,
        reactor: Any = None,
        **changes: Any,
    ) -> None:
        chosen = _servers(servers)
        if changes:
            options = (options or (Options() if chosen else STRANGERS)).changed(**changes)
        self._reactor = current_reactor() if reactor is None else reactor
        self._clock = IReactorTime(self._reactor)
        self._routes = Routes(Route(chosen, options, port), routes or {})
        self._frugality = frugality or Frugality()
        self._budget = Budget(self._frugality.connections)
        self._pools: OrderedDict[Any, Pool] = OrderedDict()
        self._resolver = resolver
        name = self._routes.default.how.hostname or own_name()
        self._own = frozenset((name, *own))
        self._ignored = tuple(ignored)
        self._exchangers: Exchangers | None = None
        default = self._routes.default
        self._only: Pool | None = None
        #: The server that everything goes to, if there is one.
        self._first = default.servers[0] if default.servers and not self._routes.named else None
        #: Messages that are under way; and who waits for there being none.
        self._running = 0
        self._drained: Deferred[None] | None = None
        self._closed = False

    @property
    def connections(self) -> int:
        """How many connections are open, or being opened."""
        return sum(pool.size for pool in self._pools.values())

    def send(
        self,
        message: Sendable,
        sender: str | Address | None = None,
        recipients: Recipients | None = None,
        *,
        params: Mapping[str, Any] = NO_PARAMS,
        recipient_params: Mapping[str, Any] = NO_PARAMS,
        forward: Mapping[str, object] | None = None,
        normalize: bool = False,
        repeat: bool = False,
    ) -> Deferred[Report]:
        """
        Send a message.

        Its fields Bcc are not sent. Nothing is tried again later: that is for whoever reads the report.

        :param message: what :meth:`Connection.send <smtpsvc.client.Connection.send>` takes, or an
            :class:`email.message.EmailMessage`, which gets the fields Date and Message-ID if it has none, and goes
            out in 7 bits to servers without 8BITMIME. What can be read once is kept in a temporary file.
        :param sender: None for the message's own: its Sender or From, of the last Resent- fields if it has some.
        :param recipients: None for all in To, Cc and Bcc, or in these fields with Resent-. One, or several; who is
            there twice gets it once.
        :param params: and the following as for :meth:`Connection.send <smtpsvc.client.Connection.send>`.
        :param repeat: try another server also where the first may have taken the message: twice rather than never.
        :returns: a Deferred of the report, whatever the servers said. It fails with ValueError for what cannot be
            sent at all, and with whatever the source of the content raises. Cancelled, it breaks the sending off.
        """
        how = How(params, recipient_params, forward, normalize, repeat)
        if type(message) is bytes and self._first is not None and not self._closed:
            try:
                direct = Direct(self._first_pool(), compose(message, sender, recipients), how, self._otherwise)
            except Exception:
                return fail()
            done = direct.start()
        else:
            done = Deferred.fromCoroutine(self._send(message, sender, recipients, how))
        if not done.called:
            self._running += 1
            done.addBoth(self._over)
        return done

    def _over(self, outcome: Any) -> Any:
        self._running -= 1
        if self._drained is not None and not self._running:
            self._drained.callback(None)
        return outcome

    def _otherwise(self, direct: Direct, used: bool, outcome: Any) -> Deferred[Report]:
        """Go on with a message that the first server has not simply taken."""
        return Deferred.fromCoroutine(self._go_on(direct, used, outcome))

    async def _go_on(self, direct: Direct, used: bool, outcome: Any) -> Report:
        outgoing = direct.outgoing
        delivering = Delivering(outgoing, list(range(len(outgoing.recipients))), direct.how)
        tried = 1
        if isinstance(outcome, Result):
            delivering.take(direct.pool.name, outcome)
        elif not isinstance(outcome.value, ClientError):
            outcome.raiseException()
        elif used and is_stale(outcome.value):
            direct.pool.purge()
            tried = 0
        else:
            delivering.take_error(direct.pool.name, outcome.value)
        pools = self._pools_of(self._routes.default, "", tried)
        await delivering.run(pools, self._frugality.attempts - tried)
        return self._reported(outgoing, delivering.found, delivering.dropped)

    async def _send(
        self, message: Any, sender: str | Address | None, recipients: Recipients | None, how: How
    ) -> Report:
        if self._closed:
            raise ClientError("the mailer is closed", Stage.CONNECT)
        if not once(message):
            return await self._deliver(compose(message, sender, recipients), how)
        kept = await gather(message)
        try:
            return await self._deliver(compose(kept, sender, recipients), how)
        finally:
            kept.close()

    async def _deliver(self, outgoing: Outgoing, how: How) -> Report:
        groups = self._groups(outgoing)
        if len(groups) == 1:
            [(route, domain)] = groups
            delivering = Delivering(outgoing, groups[route, domain], how)
            await delivering.run(self._pools_of(route, domain), self._frugality.attempts)
            found, dropped = delivering.found, delivering.dropped
        else:
            found, dropped = {}, {}
            slots = DeferredSemaphore(min(self._frugality.domains, len(groups)))
            each = [Delivering(outgoing, places, how) for places in groups.values()]
            keys = zip(each, groups, strict=True)
            running: list[Deferred[None]] = [slots.run(self._run, one, *key) for one, key in keys]
            try:
                await gatherResults(running, consumeErrors=True)
            except BaseException as error:
                for one in running:
                    one.cancel()
                if isinstance(error, FirstError):
                    # What it was that went wrong, and not that it was in one of many.
                    error.subFailure.raiseException()
                raise
            for delivering in each:
                found.update(delivering.found)
                dropped.update(delivering.dropped)
        return self._reported(outgoing, found, dropped)

    @staticmethod
    def _reported(outgoing: Outgoing, found: Mapping[int, RecipientReport], dropped: Iterable[str]) -> Report:
        reports = tuple(found[place] for place in range(len(outgoing.names)))
        return Report(str(outgoing.sender), reports, tuple(dropped))

    async def _run(self, delivering: Delivering, route: Route, domain: str) -> None:
        await delivering.run(self._pools_of(route, domain), self._frugality.attempts)

    def _groups(self, outgoing: Outgoing) -> dict[tuple[Route, str], list[int]]:
        """Sort the recipients: those for the same servers go together, those for exchangers by domain."""
        routes, default = self._routes, self._routes.default
        if default.servers and not routes.named:
            return {(default, ""): list(range(len(outgoing.recipients)))}
        groups: dict[tuple[Route, str], list[int]] = {}
        for place, each in enumerate(outgoing.recipients):
            domain = address_of(each.address if isinstance(each, Recipient) else each).domain.lower()
            route = routes.find(domain)
            groups.setdefault((route, "" if route.servers else domain), []).append(place)
        return groups

    # The servers.

    async def _pools_of(self, route: Route, domain: str, tried: int = 0) -> AsyncIterator[Pool]:
        if route.servers:
            for where in route.servers[tried:]:
                yield self._pool((route, where), where, route)
            return
        if not domain:
            raise NoRoute(NO_DOMAIN)
        if self._exchangers is None:
            resolver = self._resolver or resolver_for(self._reactor)
            self._exchangers = Exchangers(resolver, own=self._own, ignored=self._ignored)
        async for place in self._exchangers.places(_ascii(domain)):
            yield self._pool((route, place), place, route)

    def _first_pool(self) -> Pool:
        pool, route, where = self._only, self._routes.default, self._first
        if pool is None:
            assert where is not None
            pool = self._only = self._pool((route, where), where, route)
        return pool

    def _pool(self, key: Any, where: Where | Place, route: Route) -> Pool:
        pool = self._pools.get(key)
        if pool is None:
            if len(self._pools) >= MOST_POOLS:
                self._forget()
            options = route.how
            if isinstance(where, Place):
                host = where.host
                endpoint = _at(self._reactor, where.address, route.port, options)
            else:
                host, endpoint = endpoint_of(self._reactor, where, options)
            opener = Opener(endpoint, host, options, self._reactor)
            pool = self._pools[key] = Pool(host, opener, self._frugality, self._budget, self._clock)
        return pool

    def _forget(self) -> None:
        for key, pool in list(self._pools.items()):
            if pool.forgettable and pool is not self._only:
                self._budget.pools.remove(pool)
                del self._pools[key]

    # The end.

    def close(self) -> Deferred[None]:
        """
        Take no more messages, bring those to their end that are under way, and close all connections.

        :returns: a Deferred that fires when that is done; it does not fail.
        """
        self._closed = True
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        if self._running:
            self._drained = self._drained or Deferred()
            waiting: Deferred[None] = Deferred()
            self._drained.chainDeferred(waiting)
            await waiting
        closed = [each for pool in self._pools.values() for each in pool.close()]
        await gatherResults(closed)

    async def __aenter__(self) -> Mailer:
        """Give the mailer."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.close()


def send(
    message: Sendable,
    sender: str | Address | None = None,
    recipients: Recipients | None = None,
    *,
    server: Where | Iterable[Where] | None = None,
    options: Options | None = None,
    params: Mapping[str, Any] = NO_PARAMS,
    recipient_params: Mapping[str, Any] = NO_PARAMS,
    normalize: bool = False,
    repeat: bool = False,
    resolver: Resolver | None = None,
    reactor: Any = None,
    **changes: Any,
) -> Deferred[Report]:
    """
    Send one message: connect, send, say goodbye.

    For more than a few messages a :class:`Mailer` keeps the connections. The parameters are those of
    :meth:`Mailer.send` and of :class:`Mailer`.

    :param server: None for the mail exchangers of each recipient's domain.
    :param changes: fields of *options* that are to be others: ``login=Login(...)``, ``tls="none"`` ...
    :returns: a Deferred of the report, if somebody was delivered to. It fails with
        :exc:`~smtpsvc.client.NotSent` if nobody was, and with ValueError for what cannot be sent at all.
    :raises ValueError: for options that make no sense.
    """
    mailer = Mailer(server, options, resolver=resolver, reactor=reactor, frugality=Frugality(idle=0), **changes)

    async def sending() -> Report:
        try:
            report = await mailer.send(
                message, sender, recipients, params=params, recipient_params=recipient_params, normalize=normalize,
                repeat=repeat,
            )  # fmt: skip
        finally:
            await mailer.close()
        if not report.delivered:
            raise NotSent(report)
        return report

    return Deferred.fromCoroutine(sending())


def _servers(servers: Any) -> tuple[Where, ...]:
    if servers is None:
        return ()
    if isinstance(servers, str | tuple) or IStreamClientEndpoint.providedBy(servers):
        return (servers,)
    return tuple(servers)


def _ascii(domain: str) -> str:
    return domain if domain.startswith("[") else Address("x", domain).ascii_domain


def _at(reactor: Any, address: str, port: int, options: Options) -> Any:
    kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
    source = (options.source, 0) if options.source and (":" in options.source) == (":" in address) else None
    return kind(reactor, address, port, timeout=options.timeouts.connect, bindAddress=source)
