"""
Threads for checks of passwords.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorFromThreads

from smtpsvc.crew import Crew
from smtpsvc.grammar.replies import Reply

BUSY: Final = Reply(454, "Too many logins at once, try again later", "4.7.0")


class Pool(Crew):
    """
    Runs functions in threads of its own, so that a flood of logins keeps nothing else waiting.

    :param threads: how many run at once.
    :param queue: how many may wait; more are turned away with 454 4.7.0.
    :param reactor: gets the results; the one of the calling thread if None.
    """

    def __init__(self, threads: int = 2, queue: int = 32, *, reactor: IReactorFromThreads | None = None) -> None:
        super().__init__(threads, queue, busy=BUSY, name="login", reactor=reactor)
