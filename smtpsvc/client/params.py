"""
Parameters of MAIL and RCPT, from the values that the server's hooks have back to the wire.

A parameter whose extension the server lacks is left out where that does no harm, and the result says
so; where it would change what happens to the message, the message is not sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, NamedTuple

from smtpsvc.client.capabilities import Capabilities
from smtpsvc.client.errors import LimitReached, Stage, Unsupported
from smtpsvc.grammar.addresses import Address, parse_mailbox
from smtpsvc.grammar.xtext import (
    encode_utf8_addr_unitext,
    encode_utf8_addr_xtext,
    encode_xtext,
)
from smtpsvc.parameters import ByMode, DeliverBy, Notify, OriginalRecipient, RRVSAction, ValidSince

#: The client makes these itself, from the content and from what the server offers.
OWN: Final = frozenset({"SIZE", "BODY", "SMTPUTF8"})

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*+")
_VALUE = re.compile("[!-<>-~\xa0-\U0010ffff]++")


class _Row(NamedTuple):
    """What is known of a parameter."""

    keyword: str
    write: Callable[[Any], str]
    #: Tells of a value whether it may be left out where the extension is lacking.
    harmless: Callable[[Any], bool]


def _always(value: Any) -> bool:
    return True


def _never(value: Any) -> bool:
    return False


def _word(value: Any) -> str:
    return str(value.value if isinstance(value, Enum) else value)


def _xtext(value: Any) -> str:
    text = str(value)
    if not text or not text.isprintable():
        raise ValueError("must be printable text")
    return encode_xtext(text)


def _submitter(value: Any) -> str:
    # RFC 4954 §5: a mailbox, or <> where it is not known.
    address = value if isinstance(value, Address) else parse_mailbox(str(value)) if value else Address("")
    return "<>" if address.is_null else encode_xtext(str(address))


def _notify(value: Any) -> str:
    # In the order of the class, so that the same set is always written the same.
    given = {Notify(each) for each in ([value] if isinstance(value, (str, Notify)) else value)}
    if not given or (Notify.NEVER in given and len(given) > 1):
        raise ValueError("must be NEVER alone, or some of SUCCESS, FAILURE and DELAY")
    return ",".join(each.value for each in Notify if each in given)


def _orcpt(value: Any) -> str:
    given = value if isinstance(value, OriginalRecipient) else OriginalRecipient("rfc822", str(value))
    if given.type == "utf-8":
        return f"utf-8;{encode_utf8_addr_xtext(given.address)}"
    if not _NAME.fullmatch(given.type):
        raise ValueError("has a type that is no word")
    return f"{given.type};{_xtext(given.address)}"


def _by(value: DeliverBy) -> str:
    return f"{value.seconds};{value.mode.value}{'T' if value.trace else ''}"


def _time(value: datetime) -> str:
    if value.tzinfo is None:
        raise ValueError("must be a time with its zone")
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _rrvs(value: Any) -> str:
    since = value if isinstance(value, ValidSince) else ValidSince(value)
    return f"{_time(since.time)};{since.action.value}".rstrip(";")


def _keywords(value: Any) -> str:
    return value if isinstance(value, str) else ",".join(value)


def _number(low: int, high: int) -> Callable[[Any], str]:
    def write(value: Any) -> str:
        if not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be a number from {low} to {high}")
        return str(int(value))

    return write


_MAIL: Final[Mapping[str, _Row]] = {
    "RET": _Row("DSN", _word, _always),
    "ENVID": _Row("DSN", _xtext, _always),
    "AUTH": _Row("AUTH", _submitter, _always),
    # RFC 2852 §4.1.4: with R it must not go on to a host that may keep it beyond its time.
    "BY": _Row("DELIVERBY", _by, lambda value: value.mode is ByMode.NOTIFY),
    "MT-PRIORITY": _Row("MT-PRIORITY", _number(-9, 9), _always),
    "REQUIRETLS": _Row("REQUIRETLS", _word, _never),
    "HOLDFOR": _Row("FUTURERELEASE", _number(1, 999_999_999), _never),
    "HOLDUNTIL": _Row("FUTURERELEASE", _time, _never),
    "XOORG": _Row("XOORG", _xtext, _always),
    "SOLICIT": _Row("NO-SOLICITING", _keywords, _always),
    "PRDR": _Row("PRDR", _word, _always),
}
_RCPT: Final[Mapping[str, _Row]] = {
    "NOTIFY": _Row("DSN", _notify, _always),
    "ORCPT": _Row("DSN", _orcpt, _always),
    # Only who says C has thought of hosts that do not know it; else it might reach a stranger.
    "RRVS": _Row("RRVS", _rrvs, lambda value: getattr(value, "action", None) is RRVSAction.CONTINUE),
}


def by_name(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give parameters by their names in upper case."""
    if all(map(str.isupper, params)):
        return params
    return {name.upper(): value for name, value in params.items()}


