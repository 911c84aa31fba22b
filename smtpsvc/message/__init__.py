"""
A toolkit for messages and addresses, for policies, backends and programs.

:func:`~smtpsvc.message.parsing.parse` reads a message; :class:`~smtpsvc.message.fields.Header` edits a header and
leaves every other octet alone; :class:`~smtpsvc.message.mailboxes.Canonical`, :class:`~smtpsvc.message.srs.SRS` and
:class:`~smtpsvc.message.batv.BATV` know what addresses mean. The fields that a server adds are written by
:mod:`smtpsvc.grammar.trace`.
"""

from smtpsvc.grammar.trace import Received, date_time, delivered_to, return_path, with_protocol
from smtpsvc.message.batv import BATV, BATVError, unwrap_batv
from smtpsvc.message.dsn import Action, Fate, Notification, notification
from smtpsvc.message.fields import Field, Header, HeaderEditor, edited, field, split_header
from smtpsvc.message.mailboxes import Canonical, quoted, split_address, split_tag, unquoted
from smtpsvc.message.parsing import Email, Mailbox, Resent, parse
from smtpsvc.message.parts import Part
from smtpsvc.message.splitting import Bounds
from smtpsvc.message.srs import SRS, SRSError, unwrap_sender, unwrap_srs
from smtpsvc.message.threads import parse_in_thread

__all__ = [
    "BATV",
    "SRS",
    "Action",
    "BATVError",
    "Bounds",
    "Canonical",
    "Email",
    "Fate",
    "Field",
    "Header",
    "HeaderEditor",
    "Mailbox",
    "Notification",
    "Part",
    "Received",
    "Resent",
    "SRSError",
    "date_time",
    "delivered_to",
    "edited",
    "field",
    "notification",
    "parse",
    "parse_in_thread",
    "quoted",
    "return_path",
    "split_address",
    "split_header",
    "split_tag",
    "unquoted",
    "unwrap_batv",
    "unwrap_sender",
    "unwrap_srs",
    "with_protocol",
]
