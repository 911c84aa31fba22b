"""
A SASL mechanism of one's own: X-TOTP logs in with the six digits that an app shows (RFC 6238).

    python mechanism.py alice=JBSWY3DPEHPK3PXP
    python mechanism.py alice=JBSWY3DPEHPK3PXP tcp:2525

Each account is a name and its secret in base32, as apps want it. The client sends the name, NUL, and the digits:

    C: AUTH X-TOTP
    S: 334
    C: base64("alice" NUL "123456")
    S: 235 2.7.0 Logged in

A mechanism makes credentials of what the client sends, and knows nothing of SMTP or of secrets. A checker judges them,
as it does everywhere in ``twisted.cred``.
"""

import base64
import hmac
import struct
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.internet import defer, endpoints, task
from zope.interface import implementer

from smtpsvc import AccountRealm, Settings, SMTPFactory
from smtpsvc.backends.null import NullBackend
from smtpsvc.sasl import Challenge, Context, Done, Mechanism, SASLError, Steps, text_of

#: Seconds for which the digits are good.
STEP = 30


class ITimedCode(ICredentials):
    """A name, and the digits that its owner's app shows now."""


@implementer(ITimedCode)
class TimedCode:
    """What a client has sent."""

    def __init__(self, username: str, code: str) -> None:
        self.username = username
        self.code = code


class TOTP(Mechanism):
    """X-TOTP. The digits are of no use half a minute later, so it runs without TLS too."""

    name = "X-TOTP"
    credentials = (ITimedCode,)

    def exchange(self, context: Context, response: bytes | None) -> Steps:
        """Take the message, asking for it if it was not sent with the command."""
        if response is None:
            response = yield Challenge()
        username, nul, code = response.partition(b"\0")
        if not nul:
            raise SASLError("A response is: name, NUL, six digits")
        return Done(TimedCode(text_of(username), text_of(code)))


@implementer(ICredentialsChecker)
class TimedCodes:
    """
    Knows the secret of each account. Digits are good once.

    :param now: gives the time, in seconds since the epoch.
    """

    credentialInterfaces = (ITimedCode,)

    def __init__(self, secrets: Mapping[str, bytes], now: Callable[[], float] = time.time) -> None:
        self.secrets = secrets
        self.now = now
        self.used: dict[str, int] = {}

    def requestAvatarId(self, credentials: Any) -> defer.Deferred[Any]:
        """Give the name of who has shown good digits: of this step, or of the one before."""
        name = credentials.username
        step = int(self.now()) // STEP
        for each in (step, step - 1):
            # An unknown name takes as long as a wrong code.
            good = hmac.compare_digest(code(self.secrets.get(name, b"?"), each).encode(), credentials.code.encode())
            if good and name in self.secrets and each > self.used.get(name, 0):
                self.used[name] = each
                return defer.succeed(name)
        return defer.fail(UnauthorizedLogin())


def code(secret: bytes, step: int) -> str:
    """Make the six digits of a step (RFC 4226 §5.3)."""
    digest = hmac.digest(secret, struct.pack(">Q", step), "sha1")
    (number,) = struct.unpack_from(">I", digest, digest[-1] & 15)
    return f"{(number & 0x7FFFFFFF) % 1_000_000:06}"


async def main(reactor: Any, account: str, where: str = "tcp:2525:interface=127.0.0.1") -> None:
    name, _, secret = account.partition("=")
    portal = Portal(AccountRealm(), [TimedCodes({name: base64.b32decode(secret)})])
    factory = SMTPFactory(NullBackend(), Settings(require_auth=True), portal=portal, mechanisms=[TOTP()])
    await endpoints.serverFromString(reactor, where).listen(factory)
    await defer.Deferred()


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
