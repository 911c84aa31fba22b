"""
A connection to a server, as those use it who send mail.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred

from smtpsvc.client.body import Content, Source
from smtpsvc.client.capabilities import Capabilities
from smtpsvc.client.commands import attributes, line
from smtpsvc.client.dialogue import Dialogue
from smtpsvc.client.errors import ClientError, LimitReached, Stage
from smtpsvc.client.options import Options
from smtpsvc.client.params import by_name
from smtpsvc.client.result import RecipientResult, Result
from smtpsvc.client.security import verifies
from smtpsvc.client.sending import Sending, refusal_of
from smtpsvc.client.transaction import Transaction
from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.commands import NO_PARAMS
from smtpsvc.grammar.replies import Reply
from smtpsvc.values import Body, Recipient, TLSInfo

_BINARY: Final = (Body.BINARY_MIME, Body.BINARY_MIME.value)


class Link(Protocol):
    """What a connection asks of the transport's protocol."""

    def when_closed(self) -> Deferred[ClientError]:
        """Give a Deferred that fires when the connection is closed."""

    def binding(self) -> tuple[str, bytes] | None:
        """What binds a login to the TLS."""


class Connection:
    """
    A connection that is open: greeted, protected and logged in as the options say.

    It carries one message after the other. Made by :func:`~smtpsvc.client.connect`.

    :ivar greeting: the server's first reply.
    :ivar capabilities: what it offers now.
    :ivar tls: what is known of its TLS, or None.
    :ivar mechanism: by which the login went, "" without one.
    :ivar sent: how many messages were begun.
    """

    def __init__(self, protocol: Link, dialogue: Dialogue, options: Options, host: str = "") -> None:
        self.dialogue = dialogue
        self.options = options
        self.host = host
        self.greeting: Reply | None = None
        self.capabilities = Capabilities()
        self.tls: TLSInfo | None = None
        self.mechanism = ""
        self.sent = 0
        #: True if no message can be sent any more, although the connection is still there.
        self.spoiled = False
        self._protocol = protocol
        # A transaction that is taken step by step; or messages, of which the first two may have been begun.
        self._transaction: Transaction | None = None
        self._queue: deque[Sending] = deque()
        self._begun = 0

    # What it is like.

    @property
    def lmtp(self) -> bool:
        """True if it speaks LMTP: replies come for each recipient."""
        return self.options.lmtp

    @property
    def trusted(self) -> bool:
        """True if it has TLS, and the server's certificate was verified."""
        return self.tls is not None and verifies(self.options)

    @property
    def chunking(self) -> bool:
        """True if content goes by BDAT."""
        return self.capabilities.chunking and self.options.chunking

    @property
    def error(self) -> ClientError | None:
        """Why it is closed, or None while it is open."""
        return self.dialogue.error

    @property
    def busy(self) -> bool:
        """True while a message is on its way, or something was asked and is not answered."""
        return self._transaction is not None or bool(self._queue) or bool(self.dialogue.waiting)

    @property
    def usable(self) -> bool:
        """True if another message may be sent: it is open, not busy, and within MAILMAX."""
        return not self.busy and self.open_for_more

    @property
    def open_for_more(self) -> bool:
        """True if another message may be sent, now or behind those that are on their way."""
        limit = self.capabilities.max_messages
        gone = self.dialogue.error is not None or self.dialogue.farewell is not None or self.spoiled
        return not gone and (limit is None or self.sent < limit)

    def when_closed(self) -> Deferred[ClientError]:
        """Give a Deferred that fires with the reason when it is closed, whoever closes it."""
        return self._protocol.when_closed()

    # Mail.

    def send(
        self,
        sender: str | Address,
        recipients: Iterable[str | Address | Recipient],
        content: Content,
        *,
        params: Mapping[str, Any] = NO_PARAMS,
        recipient_params: Mapping[str, Any] = NO_PARAMS,
        forward: Mapping[str, object] | None = None,
        normalize: bool = False,
    ) -> Deferred[Result]:
        """
        Send a message.

        Messages that are given while another is on its way wait for it; with PIPELINING the next one's
        envelope leaves with the end of the one before (RFC 2920 §3.1).

        If the server takes fewer recipients at once (LIMITS, or 452 to the others) and the content can be
        sent again, it is sent again for the rest.

        :param sender: "" for the null sender of notifications.
        :param content: with whole line ends. A file is read in the reactor's thread, a piece at a time.
        :param params: of MAIL, with values as ``envelope.mail_params`` has them: ``RET``, ``ENVID``, ``BY``,
            ``MT-PRIORITY``, ``REQUIRETLS``, ``HOLDFOR``, ``BODY`` ... ``SIZE`` and SMTPUTF8 are found out.
        :param recipient_params: of each RCPT, beside those that a :class:`~smtpsvc.Recipient` brings.
        :param forward: attributes for XFORWARD; what the server does not take is left out.
        :param normalize: send bare CR and LF as CRLF, instead of refusing them.
        :returns: a Deferred of the result if somebody was taken. It fails with
            :exc:`~smtpsvc.client.errors.Refused` if nobody was, else with the error that tells what went wrong;
            with ValueError for what cannot be sent at all.
        :raises RuntimeError: while a :meth:`transaction` is open.
        """
        if self._transaction is not None:
            raise RuntimeError("a transaction is open")
        try:
            if params:
                params = by_name(params)
            body = Source(content, binary=params.get("BODY") in _BINARY, normalize=normalize)
            recipients = list(recipients)
            limit = self.capabilities.max_recipients
            if limit is not None and len(recipients) > limit and not body.repeatable:
                raise LimitReached(f"the server takes {limit} recipients, and the content can be sent once", Stage.MAIL)
            one = len(recipients) == 1
            first = self._begin(sender, recipients[:limit], body, params, recipient_params, forward, raises=one)
        except Exception:
            done: Deferred[Result] = Deferred()
            done.errback()
            return done
        if len(recipients) == 1:
            return first
        return Deferred.fromCoroutine(
            self._send_all(first, sender, recipients, limit, body, params, recipient_params, forward)
        )

    def _begin(
        self,
        sender: str | Address,
        recipients: list[Any],
        body: Source,
        params: Mapping[str, Any],
        recipient_params: Mapping[str, Any],
        forward: Mapping[str, object] | None,
        *,
        raises: bool = False,
    ) -> Deferred[Result]:
        reported: list[str] = []
        command = None
        if forward:
            command = attributes("XFORWARD", forward, self.capabilities.attributes("XFORWARD"), reported)
        self._claim()
        sending = Sending(self, body, command)
        sending.raises = raises
        done = sending.begin(sender, recipients, params, recipient_params)
        self.sent += 1
        self._queue.append(sending)
        self.advance()
        return done

    def advance(self) -> None:
        """Begin the next message, if it may follow those that are on their way."""
        queue = self._queue
        while self._begun < 2 and self._begun < len(queue) and self.dialogue.error is None:
            reset = False
            if self._begun:
                before = queue[0]
                if not before.complete:
                    return
                reset = before.needs_reset
            elif self.dialogue.waiting and not self.capabilities.pipelining:
                # A command is on its way; its reply calls us.
                return
            self._begun += 1
            queue[self._begun - 1].start(reset)

    def followed(self, transaction: Transaction) -> bool:
        """Tell whether the message behind this one is on its way already: RSET would hit that."""
        return self._begun > 1 and self._queue[0] is transaction

    async def _send_all(
        self,
        first: Deferred[Result],
        sender: str | Address,
        recipients: list[Any],
        limit: int | None,
        body: Source,
        params: Mapping[str, Any],
        recipient_params: Mapping[str, Any],
        forward: Mapping[str, object] | None,
    ) -> Result:
        """Send it again for those for whom there was no room, as long as some more are taken each time."""
        size = len(recipients) if limit is None else limit
        waiting = list(range(len(recipients)))
        replies: dict[int, RecipientResult] = {}
        dropped: dict[str, None] = {}
        done = first
        while True:
            now, waiting = waiting[:size], waiting[size:]
            try:
                result = await done
            except ClientError as error:
                error.result = _merged(sender, replies, now, error.result, dropped)
                raise
            dropped.update(dict.fromkeys(result.dropped))
            replies.update(zip(now, result.recipients, strict=True))
            if result.taken and body.repeatable:
                waiting = [place for place in now if _no_room(replies[place])] + waiting
            if not waiting or not self.open_for_more:
                break
            chosen = [recipients[place] for place in waiting[:size]]
            done = self._begin(sender, chosen, body, params, recipient_params, forward)
        for place in waiting:
            replies.setdefault(place, RecipientResult(str(recipients[place]), NOT_TRIED, Stage.MAIL))
        everyone = tuple(replies[place] for place in sorted(replies))
        merged = Result(result.sender, everyone, result.reply, tuple(dropped))
        refusal = refusal_of(merged)
        if refusal is not None:
            raise refusal
        return merged

    def transaction(self) -> Transaction:
        """
        Begin a transaction to take step by step, as a relay does.

        :raises RuntimeError: if the connection is busy.
        :raises LimitReached: if the server takes no further message (MAILMAX).
        """
        if self._transaction is not None or self._queue:
            raise RuntimeError("the connection carries one message at a time")
        self._claim()
        if self.dialogue.waiting and not self.capabilities.pipelining:
            raise RuntimeError("something was asked, and is not answered yet")
        self._transaction = transaction = Transaction(self)
        self.sent += 1
        return transaction

    def _claim(self) -> None:
        if self.dialogue.error is not None:
            raise self.dialogue.error
        limit = self.capabilities.max_messages
        if limit is not None and self.sent >= limit:
            raise LimitReached(f"the server takes {limit} messages on a connection (MAILMAX)", Stage.MAIL)

    def ended(self, transaction: Transaction) -> None:
        """A transaction is over."""
        if self._transaction is transaction:
            self._transaction = None
        queue = self._queue
        if not queue:
            return
        for place, each in enumerate(queue):
            if each is transaction:
                del queue[place]
                self._begun -= place < self._begun
                break
        if self.dialogue.error is None:
            self.advance()
        else:
            # Those that were never begun hear of it here; the others from the dialogue.
            left = [queue.pop() for _ in range(len(queue) - self._begun)]
            for each in reversed(left):
                each.failed(self.dialogue.error)

    def reset_after(self, ready: Callable[[object], object] = lambda _: None) -> None:
        """Reset after a transaction that was broken off; *ready* is called when that is answered, or never can be."""

        def took(reply: Reply) -> None:
            if not 200 <= reply.code < 300:
                self.spoiled = True
            ready(reply)
            self.advance()

        self.dialogue.expect(Stage.RESET, took, ready)
        self.dialogue.channel.write(b"RSET\r\n")

    # Other commands.

    def command(self, *words: str) -> Deferred[Reply]:
        """
        Give any command that has one reply, such as VRFY.

        :returns: a Deferred of the reply, whatever it says.
        :raises ValueError: if there are control characters in it.
        :raises RuntimeError: if a message is on its way.
        """
        if self._transaction is not None or self._queue:
            raise RuntimeError("a message is on its way")
        return self.dialogue.command(line(*words), Stage.COMMAND).addBoth(self._answered)

    def _answered(self, outcome: Any) -> Any:
        # A message may wait for it.
        self.advance()
        return outcome

    def noop(self) -> Deferred[Reply]:
        """Ask for a sign of life."""
        return self.command("NOOP")

    def reset(self) -> Deferred[Reply]:
        """Say RSET."""
        return self.command("RSET")

    def quit(self) -> Deferred[None]:
        """
        Say goodbye and close.

        :returns: a Deferred that fires when the connection is closed; it does not fail.
        """
        closed: Deferred[None] = Deferred()
        self.when_closed().addCallback(lambda _: closed.callback(None))
        if self._transaction is not None or self._queue:
            self.abort()
        elif self.dialogue.error is None:
            self.dialogue.expect(Stage.QUIT, self.dialogue.part)
            self.dialogue.channel.write(b"QUIT\r\n")
        return closed

    def abort(self) -> None:
        """Close at once. A message that is on its way fails."""
        self.dialogue.fail(ClientError("the connection was closed by us", self.dialogue.stage))

    def binding(self) -> tuple[str, bytes] | None:
        """What binds a login to the connection's TLS; None without TLS."""
        return self._protocol.binding()

    async def __aenter__(self) -> Connection:
        """Give the connection."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Say goodbye and close."""
        await self.quit()

    def __repr__(self) -> str:
        return f"<Connection to {self.host or 'a server'}{'' if self.error is None else ', closed'}>"


#: For recipients that were not reached before the connection ended.
NOT_TRIED: Final = Reply(451, "Not tried: the connection could not be used for another message", "4.4.2")


def _no_room(result: RecipientResult) -> bool:
    """Tell whether a recipient was refused for the number of them only (RFC 5321 §4.5.3.1.10)."""
    reply = result.reply
    return result.stage is Stage.RCPT and reply.code == 452 and reply.enhanced in ("", "4.5.3")


def _merged(
    sender: str | Address,
    replies: dict[int, RecipientResult],
    now: list[int],
    result: Result | None,
    dropped: Mapping[str, None],
) -> Result | None:
    """Put together what is known when a later round fails."""
    if not replies:
        return result
    known = dict(replies)
    if result is not None:
        places = {each.address: place for each, place in zip(result.recipients, now, strict=False)}
        known.update((places[each.address], each) for each in result.recipients)
    last = result.reply if result is not None else NOT_TRIED
    return Result(str(sender), tuple(known[place] for place in sorted(known)), last, tuple(dropped))
