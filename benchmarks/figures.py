"""
The figures of a run that was written with ``--json``, as tables and as pictures.

    python -m benchmarks.figures figures.json DIRECTORY

draws ``throughput.svg`` and ``growth.svg``; it needs matplotlib: pip install 'smtpsvc[bench]'.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks.goals import GOALS
from benchmarks.measuring import Bench, Figures
from benchmarks.workloads import WORKLOADS

#: Colours that all can tell apart (Okabe and Ito), ours first.
_COLOURS: Final = {
    "smtpsvc": "#d55e00",
    "smtpsvc-stock": "#e69f00",
    "smtp-sink": "#000000",
    "twisted-mail": "#0072b2",
    "aiosmtpd": "#56b4e9",
}
BASE: Final = "aiosmtpd"
#: Peers in the order of columns.
PEERS: Final = ("smtpsvc", "smtpsvc-stock", "smtp-sink", "twisted-mail", "aiosmtpd")


class Run:
    """
    A run that was written to a file.

    :raises OSError: if it cannot be read.
    :raises ValueError: if it is no such file.
    """

    def __init__(self, path: Path) -> None:
        found: dict[str, Any] = json.loads(path.read_text())
        self.machine: dict[str, str] = found["machine"]
        self.rounds: int = found["rounds"]
        self.growth: dict[str, dict[str, float]] = found["growth"]
        self.bench = Bench(path.parent, ("", ""), path, None)
        for workload, rows in found["results"].items():
            for peer, rounds in rows.items():
                figures = [Figures(**one) for one in rounds]
                self.bench.results.setdefault(workload, {})[peer] = figures

    def rows(self) -> Iterator[list[str]]:
        """Give what each workload came to: its words, our figure, and the ratio of each peer to the base."""
        for name, workload in WORKLOADS.items():
            ours, base = (self.bench.median(name, peer) for peer in ("smtpsvc", BASE))
            if ours is None or workload.only:
                continue
            ratios = [self.bench.median(name, peer) for peer in PEERS[:-1]]
            cells = ["–" if not (ratio and base) else f"{ratio / base:.2f}" for ratio in ratios]
            yield [f"``{name}``", workload.what, f"{ours:,.{0 if ours >= 100 else 1}f} {workload.unit}", *cells]

    def goals(self) -> Iterator[list[str]]:
        """Give each goal that was measured, what came of it, and whether it is reached."""
        for goal in GOALS:
            found = goal.measured(self.bench)
            if found is None:
                continue
            figure = {"cpu": "", "wall": ", wall time", "p99": ", p99"}[goal.figure]
            against = f"of {goal.peer}" if goal.peer else WORKLOADS[goal.workload].unit
            than = f" on ``{goal.than}``" if goal.than else ""
            bound = f"{'at most' if goal.less else 'at least'} {goal.bound:g} {against}{than}"
            yield [f"``{goal.workload}``{figure}", bound, f"{found:.2f}", "yes" if goal.reached(found) else "**no**"]


def draw(run: Run, directory: Path) -> None:
    """
    Draw the pictures.

    :raises ImportError: if matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("svg")
    # The same figures give the same file.
    mpl.rcParams.update({"svg.hashsalt": "smtpsvc", "font.size": 9})
    mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    directory.mkdir(parents=True, exist_ok=True)
    _draw_throughput(run, directory / "throughput.svg")
    if run.growth:
        _draw_growth(run, directory / "growth.svg")


def _draw_throughput(run: Run, path: Path) -> None:
    from matplotlib import pyplot

    names = [name for name, workload in WORKLOADS.items() if workload.unit.endswith("/s") and not workload.only]
    names = [name for name in names if run.bench.median(name, BASE)]
    figure, axes = pyplot.subplots(figsize=(8, 0.62 * len(names) + 1))
    height = 0.8 / len(PEERS)
    for number, peer in enumerate(PEERS):
        for place, name in enumerate(reversed(names)):
            found, base = run.bench.median(name, peer), run.bench.median(name, BASE)
            if found and base:
                label = peer if place == 0 or name == names[0] else None
                y = place + 0.4 - height * (number + 0.5)
                axes.barh(y, found / base, height, color=_COLOURS[peer], label=label)
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_xlabel(f"work per second of the server's CPU time; {BASE} is 1 (logarithmic)")
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), loc="lower right", frameon=False)
    _save(figure, path)


def _draw_growth(run: Run, path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4))
    for peer in PEERS:
        costs = run.growth.get(peer)
        if costs:
            counts = sorted(map(int, costs))
            axes.plot(counts, [costs[str(count)] for count in counts], marker="o", color=_COLOURS[peer], label=peer)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("connections that send messages, one command a round trip")
    axes.set_ylabel("CPU time of the server for a message, µs")
    axes.legend(frameon=False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    draw(Run(Path(sys.argv[1])), Path(sys.argv[2]))
