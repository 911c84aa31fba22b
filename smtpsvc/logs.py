"""
Monitors that write the log.

What a client has sent is shown as a Python literal: no control character of a stranger's reaches
the log, and none of its words can look like ours. Failures of hooks are logged by the server
itself, with or without monitors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IAccount
from smtpsvc.server.watch import Monitor
from smtpsvc.values import Envelope, Peer, TLSInfo


class LogMonitor(Monitor):
    """
    Logs each message in one line, whether it was taken or refused, and each login that was refused.

    The event has fields as well as a text; ``peer_id`` and ``host`` say whose it is.

    :param logger: where to; the events have the namespace ``smtpsvc`` if not given.
    """

    def __init__(self, logger: Any = None) -> None:
        self._log = Logger(namespace="smtpsvc") if logger is None else logger

    def message(self, envelope: Envelope, size: int, seconds: float, replies: Sequence[Reply]) -> None:
        """Log the message's id, what the client was told, who sent it, to whom, how large it is, and how it came."""
        peer = envelope.peer
        tls, account = peer.tls, peer.account
        first, *others = map(str, envelope.recipients) if envelope.recipients else ("",)
        self._log.info(
            "{id} {code} from {host} ({helo!r}): {sender!r} to {recipient!r}{others}, {size} bytes{how}, "
            "{seconds:.3f} s",
            id=envelope.id,
            code=max((reply.code for reply in replies), default=0),
            peer_id=peer.id,
            host=peer.host or "local",
            helo=peer.helo,
            sender=str(envelope.sender),
            recipient=first,
            others=f" and {len(others)} more" if others else "",
            recipients=len(envelope.recipients),
            size=size,
            tls=None if tls is None else tls.version,
            account=None if account is None else account.name,
            how=_how(tls, account) if tls is not None or account is not None else "",
            seconds=seconds,
        )

    def login(self, peer: Peer, mechanism: str, good: bool) -> None:
        """Log a login that was refused; nothing of what the client sent for it."""
        if not good:
            self._log.info(
                "{peer_id}: a login of {host} ({helo!r}) by {mechanism} was refused",
                peer_id=peer.id,
                host=peer.host or "local",
                helo=peer.helo,
                mechanism=mechanism,
            )


#: Between two events are so many seconds at least, so that under load one event takes many lines.
_PATIENCE: Final = 0.1
#: And for so many of them.
_MANY: Final = 1000


class SummaryLog(Monitor):
    """
    Logs each message, and each login that was refused, in one line; many lines in one event.

    A line is formatted once, in 1.6 µs, and logged when the reactor's turn is over. But an event costs 14 µs, and
    under load most turns have one message or two: so what comes within a tenth of a second of the last event waits for
    the end of it. The lines say the same as those of :class:`LogMonitor`, whose events have fields.

    :param clock: schedules the events.
    :param logger: where to; the events have the namespace ``smtpsvc`` if not given.
    """

    def __init__(self, clock: IReactorTime, logger: Any = None) -> None:
        self._clock = clock
        self._log = Logger(namespace="smtpsvc") if logger is None else logger
        self._lines: list[str] = []
        self._call: IDelayedCall | None = None
        # When the last event was.
        self._flushed = float("-inf")

    def message(self, envelope: Envelope, size: int, seconds: float, replies: Sequence[Reply]) -> None:
        """Note the line of a message."""
        peer = envelope.peer
        recipients = envelope.recipients
        count = len(recipients)
        others = f" and {count - 1} more" if count > 1 else ""
        # Of many, the worst.
        code = replies[0].code if len(replies) == 1 else max(map(_code, replies), default=0)
        tls, account = peer.tls, peer.account
        how = _how(tls, account) if tls is not None or account is not None else ""
        self._lines.append(
            f"{envelope.id} {code} from {peer.host or 'local'} ({peer.helo!r}): "
            f"{envelope.sender.text!r} to {recipients[0].address.text if count else ''!r}{others}, "
            f"{size} bytes{how}, {seconds:.3f} s"
        )
        self._gather()

    def login(self, peer: Peer, mechanism: str, good: bool) -> None:
        """Note the line of a login that was refused; nothing of what the client sent for it is in it."""
        if not good:
            host = peer.host or "local"
            self._lines.append(f"{peer.id}: a login of {host} ({peer.helo!r}) by {mechanism} was refused")
            self._gather()

    def _gather(self) -> None:
        if self._call is None:
            wait = self._flushed + _PATIENCE - self._clock.seconds()
            self._call = self._clock.callLater(min(_PATIENCE, max(0.0, wait)), self.flush)
        elif len(self._lines) >= _MANY:
            self.flush()

    def flush(self) -> None:
        """Log what has gathered, now."""
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()
        lines, self._lines = self._lines, []
        if lines:
            self._flushed = self._clock.seconds()
            # Who reads fields has the event of each message.
            self._log.info("{lines}", lines="\n".join(lines), text_only=True)


def _how(tls: TLSInfo | None, account: IAccount | None) -> str:
    """Name the TLS version and the account; only a proxy's word for either could have odd characters in it."""
    version = "" if tls is None else f", {ascii(tls.version)[1:-1]}{' to a proxy' if tls.proxied else ''}"
    return version if account is None else f"{version}, as {account.name!r}"


def _code(reply: Reply) -> int:
    return reply.code
