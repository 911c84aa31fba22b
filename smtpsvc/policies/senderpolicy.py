"""
Evaluate SPF (RFC 7208) by the library pyspf, with answers of the DNS that are fetched before they are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults

from smtpsvc.extras import need
from smtpsvc.resolver import LookupFailed, MailExchanger, NoSuchName, Resolver

#: Octets of one record, and of all that one check reads; RFC 7208 §3.4 wants 450 for one.
LONGEST_RECORD: Final = 4096
LONGEST_IN_ALL: Final = 10240
#: Rounds of questions; a record may have 10 that need some (RFC 7208 §4.6.4).
MOST_ROUNDS: Final = 40
#: Hosts of one mx, and names of one ptr, that count (RFC 7208 §4.6.4).
MOST_HOSTS: Final = 10

#: What is known of the DNS in one check: records, or why there are none.
_Known = dict[tuple[str, str], "tuple[Any, ...] | Exception"]


async def check_spf(resolver: Resolver, host: str, sender: str, helo: str) -> tuple[str, str]:
    """
    Evaluate SPF. The record is read again after each round of questions, so nothing waits in a thread.

    :param host: the client's address.
    :param sender: in ASCII as far as its domain goes; "" for that of *helo* alone.
    :returns: the result, as ``pass``, and what is to say about it, which may have strangers' words.
    """
    known: _Known = {}
    for _ in range(MOST_ROUNDS):
        query = _query(host, sender, helo, known)
        try:
            result, _, why = query.check()
        except Exception as error:
            # Of the library, for what it has not expected; the record is a stranger's.
            result, why = "permerror", f"the record cannot be read: {type(error).__name__}"
        if not query.needed:
            return result, "" if result in ("pass", "none") else str(why)
        await _fetch(resolver, query.needed, known)
    return "permerror", "the record asks too much"


async def _fetch(resolver: Resolver, needed: Iterable[tuple[str, str]], known: _Known) -> None:
    """Ask what is needed, and what will be: the addresses of what mx and ptr have given."""
    questions = list(needed)
    while questions:
        answers = await gatherResults([Deferred.fromCoroutine(_answer(resolver, *each)) for each in questions])
        known.update(zip(questions, answers, strict=True))
        more: list[tuple[str, str]] = []
        for (_, kind), answer in zip(questions, answers, strict=True):
            if isinstance(answer, tuple) and kind in ("MX", "PTR"):
                names = [each.host if isinstance(each, MailExchanger) else each for each in sorted(answer)]
                more += [(name, "A/AAAA") for name in names[:MOST_HOSTS] if name]
        questions = [each for each in more if each not in known]


async def _answer(resolver: Resolver, name: str, kind: str) -> tuple[Any, ...] | Exception:
    try:
        if kind == "A/AAAA":
            return await resolver.addresses(name)
        return await resolver.lookup(name, kind)
    except (NoSuchName, LookupFailed) as error:
        return error


class _Replayed:
    """The part of ``spf.query`` that asks the DNS; it has answers that are known, and notes questions that are not."""

    known: _Known
    needed: list[tuple[str, str]]
    void_lookups: int

    def dns(self, name: str, qtype: str, cnames: object = None, ignore_void: bool = False) -> list[Any]:
        """Give records as the library has them."""
        spf = library()
        name = str(name).lower().removesuffix(".")
        if not name or not all(0 < len(label) < 64 for label in name.split(".")):
            return []
        answer = self.known.get((name, qtype))
        hosts = self.known.get((name, "A/AAAA")) if answer is None and qtype in ("A", "AAAA") else None
        if isinstance(hosts, tuple):
            answer = tuple(each for each in hosts if (":" in each) == (qtype == "AAAA"))
        if answer is None:
            if (name, qtype) not in self.needed:
                self.needed.append((name, qtype))
            raise spf.TempError("not asked yet")
        if isinstance(answer, LookupFailed):
            raise spf.TempError("the DNS has no answer")
        if isinstance(answer, Exception) or not answer:
            self.void_lookups += not ignore_void
            if self.void_lookups > spf.MAX_VOID_LOOKUPS:
                raise spf.PermError(f"Void lookup limit of {spf.MAX_VOID_LOOKUPS} exceeded")
            return []
        if qtype == "MX":
            return [(each.preference, each.host) for each in answer]
        if qtype == "TXT":
            self._measure(spf)
            return [(each,) for each in answer]
        return list(answer)

    def _measure(self, spf: Any) -> None:
        """Read no more than is good for us: a long record takes long, in each round."""
        sizes = [
            len(each)
            for (_, kind), answer in self.known.items()
            if kind == "TXT" and isinstance(answer, tuple)
            for each in answer
            if each[:6].lower() == b"v=spf1"
        ]
        if sum(sizes) > LONGEST_IN_ALL or max(sizes, default=0) > LONGEST_RECORD:
            raise spf.PermError("the record is too long")


@cache
def library() -> Any:
    """
    Give the library.

    :raises ValueError: with a sentence, if it is not installed.
    """
    return need("spf", "mailauth", "SPF")


@cache
def _query_class() -> Any:
    return type("Query", (_Replayed, library().query), {})


def _query(host: str, sender: str, helo: str, known: _Known) -> Any:
    query = _query_class()(host, sender, helo)
    query.known = known
    query.needed = []
    return query
