"""
One transaction, from MAIL to the reply to its message: step by step, as a relay takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from smtpsvc.client.dialogue import Dialogue
from smtpsvc.client.envelope import Opening
from smtpsvc.client.errors import ClientError, Disconnected, Refused, ServerMisbehaved, Stage
from smtpsvc.client.owner import Owner
from smtpsvc.client.result import RecipientResult, Result
from smtpsvc.client.streaming import WINDOW, ChunkOutlet, DotOutlet, Outlet
from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.commands import NO_PARAMS
from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.stuffing import ContentCheck
from smtpsvc.values import Recipient


class Transaction:
    """
    A transaction that is open on a connection; there is one at a time.

    :ivar replies: those to the RCPTs so far, in order.
    """

    def __init__(self, connection: Owner) -> None:
        self._connection = connection
        self._dialogue: Dialogue = connection.dialogue
        self._offered = connection.capabilities
        self._opening = Opening(self._offered, trusted=connection.trusted)
        self._names: list[str] = []
        self.replies: list[Reply] = []
        # What was said after the content: one reply, or one for each recipient.
        self._ends: list[Reply] = []
        self._done: Deferred[Result] = Deferred(self._cancelled)

    _sender: Address | None = None
    _mail: Reply | None = None
    _outlet: Outlet | None = None
    # The reply to DATA, if it was a refusal.
    _unopened: Reply | None = None
    # How many replies follow the content; 0 until that is known.
    _due = 0
    _last_sent = False
    _over = False
    # What went wrong with it alone; to the messages behind it the connection is lost, and no more.
    _own: ClientError | None = None
    # How it ended, before somebody has asked.
    _outcome: Result | BaseException | None = None
    _asked = False

    #: How many recipients the server has taken so far.
    taken = 0

    # Step by step.

    @property
    def dropped(self) -> tuple[str, ...]:
        """The parameters that were left out so far, since the server does not know their extension."""
        return tuple(self._opening.dropped)

    def mail(
        self,
        sender: str | Address,
        params: Mapping[str, Any] = NO_PARAMS,
        *,
        size: int | None = None,
        utf8: bool = False,
    ) -> Deferred[Reply]:
        """
        Name the sender.

        :param params: as ``envelope.mail_params`` has them; ``BODY``, ``SIZE`` and ``SMTPUTF8`` count too.
        :param utf8: a recipient or the header will need SMTPUTF8.
        :returns: a Deferred of the reply, whatever it says; fails with a :class:`ClientError`, and with a
            ValueError for what cannot be written. Nothing was sent then.
        """
        try:
            self._sender, command = self._opening.mail(sender, params, size=size, utf8=utf8)
        except (ClientError, ValueError):
            return fail()
        return self._say(command, Stage.MAIL, self._took_mail)

    def rcpt(self, recipient: str | Address | Recipient, params: Mapping[str, Any] = NO_PARAMS) -> Deferred[Reply]:
        """
        Name a recipient; several may be named without waiting if the server has PIPELINING.

        :returns: as for :meth:`mail`.
        """
        try:
            address, command = self._opening.rcpt(recipient, params)
        except (ClientError, ValueError):
            return fail()
        self._names.append(str(address))
        return self._say(command, Stage.RCPT, self._took_rcpt)

    def data(self) -> Deferred[Reply | None]:
        """
        Open the message: by BDAT if the server has CHUNKING, else by DATA.

        :returns: a Deferred of None once content may be written, or of a refusal.
        """
        if self._dialogue.error is not None:
            return fail(self._dialogue.error)
        if self._connection.chunking or self._opening.binary:
            self._open(None)
            return succeed(None)
        opened: Deferred[Reply | None] = Deferred()

        def took(reply: Reply) -> None:
            if reply.code == 354:
                self._open(None)
                opened.callback(None)
            elif reply.code >= 400:
                self._unopened = reply
                opened.callback(reply)
            else:
                self._lie("the server answers DATA with neither 354 nor a refusal", Stage.DATA, reply)
                opened.errback(self._dialogue.error)

        self._dialogue.expect(Stage.DATA, took, opened.errback)
        self._dialogue.channel.write(b"DATA\r\n")
        return opened

    def write(self, piece: bytes) -> Deferred[None] | None:
        """
        Send a piece of the content.

        :returns: None, or a Deferred: no more until then.
        :raises ContentRefused: if it cannot be sent; :meth:`abort` then.
        :raises ClientError: if the connection is lost.
        """
        dialogue, outlet = self._dialogue, self._outlet
        if dialogue.error is not None:
            raise self._own or dialogue.error
        if outlet is None:
            raise RuntimeError("data() comes first")
        if outlet.refusal is not None:
            return None
        outlet.write(piece)
        return self._room() if outlet.blocked else None

    async def _wait(self) -> None:
        outlet = self._outlet
        while outlet is not None and outlet.blocked and outlet.refusal is None and self._dialogue.error is None:
            await self._dialogue.room()

    def _room(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._wait())

    def finish(self) -> Deferred[Result]:
        """
        Send the end of the content.

        :returns: a Deferred of the result, whatever the replies say; fails with a :class:`ClientError` if
            the connection is lost before all have come.
        """
        outlet, dialogue = self._outlet, self._dialogue
        self._asked = True
        if self._over:
            self._fire(self._outcome or dialogue.error or RuntimeError("the transaction is over"))
        elif dialogue.error is None and outlet is not None and outlet.refusal is None:
            try:
                self._finish(outlet)
            except ClientError:
                self.abort()
                return fail()
        elif dialogue.error is None:
            self._conclude()
        else:
            self.failed(dialogue.error)
        return self._done

    def abort(self, ready: Callable[[object], object] = lambda _: None) -> None:
        """
        Give the transaction up: nothing of it is delivered.

        Where RSET can do that the connection stays, and may be used when its reply has come; in the
        middle of DATA it is closed.

        :param ready: is called when that reply has come, or never can.
        """
        if self._over:
            return
        self._over = True
        self._dialogue.active = None
        if isinstance(self._outlet, DotOutlet) or self._last_sent:
            self._dialogue.fail(Disconnected("a message was given up in its middle", Stage.CONTENT))
        elif self._dialogue.error is None:
            self._connection.reset_after(ready)
        self._connection.ended(self)

    # The replies.

    def _say(self, command: bytes, stage: Stage, took: Callable[[Reply], bool]) -> Deferred[Reply]:
        dialogue = self._dialogue
        if dialogue.error is not None:
            return fail(dialogue.error)
        done: Deferred[Reply] = Deferred()

        def answered(reply: Reply) -> None:
            if took(reply):
                done.callback(reply)
            else:
                done.errback(dialogue.error)

        dialogue.expect(stage, answered, done.errback)
        dialogue.channel.write(command)
        return done

    def _took_mail(self, reply: Reply) -> bool:
        self._mail = reply
        return self._sane(reply, Stage.MAIL)

    def _took_rcpt(self, reply: Reply) -> bool:
        self.replies.append(reply)
        if reply.code < 300:
            self.taken += 1
            return True
        return self._sane(reply, Stage.RCPT)

    def _sane(self, reply: Reply, stage: Stage) -> bool:
        if 300 <= reply.code < 400:
            self._lie("the server asks for content where none was announced", stage, reply)
            return False
        return True

    def _lie(self, text: str, stage: Stage, reply: Reply) -> None:
        self._dialogue.fail(ServerMisbehaved(text, stage, reply))
        assert self._dialogue.error is not None
        # Nobody waits any more for the reply that was taken.
        self.failed(self._dialogue.error)

    def _open(self, check: ContentCheck | None, *, checked: bool = False) -> Outlet:
        """Begin the content; it is looked at unless that was done, or it is binary."""
        dialogue, offered, opening = self._dialogue, self._offered, self._opening
        if check is None and not opening.binary and not checked:
            check = ContentCheck()
        eight_bit = offered.eight_bit
        outlet: Outlet
        if self._connection.chunking or opening.binary:
            window = WINDOW if offered.pipelining else 1
            size = self._connection.options.chunk_size
            outlet = ChunkOutlet(dialogue, check, eight_bit, size=size, window=window, text=not opening.binary)
        else:
            outlet = DotOutlet(dialogue, check, eight_bit)
        self._outlet = outlet
        dialogue.active = self
        return outlet

    def _finish(self, outlet: Outlet, last: bytes = b"") -> None:
        # Before the end is sent: a reply may come from within.
        self._last_sent = True
        try:
            outlet.finish(self._took_end, self.failed, last)
        except ClientError:
            self._last_sent = False
            raise
        self._dialogue.active = None
        self._connection.advance()

    def _took_end(self, reply: Reply) -> None:
        if 300 <= reply.code < 400 and not (reply.code == 353 and self._opening.each_answered and not self._due):
            self._lie("the server asks for content when it has come", Stage.END, reply)
            return
        if reply.code == 353:
            # draft-hall-prdr-00: a reply for each recipient follows, and one for the whole.
            self._due = self.taken + 1
        else:
            self._ends.append(reply)
            if not self._due:
                # RFC 2033 §4.2: one for each recipient that was taken.
                self._due = max(1, self.taken) if self._connection.lmtp else 1
                if self._due > 1 and self._refusal() is not None:
                    # A chunk was refused: whether its LAST gets one reply or many, servers do not agree on.
                    self._due = 1
                    self._connection.spoiled = True
        if len(self._ends) < self._due and self._dialogue.error is None:
            self._dialogue.expect(Stage.END, self._took_end, self.failed, next=True)
        else:
            self._conclude()

    # The end.

    def _conclude(self) -> None:
        """All replies have come: make the connection ready for the next, and give the result."""
        if self._over:
            return
        self._over = True
        if self._dialogue.active is self:
            self._dialogue.active = None
        result = self._result()
        closed = self._ends and (self._due > 1 or self._ends[-1].code < 300)
        connection = self._connection
        over = closed or self._mail is None or self._mail.code >= 400 or self._dialogue.farewell is not None
        if over or connection.followed(self):
            connection.ended(self)
            self._fire(result)
            return

        def ready(_: object) -> None:
            connection.ended(self)
            self._fire(result)

        connection.reset_after(ready)

    def _fire(self, outcome: Result | BaseException) -> None:
        done = self._done
        if not self._asked:
            self._outcome = outcome
            return
        if done.called:
            return
        if isinstance(outcome, Result):
            done.callback(outcome)
        else:
            done.errback(outcome)

    def _result(self) -> Result:
        """Say what is known of each recipient; nothing of those of whom nothing is."""
        if self.taken == 1 and len(self._names) == 1 and self._ends and self._refusal() is None and self._sender:
            reply = self._ends[-1]
            return Result(str(self._sender), (RecipientResult(self._names[0], reply),), reply, self.dropped)
        found = []
        ends = list(self._ends)
        refusal = self._refusal()
        each = self._due > 1 or self._connection.lmtp
        for name, reply in zip(self._names, self.replies, strict=False):
            if self._mail is not None and self._mail.code >= 400:
                found.append(RecipientResult(name, self._mail, Stage.MAIL))
            elif reply.code >= 300:
                found.append(RecipientResult(name, reply, Stage.RCPT))
            elif refusal is not None:
                found.append(RecipientResult(name, refusal, Stage.DATA if self._outlet is None else Stage.CONTENT))
            elif each and ends:
                found.append(RecipientResult(name, ends.pop(0)))
            elif not each and ends:
                found.append(RecipientResult(name, ends[0]))
        return Result(str(self._sender or ""), tuple(found), self._deciding(), tuple(self._opening.dropped))

    def _refusal(self) -> Reply | None:
        """What was said against the message before its end, or None."""
        if self._outlet is not None and self._outlet.refusal is not None:
            return self._outlet.refusal
        return self._unopened

    def _deciding(self) -> Reply:
        if self._mail is None or self._mail.code >= 400:
            return self._mail or Reply(451, "There was no reply", "4.4.2")
        if not self.taken and self.replies:
            return self.replies[0]
        return self._refusal() or (self._ends or self.replies or [self._mail])[-1]

    # What goes wrong.

    def failed(self, error: ClientError) -> None:
        """The connection is gone."""
        if self._over:
            return
        self._over = True
        refused = self._mail is not None and self._mail.code >= 400
        unknown = len(self.replies) < len(self._names) or self.taken > 0
        mine = (self._own or error).again()
        mine.maybe_delivered = self._last_sent and not refused and unknown
        mine.result = self._result()
        self._connection.ended(self)
        self._fire(mine)

    def interrupted(self, reply: Reply) -> None:
        """The server refuses the message while it is being sent: there is no way on but to close."""
        self._unopened = reply
        self._own = Refused("the server broke the message off", Stage.CONTENT, reply)
        self._dialogue.fail(Disconnected("the server broke a message off", Stage.CONTENT))

    def _cancelled(self, done: Deferred[Result]) -> None:
        self._over = True
        self._dialogue.active = None
        self._dialogue.fail(Disconnected("the sending of a message was cancelled", self._dialogue.stage))
        self._connection.ended(self)
