"""
OAUTHBEARER (RFC 7628) and XOAUTH2, its forerunner: a token instead of a password.
"""

from __future__ import annotations

import json
import re

from smtpsvc.sasl import Challenge, Context, Done, Mechanism, SASLError, Steps, text_of
from smtpsvc.sasl.credentials import BearerLogin, IBearerToken

# RFC 7628 §3.1: gs2-header kvsep *(key "=" value kvsep) kvsep, with %x01 as kvsep.
_OAUTHBEARER = re.compile("([ny]|p=[A-Za-z0-9.-]+),(?:a=([^,]+))?,\x01((?:[A-Za-z]+=[ -~\t\r\n]*\x01)*)\x01")
_XOAUTH2 = re.compile("user=([^\x01]*)\x01auth=([^\x01]*)\x01\x01")
# RFC 6750 §2.1: b64token; the scheme's case does not matter.
_TOKEN = re.compile("bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)


class OAuthBearer(Mechanism):
    """
    OAUTHBEARER: a GS2 header and pairs of keys and values, of which ``auth`` is the token.

    A token that is refused is answered with a challenge that says so in JSON; the client answers
    that with ``%x01``, and then it is told 535 (RFC 7628 §3.2.3).
    """

    name = "OAUTHBEARER"
    plaintext = True
    credentials = (IBearerToken,)
    refusal = {"status": "invalid_token", "schemes": "bearer"}

    def exchange(self, context: Context, response: bytes | None) -> Steps:
        """Take the token, asking for it if it was not sent with the command."""
        if response is None:
            response = yield Challenge()
        identity, token = self.parse(text_of(response))
        return Done(BearerLogin(token), identity, refusal=json.dumps(self.refusal).encode())

    def parse(self, text: str) -> tuple[str, str]:
        """
        Read the client's message.

        :returns: whom it wants to act as, and the token.
        :raises SASLError: if it is malformed.
        """
        match = _OAUTHBEARER.fullmatch(text)
        if match is None:
            raise SASLError("An OAUTHBEARER response is: n,a=name, then auth=Bearer and a token between %x01")
        flag, name, pairs = match.groups()
        if flag.startswith("p="):
            # RFC 7628 §3.1: there is no channel binding.
            raise SASLError("OAUTHBEARER has no channel binding")
        keys = [pair.partition("=") for pair in pairs.split("\x01") if pair]
        values = {key.lower(): value for key, _, value in keys}
        if len(values) != len(keys):
            raise SASLError("A key is given twice")
        return unescape(name or ""), _token(values.get("auth", ""))


class XOAuth2(OAuthBearer):
    """XOAUTH2: ``user=NAME %x01 auth=Bearer TOKEN %x01 %x01``."""

    name = "XOAUTH2"
    refusal = {"status": "401", "schemes": "bearer"}

    def parse(self, text: str) -> tuple[str, str]:
        """Read the client's message."""
        match = _XOAUTH2.fullmatch(text)
        if match is None:
            raise SASLError("An XOAUTH2 response is: user=name, %x01, auth=Bearer and a token, %x01, %x01")
        return match[1], _token(match[2])


def unescape(name: str) -> str:
    """
    Read a ``saslname`` of a GS2 header (RFC 5801 §4), where ``=2C`` is a comma and ``=3D`` an equals sign.

    :raises SASLError: if another ``=`` is in it.
    """
    if re.search("=(?!2C|3D)", name):
        raise SASLError("In a name, = must be followed by 2C or 3D")
    return name.replace("=2C", ",").replace("=3D", "=")


def _token(value: str) -> str:
    match = _TOKEN.fullmatch(value)
    if match is None:
        raise SASLError("auth must be the word Bearer, a space and a token")
    return match[1]
