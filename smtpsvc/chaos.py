"""
Let things go wrong, in front of another backend, to try clients out.

The argument is rules, separated by commas, each STEP:ACTION or STEP:ACTION:HOW-OFTEN, and at its end
to= with the backend behind; maildir:./Maildir without it:

  chaos:rcpt:451:10%,end:drop:5%,mail:delay:2s,seed=42,to=maildir:/var/mail

Steps: connect, helo, mail, rcpt, data (before the 354), content (while it comes), end (behind the
dot), and each (one recipient's reply at the end, where each has its own: LMTP, PRDR).

Actions: a code from 400 to 599 refuses; delay:2s (ms, s, m) goes on later; drop closes the connection in
place of a reply; stall never answers; content:cut:10K closes it when so much has come. end:unsaid keeps the
message and closes the connection before the 250. end:lie says 250 and keeps nothing; without it, whatever is
answered 250 is kept, once.

How often: 10% by chance, @3 the third time only, /3 every third time; always without it. seed=42 lets the same
chances fall again; without it a seed is chosen, and shown at the start.
"""

from __future__ import annotations

from typing import Any, Final

from smtpsvc.backends.chaos import with_chaos
from smtpsvc.interfaces import IBackend
from smtpsvc.plugins import find_backend
from smtpsvc.server.deadlines import MonotonicClock

#: The backend behind, if none is named.
BEHIND: Final = "maildir:./Maildir"


def make(argument: str, reactor: Any) -> IBackend:
    """
    Make the backend of ``--backend chaos:RULES``.

    :raises ValueError: with a sentence.
    """
    rules, found, behind = f",{argument}".partition(",to=")
    if found and not behind:
        raise ValueError("to= needs a backend, such as to=null:")
    return with_chaos(find_backend(behind or BEHIND, reactor), rules, clock=MonotonicClock(reactor))
