"""
PLAIN: name and password in one message (RFC 4616).
"""

from __future__ import annotations

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin

from smtpsvc.sasl import Challenge, Context, Done, Mechanism, SASLError, Steps, text_of
from smtpsvc.sasl.credentials import PasswordLogin


class Plain(Mechanism):
    """``[identity] NUL name NUL password``."""

    name = "PLAIN"
    plaintext = True
    credentials = (IUsernamePassword,)

    def exchange(self, context: Context, response: bytes | None) -> Steps:
        """Take the message, asking for it if it was not sent with the command."""
        if response is None:
            response = yield Challenge()
        parts = response.split(b"\0")
        if len(parts) != 3:
            raise SASLError("A PLAIN response is: identity, NUL, name, NUL, password")
        identity, name, password = map(text_of, parts)
        if not name or not password:
            # No checker sees an empty password: to some directories it is a login that asks for nothing.
            raise UnauthorizedLogin
        return Done(PasswordLogin(name.encode(), password.encode()), identity)
