"""The benchmark of the client: each of its clients sends what it is told, and the figures are written."""

from __future__ import annotations

import importlib.util
import io
import json
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import client
from tests.live import need


class RunTests(SynchronousTestCase):
    def test_short(self) -> None:
        """A short run measures all clients that are there, once a round."""
        need("smtp-sink")
        self.patch(client, "KINDS", {"small": (40, 2), "large": (2, 2)})
        self.patch(client, "GOALS", ())
        there = {name for name, one in client.CLIENTS.items() if importlib.util.find_spec(one.module) is not None}
        with tempfile.TemporaryDirectory() as directory, redirect_stdout(io.StringIO()) as printed:
            file = Path(directory, "figures.json")
            self.assertEqual(client.main(["--rounds", "1", "--json", str(file)]), 0)
            found = json.loads(file.read_text())
        self.assertEqual({(kind, name) for kind in found for name in found[kind]}, {
            (kind, name) for kind in ("small", "large") for name in there
        })  # fmt: skip
        self.assertIn("small: messages per CPU second of the client\nconnection ", printed.getvalue())

    def test_goals(self) -> None:
        """Each goal names what is measured."""
        for kind, name, peer, least in client.GOALS:
            self.assertTrue(kind in client.KINDS and {name, peer} <= set(client.CLIENTS) and least > 1)
