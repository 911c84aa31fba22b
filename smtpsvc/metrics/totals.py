"""
Totals: the values of all metrics at one time, of one process or of several.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeAlias

from twisted.logger import Logger

from smtpsvc.metrics.families import FAMILIES, Family

log = Logger(namespace="smtpsvc")

#: A number; of a histogram the counts of its buckets, and behind them the sum.
Value: TypeAlias = "float | list[float]"

#: So many processes are remembered after their end; of others the sums alone.
_REMEMBERED: Final = 64


class Totals:
    """Values by the name of their metric and its labels."""

    def __init__(self) -> None:
        self._values: dict[str, dict[tuple[str, ...], Value]] = {}

    def put(self, name: str, value: Value, *labels: str) -> None:
        """
        Add a value to what is there.

        :param name: as in :data:`~smtpsvc.metrics.families.FAMILIES`, without ``smtpsvc_``.
        :param labels: in the order of the family's.
        """
        self._put(f"smtpsvc_{name}", labels, value)

    def _put(self, name: str, labels: tuple[str, ...], value: Value) -> None:
        values = self._values.setdefault(name, {})
        before = values.get(labels)
        if isinstance(value, list):
            if isinstance(before, list):
                value = [one + other for one, other in zip(before, value, strict=True)]
            values[labels] = list(value)
        else:
            values[labels] = value + (before if isinstance(before, int | float) else 0)

    def add(self, other: Totals, *, gauges: bool = True) -> None:
        """
        Add other totals to these.

        :param gauges: False for a process that has gone: what it has counted stays, what it had does not.
        """
        for family, labels, value in other:
            if gauges or family.kind != "gauge":
                self._put(family.name, labels, value)

    def __iter__(self) -> Iterator[tuple[Family, tuple[str, ...], Value]]:
        for name, family in FAMILIES.items():
            for labels, value in self._values.get(name, {}).items():
                yield family, labels, value

    def get(self, name: str, *labels: str) -> Value:
        """Give one value; 0 if there is none."""
        return self._values.get(f"smtpsvc_{name}", {}).get(labels, 0)

    def encode(self, process: str) -> bytes:
        """
        Write them as JSON, for another process.

        :param process: names the one that they are of, unlike any other.
        """
        values = {name: [[list(key), value] for key, value in rows.items()] for name, rows in self._values.items()}
        return json.dumps({"process": process, "values": values}, separators=(",", ":")).encode("ascii")


def decode(snapshot: bytes) -> tuple[str, Totals]:
    """
    Read what :meth:`Totals.encode` wrote; metrics that are not known here are left out.

    :returns: the name of the process, and the totals.
    :raises ValueError: if it is something else.
    """
    try:
        found = json.loads(snapshot)
        totals = Totals()
        for name, rows in found["values"].items():
            family = FAMILIES.get(name)
            for labels, value in rows if family is not None else ():
                totals._put(name, tuple(map(str, labels)), _checked(family, labels, value))
        return str(found["process"]), totals
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is no snapshot of metrics: {error}") from error


def _checked(family: Any, labels: list[str], value: Any) -> Value:
    numbers = value if isinstance(value, list) else [value]
    wanted = len(family.bounds) + 2 if family.kind == "histogram" else 1
    if len(labels) != len(family.labels) or len(numbers) != wanted or isinstance(value, list) == (wanted == 1):
        raise ValueError(f"{family.name} is not of this shape")
    if not all(isinstance(number, int | float) for number in numbers):
        raise TypeError(f"{family.name} is no number")
    return value if isinstance(value, list) else float(value)


class Gathered:
    """
    Sums the totals of several processes, of which some end and others begin.

    What a process had counted when it was last heard stays in the sums when it has gone, so no counter
    goes down.
    """

    def __init__(self) -> None:
        # The last of each process, the one that was heard longest ago first.
        self._last: dict[str, Totals] = {}
        self._forgotten = Totals()

    def merge(self, snapshots: Iterable[bytes]) -> Totals:
        """
        Sum the snapshots of the processes that are there, and what those counted that are not.

        :param snapshots: as :meth:`Metrics.snapshot <smtpsvc.metrics.counters.Metrics.snapshot>` gives them;
            one that is damaged is left out and logged.
        """
        present = set()
        for snapshot in snapshots:
            try:
                process, totals = decode(snapshot)
            except ValueError as problem:
                log.warn("{problem}", problem=problem)
                continue
            present.add(process)
            self._last.pop(process, None)
            self._last[process] = totals
        while len(self._last) > len(present) + _REMEMBERED:
            oldest = next(iter(self._last))
            self._forgotten.add(self._last.pop(oldest), gauges=False)
        summed = Totals()
        summed.add(self._forgotten)
        for process, totals in self._last.items():
            summed.add(totals, gauges=process in present)
        return summed
