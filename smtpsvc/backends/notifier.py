"""
Tell a sender of the recipients who did not get a message that others have got.

Over SMTP one reply stands for all recipients. If the server behind takes a message for some and refuses it for
others, the client is told that it was taken, and the sender gets a notification of the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from twisted.logger import Logger

from smtpsvc.backends.nexthop import NextHop
from smtpsvc.client import ClientError
from smtpsvc.grammar.replies import Reply
from smtpsvc.message.dsn import MOST_HEADER, Action, Fate, notification
from smtpsvc.message.fields import header_end
from smtpsvc.values import Envelope, Recipient

_log = Logger()

#: What is kept of a message while it goes by.
MOST_KEPT: Final = MOST_HEADER


class Notifier:
    """
    Sends notifications.

    :param hop: the server that takes them.
    :param reporter: our host name.
    :param seconds: the time since 1970.
    """

    def __init__(self, hop: NextHop, reporter: str, seconds: Callable[[], float] = time.time) -> None:
        self.hop = hop
        self._reporter = reporter
        self._seconds = seconds

    async def tell(
        self, envelope: Envelope, refused: Sequence[tuple[Recipient, Reply]], header: bytes, remote: str
    ) -> bool:
        """
        Notify the sender, if it wants that.

        :param refused: recipients, each with the refusal.
        :param remote: the server that refused.
        :returns: True if it was notified, or need not or cannot be; False if that may be possible later.
        """
        fates = [Fate(recipient, Action.FAILED, reply, remote) for recipient, reply in refused]
        if envelope.sender.is_null or not any(fate.wanted for fate in fates):
            return True
        try:
            connection, _ = await self.hop.acquire()
        except ClientError as error:
            _log.error("{id}: the sender cannot be notified: {error}", id=envelope.id, error=error)
            return False
        international = None if "SMTPUTF8" in connection.capabilities else False
        try:
            made = notification(
                envelope,
                fates,
                header,
                reporter=self._reporter,
                now=self._seconds(),
                complete=False,
                international=international,
            )
            assert made is not None, "somebody wants it"
            await connection.send(
                made.sender,
                [made.recipient],
                made.content,
                params=made.mail_params,
                recipient_params=made.rcpt_params,
            )
        except (ClientError, ValueError) as error:
            _log.error("{id}: the sender cannot be notified: {error}", id=envelope.id, error=error)
            # Who refuses it for good will do so again.
            return not (isinstance(error, ClientError) and error.temporary)
        finally:
            self.hop.release(connection)
        _log.info("{id}: the sender was notified of {count} recipients", id=envelope.id, count=len(refused))
        return True


class HeaderKeeper:
    """Keeps the header of a message that goes by, as far as it may be returned."""

    __slots__ = ("_done", "_found")

    def __init__(self) -> None:
        self._found = bytearray()
        self._done = False

    def write(self, content: bytes) -> None:
        """Look at the next piece."""
        if self._done:
            return
        before = max(0, len(self._found) - 4)
        self._found += content[: MOST_KEPT - len(self._found)]
        end = header_end(self._found, before)
        if end >= 0:
            del self._found[end:]
        self._done = end >= 0 or len(self._found) >= MOST_KEPT

    @property
    def header(self) -> bytes:
        """What was kept."""
        return bytes(self._found)