def write_mail(params: Mapping[str, Any], offered: Capabilities) -> tuple[list[str], list[str]]:
    """
    Write the parameters of MAIL, without those that the client makes itself.

    :param params: values as ``envelope.mail_params`` has them, by name in any case. Other names are
        written as they are: text, or True for a name alone.
    :returns: the words for the wire, and the names that were left out.
    :raises Unsupported: if one cannot be left out.
    :raises LimitReached: if one is beyond what the server offers.
    :raises ValueError: with the name of one whose value is wrong.
    """
    _check_limits(params, offered)
    return _write(params, _MAIL, offered)


def write_rcpt(params: Mapping[str, Any], offered: Capabilities, *, utf8: bool = False) -> tuple[list[str], list[str]]:
    """
    Write the parameters of RCPT; the rest is as for :func:`write_mail`.

    :param utf8: the transaction has SMTPUTF8.
    """
    words, dropped = _write(params, _RCPT, offered)
    if utf8:
        given = next((value for name, value in params.items() if name.upper() == "ORCPT"), None)
        if isinstance(given, OriginalRecipient) and given.type == "utf-8" and "DSN" in offered:
            # RFC 6533 §3: in the form that needs no escapes, where it may.
            text = f"ORCPT=utf-8;{encode_utf8_addr_unitext(given.address)}"
            words = [text if word.startswith("ORCPT=") else word for word in words]
    return words, dropped


def _write(params: Mapping[str, Any], rows: Mapping[str, _Row], offered: Capabilities) -> tuple[list[str], list[str]]:
    words: list[str] = []
    dropped: list[str] = []
    for given, value in params.items():
        name = given.upper()
        if name in OWN or value is None or value is False:
            continue
        row = rows.get(name)
        if row is not None and row.keyword not in offered.keywords:
            if not row.harmless(value):
                raise Unsupported(f"{name} is needed, and the server does not offer {row.keyword}", Stage.MAIL)
            dropped.append(name)
            continue
        words.append(_written(name, value, row))
    return words, dropped


def _written(name: str, value: Any, row: _Row | None) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a parameter")
    if value is True:
        return name
    try:
        text = row.write(value) if row is not None else _word(value)
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from error
    if not _VALUE.fullmatch(text):
        raise ValueError(f"{name}: the value is empty, or has spaces, = or control characters")
    return f"{name}={text}"


def _check_limits(params: Mapping[str, Any], offered: Capabilities) -> None:
    by = params.get("BY")
    shortest = offered.min_by_time
    if isinstance(by, DeliverBy) and by.mode is ByMode.RETURN and shortest and by.seconds < shortest:
        raise LimitReached(f"BY: the server promises no delivery within less than {shortest} seconds", Stage.MAIL)
    if "HOLDFOR" in params and "HOLDUNTIL" in params:
        raise ValueError("HOLDFOR and HOLDUNTIL cannot stand together")
    seconds = params.get("HOLDFOR")
    if isinstance(seconds, int) and offered.max_hold is not None and seconds > offered.max_hold:
        raise LimitReached(f"HOLDFOR: the server holds no message for more than {offered.max_hold} s", Stage.MAIL)
    until, latest = params.get("HOLDUNTIL"), offered.max_hold_until
    if isinstance(until, datetime) and latest is not None and until.tzinfo is not None and until > latest:
        raise LimitReached(f"HOLDUNTIL: the server holds no message beyond {latest:%Y-%m-%dT%H:%M:%SZ}", Stage.MAIL)
