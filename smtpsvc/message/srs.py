"""
Senders of forwarded mail: SRS, by which a forwarder sends in its own name and bounces still find the way back.

Mail of ``user@origin.example`` that ``forwarder.example`` sends on comes from
``SRS0=HHHH=TT=origin.example=user@forwarder.example``: ``HHHH`` is a keyed digest, so that nobody else can make such
an address, and ``TT`` the day. A second forwarder keeps the first one's words:
``SRS1=HHHH=forwarder.example==HHHH=TT=origin.example=user@second.example``. Addresses are those of libsrs2 and
postsrsd with the same secret.
"""

from __future__ import annotations

import base64
import hmac
import re
import time
from collections.abc import Callable, Sequence
from typing import Final

from smtpsvc.grammar.addresses import MAX_LOCAL, Address, parse_domain
from smtpsvc.message.batv import DAY, read_secrets, unwrap_batv
from smtpsvc.message.mailboxes import quoted, read_mailbox, unquoted

__all__ = ["SRS", "SRSError", "unwrap_sender", "unwrap_srs"]

_BASE32: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
#: Days of the stamp, which has two characters of five bits.
_CYCLE: Final = 1024
#: Local parts that are longer are not looked at.
_LONGEST: Final = 512

_SRS0 = re.compile(r"SRS0[=+-]([^=]{1,27})=([A-Z2-7]{2})=([^=]{1,255})=(.++)", re.IGNORECASE | re.DOTALL)
_SRS1 = re.compile(r"SRS1[=+-]([^=]{1,27})=([^=]{1,255})=([=+-].++)", re.IGNORECASE | re.DOTALL)
# As Exchange Online writes it: the mailbox that forwards stands in front.
_EXCHANGE = re.compile(r"[^=]{1,200}\+SRS=([^=]{1,64})=([^=]{1,8})=([^=]{1,255})=(.++)", re.IGNORECASE | re.DOTALL)


class SRSError(ValueError):
    """An address that was not rewritten here, or too long ago; ``str()`` is a sentence that has none of its text."""


def unwrap_srs(address: Address) -> Address:
    """
    Find who wrote first in a rewritten sender; digests are not checked, so it is for logs and filters only.

    ``SRS0``, ``SRS1`` and what Exchange Online writes (``mailbox+SRS=``) are understood.

    :returns: that address, or *address* itself if it is not rewritten.
    """
    local = unquoted(address.local)
    if len(local) > _LONGEST:
        return address
    again = _SRS1.fullmatch(local)
    if again is not None:
        local = "SRS0" + again[3]
    match = _SRS0.fullmatch(local) or _EXCHANGE.fullmatch(local)
    if match is None:
        return address
    try:
        return read_mailbox(match[4], match[3])
    except ValueError:
        return address


def unwrap_sender(address: Address) -> Address:
    """Undo what forwarders (SRS) and signers (BATV) do to a sender; nothing is checked."""
    return unwrap_batv(unwrap_srs(unwrap_batv(address)))


