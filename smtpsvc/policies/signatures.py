"""
Verifying signatures of messages, DKIM (RFC 6376) and ARC (RFC 8617), of any stranger's message.

The cryptography and the rules are dkimpy's. What stands here keeps hostile messages and keys from costing much: fields
are prepared so that nothing in the library takes more time than their length warrants, and keys are looked up before,
so that no thread waits. :func:`verify_dkim` and :func:`verify_arc` are called in threads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import IO, Any, Final

from twisted.internet.defer import Deferred, gatherResults

from smtpsvc.extras import need
from smtpsvc.grammar.shown import shown
from smtpsvc.message.fields import Field, Header, header_end
from smtpsvc.policies.authentication import Finding
from smtpsvc.resolver import LookupFailed, NoSuchName, Resolver

#: Octets of a field with a signature that are looked at, and blanks in a row in it: expressions of the library take
#: the square of both.
LONGEST_FIELD: Final = 6144
MOST_BLANKS: Final = 32
#: Names that one signature may cover, and fields that a signed message may have.
MOST_NAMES: Final = 256
MOST_FIELDS: Final = 2000
#: Octets of a key's record, and bits of its parts: powers of larger numbers take seconds.
LONGEST_KEY: Final = 4096
LARGEST_KEY_BITS: Final = 4096
LARGEST_EXPONENT_BITS: Final = 64

_BLANKS = re.compile(rb"\s{%d}" % (MOST_BLANKS + 1))


@dataclass(frozen=True, slots=True)
class Signature:
    """
    One field with a signature.

    :param tags: without blanks around their values; empty if there is a problem.
    :param problem: why it is not verified; "" if it is.
    """

    raw: Field
    tags: Mapping[bytes, bytes] = field(default_factory=dict)
    problem: str = ""

    def text(self, tag: bytes) -> str:
        """Give a tag as people may see it."""
        return shown(b"".join(self.tags.get(tag, b"").split()))

    @property
    def key_name(self) -> str:
        """The name of the key's record."""
        return f"{self.text(b's')}._domainkey.{self.text(b'd')}"

    @property
    def properties(self) -> tuple[tuple[str, str], ...]:
        """Which signature it is, for a :class:`~smtpsvc.policies.authentication.Finding`."""
        named = (("header.d", self.text(b"d")), ("header.s", self.text(b"s")), ("header.b", self.text(b"b")[:8]))
        return tuple((name, text) for name, text in named if text)


@dataclass(frozen=True, slots=True)
class Key:
    """
    A key's record.

    :param temporary: True if the DNS has no answer.
    :param strict: True if it is for its own domain only, and not for those below.
    """

    record: bytes | None = None
    problem: str = ""
    temporary: bool = False
    strict: bool = False


def library() -> Any:
    """
    Import dkimpy.

    :raises ValueError: with a sentence, if it is not installed.
    """
    return need("dkim", "mailauth", "DKIM")


def read_signature(raw: Field) -> Signature:
    """Read a field with a signature."""
    value = raw.raw.partition(b":")[2]
    if len(value) > LONGEST_FIELD or _BLANKS.search(value):
        return Signature(raw, problem="the field is too long")
    try:
        tags = library().util.parse_tag_value(value)
    except Exception:
        return Signature(raw, problem="the field makes no sense")
    signature = Signature(raw, tags)
    if not tags.get(b"d") or not tags.get(b"s"):
        return Signature(raw, problem="it names no key")
    if tags.get(b"h", b"").count(b":") >= MOST_NAMES:
        return Signature(raw, tags, "it covers too many fields")
    if tags.get(b"a", b"").lower() == b"rsa-sha1":
        # RFC 8301 §3.1.
        return Signature(raw, tags, "SHA-1 proves nothing")
    return signature


async def fetch_keys(resolver: Resolver, signatures: Iterable[Signature]) -> dict[str, Key]:
    """Look the keys of signatures up, all at once."""
    names = sorted({each.key_name for each in signatures if not each.problem})
    keys = await gatherResults([Deferred.fromCoroutine(_fetch(resolver, name)) for name in names])
    return dict(zip(names, keys, strict=True))


async def _fetch(resolver: Resolver, name: str) -> Key:
    try:
        records = await resolver.texts(name)
    except NoSuchName:
        return Key(problem="there is no such key")
    except LookupFailed:
        return Key(problem="the key cannot be had for now", temporary=True)
    return _judged(name, records[0]) if records else Key(problem="there is no such key")


def _judged(name: str, record: bytes) -> Key:
    """Refuse keys that cannot be used, and those that would take seconds."""
    if len(record) > LONGEST_KEY:
        return Key(problem="the key is too large")
    try:
        key, bits, kind, _ = library().evaluate_pk(name.encode(), record)
    except Exception:
        revoked = re.search(rb"(?:^|;)\s?p\s?=\s?(?:;|$)", record) is not None
        return Key(problem="the key is revoked" if revoked else "the key makes no sense")
    if kind == b"rsa" and (bits > LARGEST_KEY_BITS or key["publicExponent"].bit_length() > LARGEST_EXPONENT_BITS):
        return Key(problem="the key is too large")
    flags = library().util.parse_tag_value(record).get(b"t", b"").split(b":")
    return Key(record, strict=b"s" in [flag.strip().lower() for flag in flags])


