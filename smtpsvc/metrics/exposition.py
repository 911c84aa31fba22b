"""
The page that Prometheus reads, written by its own library.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any

from smtpsvc._version import __version__
from smtpsvc.extras import need
from smtpsvc.metrics.families import FAMILIES, Family
from smtpsvc.metrics.totals import Totals, Value


def load() -> tuple[Any, Any]:
    """
    Import the library.

    :returns: its modules of families and of formats.
    :raises ValueError: with a sentence, if it is not installed.
    """
    need("prometheus_client", "metrics", "--metrics")
    return (
        need("prometheus_client.core", "metrics", "--metrics"),
        need("prometheus_client.exposition", "metrics", "--metrics"),
    )


class Page:
    """
    What the library asks for the metrics: nothing of ours is in its global registry.

    :param totals: the values.
    :param began: when the process began that tells them, in seconds since the epoch.
    """

    def __init__(self, totals: Totals, began: float) -> None:
        self._totals = totals
        self._began = began

    def collect(self) -> Iterator[Any]:
        """Give each family with its values, those without any too."""
        core, _ = load()
        found: dict[str, list[tuple[tuple[str, ...], Value]]] = {name: [] for name in FAMILIES}
        for family, labels, value in self._totals:
            found[family.name].append((labels, value))
        for name, rows in found.items():
            yield _family(core, FAMILIES[name], rows)
        info = core.GaugeMetricFamily("smtpsvc_info", INFO, labels=["version", "python"])
        info.add_metric([__version__, platform.python_version()], 1)
        yield info
        began = core.GaugeMetricFamily("smtpsvc_start_time_seconds", STARTED)
        began.add_metric([], self._began)
        yield began

    def write(self, accept: str) -> tuple[bytes, str]:
        """
        Write the page.

        :param accept: the formats that the client takes, as in HTTP.
        :returns: the page, and its content type.
        """
        _, exposition = load()
        encode, kind = exposition.choose_encoder(accept)
        return encode(self), kind


INFO = "Versions of smtpsvc and of Python; always 1"
STARTED = "When the service began, in seconds since the epoch"


def _family(core: Any, family: Family, rows: list[tuple[tuple[str, ...], Value]]) -> Any:
    if family.kind == "histogram":
        histogram = core.HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, value in rows:
            assert isinstance(value, list)
            *counts, total = value
            below = 0.0
            buckets = []
            for bound, count in zip((*map(_bound, family.bounds), "+Inf"), counts, strict=True):
                below += count
                buckets.append((bound, below))
            histogram.add_metric(labels, buckets=buckets, sum_value=total)
        return histogram
    make = core.CounterMetricFamily if family.kind == "counter" else core.GaugeMetricFamily
    made = make(family.name, family.help, labels=family.labels)
    for labels, value in rows:
        made.add_metric(labels, value)
    return made


def _bound(bound: float) -> str:
    return repr(float(bound))
