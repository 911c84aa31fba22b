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
from smtpsvc import interfaces, parameters, session, settings, values

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

    def test_typed(self) -> None:
        """Type checkers are told that the package has types."""
        self.assertTrue((Path(smtpsvc.__file__).parent / "py.typed").is_file())


class CompleteTests(SynchronousTestCase):
    """Who builds on smtpsvc finds it all in one place."""

    #: What is no class of the modules below.
    MORE = (
        *("CertificateStore", "Extension", "MailService", "Message", "Monitor", "Policy", "SMTPFactory", "Address"),
        *("Reply", "SMTPError", "PermanentError", "TemporaryError", "on_message", "with_policies", "asyncio_hook"),
    )

    def test_sorted(self) -> None:
        """The names are sorted, and each is there once."""
        self.assertEqual(smtpsvc.__all__, sorted(set(smtpsvc.__all__)))

    def test_complete(self) -> None:
        """Interfaces, base classes, settings, and what hooks are given are there."""
        self.assertLessEqual(set(self.MORE), set(smtpsvc.__all__))
        for module in (interfaces, parameters, session):
            for name, value in vars(module).items():
                if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__:
                    with self.subTest(name):
                        self.assertIs(getattr(smtpsvc, name), value)
        for name in ("Account", "Body", "Envelope", "Peer", "Recipient", "Results", "TLSInfo"):
            self.assertIs(getattr(smtpsvc, name), getattr(values, name))
        for name in ("Limits", "Role", "Settings"):
            self.assertIs(getattr(smtpsvc, name), getattr(settings, name))

    def test_no_more_than_needed(self) -> None:
        """To import a backend's base class loads neither OpenSSL nor the server."""
        found = imported_by("from smtpsvc import Backend, Session, Delivery, Reply, PermanentError, Envelope")
        heavy = ("OpenSSL", "smtpsvc.server", "smtpsvc.service")
        self.assertEqual([name for name in found if name.startswith(heavy)], [])
        self.assertNotIn("twisted.internet.reactor", found)
