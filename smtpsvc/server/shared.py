"""
What the factories of a process share: counts of connections, of failed logins, and of bytes in memory.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from smtpsvc.server.admission import Admission
from smtpsvc.server.budget import Budget
from smtpsvc.server.guesses import Guesses
from smtpsvc.server.tally import Tally
from smtpsvc.settings import Settings


class Shared:
    """
    The counts that hold for all factories of a service together.

    :param settings: has the limits.
    :param clock: monotonic.
    :param tally: counts connections of other processes too.
    """

    __slots__ = ("admission", "budget", "guesses")

    def __init__(self, settings: Settings, clock: IReactorTime, tally: Tally | None = None) -> None:
        #: Who is let in.
        self.admission = Admission(settings, clock, tally)
        #: Bytes in memory.
        self.budget = Budget(settings.limits.buffered)
        #: Whose logins have failed.
        self.guesses = Guesses(settings, clock)
