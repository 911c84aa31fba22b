"""
Measure the service beside other servers, and print what came of it.

    python -m benchmarks
    python -m benchmarks --workloads small-10,data-b64 --rounds 5
    python -m benchmarks --json figures.json --growth

All servers listen on loopback, accept every mail and drop it; ours writes its summary line for each.
The workloads rotate over them, so that whatever else the machine does meets all alike. Figures are
medians. The one to compare is work per second of the server's CPU time, which a shared machine
disturbs least; latencies want a quiet machine. It needs Linux, gcc, and: pip install 'smtpsvc[bench]'.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.goals import GOALS
from benchmarks.measuring import Bench
from benchmarks.servers import PEERS
from benchmarks.workloads import WORKLOADS
from smtpsvc.tlstesting import certificate

BASE = "aiosmtpd"


def show(bench: Bench, name: str) -> None:
    """Print the table of a workload."""
    workload = WORKLOADS[name]
    rows = bench.results.get(name, {})
    print(f"\n{name}: {workload.what} ({workload.unit})")
    memory = workload.unit in ("KiB", "MiB")
    heads = ("median",) if memory else ("per CPU s", "per wall s")
    columns = "".join(f"{head:>14}" for head in heads)
    print(f"{'':<20}{columns}{'ratio':>9}{'spread':>9}{'p50 ms':>9}{'p99 ms':>9}")
    base = bench.median(name, BASE)
    order = sorted(rows, key=lambda peer: bench.median(name, peer) or 0, reverse=not memory)
    for peer in order:
        rounds = rows[peer]
        value = bench.median(name, peer) or 0.0
        ratio = f"{value / base:.2f}" if base else "-"
        spread = (max(one.cpu for one in rounds) - min(one.cpu for one in rounds)) / value * 100 if value else 0
        values = [value] if memory else [value, bench.median(name, peer, "wall") or 0.0]
        latencies = [bench.median(name, peer, figure) or 0.0 for figure in ("p50", "p99")]
        cells = "".join(f"{number:>14.1f}" for number in values)
        print(f"{peer:<20}{cells}{ratio:>9}{spread:>8.0f}%{latencies[0]:>9.2f}{latencies[1]:>9.2f}")
    sys.stdout.flush()


def show_goals(bench: Bench) -> int:
    """Print each goal that was measured, and whether it is reached; give how many are not."""
    missed = 0
    print("\ngoals")
    for goal in GOALS:
        found = goal.measured(bench)
        if found is None:
            continue
        reached = goal.reached(found)
        missed += not reached
        against = f"of {goal.peer}" if goal.peer else WORKLOADS[goal.workload].unit
        figure = {"cpu": "", "wall": ", wall time", "p99": ", p99"}[goal.figure]
        verdict, sign = "reached" if reached else "MISSED", "<=" if goal.less else ">="
        print(f"{verdict:<8} {goal.workload + figure:<22}{found:>8.2f} {sign} {goal.bound} {against}")
    return missed


def describe_machine() -> dict[str, str]:
    """Say what the figures were measured on."""
    described = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "cores": str(os.cpu_count()),
    }
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            described["processor"] = line.partition(":")[2].strip()
            break
    for package in ("twisted", "aiosmtpd", "pyOpenSSL"):
        try:
            described[package] = version(package)
        except PackageNotFoundError:
            continue
    return described


def make_certificate(directory: Path) -> tuple[str, str]:
    """Make a certificate of localhost; give its file and that of its key."""
    files = directory / "certificate.pem", directory / "key.pem"
    for file, octets in zip(files, certificate("localhost"), strict=True):
        file.write_bytes(octets)
    return str(files[0]), str(files[1])


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    named = "names, with commas; all by default: %(default)s"
    parser.add_argument("--peers", default=",".join(PEERS), help=named)
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help=named)
    parser.add_argument("--rounds", type=int, default=5, help="of each server (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.7, help="of a round (%(default)s)")
    parser.add_argument("--idle", type=int, default=5000, help="connections for the memory of one (%(default)s)")
    parser.add_argument("--cores", default="0,1", help="of the servers and of the players (%(default)s), or none")
    parser.add_argument("--growth", action="store_true", help="also the cost of a message with 1 to 5,000 connections")
    parser.add_argument("--json", metavar="FILE", help="also write all figures to this file")
    options = parser.parse_args(arguments)
    for name, known in (("peers", PEERS), ("workloads", WORKLOADS)):
        chosen = [word for word in getattr(options, name).split(",") if word]
        for word in chosen:
            if word not in known:
                parser.error(f"--{name}: {word!r} is not one of {', '.join(known)}")
        setattr(options, name, chosen)
    return options


def write_figures(path: str, bench: Bench, growth: dict[str, dict[int, float]]) -> None:
    """Write all that was measured."""
    results = {
        workload: {peer: [asdict(one) for one in rounds] for peer, rounds in rows.items()}
        for workload, rows in bench.results.items()
    }
    found: dict[str, Any] = {"machine": describe_machine(), "rounds": bench.rounds, "results": results}
    Path(path).write_text(json.dumps({**found, "growth": growth}, indent=1) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Run it; give the exit status: 1 if a goal that was measured is missed."""
    options = parse(arguments)
    # Without a second core they disturb each other, bound or not.
    bound = options.cores != "none" and (os.cpu_count() or 1) > 1
    cores = tuple(map(int, options.cores.split(","))) if bound else None
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        player = directory / "player"
        source = Path(__file__).with_name("player.c")
        subprocess.run(["gcc", "-O2", "-o", str(player), str(source)], check=True)
        bench = Bench(
            directory,
            make_certificate(directory),
            player,
            cores,  # type: ignore[arg-type]
            rounds=options.rounds,
            seconds=options.seconds,
            idle=options.idle,
        )
        peers = [PEERS[name] for name in options.peers]
        bench.run(peers, options.workloads, lambda name: show(bench, name))
        growth = {}
        if options.growth:
            growth = bench.growth([peer for peer in peers if not peer.special], (1, 10, 100, 1000, 5000))
            for peer, costs in growth.items():
                print(f"{peer:<20}" + "".join(f"{count:>8}: {cost:6.1f} us" for count, cost in costs.items()))
        for remark in bench.remarks:
            print(remark)
        if options.json:
            write_figures(options.json, bench, growth)
        return 1 if show_goals(bench) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
