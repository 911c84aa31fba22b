"""
Signed senders: BATV, by which a domain knows the bounces of its own mail (draft-levine-smtp-batv).

Mail goes out from ``prvs=0334a1b2c3=user@example.com``. A bounce that comes to plain ``user@example.com``
answers no mail of ours.
"""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Callable, Sequence
from typing import Final

from smtpsvc.grammar.addresses import MAX_LOCAL, Address
from smtpsvc.message.mailboxes import quoted, read_mailbox, unquoted

__all__ = ["BATV", "BATVError", "unwrap_batv"]

DAY: Final = 86_400
#: Days of the stamp, which has three digits.
_CYCLE: Final = 1000

_PRVS = re.compile(r"prvs=([0-9])([0-9]{3})([0-9a-f]{6})=(.++)", re.IGNORECASE | re.DOTALL)
# Others keep their stamps and signatures in ways of their own, which say the same of the sender.
_ANY = re.compile(r"(?:prvs=[0-9a-z]{4,32}=|msprvs1=[0-9a-z+/_-]{1,64}=|btv1==[0-9a-z]{1,32}==)(.++)", re.I | re.DOTALL)


class BATVError(ValueError):
    """An address that was not signed here, or too long ago; ``str()`` is a sentence that has none of its text."""


def unwrap_batv(address: Address) -> Address:
    """
    Take the signature off a sender, of whatever kind (``prvs=``, ``msprvs1=``, ``btv1==``); it is not checked.

    :returns: the sender without it, or *address* itself if it has none.
    """
    match = _ANY.fullmatch(unquoted(address.local))
    return address if match is None else Address(quoted(match[1]), address.domain)


class BATV:
    """
    Signs senders and checks them.

    :param secrets: the first signs, and all are believed: to change it, put the new one in front, and
        take the old one away when *days* are over.
    :param days: for so long a signature is good.
    :param clock: the time of day in seconds since the epoch.
    :raises ValueError: with a sentence, if there is no secret, an empty one, or no good number of days.
    """

    def __init__(
        self, secrets: Sequence[bytes | str], *, days: int = 7, clock: Callable[[], float] = time.time
    ) -> None:
        self._secrets = read_secrets(secrets)
        if not 1 <= days < _CYCLE // 2:
            raise ValueError(f"{days} days: a signature is good for 1 to {_CYCLE // 2 - 1} days")
        self._days = days
        self._clock = clock

    def sign(self, address: Address) -> Address:
        """
        Sign a sender. ``<>``, and what is signed already, stays as it is.

        :raises ValueError: if the local part would be longer than 64 octets (RFC 5321 §4.5.3.1.1).
        """
        if address.is_null or unwrap_batv(address) is not address:
            return address
        stamp = f"0{(self._today() + self._days) % _CYCLE:03}"
        local = unquoted(address.local)
        signed = quoted(f"prvs={stamp}{_digest(self._secrets[0], stamp, local, address)}={local}")
        if len(signed.encode()) > MAX_LOCAL:
            raise ValueError(f"the signed local part would be longer than {MAX_LOCAL} octets")
        return Address(signed, address.domain)

    def verify(self, address: Address) -> Address:
        """
        Check the recipient of a bounce.

        :returns: the sender that was signed.
        :raises BATVError: if it was not signed with one of the secrets, or too long ago.
        """
        match = _PRVS.fullmatch(unquoted(address.local))
        if match is None:
            raise BATVError("the address is not signed")
        key, day, digest, local = match.groups()
        stamp = key + day
        given = digest.lower().encode()
        # All of them, so that the time says nothing of which it was.
        good = [hmac.compare_digest(given, _digest(s, stamp, local, address).encode()) for s in self._secrets]
        if not any(good):
            raise BATVError("the signature of the address is not ours")
        if (int(day) - self._today()) % _CYCLE > self._days:
            raise BATVError("the signature of the address is too old")
        try:
            return read_mailbox(local, address.domain)
        except ValueError:
            raise BATVError("what was signed is no address") from None

    def _today(self) -> int:
        return int(self._clock() // DAY)


def read_secrets(secrets: Sequence[bytes | str]) -> tuple[bytes, ...]:
    """
    Check the secrets of a signer.

    :raises ValueError: with a sentence that has none of them.
    :raises TypeError: if *secrets* is one secret, whose octets would be taken for secrets.
    """
    if isinstance(secrets, (str, bytes)):
        raise TypeError("secrets must be a list")
    found = tuple(each.encode() if isinstance(each, str) else bytes(each) for each in secrets)
    if not found or not all(found):
        raise ValueError("there must be a secret, and none may be empty")
    return found


def _digest(secret: bytes, stamp: str, local: str, address: Address) -> str:
    text = f"{stamp}{local}@{address.domain.lower()}"
    return hmac.new(secret, text.encode(), "sha1").hexdigest()[:6]
