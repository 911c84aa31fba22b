"""
What is in contrib/ fits the service: each metric that a board or an alert names exists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.metrics.counters import Counters
from smtpsvc.metrics.families import FAMILIES
from smtpsvc.metrics.totals import Totals
from smtpsvc.server.watch import ACTING, LIMITS
from tests.live import ROOT

CONTRIB = ROOT / "contrib"
BOARD = CONTRIB / "grafana" / "smtpsvc.json"
RULES = CONTRIB / "prometheus" / "smtpsvc.rules.yml"

#: What is on the page beside the families, and what Prometheus adds.
_BESIDE = {"smtpsvc_info": (), "smtpsvc_start_time_seconds": ()}
_ADDED = {"job", "instance", "le"}


def samples() -> dict[str, set[str]]:
    """The names of all samples, with their labels."""
    found: dict[str, set[str]] = {name: set(labels) for name, labels in _BESIDE.items()}
    for family in FAMILIES.values():
        ends = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
        found.update((f"{family.name}{end}", set(family.labels)) for end in ends)
    return found


def expressions() -> Iterator[str]:
    """All expressions of the board and of the alerts."""
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (variable["definition"] for variable in board["templating"]["list"] if "definition" in variable)
    for text in re.findall(r"expr:(.*?)\n +(?:for|labels):", RULES.read_text(encoding="utf-8"), re.DOTALL):
        yield " ".join(text.replace(">-", "").split())


class ContribTests(SynchronousTestCase):
    def test_metrics(self) -> None:
        """Each metric that is named exists, with the labels that are asked of it."""
        known = samples()
        named = set()
        for expression in expressions():
            for name, labels in re.findall(r"(smtpsvc_\w+)(?:\{([^}]*)\})?", expression):
                self.assertIn(name, known, expression)
                asked = set(re.findall(r"(\w+)=", labels))
                self.assertLessEqual(asked, known[name] | _ADDED, expression)
                named.add(name)
            keys = {key.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for key in group.split(",")}
            carried = set().union(*(known[name] for name in re.findall(r"smtpsvc_\w+", expression)))
            self.assertLessEqual(keys, carried | _ADDED, expression)
        self.assertGreater(len(named), 20)

    def test_values(self) -> None:
        """Each value of a label that is named is one that the service gives."""
        totals = Totals()
        Counters(lambda: 0.0).put(totals, "smtp")
        known = {value for _, labels, _ in totals for value in labels}
        known |= {*LIMITS.values(), *ACTING, "good", "bad", "4xx|5xx", "$job", "$instance", "smtpsvc"}
        for expression in expressions():
            self.assertLessEqual(set(re.findall(r'\w+=~?"([^"]*)"', expression)), known, expression)

    def test_board(self) -> None:
        """The board has what Grafana needs to import it: titles, places that do not overlap, a choice of the source."""
        board: dict[str, Any] = json.loads(BOARD.read_text(encoding="utf-8"))
        taken: set[tuple[int, int]] = set()
        self.assertEqual(len({panel["id"] for panel in board["panels"]}), len(board["panels"]))
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            self.assertTrue(panel["title"])
            self.assertFalse(cells & taken, panel["title"])
            self.assertLessEqual(place["x"] + place["w"], 24)
            taken |= cells
        self.assertEqual(board["templating"]["list"][0]["type"], "datasource")

    def test_alerts(self) -> None:
        """Each alert has an expression, and a summary for whoever is woken by it."""
        text = RULES.read_text(encoding="utf-8")
        counts = {key: len(re.findall(rf"\b{key}:", text)) for key in ("alert", "expr", "severity", "summary")}
        self.assertEqual(len(set(counts.values())), 1, counts)
