"""
What is said of a message before its content: MAIL and RCPT for what this server offers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from smtpsvc.client.capabilities import Capabilities
from smtpsvc.client.commands import address_of, line, path, plain
from smtpsvc.client.errors import LimitReached, Stage, Unsupported
from smtpsvc.client.params import by_name, write_mail, write_rcpt
from smtpsvc.grammar.addresses import Address, SyntaxProblem
from smtpsvc.grammar.commands import NO_PARAMS
from smtpsvc.values import Body, Recipient


class Opening:
    """
    Makes the commands of one transaction.

    :param offered: what the server offers.
    :param trusted: its certificate was verified.
    :ivar utf8: the transaction has SMTPUTF8.
    :ivar binary: the content is BINARYMIME.
    :ivar dropped: the parameters that were left out.
    """

    __slots__ = ("_offered", "_trusted", "binary", "dropped", "each_answered", "utf8")

    def __init__(self, offered: Capabilities, *, trusted: bool = True) -> None:
        self._offered = offered
        self._trusted = trusted
        self.utf8 = False
        self.binary = False
        #: PRDR was asked for.
        self.each_answered = False
        self.dropped: list[str] = []

    def mail(
        self,
        sender: str | Address,
        params: Mapping[str, Any] = NO_PARAMS,
        *,
        size: int | None = None,
        eight_bit: bool | None = None,
        utf8: bool = False,
    ) -> tuple[Address, bytes]:
        """
        Make MAIL.

        :param size: of the content, or None.
        :param eight_bit: whether the content has octets above 127; None if that is not known.
        :param utf8: its header needs SMTPUTF8.
        :raises Unsupported: if the server lacks what the message needs.
        :raises LimitReached: if it is larger than the server takes.
        :raises ValueError: for what cannot be written.
        """
        offered = self._offered
        if not params and not utf8 and type(sender) is str and eight_bit is not None:
            made = plain("MAIL FROM", sender)
            if made is not None and (size is None or offered.size is None or size <= offered.size):
                address, command = made
                if size is not None and "SIZE" in offered.keywords:
                    command = b"%b SIZE=%d" % (command, size)
                if not eight_bit:
                    return address, command + b"\r\n"
                if offered.eight_bit:
                    return address, command + b" BODY=8BITMIME\r\n"
        params = by_name(params)
        address = address_of(sender, sender=True)
        body = params.get("BODY")
        self.binary = body in (Body.BINARY_MIME, Body.BINARY_MIME.value)
        self.utf8 = self._needs_utf8(address, utf8 or bool(params.get("SMTPUTF8")))
        if size is None:
            size = params.get("SIZE")
        if size is not None and offered.size is not None and size > offered.size:
            raise LimitReached(f"the message has {size} octets, and the server takes {offered.size}", Stage.MAIL)
        words = [f"MAIL FROM:{path(address, self.utf8)}"]
        if size is not None and "SIZE" in offered.keywords:
            words.append(f"SIZE={size:d}")
        if self.binary:
            if "BINARYMIME" not in offered.keywords or not offered.chunking:
                raise Unsupported("the content is binary, and the server does not offer BINARYMIME", Stage.MAIL)
            words.append("BODY=BINARYMIME")
        elif eight_bit is not False and offered.eight_bit:
            # Of what is not known yet, the more is said: it promises nothing.
            words.append("BODY=8BITMIME")
        elif eight_bit:
            raise Unsupported("the content has 8-bit octets, and the server does not offer 8BITMIME", Stage.MAIL)
        if self.utf8:
            words.append("SMTPUTF8")
        if params.get("REQUIRETLS") and not self._trusted:
            # RFC 8689 §4.2.1: not to a host of which nobody knows who it is.
            raise Unsupported("REQUIRETLS is needed, and the server's certificate was not verified", Stage.MAIL)
        if params:
            more, dropped = write_mail(params, offered)
            words += more
            self.dropped += dropped
            self.each_answered = "PRDR" in more
        return address, line(*words)

    def rcpt(
        self, recipient: str | Address | Recipient, params: Mapping[str, Any] = NO_PARAMS
    ) -> tuple[Address, bytes]:
        """
        Make RCPT.

        :param params: for this recipient, beside those that a :class:`~smtpsvc.Recipient` has itself.
        :raises Unsupported: if the server lacks what the recipient needs.
        :raises ValueError: for what cannot be written.
        """
        if not params and type(recipient) is str:
            made = plain("RCPT TO", recipient)
            if made is not None:
                return made[0], made[1] + b"\r\n"
        if isinstance(recipient, Recipient):
            params = {**params, **recipient.params} if recipient.params else params
            recipient = recipient.address
        address = address_of(recipient)
        if not self.utf8 and not address.local.isascii():
            raise Unsupported("an address needs SMTPUTF8, and the transaction is without it", Stage.RCPT)
        text = f"RCPT TO:{path(address, self.utf8)}"
        if not params:
            return address, line(text)
        words, dropped = write_rcpt(params, self._offered, utf8=self.utf8)
        self.dropped += [name for name in dropped if name not in self.dropped]
        return address, line(text, *words)

    def _needs_utf8(self, address: Address, wanted: bool) -> bool:
        if not wanted and address.local.isascii():
            return False
        if "SMTPUTF8" not in self._offered.keywords:
            raise Unsupported("the message needs SMTPUTF8, and the server does not offer it", Stage.MAIL)
        return True


def any_international(recipients: Iterable[str | Address | Recipient]) -> bool:
    """Tell whether a local part among the recipients needs SMTPUTF8."""
    for each in recipients:
        try:
            text = each if type(each) is str else str(each)
            if not text.isascii() and not address_of(_bare(each)).local.isascii():
                return True
        except SyntaxProblem:
            # Whoever writes it says so.
            continue
    return False


def _bare(recipient: str | Address | Recipient) -> str | Address:
    return recipient.address if isinstance(recipient, Recipient) else recipient
