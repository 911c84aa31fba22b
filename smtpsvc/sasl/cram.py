"""
CRAM-MD5: proves a password without sending it (RFC 2195). The server must hold the password as it is.
"""

from __future__ import annotations

import re
import secrets
import time

from twisted.cred.credentials import IUsernameHashedPassword
from twisted.cred.error import UnauthorizedLogin

from smtpsvc.sasl import Challenge, Context, Done, Mechanism, SASLError, Steps, text_of
from smtpsvc.sasl.credentials import CramLogin

_RESPONSE = re.compile(rb"(.*) ([0-9a-f]{32})", re.DOTALL)


class CramMD5(Mechanism):
    """The client answers a challenge with ``name SP digest``. Offered only where it is asked for."""

    name = "CRAM-MD5"
    server_first = True
    on_request = True
    credentials = (IUsernameHashedPassword,)

    def exchange(self, context: Context, response: bytes | None) -> Steps:
        """Send a challenge of the form of a Message-ID that was never used before, and take the answer."""
        challenge = f"<{secrets.token_hex(16)}.{int(time.time())}@{context.hostname}>".encode()
        response = yield Challenge(challenge)
        match = _RESPONSE.fullmatch(response)
        if match is None:
            raise SASLError("A CRAM-MD5 response is: name, space, 32 hexadecimal digits in lower case")
        name = text_of(match[1])
        if not name:
            raise UnauthorizedLogin
        return Done(CramLogin(name.encode(), challenge, match[2]))
