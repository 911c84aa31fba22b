"""
What the tests of BDAT share.
"""

from __future__ import annotations

from typing import Any

from smtpsvc.testing import ScriptedBackend, Wire
from tests.hooks import MAIL, RCPT, connect


def chunk(content: bytes, *, last: bool = False) -> bytes:
    """Make a BDAT with its octets."""
    return b"BDAT %d%s\r\n%s" % (len(content), b" LAST" if last else b"", content)


def in_rcpt(backend: ScriptedBackend, mail: str = MAIL, **settings: Any) -> Wire:
    """Connect, and go on until a recipient was taken; replies start afresh."""
    settings.setdefault("add_received", False)
    return connect(backend, **settings).say(mail, RCPT).forget()
