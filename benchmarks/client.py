"""
Measure our client beside others, and print what came of it.

    python -m benchmarks.client
    python -m benchmarks.client --rounds 7 --json figures.json

The server is Postfix's smtp-sink on loopback; each client is a process of its own, bound to another core. They take
turns, so that whatever else the machine does meets all alike. Figures are medians of messages per second of the
client's CPU time. It needs smtp-sink (Debian: postfix) and: pip install 'smtpsvc[bench]'.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.servers import PEERS, ROOT, Server


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """
    A client that can be measured.

    :ivar program: the module that runs it.
    :ivar module: that must be there.
    :ivar share: which part of the usual number of messages it sends: some wait long for each.
    """

    program: str
    module: str = "twisted"
    share: float = 1.0


CLIENTS: Final = {
    "connection": Client(program="connection"),
    "mailer": Client(program="mailer"),
    "aiosmtplib": Client(program="aiosmtplib_client", module="aiosmtplib"),
    # It waits for the acknowledgement of each message's beginning before it sends the end.
    "twisted-mail": Client(program="twisted_mail_client", share=0.1),
}
#: Messages and connections of each kind.
KINDS: Final = {"small": (10_000, 10), "large": (6, 2)}
#: Kind, client, peer, and the least ratio.
GOALS: Final = (
    ("small", "connection", "aiosmtplib", 5.0),
    ("small", "connection", "twisted-mail", 5.0),
    ("large", "connection", "aiosmtplib", 10.0),
)


def play(name: str, kind: str, port: int, core: int | None) -> float:
    """
    Let a client send.

    :returns: messages per second of its CPU time.
    :raises RuntimeError: if it fails.
    """
    count, connections = KINDS[kind]
    client = CLIENTS[name]
    count = max(connections, int(count * client.share) // connections * connections)
    words = [str(port), kind, str(count), str(connections)]
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.clients.{client.program}", *words],
        cwd=ROOT, capture_output=True, check=False, timeout=300,
        preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
    )  # fmt: skip
    if done.returncode or not done.stdout:
        raise RuntimeError(f"{name} failed: {done.stderr.decode(errors='replace')[-500:]}")
    figures: dict[str, float] = json.loads(done.stdout)
    return count / figures["cpu"]


def show(kind: str, found: dict[str, list[float]]) -> None:
    """Print a table."""
    print(f"\n{kind}: messages per CPU second of the client")
    base = statistics.median(found["connection"]) if "connection" in found else None
    for name, rounds in found.items():
        middle = statistics.median(rounds)
        ratio = f"{base / middle:.2f}" if base else "-"
        spread = f"{min(rounds):.1f} to {max(rounds):.1f}"
        print(f"{name:<14}{middle:>10.1f}   our connection is {ratio:>5} x   ({spread})")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """Run it; give the exit status: 1 if a goal is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.client", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", default=",".join(CLIENTS), help="names, with commas; %(default)s")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of messages; %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="of each client (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write all figures to this file")
    options = parser.parse_args(arguments)
    names, kinds = options.clients.split(","), options.kinds.split(",")
    for word in names + kinds:
        if word not in CLIENTS and word not in KINDS:
            parser.error(f"{word!r} is not one of {', '.join((*CLIENTS, *KINDS))}")
    if shutil.which("smtp-sink") is None:
        parser.error("it needs smtp-sink (Debian: postfix)")
    names = [name for name in names if importlib.util.find_spec(CLIENTS[name].module) is not None]
    cores = (os.cpu_count() or 1) > 1
    found: dict[str, dict[str, list[float]]] = {}
    with TemporaryDirectory() as directory:
        server = Server(PEERS["smtp-sink"], ("", ""), Path(directory) / "sink", 0 if cores else None)
        try:
            for kind in kinds:
                rounds: dict[str, list[float]] = {name: [] for name in names}
                for _ in range(options.rounds):
                    for name in names:
                        rounds[name].append(play(name, kind, server.place.port, 1 if cores else None))
                found[kind] = rounds
                show(kind, rounds)
        finally:
            server.stop()
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    missed = 0
    for kind, name, peer, least in GOALS:
        if name in found.get(kind, {}) and peer in found[kind]:
            ratio = statistics.median(found[kind][name]) / statistics.median(found[kind][peer])
            missed += ratio < least
            print(f"{'reached' if ratio >= least else 'MISSED':<8} {kind}: {ratio:.2f} >= {least} of {peer}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
