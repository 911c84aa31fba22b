"""
Extensions that are a promise and nothing else: the server keeps it anyway.
"""

from __future__ import annotations

from smtpsvc.extensions import Extension


class Pipelining(Extension):
    """
    PIPELINING (RFC 2920): commands may come in groups.

    Replies keep their order whatever the hooks do, and those of one read leave in one write.
    """

    keyword = "PIPELINING"


class EnhancedStatusCodes(Extension):
    """
    ENHANCEDSTATUSCODES (RFC 2034): replies carry the codes of RFC 3463.

    Every 2xx, 4xx and 5xx reply after EHLO has one, but for the replies to EHLO and HELO themselves.
    """

    keyword = "ENHANCEDSTATUSCODES"
