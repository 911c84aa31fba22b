"""
LOGIN: name and password in two messages (draft-murchison-sasl-login); obsolete, and used by many devices.
"""

from __future__ import annotations

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin

from smtpsvc.sasl import Challenge, Context, Done, Mechanism, Steps, text_of
from smtpsvc.sasl.credentials import PasswordLogin


class Login(Mechanism):
    """Asks for the name, then for the password. Many clients send the name with the command."""

    name = "LOGIN"
    plaintext = True
    credentials = (IUsernamePassword,)

    def exchange(self, context: Context, response: bytes | None) -> Steps:
        """Ask for both, in the words that clients compare."""
        if response is None:
            response = yield Challenge(b"Username:")
        name = text_of(response)
        password = text_of((yield Challenge(b"Password:")))
        if not name or not password:
            raise UnauthorizedLogin
        return Done(PasswordLogin(name.encode(), password.encode()))
