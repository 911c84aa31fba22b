"""
Let accounts send as themselves only, or as a file allows; other senders are refused at MAIL with 553 5.7.1.

Without a file an account may use its own name as an address, and with domain=example.com an account without a
domain may use its name there. In the file, each line has an account, a colon, and patterns with blanks or commas
between: sales: sales@example.com orders@example.com .shop.example. They add to its own address. An account * stands
for all. A file that changes is read again.

user+anything@example.com counts as user@example.com; separator= gives other characters than +, or none. The null
sender, which notices of delivery have, is anybody's. Clients that have not logged in are not looked at: see
require-auth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from smtpsvc.grammar.addresses import Address, parse_domain
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import Outcome
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.chain import Policy
from smtpsvc.policies.patterns import Addresses, file_lines
from smtpsvc.values import Envelope
from smtpsvc.watched import WatchedFile

NOT_YOURS: Final = Reply(553, "Your account may not send as that address", "5.7.1")


class SenderLogin(Policy):
    """
    Lets accounts send as their own addresses only.

    :param path: of the file; "" for none.
    :param domain: of accounts whose names have none; "" for none.
    :param separator: of the part of an address that does not count; "" for none.
    :raises ValueError: with a sentence, if the file cannot be read or makes no sense, or *domain* is none.
    """

    name = "sender-login"

    def __init__(self, path: str = "", *, domain: str = "", separator: str = "+") -> None:
        self._file = WatchedFile(path, _read) if path else None
        self._domain = parse_domain(domain) if domain else ""
        self._separator = separator

    def mail(self, envelope: Envelope) -> Outcome:
        """Compare the sender with the account."""
        account, sender = envelope.peer.account, envelope.sender
        if account is None or sender.is_null or self._owns(account.name.lower(), sender):
            return None
        return NOT_YOURS

    def _owns(self, account: str, sender: Address) -> bool:
        local, domain = sender.local.lower(), sender.ascii_domain
        bare = self._without_tag(local)
        name, _, home = account.rpartition("@") if "@" in account else (account, "", self._domain)
        # An account whose name is an address is that address; in the domain of a name, case never matters.
        if home and name in (local, bare) and _same_domain(home, domain):
            return True
        if self._file is None:
            return False
        owned = self._file.current()
        addresses = [sender] if bare == local else [sender, Address(bare, sender.domain)]
        lists = [found for key in (account, "*") if (found := owned.get(key)) is not None]
        return any(found.has(address) for found in lists for address in addresses)

    def _without_tag(self, local: str) -> str:
        places = [place for each in self._separator if (place := local.find(each, 1)) > 0]
        return local[: min(places)] if places else local


def _same_domain(home: str, domain: str) -> bool:
    return home == domain or Address("x", home).ascii_domain == domain


def _read(data: bytes) -> Mapping[str, Addresses]:
    found: dict[str, list[str]] = {}
    try:
        lines = file_lines(data)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    for line in lines:
        account, colon, patterns = line.partition(":")
        if not colon or not account.strip():
            raise ValueError(f"{line!r} has no account before a colon")
        found.setdefault(account.strip().lower(), []).extend(patterns.replace(",", " ").split())
    return {account: Addresses(patterns) for account, patterns in found.items()}


def make(arguments: Arguments, reactor: Any) -> SenderLogin:
    """
    Make the policy of ``--policy sender-login``.

    :raises ValueError: with a sentence.
    """
    domain, separator = arguments.text("domain"), arguments.text("separator", "+")
    return SenderLogin(arguments.value("a file", ""), domain=domain, separator=separator)
