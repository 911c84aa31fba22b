"""
PRDR: a reply for each recipient at the end of a message (draft-hall-prdr-00).
"""

from __future__ import annotations

from smtpsvc.extensions import Extension
from smtpsvc.grammar.params import no_value
from smtpsvc.settings import Role


class PRDR(Extension):
    """
    PRDR (draft-hall-prdr-00): a client that says so on MAIL gets a reply for each recipient, as over LMTP.

    The backend promises to give a list of outcomes, and to keep the message for those recipients whose
    outcome is consent.
    """

    keyword = "PRDR"
    roles = frozenset({Role.SMTP, Role.SUBMISSION})
    mail_params = {"PRDR": no_value}
    on_request = True
