"""
Sending mail by SMTP and LMTP.

::

    connection = await connect("mail.example.com", login=Login("anna", "secret"))
    result = await connection.send("anna@example.com", ["bert@example.org"], message)
    await connection.quit()
"""

from __future__ import annotations

from smtpsvc.client.capabilities import Capabilities
from smtpsvc.client.connecting import connect
from smtpsvc.client.connection import Connection
from smtpsvc.client.dialogue import Timeouts
from smtpsvc.client.errors import (
    ClientError,
    ConnectFailed,
    ContentRefused,
    Disconnected,
    LimitReached,
    LoginFailed,
    Refused,
    ServerMisbehaved,
    Stage,
    TimedOut,
    TLSFailed,
    Unsupported,
)
from smtpsvc.client.mailer import Mailer, send
from smtpsvc.client.options import TLS, Login, Observer, Options
from smtpsvc.client.pool import Frugality
from smtpsvc.client.report import Fate, NotSent, RecipientReport, Report
from smtpsvc.client.result import RecipientResult, Result
from smtpsvc.client.routes import Route
from smtpsvc.client.transaction import Transaction

__all__ = [
    "TLS",
    "Capabilities",
    "ClientError",
    "ConnectFailed",
    "Connection",
    "ContentRefused",
    "Disconnected",
    "Fate",
    "Frugality",
    "LimitReached",
    "Login",
    "LoginFailed",
    "Mailer",
    "NotSent",
    "Observer",
    "Options",
    "RecipientReport",
    "RecipientResult",
    "Refused",
    "Report",
    "Result",
    "Route",
    "ServerMisbehaved",
    "Stage",
    "TLSFailed",
    "TimedOut",
    "Timeouts",
    "Transaction",
    "Unsupported",
    "connect",
    "send",
]
