"""
Leave a server alone that does not answer, and look now and then whether it does again.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime

#: Failures one after the other, after which it is left alone.
FAILURES: Final = 3
#: Seconds until the first look; each that fails doubles them.
FIRST: Final = 1.0
#: Seconds between two looks at most.
LONGEST: Final = 60.0


class Breaker:
    """
    Says whether a server is to be asked.

    After some failures in a row it is not, and whoever wants it is refused at once. When a time has passed,
    one may try, and one only: if that fails, the next may after twice the time. A success ends all that.

    :param failures: how many in a row it takes.
    :param first: seconds until the first try.
    :param longest: the most seconds between two.
    """

    def __init__(
        self, clock: IReactorTime, *, failures: int = FAILURES, first: float = FIRST, longest: float = LONGEST
    ) -> None:
        self._seconds = clock.seconds
        self._limit = failures
        self._first = first
        self._longest = longest
        self._failures = 0
        self._pause = first
        self._probing = False
        # When the next may try; None while all may.
        self._until: float | None = None

    @property
    def open(self) -> bool:
        """True while the server is left alone."""
        return self._until is not None

    def allows(self) -> bool:
        """
        Say whether this one may try now.

        Who may must tell how it ended: :meth:`succeeded`, :meth:`failed`, or :meth:`given_up`.
        """
        if self._until is None:
            return True
        if self._probing or self._seconds() < self._until:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        """The server answers."""
        self._failures = 0
        self._pause = self._first
        self._probing = False
        self._until = None

    def failed(self, *, probe: bool = False) -> None:
        """
        It does not.

        :param probe: it was the one that might try.
        """
        self._failures += 1
        if probe:
            self._pause = min(self._pause * 2, self._longest)
            self._probing = False
        elif self._until is not None or self._failures < self._limit:
            # One that was on its way when it opened is no news.
            return
        self._until = self._seconds() + self._pause

    def given_up(self) -> None:
        """Nobody knows: the one that might try was stopped. The next may."""
        self._probing = False
