"""
The values of parameters that say more than a number or a word.

They are what ``envelope.mail_params`` and ``recipient.params`` hold under the name in the docstring.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime


class Ret(enum.Enum):
    """RET of MAIL: how much of the message a notification of failure returns (RFC 3461 §4.3)."""

    FULL = "FULL"
    HDRS = "HDRS"


class Notify(enum.Enum):
    """
    NOTIFY of RCPT: when the sender wants a notification (RFC 3461 §4.1).

    The parameter's value is a frozenset of these: either of ``NEVER`` alone or of some of the others.
    """

    NEVER = "NEVER"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    DELAY = "DELAY"


@dataclass(frozen=True, slots=True)
class OriginalRecipient:
    """ORCPT of RCPT: the recipient as the sender knows it, for notifications (RFC 3461 §4.2, RFC 6533 §3)."""

    #: ``rfc822`` or ``utf-8`` mostly; in lower case.
    type: str
    #: Decoded; free of control characters. An address of the domain's own kind, not checked further
    #: unless the type is ``utf-8``.
    address: str


class ByMode(enum.Enum):
    """What becomes of a message that was not delivered in time (RFC 2852 §4)."""

    #: It is returned, and not delivered any more.
    RETURN = "R"
    #: The sender is notified, and delivery is tried further.
    NOTIFY = "N"


@dataclass(frozen=True, slots=True)
class DeliverBy:
    """BY of MAIL: the time in which the message should be delivered (RFC 2852 §4)."""

    #: From now on; 0 or less if the time has passed already, which only ``NOTIFY`` allows.
    seconds: int
    mode: ByMode
    #: True if the sender wants to know where the message goes.
    trace: bool = False


class RRVSAction(enum.Enum):
    """What a relay does if the next host does not know RRVS (RFC 7293 §3.1)."""

    #: The client did not say.
    UNSAID = ""
    #: Relay without it, with a header field in its place.
    CONTINUE = "C"
    #: Refuse the message for this recipient.
    REJECT = "R"


@dataclass(frozen=True, slots=True)
class ValidSince:
    """RRVS of RCPT: the mailbox must have had its owner since then, or the message is not for it (RFC 7293 §3.1)."""

    #: In UTC.
    time: datetime
    action: RRVSAction = RRVSAction.UNSAID
