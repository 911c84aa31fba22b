"""
Dialogues that know the grammar, and break it: what the fuzz sends.

Everything comes from a :class:`random.Random`, so a seed gives the same dialogues again.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from random import Random
from typing import Final

from tests.proxies import block, tls_tlv, tlv

#: Stands behind what could break a line of the log: a line that begins with it was forged.
FORGED: Final = b"FORGED"

#: The kinds of listeners: what comes first, and which greeting they take.
KINDS: Final = ("smtp", "submission", "lmtp", "smtps", "haproxy")

USER, PASSWORD = b"joe", b"open sesame"

_ADDRESSES: Final = [
    b"a@x.example", b"b@y.example", b"", b"postmaster", b'"quoted local"@x.example', b'"a\\"b"@[192.0.2.1]',
    b"u@[IPv6:2001:db8::1]", "\u00fc@b\u00fccher.example".encode(), b"@r.example,@s.example:u@t.example",
    b"a" * 64 + b"@" + b"x" * 63 + b".example", b"a@" + b"x." * 130 + b"e", b"..@x.example", b"a b@x.example", b"a@-x",
    "x\u202ey\u2028".encode() + FORGED + b"@x.example", b"a@x.example\x1b[31m", b"\xff@x.example",
    b"<a@x.example", b"a" * 3000,
]  # fmt: skip
_MAIL_PARAMS: Final = [
    b"", b"", b"", b" SIZE=100", b" SIZE=99999999999", b" BODY=8BITMIME", b" BODY=BINARYMIME", b" BODY=7BIT",
    b" SMTPUTF8",
    b" RET=HDRS ENVID=x+2By", b" AUTH=<>", b" AUTH=a+40b", b" PRDR", b" REQUIRETLS", b" HOLDFOR=10", b" BY=100;R",
    b" MT-PRIORITY=3", b" X=Y", b" SIZE=1 SIZE=1", b" =", b" SIZE=", b" BODY=\x00",
    b" SMTPUTF8 BODY=8BITMIME SIZE=5000",
]  # fmt: skip
_RCPT_PARAMS: Final = [
    b"", b"", b"", b" NOTIFY=NEVER", b" NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a@b.example", b" NOTIFY=NEVER,FAILURE",
    b" RRVS=2014-04-03T23:01:00Z", b" ORCPT=utf-8;a\\x{fc}@b", b" ORCPT=", b" X",
]  # fmt: skip
_LINES: Final = [
    b"NOOP", b"NOOP x", b"RSET", b"HELP", b"HELP MAIL", b"VRFY a", b"EXPN list", b"QUIT", b"TURN", b"ETRN x",
    b"SEND FROM:<>",
    b"", b" ", b"DATA", b"DATA x", b".", b"STARTTLS x", b"AUTH", b"MAIL", b"RCPT", b"RCPT TO:",
    b"MAIL FROM:<>x", b"\xff\xfe",
    b"EHLO", b"HELO", b"LHLO", b"EHLO \x1b]0;" + FORGED + b"\x07", b"HELO \xe2\x80\xa8" + FORGED, b"EHLO [192.0.2.1]",
    b"GET / HTTP/1.1\r\nHost: x", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"a\nb", b"a\rb", b"a\0b", b"BDAT",
    b"BDAT x", b"BDAT -1", b"BDAT 0", b"BDAT 0 LAST", b"BDAT 99999999999999999999999999", b"BDAT 3 last",
    b"NOOP " + b"x" * 5000, b"x" * 70000, b"PROXY UNKNOWN", b"XCLIENT", b"XFORWARD",
]  # fmt: skip
_XCLIENT: Final = [
    b"XCLIENT ADDR=192.0.2.9 PORT=25 NAME=client.example", b"XCLIENT ADDR=[UNAVAILABLE] HELO=x PROTO=SMTP",
    b"XCLIENT NAME=+0D+0A" + FORGED, b"XCLIENT ADDR=IPV6:2001:db8::1 LOGIN=joe", b"XCLIENT ADDR=x",
    b"XFORWARD ADDR=192.0.2.9 NAME=a IDENT=x SOURCE=REMOTE", b"XFORWARD HELO=+1B" + FORGED, b"XFORWARD X=Y",
]  # fmt: skip
_PIECES: Final = [
    b"text", b".", b"..", b"\r\n", b"\r\n.\r\n", b"\r\n", b"\n", b"\r", b"\0", b"\n.\n", b"\r\n.\n", b"\r.\r",
    b"\xff\xfe",
    b"Subject: x\r\n", b"x" * 1200, b"Received: by x\r\n", b"--\r\n", b"MAIL FROM:<smuggled@x.example>\r\n",
]  # fmt: skip
#: Put into what was right.
_ODD: Final = (b"\r", b"\n", b"\0", b" ", b"<", b">", b":", b"=", b"\xff")


@dataclass(frozen=True, slots=True)
class Dialogue:
    """What a client sends, and how it goes."""

    packets: list[bytes]
    #: ``quit``, ``close``, ``half`` or ``reset``.
    ending: str
    #: True if a real handshake follows the STARTTLS that is last, should that be taken.
    handshake: bool = False


def make(choices: Random, kind: str) -> Dialogue:
    """
    Make a dialogue.

    :param kind: of the listener, one of :data:`KINDS`.
    """
    stream = bytearray()
    if kind == "haproxy":
        stream += _mutated(choices, _proxy_header(choices), 0.2)
    if choices.random() < 0.95:
        stream += b"%b client%d.example\r\n" % (_hello(choices, kind), choices.randrange(100))
    for _ in range(choices.randint(0, 12)):
        stream += _mutated(choices, _step(choices), 0.15)
    handshake = choices.random() < 0.1
    if handshake:
        stream += b"RSET\r\nSTARTTLS\r\n"
    elif choices.random() < 0.05:
        stream += choices.randbytes(choices.randrange(300))
    return Dialogue(_cut(choices, bytes(stream)), choices.choice(("quit", "quit", "close", "half", "reset")), handshake)


def _hello(choices: Random, kind: str) -> bytes:
    usual = b"LHLO" if kind == "lmtp" else b"EHLO"
    return usual if choices.random() < 0.9 else choices.choice((b"HELO", b"EHLO", b"LHLO", b"ehlo"))


def _step(choices: Random) -> bytes:
    """Make one command, or several that belong together."""
    return choices.choices(
        (_transaction, _line, _mail, _rcpt, _chunk, _auth, _extension), (6, 6, 2, 3, 2, 2, 1)
    )[0](choices)


def _line(choices: Random) -> bytes:
    return choices.choice(_LINES) + b"\r\n"


def _mail(choices: Random) -> bytes:
    return b"MAIL FROM:<%b>%b\r\n" % (choices.choice(_ADDRESSES), choices.choice(_MAIL_PARAMS))


def _rcpt(choices: Random) -> bytes:
    return b"RCPT TO:<%b>%b\r\n" % (choices.choice(_ADDRESSES), choices.choice(_RCPT_PARAMS))


def _extension(choices: Random) -> bytes:
    return choices.choice(_XCLIENT) + b"\r\n"


def _content(choices: Random) -> bytes:
    return b"".join(choices.choice(_PIECES) for _ in range(choices.randint(0, 20)))


def _chunk(choices: Random) -> bytes:
    content = _content(choices)
    size = len(content) if choices.random() < 0.95 else choices.randrange(2000)
    return b"BDAT %d%b\r\n%b" % (size, b" LAST" if choices.random() < 0.5 else b"", content)


def _transaction(choices: Random) -> bytes:
    """Make a transaction that is mostly good."""
    usual = choices.random() < 0.7
    parts = [b"MAIL FROM:<a@x.example>\r\n" if usual else _mail(choices)]
    parts += [b"RCPT TO:<b%d@y.example>\r\n" % n if usual else _rcpt(choices) for n in range(choices.randint(1, 3))]
    if choices.random() < 0.4:
        parts += [_chunk(choices) for _ in range(choices.randint(1, 3))]
    else:
        good = b"Subject: x\r\n\r\n..text\r\n" * choices.randint(1, 50)
        lines = _content(choices) if choices.random() < 0.5 else good
        parts += [b"DATA\r\n", lines, b"\r\n.\r\n"]
    return b"".join(parts)


def _auth(choices: Random) -> bytes:
    """Make an AUTH exchange, right, wrong or broken."""
    plain = base64.b64encode(b"\0" + USER + b"\0" + (PASSWORD if choices.random() < 0.5 else b"FORGED\r\n"))
    name, password = base64.b64encode(USER), base64.b64encode(PASSWORD)
    return choices.choice((
        b"AUTH PLAIN " + plain + b"\r\n",
        b"AUTH PLAIN\r\n" + plain + b"\r\n",
        b"AUTH PLAIN\r\n*\r\n",
        b"AUTH LOGIN\r\n" + name + b"\r\n" + password + b"\r\n",
        b"AUTH LOGIN " + name + b"\r\n*\r\n",
        b"AUTH SCRAM-SHA-256 " + base64.b64encode(b"n,,n=joe,r=abc") + b"\r\nYz1iaXdzLHI9eCxwPXk=\r\n",
        b"AUTH EXTERNAL =\r\n",
        b"AUTH OAUTHBEARER " + base64.b64encode(b"n,,\x01auth=Bearer x\x01\x01") + b"\r\nAQ==\r\n",
        b"AUTH PLAIN " + b"A" * 13000 + b"\r\n",
        b"AUTH PLAIN\r\n" + b"A" * 13000 + b"\r\n",
        b"AUTH NONSENSE\r\n",
        b"AUTH PLAIN ====\r\n",
    ))  # fmt: skip


def _proxy_header(choices: Random) -> bytes:
    """Make a PROXY header, mostly good."""
    address = bytes([192, 0, 2, 1, 198, 51, 100, 1, 0xC3, 0x50, 0, 25])
    return choices.choice((
        b"PROXY TCP4 192.0.2.1 198.51.100.1 50000 25\r\n",
        b"PROXY TCP6 2001:db8::1 2001:db8::2 50000 25\r\n",
        b"PROXY UNKNOWN\r\n",
        b"PROXY TCP4 \x1b" + FORGED + b"\r\n",
        b"PROXY " + b"x" * 200,
        block(address),
        block(address + tlv(2, b"\r\n" + FORGED) + tls_tlv()),
        block(b"", command=0x20),
        block(address, size=5000),
        block(address[:5]),
    ))  # fmt: skip


def _mutated(choices: Random, octets: bytes, chance: float) -> bytes:
    """Break octets a little, with a chance."""
    while octets and choices.random() < chance:
        place = choices.randrange(len(octets))
        end = min(len(octets), place + choices.randint(1, 8))
        change = choices.randrange(5)
        if change == 0:
            octets = octets[:place] + octets[end:]
        elif change == 1:
            octets = octets[:place] + choices.choice(_ODD) + octets[place:]
        elif change == 2:
            octets = octets[:place] + choices.randbytes(end - place) + octets[end:]
        elif change == 3:
            octets = octets[:end] + octets[place:]
        else:
            octets = octets[:place]
    return octets


def _cut(choices: Random, stream: bytes) -> list[bytes]:
    """Cut a stream into packets."""
    if choices.random() < 0.3:
        return [stream]
    packets = []
    size = choices.choice((3, 50, 500, 5000))
    place = 0
    # Many packets cost time and find little.
    size = max(size, len(stream) // 200)
    while place < len(stream):
        end = place + choices.randint(1, 2 * size)
        packets.append(stream[place:end])
        place = end
    return packets