class SRS:
    """
    Rewrites the senders of mail that is forwarded, and finds the way back for its bounces.

    :param domain: the forwarder's own, which has to take the bounces.
    :param secrets: the first makes addresses, and all are believed: to change it, put the new one in front, and take
        the old one away when *days* are over.
    :param days: for so long an address is good.
    :param digest: its length in characters, 4 to 27; a shorter one is not believed. 4 is what others have.
    :param longest: octets that a local part may have. RFC 5321 §4.5.3.1.1 says 64, and this server takes no more in
        RCPT: a bounce to a longer one would not come in.
    :param clock: the time of day in seconds since the epoch.
    :raises ValueError: with a sentence, if one of these makes no sense.
    """

    def __init__(
        self,
        domain: str,
        secrets: Sequence[bytes | str],
        *,
        days: int = 21,
        digest: int = 4,
        longest: int = MAX_LOCAL,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.domain = parse_domain(domain)
        self._secrets = read_secrets(secrets)
        if not 1 <= days < _CYCLE // 2:
            raise ValueError(f"{days} days: an address is good for 1 to {_CYCLE // 2 - 1} days")
        if not 4 <= digest <= 27:
            raise ValueError(f"a digest of {digest} characters: it must have 4 to 27")
        if not MAX_LOCAL <= longest <= _LONGEST:
            raise ValueError(f"local parts of {longest} octets: it must be {MAX_LOCAL} to {_LONGEST}")
        self._days = days
        self._length = digest
        self._longest = longest
        self._clock = clock

    def forward(self, sender: Address) -> Address:
        """
        Rewrite the sender of a message that is sent on.

        ``<>``, and a sender of our own domain, stay as they are.

        :raises ValueError: if the sender is too long to be rewritten, or has no domain.
        """
        if sender.is_null or sender.ascii_domain == self.domain:
            return sender
        if not sender.domain or "=" in sender.domain:
            raise ValueError("a sender without a domain cannot be rewritten")
        local = unquoted(sender.local)
        again = _SRS1.fullmatch(local)
        if again is not None:
            rewritten = self._second(again[2], again[3])
        elif _SRS0.fullmatch(local):
            rewritten = self._second(sender.ascii_domain, local[4:])
        else:
            stamp = self._stamp()
            parts = (stamp, sender.ascii_domain, local)
            rewritten = "=".join(("SRS0", self._digest(self._secrets[0], *parts), *parts))
        rewritten = quoted(rewritten)
        if len(rewritten.encode()) > self._longest:
            raise ValueError(f"the rewritten local part would be longer than {self._longest} octets")
        return Address(rewritten, self.domain)

    def reverse(self, recipient: Address) -> Address:
        """
        Find the way back, for the recipient of a bounce.

        :returns: for ``SRS0`` who wrote first; for ``SRS1`` the first forwarder's address, which knows the rest.
        :raises SRSError: if the address was not made with one of the secrets, or too long ago.
        """
        local = unquoted(recipient.local)
        if len(local) > _LONGEST:
            raise SRSError("the address is too long")
        again = _SRS1.fullmatch(local)
        match = _SRS0.fullmatch(local)
        if again is not None:
            self._check(again[1], again[2], again[3])
            return _read(f"SRS0{again[3]}", again[2])
        if match is None:
            raise SRSError("the address is not rewritten")
        digest, stamp, domain, user = match.groups()
        self._check(digest, stamp, domain, user)
        day = _BASE32.index(stamp[0].upper()) * 32 + _BASE32.index(stamp[1].upper())
        if (self._today() - day) % _CYCLE > self._days:
            raise SRSError("the address is too old")
        return _read(user, domain)

    def is_ours(self, recipient: Address) -> bool:
        """Say whether an address looks as if it were rewritten, and is in our domain; the digest is not checked."""
        local = unquoted(recipient.local)[:_LONGEST]
        return recipient.ascii_domain == self.domain and bool(_SRS0.fullmatch(local) or _SRS1.fullmatch(local))

    def _second(self, domain: str, rest: str) -> str:
        return "=".join(("SRS1", self._digest(self._secrets[0], domain, rest), domain, rest))

    def _check(self, digest: str, *parts: str) -> None:
        if len(digest) < self._length:
            raise SRSError("the digest of the address is too short")
        # Some servers on the way back write local parts in lower case.
        given = digest.lower().encode()
        # All of them, so that the time says nothing of which it was.
        good = [
            hmac.compare_digest(given, self._digest(secret, *parts, length=len(digest)).lower().encode())
            for secret in self._secrets
        ]
        if not any(good):
            raise SRSError("the digest of the address is not ours")

    def _digest(self, secret: bytes, *parts: str, length: int = 0) -> str:
        text = "".join(parts).lower().encode()
        return base64.b64encode(hmac.digest(secret, text, "sha1"))[: length or self._length].decode()

    def _today(self) -> int:
        return int(self._clock() // DAY) % _CYCLE

    def _stamp(self) -> str:
        day = self._today()
        return _BASE32[day // 32] + _BASE32[day % 32]


def _read(local: str, domain: str) -> Address:
    try:
        return read_mailbox(local, domain)
    except ValueError:
        raise SRSError("what was rewritten is no address") from None
