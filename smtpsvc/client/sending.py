"""
A whole message in one go: as few turns as the server allows, and no Deferred for a command.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred

from smtpsvc.client.body import Source
from smtpsvc.client.envelope import any_international
from smtpsvc.client.errors import ClientError, ContentRefused, Refused, Stage
from smtpsvc.client.owner import Owner
from smtpsvc.client.result import Result
from smtpsvc.client.streaming import Outlet, pour
from smtpsvc.client.transaction import Transaction
from smtpsvc.grammar.addresses import Address
from smtpsvc.grammar.commands import NO_PARAMS
from smtpsvc.grammar.replies import Reply
from smtpsvc.values import Recipient

#: Content up to this goes out with its envelope by BDAT, before a recipient was taken; if none is, it was in vain.
INLINE: Final = 64 * 1024


class Sending(Transaction):
    """
    Sends one message to its end.

    :param forward: the XFORWARD command that goes before, or None.
    """

    def __init__(self, connection: Owner, body: Source, forward: bytes | None = None) -> None:
        super().__init__(connection)
        self._body = body
        self._forward = forward
        self._commands: list[bytes] = []
        self._piped = self._offered.pipelining
        self._asked = True

    _said = 0
    # By BDAT.
    _chunked = False
    # Sent whole, the envelope with it.
    _inline = False
    _started = False
    # More stood behind the 354: it was said before any content was there.
    _hasty = False
    # What hands the content on, while it waits for the server or for its source.
    _pouring: tuple[Coroutine[Any, Any, None], Deferred[None]] | None = None
    #: True if it fails with :exc:`~smtpsvc.client.errors.Refused` where nobody was taken.
    raises = False

    def begin(
        self,
        sender: str | Address,
        recipients: Iterable[str | Address | Recipient],
        mail_params: Mapping[str, Any] = NO_PARAMS,
        rcpt_params: Mapping[str, Any] = NO_PARAMS,
    ) -> Deferred[Result]:
        """
        Prepare it; :meth:`start` sends it.

        :raises ClientError: if it cannot be sent to this server; nothing was sent then.
        :raises ValueError: for what cannot be written.
        """
        recipients = list(recipients)
        if not recipients:
            raise ValueError("a message needs a recipient")
        body, opening = self._body, self._opening
        utf8 = body.international or any_international(recipients)
        self._sender, mail = opening.mail(sender, mail_params, size=body.size, eight_bit=body.eight_bit, utf8=utf8)
        self._chunked = self._connection.chunking or opening.binary
        commands = self._commands
        commands.append(mail)
        for each in recipients:
            address, command = opening.rcpt(each, rcpt_params)
            self._names.append(str(address))
            commands.append(command)
        return self._done

    def start(self, reset: bool = False) -> None:
        """
        Begin to talk.

        :param reset: with RSET, since the message before is not answered yet (RFC 2920 §3.1).
        """
        self._started = True
        if self._piped:
            self._say_all(reset)
        elif self._forward is not None:
            self._dialogue.expect(Stage.COMMAND, self._say_next, self.failed)
            self._dialogue.channel.write(self._forward)
        else:
            self._say_next(None)

    @property
    def complete(self) -> bool:
        """True once all of it was sent, so that the next message may follow."""
        return self._last_sent and self._piped

    @property
    def needs_reset(self) -> bool:
        """True if it may leave a transaction open: it was sent whole before anybody was taken."""
        return self._inline

    def _say_all(self, reset: bool) -> None:
        """Say everything in one write (RFC 2920 §3.1)."""
        dialogue, commands = self._dialogue, self._commands
        expect = dialogue.expect
        if self._forward is not None:
            commands.insert(0, self._forward)
        if reset:
            commands.insert(0, b"RSET\r\n")
            expect(Stage.RESET, self._ignored)
        if self._forward is not None:
            expect(Stage.COMMAND, self._ignored)
        expect(Stage.MAIL, self._took_mail)
        for _ in self._names:
            expect(Stage.RCPT, self._took_rcpt, self.failed)
        whole = self._body.whole
        if not self._chunked:
            commands.append(b"DATA\r\n")
            expect(Stage.DATA, self._took_data, self.failed)
        elif whole is not None and len(whole) <= INLINE:
            self._inline = self._last_sent = True
            expect(Stage.END, self._took_end, self.failed)
            tail = b"\r\n" if self._body.line_open else b""
            commands.append(b"BDAT %d LAST\r\n%b%b" % (len(whole) + len(tail), whole, tail))
        dialogue.channel.write(b"".join(commands))
        if self._inline:
            self._connection.advance()

    def _say_next(self, _: Reply | None) -> None:
        """Say one command, the one before having been answered."""
        command = self._commands[self._said]
        self._said += 1
        if self._said == 1:
            self._dialogue.expect(Stage.MAIL, self._took_mail, self.failed)
        else:
            self._dialogue.expect(Stage.RCPT, self._took_rcpt, self.failed)
        self._dialogue.channel.write(command)

    def _fire(self, outcome: Result | BaseException) -> None:
        if self.raises and isinstance(outcome, Result):
            outcome = refusal_of(outcome) or outcome
        super()._fire(outcome)

    def _cancelled(self, done: Deferred[Result]) -> None:
        if self._started:
            super()._cancelled(done)
            self._stop_pouring()
            return
        self._over = True
        self._connection.ended(self)

    def failed(self, error: ClientError) -> None:
        """The connection is gone."""
        super().failed(error)
        self._stop_pouring()

    def _stop_pouring(self) -> None:
        """Let the source of the content end, which may wait for something that never comes."""
        if self._pouring is not None and not self._pouring[0].cr_running:  # type: ignore[attr-defined]
            self._pouring[1].cancel()

    # The replies.

    def _ignored(self, reply: Reply) -> None:
        """Whether XFORWARD was taken need not hold up the mail; whether RSET was, the next reply shows."""

    def _took_mail(self, reply: Reply) -> bool:
        self._mail = reply
        if self._piped and reply.code < 300:
            return True
        if not self._sane(reply, Stage.MAIL):
            return False
        if not self._piped:
            if reply.code < 300:
                self._say_next(None)
            else:
                self._conclude_refused()
        return True

    def _took_rcpt(self, reply: Reply) -> bool:
        self.replies.append(reply)
        if reply.code < 300:
            self.taken += 1
        elif not self._sane(reply, Stage.RCPT):
            return False
        if len(self.replies) < len(self._names):
            if not self._piped:
                self._say_next(None)
            return True
        if self._piped and not self._chunked:
            return True
        if not self._inline:
            self._open_content()
        return True

    def _open_content(self) -> None:
        """All recipients are answered; ask for the content to be taken, or begin with it."""
        assert self._mail is not None
        if self._mail.code >= 400 or not self.taken:
            self._conclude()
        elif self._chunked:
            self._stream()
        else:
            self._dialogue.expect(Stage.DATA, self._took_data, self.failed)
            self._dialogue.channel.write(b"DATA\r\n")

    def _took_data(self, reply: Reply) -> None:
        if reply.code == 354:
            self._hasty = self._dialogue.surplus
            if self.taken and self._mail is not None and self._mail.code < 300:
                self._stream()
                return
            # RFC 2920 §3.1: it was asked for before we knew that nobody is to get it.
            self._dialogue.expect(Stage.END, self._voided, self.failed)
            self._dialogue.channel.write(b".\r\n")
        elif reply.code >= 400:
            if self.taken:
                self._unopened = reply
            self._conclude()
        else:
            self._lie("the server answers DATA with neither 354 nor a refusal", Stage.DATA, reply)

    def _took_end(self, reply: Reply) -> None:
        if self._hasty and reply.code < 300:
            self._lie("the server takes the message before it has come", Stage.END, reply)
            return
        super()._took_end(reply)

    def _voided(self, reply: Reply) -> None:
        if 300 <= reply.code < 400:
            self._lie("the server asks for content when it has come", Stage.END, reply)
            return
        self._conclude()

    def _conclude_refused(self) -> None:
        # Not asked, they share the sender's refusal.
        assert self._mail is not None
        self.replies = [self._mail] * len(self._names)
        self._conclude()

    # The content.

    def _stream(self) -> None:
        body = self._body
        outlet = self._open(body.check, checked=body.check is None)
        whole = body.whole
        if whole is not None and len(whole) <= INLINE:
            self._finish(outlet, whole)
            return
        pouring = self._pour(outlet)
        self._pouring = pouring, Deferred.fromCoroutine(pouring)

    async def _pour(self, outlet: Outlet) -> None:
        try:
            complete = await pour(self._dialogue, self._body.pieces(), outlet)
            if complete:
                self._finish(outlet)
            elif self._dialogue.error is None:
                # A chunk was refused.
                self._conclude()
        except BaseException as error:  # of the source: whatever it is, the caller shall have it
            if self._over:
                return
            if isinstance(error, ContentRefused):
                error.result = self._result()
            self.abort()
            self._fire(error)


def refusal_of(result: Result) -> Refused | None:
    """Make the error of a result that has nobody taken; None if it has somebody."""
    for each in result.recipients:
        if each.taken:
            return None
    return Refused("the server took the message for nobody", Stage.RCPT, result.reply, result=result)
