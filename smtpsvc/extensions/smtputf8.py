"""
SMTPUTF8: internationalized mail (RFC 6531).
"""

from __future__ import annotations

from smtpsvc.extensions import Extension
from smtpsvc.grammar.params import no_value


class SMTPUTF8(Extension):
    """
    SMTPUTF8 (RFC 6531): addresses and headers in UTF-8, where MAIL declares them.

    Without the parameter an address that is not ASCII is refused: 550 5.6.7 for the sender, 553
    5.6.7 for a recipient (RFC 6531 §3.5).
    """

    keyword = "SMTPUTF8"
    mail_params = {"SMTPUTF8": no_value}
