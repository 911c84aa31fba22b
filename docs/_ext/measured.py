"""
Tables of what was measured: of ``docs/performance.json``, which ``python -m benchmarks --json`` writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from benchmarks.figures import BASE, PEERS, Run, draw

FIGURES = Path(__file__).parent.parent / "performance.json"


@cache
def run() -> Run:
    """Read the figures."""
    return Run(FIGURES)


def draw_pictures(directory: Path) -> None:
    """Draw the pictures of the page."""
    draw(run(), directory)


def workload_table() -> list[str]:
    """Make the table of workloads."""
    heads = ["name", "workload", "ours, per CPU second", *(f"{peer} / {BASE}" for peer in PEERS[:-1])]
    return _table(heads, run().rows(), "12 34 16 10 10 10 10")


def goal_table() -> list[str]:
    """Make the table of goals."""
    return _table(["figure", "goal", "measured", "reached"], run().goals(), "30 40 15 15")


def machine() -> list[str]:
    """Say what it was measured on."""
    found = run().machine
    words = [f"{name} {found[name]}" for name in ("twisted", "aiosmtpd", "pyOpenSSL") if name in found]
    system = f"{found.get('processor', 'unknown processor')}, {found['cores']} cores, {found['system']}"
    return [f"{system}, Python {found['python']}, {', '.join(words)}; medians of {run().rounds} rounds."]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], widths: str) -> list[str]:
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in [heads, *rows]:
        lines += [f"   {'  -' if number else '* -'} {cell}" for number, cell in enumerate(row)]
    return ["", *lines, ""]
