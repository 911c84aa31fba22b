"""
The memory of greylisting: who has been seen when, in an SQLite database that several processes may share.

All of SQLite runs in one thread for each database, with a short queue in front.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.defer import Deferred

from smtpsvc.policies.thread import Thread

#: Questions that wait for the thread; more fail.
QUEUE: Final = 1000
#: Seconds to wait for another process that writes.
BUSY: Final = 2.0
#: Seconds after a failure in which the database is not tried again.
REST: Final = 10.0
#: Strangers that come between two looks at how many are kept.
SWEEP: Final = 200
#: Seconds within which a known one is not noted again.
TOUCH: Final = 3600.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS seen (
    key BLOB PRIMARY KEY, first REAL NOT NULL, last REAL NOT NULL, passes INTEGER NOT NULL
) WITHOUT ROWID
"""


class StoreProblem(Exception):
    """The database cannot be used; ``str()`` is half a sentence."""


@dataclass(frozen=True, slots=True)
class Rules:
    """
    When mail is taken.

    :param delay: seconds that a stranger waits.
    :param window: seconds within which it must come again.
    :param lifetime: seconds for which one is known that has come again, since it was seen last.
    :param after: times that a network has come again, after which it is known with anybody; 0 is never.
    :param keep: strangers that are remembered, and as many known ones.
    :raises ValueError: with a sentence, if they make no sense.
    """

    delay: float = 300.0
    window: float = 172_800.0
    lifetime: float = 3_024_000.0
    after: int = 5
    keep: int = 100_000

    def __post_init__(self) -> None:
        if not 0 < self.delay < self.window:
            raise ValueError("the delay must be more than nothing, and less than the window in which mail comes again")
        if self.keep < 1:
            raise ValueError("keep: at least one must be remembered")


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What is said of one who comes.

    :param wait: seconds that it has to wait still; 0 to take it.
    :param waited: seconds that it has waited, if it comes again for the first time.
    """

    wait: float = 0.0
    waited: float = 0.0


class Seen:
    """
    Who has been seen.

    :param path: of the database, made if it is not there.
    :param now: the time in seconds.
    """

    def __init__(self, path: str, rules: Rules, *, now: Callable[[], float] = time.time) -> None:
        self.path = path
        self.rules = rules
        self._now = now
        self._database: sqlite3.Connection | None = None
        self._thread = Thread(QUEUE, "smtpsvc-greylist")
        self._strangers = 0
        self._resting = float("-inf")

    def look(self, network: bytes, three: bytes, reactor: Any) -> Deferred[Verdict]:
        """
        Note that one has come, and say whether it is to wait.

        :param network: key of the client's network.
        :param three: key of network, sender and recipient.
        :param reactor: gets the result.
        :returns: fails with :exc:`StoreProblem` if the database cannot be used, and with
            :exc:`~smtpsvc.policies.thread.TooMany` if too many wait for it.
        """
        return self._thread.run(reactor, self._look, network, three)

    def close(self, reactor: Any) -> Deferred[None]:
        """Close the database; it is opened again if it is needed."""
        return self._thread.end(reactor, self._shut)

    # What follows runs in the thread.

    def _look(self, network: bytes, three: bytes) -> Verdict:
        now = self._now()
        if 0 <= now - self._resting < REST:
            raise StoreProblem(f"{self.path} cannot be used")
        try:
            if self._database is None:
                self._database = _open(self.path)
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                return self._judge(self._database, network, three, now)
        except (sqlite3.Error, OSError) as error:
            self._resting = now
            self._shut()
            raise StoreProblem(f"{self.path} cannot be used ({error})") from error

    def _shut(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()

    def _judge(self, database: sqlite3.Connection, network: bytes, three: bytes, now: float) -> Verdict:
        rules = self.rules
        friends = self._known(database, network, now)
        if friends is not None and rules.after and friends[2] >= rules.after:
            self._touch(database, network, friends, now)
            return Verdict()
        known = self._known(database, three, now)
        if known is None:
            self._put(database, three, now, now, 0)
            self._strangers += 1
            if self._strangers % SWEEP == 0:
                self._sweep(database, now)
            return Verdict(wait=rules.delay)
        first, _, passes = known
        if passes:
            self._touch(database, three, known, now)
            return Verdict()
        if now - first < rules.delay:
            return Verdict(wait=first + rules.delay - now)
        self._put(database, three, first, now, 1)
        began, _, times = friends or (now, now, 0)
        self._put(database, network, began, now, times + 1)
        return Verdict(waited=now - first)

    def _known(self, database: sqlite3.Connection, key: bytes, now: float) -> tuple[float, float, int] | None:
        """Give when one was seen, if that still counts; a clock that was set back begins anew."""
        row: Any = database.execute("SELECT first, last, passes FROM seen WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        first, last, passes = row
        counts = 0 <= now - last <= self.rules.lifetime if passes else 0 <= now - first <= self.rules.window
        return (float(first), float(last), int(passes)) if counts else None

    def _touch(self, database: sqlite3.Connection, key: bytes, known: tuple[float, float, int], now: float) -> None:
        """Note that a known one was seen, not too often: each time is a write."""
        first, last, passes = known
        if now - last > min(TOUCH, self.rules.lifetime / 10):
            self._put(database, key, first, now, passes)

    def _put(self, database: sqlite3.Connection, key: bytes, first: float, last: float, passes: int) -> None:
        database.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)", (key, first, last, passes))

    def _sweep(self, database: sqlite3.Connection, now: float) -> None:
        """Forget whom nobody needs to know any more, and the oldest if there are too many."""
        database.execute("DELETE FROM seen WHERE passes = 0 AND first < ?", (now - self.rules.window,))
        database.execute("DELETE FROM seen WHERE passes > 0 AND last < ?", (now - self.rules.lifetime,))
        for kind in ("passes = 0", "passes > 0"):
            # A flood of strangers does not crowd out who is known.
            oldest = f"SELECT key FROM seen WHERE {kind} ORDER BY last DESC LIMIT -1 OFFSET ?"
            database.execute(f"DELETE FROM seen WHERE key IN ({oldest})", (self.rules.keep,))


def _open(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        # What was noted last may be lost when the power fails, and somebody waits once more.
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(_SCHEMA)
    except BaseException:
        database.close()
        raise
    return database