class _Prepared:
    """The part of dkimpy's signers that chooses the body: prepared once, in the form that each signature wants."""

    body: bytes
    simple: bytes
    relaxed: bytes | None
    partial: bool

    def verify_sig_process(self, sig: dict[bytes, bytes], include_headers: Any, sig_header: Any, dnsfunc: Any) -> Any:
        header, _, body = sig.get(b"c", b"simple/simple").partition(b"/")
        if body == b"relaxed":
            if self.relaxed is None:
                self.relaxed = relaxed_body(self.simple)
            self.body = self.relaxed
            if self.body:
                # It is in that form already; the library's way is slow for some.
                sig = {**sig, b"c": header + b"/simple"}
        else:
            self.body = self.simple
        if b"l" in sig and self.body[int(sig[b"l"]) :].strip():
            self.partial = True
        return super().verify_sig_process(sig, include_headers, sig_header, dnsfunc)  # type: ignore[misc]


@cache
def _kinds() -> tuple[Any, Any]:
    dkim = library()
    return type("DKIM", (_Prepared, dkim.DKIM), {}), type("ARC", (_Prepared, dkim.ARC), {})


def simple_body(octets: bytes) -> bytes:
    """Give a body without empty lines at its end (RFC 6376 §3.4.3)."""
    octets = octets.rstrip(b"\r\n")
    return octets + b"\r\n" if octets else b""


def relaxed_body(octets: bytes) -> bytes:
    """Give a body with one space for blanks in a row, and none at the ends of lines (RFC 6376 §3.4.4)."""
    octets = octets.replace(b"\t", b" ")
    while b"  " in octets:
        octets = octets.replace(b"  ", b" ")
    return simple_body(octets.replace(b" \r\n", b"\r\n"))


def _signer(kind: Any, header: Header, body: bytes) -> Any:
    signer = kind(None)
    # As the library would read them, whose own reader takes the square of a field's lines.
    signer.headers = [[each.name.encode(), each.raw.partition(b":")[2]] for each in header if each.name]
    signer.simple = simple_body(body)
    signer.relaxed = None
    signer.partial = False
    return signer


def _read_all(file: IO[bytes]) -> tuple[Header, bytes]:
    with file:
        content = file.read()
    end = header_end(content)
    end = len(content) if end < 0 else end
    return Header(content[:end]), content[end:]


def _lookup(keys: Mapping[str, Key]) -> Any:
    def answer(name: bytes, timeout: float = 0) -> bytes | None:
        key = keys.get(shown(b"".join(name.rstrip(b".").split())))
        return None if key is None else key.record

    return answer


def verify_dkim(file: IO[bytes], signatures: Iterable[Signature], keys: Mapping[str, Key]) -> list[Finding]:
    """
    Verify signatures of a message.

    :param file: the content; it is closed.
    :param signatures: of its fields DKIM-Signature, the topmost first, none left out between them.
    """
    header, body = _read_all(file)
    signer = _signer(_kinds()[0], header, body)
    if len(header) > MOST_FIELDS:
        return [Finding("dkim", "permerror", each.properties, "there are too many fields") for each in signatures]
    return [_verified(signer, place, each, keys) for place, each in enumerate(signatures)]


def _verified(signer: Any, place: int, signature: Signature, keys: Mapping[str, Key]) -> Finding:
    properties = signature.properties
    if signature.problem:
        return Finding("dkim", "permerror", properties, signature.problem)
    key = keys[signature.key_name]
    if key.problem:
        return Finding("dkim", "temperror" if key.temporary else "permerror", properties, key.problem)
    if b"from" not in [each.strip().lower() for each in signature.tags.get(b"h", b"").split(b":")]:
        # RFC 6376 §5.4.
        return Finding("dkim", "permerror", properties, "it does not cover From:")
    if key.strict and signature.text(b"i").rpartition("@")[2].lower() not in ("", signature.text(b"d").lower()):
        # RFC 6376 §3.6.1, t=s.
        return Finding("dkim", "permerror", properties, "the key is not for domains below")
    signer.partial = False
    try:
        good = signer.verify(place, dnsfunc=_lookup(keys))
    except library().ValidationError as error:
        altered = str(error).startswith("body hash mismatch")
        reason = "the body was altered" if altered else shown(str(error).encode()[:100])
        return Finding("dkim", "fail" if altered else "permerror", properties, reason)
    except Exception as error:
        # Of the library, and whatever else a stranger's octets lead to.
        return Finding("dkim", "permerror", properties, shown(str(error).encode()[:100]))
    if not good:
        return Finding("dkim", "fail", properties, "the signature does not match")
    if signer.partial:
        # RFC 6376 §8.2: anybody may have written the rest.
        return Finding("dkim", "policy", properties, "it does not cover the whole body")
    return Finding("dkim", "pass", properties)


@dataclass(frozen=True, slots=True)
class Chain:
    """
    In ``envelope.results``: what is known of a message's ARC chain.

    :param result: ``pass``, ``fail`` or ``none``.
    :param sealers: the domains that have sealed it, the last one first; empty unless it passes.
    :param claims: the ARC-Authentication-Results of each, without the number.
    """

    result: str
    sealers: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    reason: str = ""


def verify_arc(file: IO[bytes], keys: Mapping[str, Key]) -> Chain:
    """
    Verify the ARC chain of a message.

    :param file: the content; it is closed.
    :param keys: of all its seals and signatures.
    """
    header, body = _read_all(file)
    if len(header) > MOST_FIELDS:
        return Chain("fail", reason="there are too many fields")
    try:
        result, sets, reason = _signer(_kinds()[1], header, body).verify(dnsfunc=_lookup(keys))
    except Exception as error:
        result, sets, reason = b"fail", [], str(error)
    if result != b"pass":
        known = result in (b"none", b"fail")
        return Chain(result.decode() if known else "fail", reason=shown(str(reason).encode()[:100]))
    return Chain(
        "pass",
        tuple(shown(each["as-domain"]).lower() for each in sets),
        tuple(shown(each["aar-value"][:LONGEST_FIELD].strip()).partition(";")[2] for each in sets),
    )
