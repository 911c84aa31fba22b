"""
What the service is to reach, as ratios of medians in one run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from benchmarks.measuring import Bench


class Goal(NamedTuple):
    """
    A ratio to reach.

    :ivar peer: it is a ratio to this one; "" for an absolute figure.
    :ivar bound: at least this; at most, where *less* is better.
    :ivar figure: of :class:`~benchmarks.measuring.Figures`.
    :ivar than: the workload of the peer, if it is another one.
    """

    workload: str
    peer: str
    bound: float
    less: bool = False
    figure: str = "cpu"
    than: str = ""
    ours: str = "smtpsvc"

    def measured(self, bench: Bench) -> float | None:
        """Give the ratio, or the figure; None if it was not measured."""
        mine = bench.median(self.workload, self.ours, self.figure)
        if mine is None or not self.peer:
            return mine
        theirs = bench.median(self.than or self.workload, self.peer, self.figure)
        return mine / theirs if theirs else None

    def reached(self, found: float) -> bool:
        """Whether it is reached."""
        return found <= self.bound if self.less else found >= self.bound


def _at_least(workload: str, **ratios: float) -> Iterator[Goal]:
    for peer, bound in ratios.items():
        yield Goal(workload, peer.replace("_", "-"), bound)


GOALS: Final = [
    *_at_least("small-10", aiosmtpd=5.5, twisted_mail=2.3, smtp_sink=0.85),
    *_at_least("small-50", aiosmtpd=5.5, twisted_mail=2.3, smtp_sink=0.85),
    *_at_least("reuse-10", aiosmtpd=5.5, twisted_mail=3, smtp_sink=0.85),
    *_at_least("pipe-10", aiosmtpd=11, twisted_mail=5),
    # aiosmtpd has no BDAT, so it pipelines DATA.
    Goal("bdatpipe", "aiosmtpd", 25, than="pipe-1"),
    *_at_least("data-b64", aiosmtpd=35, twisted_mail=15, smtp_sink=5),
    *_at_least("data-dots", aiosmtpd=7.5, smtp_sink=1.1),
    *_at_least("rcpt-100-group", aiosmtpd=30),
    *_at_least("tls-handshake", aiosmtpd=1.5, twisted_mail=1.15),
    *_at_least("starttls", aiosmtpd=1.5, twisted_mail=1.15),
    *_at_least("tls-data", aiosmtpd=20, twisted_mail=8),
    Goal("idle", "", 2.5, less=True),
    Goal("idle", "aiosmtpd", 0.25, less=True),
    Goal("rss", "", 2, less=True),
    Goal("small-10", "aiosmtpd", 0.4, less=True, figure="p99"),
    Goal("durable-50", "smtpsvc-classic", 3, figure="wall", ours="smtpsvc-maildir"),
    Goal("workers-8", "smtpsvc", 1.5, figure="wall", ours="smtpsvc-2-workers"),
]
