"""
What the tests of sender authentication share: keys, signed messages, the examples of the RFCs, and a server.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import dkim
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock

from smtpsvc.policies.chain import with_policies
from smtpsvc.policies.dkim import DKIM
from smtpsvc.policies.spf import SPF
from smtpsvc.resolver import Resolver
from smtpsvc.settings import Role
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.nameserver import Zone, fake_resolver
from tests.support import settings_with
from tests.test_policies_held import SameThread

ID = "mx.example"
CLIENT = "192.0.2.1"

PLAIN = b"From: Ann <ann@x.example>\r\nTo: b@y.example\r\nSubject: Hello\r\n\r\nGood  morning \r\n\r\n"

#: The message of RFC 8463, appendix A.3, and of RFC 6376, appendix A, as it was before it was signed.
RFC_MESSAGE = (
    b"From: Joe SixPack <joe@football.example.com>\r\n"
    b"To: Suzie Q <suzie@shopping.example.net>\r\n"
    b"Subject: Is dinner ready?\r\n"
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
    b"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n"
    b"\r\nHi.\r\n\r\nWe lost the game. Are you hungry yet?\r\n\r\nJoe.\r\n"
)
RFC_8463 = (
    b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n"
    b" d=football.example.com; i=@football.example.com;\r\n"
    b" q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n"
    b" subject : date : message-id : from : subject : date;\r\n"
    b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
    b" b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus\r\n"
    b" Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==\r\n"
) + RFC_MESSAGE
RFC_6376 = (
    b"DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;\r\n"
    b"      c=simple/simple; q=dns/txt; i=joe@football.example.com;\r\n"
    b"      h=Received : From : To : Subject : Date : Message-ID;\r\n"
    b"      bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
    b"      b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB\r\n"
    b"      4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/LbvaHut\r\n"
    b"      KVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV\r\n"
    b"      4bmp/YzhwvcubU4=;\r\n"
    b"Received: from client1.football.example.com  [192.0.2.1]\r\n"
    b"      by submitserver.example.com with SUBMISSION;\r\n"
    b"      Fri, 11 Jul 2003 21:01:54 -0700 (PDT)\r\n"
) + RFC_MESSAGE
RFC_6376_KEY = (
    "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYtIxN2SnFCjxOCKG9v3b4j"
    "YfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhitdY9tf6mcwGjaNBcWToIMmPSPDdQ"
    "PNUYckcQ2QIDAQAB"
)
RFC_KEYS = {
    "brisbane._domainkey.football.example.com": [
        "TXT v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    ],
    "brisbane._domainkey.example.com": [f"TXT v=DKIM1; p={RFC_6376_KEY}"],
}


@cache
def key(bits: int = 1024) -> tuple[bytes, str]:
    """Make a key: the private one in PEM, and the record of the public one."""
    made = rsa.generate_private_key(65537, bits)
    form = serialization.PrivateFormat.TraditionalOpenSSL
    private = made.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    public = made.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}"


def zone(names: Mapping[str, Sequence[str]] | None = None) -> Zone:
    """Make a zone with the key of :func:`signed`, and more names."""
    return Zone({"s._domainkey.x.example": [f"TXT {key()[1]}"], **RFC_KEYS, **(names or {})})


def signed(message: bytes = PLAIN, domain: str = "x.example", selector: str = "s", **options: Any) -> bytes:
    """Sign a message."""
    field: bytes = dkim.sign(message, selector.encode(), domain.encode(), key()[0], **options)
    return field + message


def make_spf(resolver: Resolver, clock: Any = None, **options: Any) -> SPF:
    """Make the policy."""
    return SPF(resolver, id=ID, clock=clock or Clock(), **options)


def make_dkim(resolver: Resolver, **options: Any) -> DKIM:
    """Make the policy; its threads are this one."""
    return DKIM(resolver, id=ID, run=maybeDeferred, **options)


class Server:
    """
    A server with policies in front of a scripted backend.

    :param make: makes them of a resolver.
    """

    def __init__(
        self, make: Any, names: Zone | Mapping[str, Sequence[str]] | None = None, *, role: Role = Role.SMTP
    ) -> None:
        self.zone = names if isinstance(names, Zone) else zone(names)
        self.clock = Clock()
        self.backend = ScriptedBackend()
        made = make(fake_resolver(self.zone, self.clock))
        policies = made if isinstance(made, (list, tuple)) else [made]
        chain = with_policies(self.backend, *policies, reactor=SameThread())
        self.factory, _ = clocked_factory(chain, settings_with(add_received=False), role=role)

    def connect(self, address: Any = None, helo: str = "mail.x.example") -> Wire:
        """Connect, and say EHLO."""
        hello = "LHLO" if self.factory.role is Role.LMTP else "EHLO"
        return Wire(self.factory, address).forget().say(f"{hello} {helo}").forget()

    def mail(self, sender: str = "ann@x.example", **options: Any) -> Wire:
        """Begin a transaction."""
        return self.connect(**options).say(f"MAIL FROM:<{sender}>")

    def send(self, content: bytes = PLAIN, sender: str = "ann@x.example", **options: Any) -> Wire:
        """Send a message."""
        wire = self.mail(sender, **options).say("RCPT TO:<b@y.example>", "DATA")
        stuffed = b"".join(b"." + line if line[:1] == b"." else line for line in content.splitlines(keepends=True))
        wire.receive(stuffed + b".\r\n")
        return wire

    @property
    def content(self) -> bytes:
        """What the backend has got last."""
        return self.backend.messages[-1].content

    def told(self) -> str:
        """The field at the top of what the backend has got last, unfolded, without our name."""
        name, _, value = self.content.replace(b"\r\n ", b" ").partition(b"\r\n")[0].decode().partition(": ")
        assert name == "Authentication-Results", name
        return value.partition("; ")[2]
