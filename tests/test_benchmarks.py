"""
The benchmarks of the project: their scripts are dialogues that a server takes, and a short run gives figures.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.goals import GOALS
from benchmarks.measuring import Bench, Figures
from benchmarks.servers import PEERS
from benchmarks.workloads import WORKLOADS, body
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.live import PATIENCE, ROOT, need
from tests.support import settings_with

STEP = re.compile(rb"([ORCN]) (\d+) (\d+) (\d+)\n")


def steps(script: bytes) -> Iterator[tuple[str, int, int, bytes]]:
    """Read a script: part, replies, messages and octets of each step."""
    file = io.BytesIO(script)
    while line := file.readline():
        found = STEP.fullmatch(line)
        assert found is not None, line
        yield found[1].decode(), int(found[2]), int(found[3]), file.read(int(found[4]))


def taken(backend: ScriptedBackend) -> int:
    """Count the messages that came to their end."""
    return sum(message.finished for message in backend.messages)


class ScriptTests(SynchronousTestCase):
    """What the player plays."""

    def test_dialogues(self) -> None:
        """A server gives each step as many replies as it waits for, takes as many messages, and refuses nothing."""
        for name, workload in WORKLOADS.items():
            if workload.load is None or workload.load.octets() > 100_000:
                continue
            with self.subTest(name):
                backend = ScriptedBackend()
                wire = Wire(clocked_factory(backend, settings_with(recipients=1000))[0])
                parts: dict[str, list[tuple[int, int, bytes]]] = {"O": [], "R": [], "C": [], "N": []}
                for part, replies, messages, octets in steps(workload.load.script()):
                    parts[part].append((replies, messages, octets))
                for replies, messages, octets in parts["O"] + parts["R"] * 2 + parts["C"]:
                    before, seen = taken(backend), len(wire.codes)
                    if octets:
                        wire.receive(octets)
                    codes = wire.codes[seen:] if octets else wire.codes
                    self.assertEqual((len(codes), taken(backend) - before), (replies, messages))
                    self.assertTrue(all(code < 400 for code in codes), codes)

    def test_bodies(self) -> None:
        """A body has the size that was asked for, whole lines, and every dot doubled."""
        for kind in ("text", "base64", "dots", "short"):
            with self.subTest(kind):
                made = body(kind, 5000)
                self.assertTrue(5000 <= len(made) < 5100)
                self.assertTrue(made.endswith(b"\r\n"))
                lines = made.split(b"\r\n")
                self.assertTrue(all(line.startswith(b"..") for line in lines if line.startswith(b".")))
                self.assertEqual(any(line.startswith(b"..") for line in lines), kind == "dots")


class GoalTests(SynchronousTestCase):
    """Ratios of medians."""

    def setUp(self) -> None:
        """Make a run with figures."""
        self.bench = Bench(Path(), ("", ""), Path(), None)
        for peer, values in (("smtpsvc", (60.0, 66.0, 900.0)), ("aiosmtpd", (11.0, 10.0, 12.0))):
            rounds = [Figures(wall=1, cpu=value, p99=3) for value in values]
            self.bench.results.setdefault("small-10", {})[peer] = rounds

    def test_ratio(self) -> None:
        """A goal is a ratio of medians; one that was not measured has none."""
        goal = next(goal for goal in GOALS if (goal.workload, goal.peer) == ("small-10", "aiosmtpd"))
        self.assertEqual(goal.measured(self.bench), 6.0)
        self.assertTrue(goal.reached(6.0))
        self.assertFalse(goal.reached(goal.bound - 0.01))
        self.assertIsNone(goal._replace(peer="smtp-sink").measured(self.bench))

    def test_less(self) -> None:
        """Where less is better, a goal is an upper bound."""
        goal = next(goal for goal in GOALS if goal.figure == "p99")
        self.assertEqual((goal.measured(self.bench), goal.reached(1.0), goal.reached(0.3)), (1.0, False, True))

    def test_names(self) -> None:
        """Each goal is of workloads and peers that there are."""
        for goal in GOALS:
            self.assertIn(goal.workload, WORKLOADS)
            self.assertIn(goal.than or goal.workload, WORKLOADS)
            self.assertIn(goal.ours, PEERS)
            self.assertIn(goal.peer, {"", *PEERS})


class RunTests(SynchronousTestCase):
    """The command."""

    def test_short(self) -> None:
        """It measures the service and writes the figures; all that was acknowledged is there."""
        need("gcc")
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory, "figures.json")
            words = ("--peers=smtpsvc,smtpsvc-maildir", "--workloads=small-10,starttls,durable-50", f"--json={file}")
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks", "--rounds=1", "--seconds=0.01", *words],
                cwd=ROOT,
                capture_output=True,
                check=False,
                timeout=2 * PATIENCE,
            )
            self.assertEqual(done.stderr, b"")
            found = json.loads(file.read_text())
        rates = {(workload, peer) for workload, rows in found["results"].items() for peer in rows}
        self.assertEqual(rates, {("small-10", "smtpsvc"), ("starttls", "smtpsvc"), ("durable-50", "smtpsvc-maildir")})
        self.assertRegex(done.stdout.decode(), r"smtpsvc-maildir: (\d+) messages acknowledged, \1 delivered: the same")

    def test_unknown(self) -> None:
        """A name that is not known is told, with those that are."""
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", "--peers=nobody"], cwd=ROOT, capture_output=True, check=False
        )
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"'nobody' is not one of smtpsvc, ", done.stderr)
