"""
The options of ``twistd smtpsvc`` that fill a field of the settings each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from smtpsvc.settings import BareNewline, format_size, format_trusted, parse_size, parse_trusted

#: What ``--max-connections-per-client`` has if it is not given.
AUTO = "auto"
#: Processes that ``--workers`` may ask for.
MOST_WORKERS = 128


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise ValueError(f"{text!r} is no whole number; write digits only")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise ValueError(f"{text!r} is no number of seconds; write digits, such as 300")
    return float(text)


def _processes(text: str) -> int:
    number = _count(text)
    if not 1 <= number <= MOST_WORKERS:
        raise ValueError(f"{number} processes cannot be; give 1 to {MOST_WORKERS}, about as many as there are cores")
    return number


def _per_client(text: str) -> int | None:
    return None if text.lower() in ("", AUTO) else _count(text)


def _show_per_client(number: int | None) -> str:
    return AUTO if number is None else str(number)


def _bare_newline(text: str) -> BareNewline:
    try:
        return BareNewline(text.lower())
    except ValueError:
        raise ValueError(f"{text!r} is neither reject nor normalize") from None


def _show_seconds(seconds: float) -> str:
    return str(int(seconds)) if math.floor(seconds) == seconds else str(seconds)


@dataclass(frozen=True, slots=True)
class Parameter:
    """
    An option that fills one field of the settings.

    :param field: with a dot for a field of the limits.
    :param read: raises ValueError with a sentence.
    :param show: writes a value as *read* reads it.
    """

    name: str
    field: str
    doc: str
    read: Callable[[str], Any] = str
    show: Callable[[Any], str] = str


PARAMETERS = (
    Parameter("hostname", "hostname", "Name of this host in the greeting, in EHLO and in Received."),
    Parameter("banner", "banner", "Text after the host name in the greeting."),
    Parameter(
        "max-message-size",
        "limits.message_size",
        "Refuse larger messages; bytes, or with K, M or G. 0 is no limit.",
        parse_size,
        format_size,
    ),
    Parameter("max-recipients", "limits.recipients", "Take so many recipients for one message.", _count),
    Parameter("max-messages", "limits.messages", "Take so many messages in one connection. 0 is no limit.", _count),
    Parameter(
        "max-domains",
        "limits.recipient_domains",
        "Take recipients in so many domains in one connection. 0 is no limit.",
        _count,
    ),
    Parameter("max-line-length", "limits.line_length", "Refuse longer command lines; bytes, 512 at least.", _count),
    Parameter(
        "min-free-space",
        "limits.min_free_space",
        "Refuse mail that would leave less room on the disk; bytes, or with K, M or G. 0 is no limit.",
        parse_size,
        format_size,
    ),
    Parameter("timeout", "limits.command_timeout", "Wait so many seconds for a command.", _seconds, _show_seconds),
    Parameter(
        "data-timeout",
        "limits.data_timeout",
        "Wait so many seconds for the next piece of a message.",
        _seconds,
        _show_seconds,
    ),
    Parameter(
        "grace",
        "limits.grace",
        "Let open transactions go on for so many seconds when the service stops.",
        _seconds,
        _show_seconds,
    ),
    Parameter(
        "hook-timeout",
        "limits.hook_timeout",
        "Wait so many seconds for an answer of the backend.",
        _seconds,
        _show_seconds,
    ),
    Parameter(
        "handshake-timeout",
        "limits.handshake_timeout",
        "Wait so many seconds for the handshake of TLS.",
        _seconds,
        _show_seconds,
    ),
    Parameter(
        "proxy-timeout",
        "limits.proxy_timeout",
        "Wait so many seconds for the header of a proxy.",
        _seconds,
        _show_seconds,
    ),
    Parameter(
        "stress",
        "limits.stress_timeout",
        "Wait so many seconds at most while 80 % of --max-connections are in use. 0 is no change.",
        _seconds,
        _show_seconds,
    ),
    Parameter(
        "greet-delay",
        "limits.greet_delay",
        "Wait so many seconds before the greeting, and refuse clients that do not.",
        _seconds,
        _show_seconds,
    ),
    Parameter(
        "min-data-rate",
        "limits.data_rate",
        "Close a connection whose message comes slower; bytes a second. 0 is no limit.",
        _count,
    ),
    Parameter("max-connections", "limits.connections", "Serve so many connections at one time. 0 is no limit.", _count),
    Parameter(
        "max-connections-per-client",
        "limits.connections_per_client",
        "Serve so many connections of one client at one time: of an IPv4 address, or an IPv6 network of 64 bits. "
        "0 is no limit; auto is 50, and none for clients on this machine.",
        _per_client,
        _show_per_client,
    ),
    Parameter("max-errors", "limits.errors", "Refuse so many commands, then close. 0 is no limit.", _count),
    Parameter(
        "max-refused-recipients",
        "limits.refused_recipients",
        "Refuse so many recipients of one connection before they count as errors. 0 is no limit.",
        _count,
    ),
    Parameter(
        "max-junk",
        "limits.junk",
        "Take so many commands that send no mail, such as NOOP, before they count as errors. 0 is no limit.",
        _count,
    ),
    Parameter(
        "max-auth-failures",
        "limits.auth_failures",
        "Refuse so many logins, then close; let the client's network wait for others. 0 is no limit.",
        _count,
    ),
    Parameter(
        "max-received",
        "limits.received",
        "Refuse a message with more Received fields, which is in a loop. 0 is no limit.",
        _count,
    ),
    Parameter(
        "max-header-size",
        "limits.header_size",
        "Refuse a message with a larger header; bytes, or with K, M or G. 0 is no limit.",
        parse_size,
        format_size,
    ),
    Parameter(
        "max-text-line",
        "limits.text_line",
        "Refuse a message with a longer line; bytes. 0 is no limit.",
        _count,
    ),
    Parameter(
        "max-buffered",
        "limits.buffered",
        "Read no more content while so much waits in memory; bytes, or with K, M or G.",
        parse_size,
        format_size,
    ),
    Parameter(
        "bare-newline",
        "bare_newline",
        "What to do with a message that has a bare CR or LF: reject it, or normalize it to CRLF.",
        _bare_newline,
        attrgetter("value"),
    ),
    Parameter(
        "trusted-proxies",
        "trusted_proxies",
        "Believe these clients whom they speak for, by a PROXY header, XCLIENT or XFORWARD: addresses and networks "
        "with commas between them, and the word unix for unix sockets.",
        parse_trusted,
        format_trusted,
    ),
)
#: An option that changes the backend and no setting.
DEDUPE = Parameter(
    "dedupe",
    "",
    "Keep one copy of a message that comes again within so many seconds. 0 keeps each.",
    _seconds,
    _show_seconds,
)
#: An option that changes who serves, and no setting.
WORKERS = Parameter(
    "workers",
    "",
    "Serve in so many processes, which share the ports; 1 is this process alone.",
    _processes,
    str,
)
#: Options without a value, named as fields of the settings.
FLAGS = ("lenient-paths", "trust-proxy-tls", "xclient-login", "require-tls", "require-auth", "allow-insecure-auth")
