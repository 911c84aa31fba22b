"""
Token buckets: how much of something there was lately, for each of many.
"""

from __future__ import annotations

from collections import OrderedDict

from twisted.internet.interfaces import IReactorTime


class Buckets:
    """
    Token buckets by key, of which the least used are forgotten; a bucket that is forgotten is full again.

    :param rate: tokens a second.
    :param burst: tokens that a bucket holds.
    :param keep: buckets at most.
    """

    __slots__ = ("_buckets", "_keep", "_rate", "_seconds", "burst")

    def __init__(self, rate: float, burst: float, *, keep: int, clock: IReactorTime) -> None:
        self._rate = rate
        self.burst = burst
        self._keep = keep
        self._seconds = clock.seconds
        # How many tokens there were, and when.
        self._buckets: OrderedDict[str, list[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, count: float, least: float) -> bool:
        """
        Take tokens, if there are enough.

        :param least: so many must be there; less than *count* leaves a debt, which must be paid first.
        """
        now = self._seconds()
        buckets = self._buckets
        bucket = buckets.get(key)
        if bucket is None:
            bucket = buckets[key] = [self.burst, now]
            if len(buckets) > self._keep:
                buckets.popitem(last=False)
        else:
            buckets.move_to_end(key)
            passed = now - bucket[1]
            # A clock that was set back gives nothing.
            if passed:
                bucket[1] = now
            if passed > 0:
                tokens = bucket[0] + passed * self._rate
                bucket[0] = tokens if tokens < self.burst else self.burst
        if bucket[0] < least:
            return False
        bucket[0] -= count
        return True
