"""
Tests of smtpsvc itself: its public names.
"""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import smtpsvc

HEAVY = ("twisted.internet.reactor", "twisted.internet.protocol", "OpenSSL", "smtpsvc.server", "smtpsvc.backends")


def imported_by(statement: str) -> set[str]:
    """Give the names of the modules that a fresh Python has after a statement."""
    code = f"import sys; {statement}; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(smtpsvc.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


class PublicNamesTests(SynchronousTestCase):
    """The public names are there, and are loaded on use."""

    def test_all(self) -> None:
        """Each name can be had, and says where it lives."""
        for name in smtpsvc.__all__:
            with self.subTest(name):
                self.assertIsNotNone(getattr(smtpsvc, name))
                self.assertIn(name, dir(smtpsvc))

    def test_types(self) -> None:
        """What type checkers see are the same names."""
        tree = ast.parse(inspect.getsource(smtpsvc))
        (block,) = [node for node in tree.body if isinstance(node, ast.If)]
        seen = [alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
        self.assertEqual(sorted(seen), sorted(smtpsvc.__all__))

    def test_homes(self) -> None:
        """What type checkers see comes from where the name is loaded."""
        tree = ast.parse(inspect.getsource(smtpsvc))
        (block,) = [node for node in tree.body if isinstance(node, ast.If)]
        for node in block.body:
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    with self.subTest(alias.name):
                        home = __import__(str(node.module), fromlist=[alias.name])
                        self.assertIs(getattr(smtpsvc, alias.name), getattr(home, alias.name))

    def test_unknown(self) -> None:
        """Another name is an AttributeError."""
        with self.assertRaises(AttributeError):
            smtpsvc.nothing  # noqa: B018

    def test_light(self) -> None:
        """To import smtpsvc loads neither a reactor nor a server."""
        found = imported_by("import smtpsvc")
        self.assertEqual([name for name in found if name.startswith(HEAVY) or name.startswith("twisted")], [])

    def test_light_plugins(self) -> None:
        """Nor does what Twisted loads when it looks for plugins."""
        found = imported_by("import smtpsvc.plugins")
        self.assertEqual([name for name in found if name.startswith(HEAVY)], [])

    def test_no_reactor(self) -> None:
        """Nothing of smtpsvc installs a reactor by being imported."""
        found = imported_by("from smtpsvc import *; import smtpsvc.tap")
        self.assertIn("smtpsvc.service", found)
        self.assertNotIn("twisted.internet.reactor", found)
