"""
ANONYMOUS: lets anybody in (RFC 4505).
"""

from __future__ import annotations

from twisted.cred.credentials import IAnonymous

from smtpsvc.sasl import Challenge, Context, Done, Mechanism, SASLError, Steps, text_of
from smtpsvc.sasl.credentials import AnonymousLogin


class Anonymous(Mechanism):
    """The response may say who it is, for the log. Offered only where it is asked for."""

    name = "ANONYMOUS"
    on_request = True
    credentials = (IAnonymous,)

    def exchange(self, context: Context, response: bytes | None) -> Steps:
        """Take the trace, asking for it if it was not sent with the command."""
        if response is None:
            response = yield Challenge()
        trace = text_of(response)
        if len(trace) > 255:
            raise SASLError("At most 255 characters may say who you are")
        return Done(AnonymousLogin(trace))
