"""
The page on testing does what it shows: its tests pass, each in its own framework.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.testing import faults
from tests.live import ROOT
from tests.pages import EXAMPLES, PAGES


class FrameworkTests(SynchronousTestCase):
    def run_tests(self, *command: str) -> str:
        """Run a framework on examples, and give what it says."""
        paths = os.pathsep.join([str(ROOT), str(EXAMPLES)])
        done = subprocess.run(
            [sys.executable, "-B", "-m", *command],
            cwd=EXAMPLES,
            env={**os.environ, "PYTHONPATH": paths, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def test_pytest(self) -> None:
        """The tests for pytest pass with its fixtures."""
        if find_spec("pytest") is None:
            raise SkipTest("pytest is not installed")
        said = self.run_tests(
            "pytest", "-q", "-p", "smtpsvc.testing._plugin", "-p", "no:cacheprovider", "test_welcome.py"
        )
        self.assertIn("4 passed", said)

    def test_unittest(self) -> None:
        """Those for unittest and asyncio pass."""
        self.assertIn("Ran 2 tests", self.run_tests("unittest", "test_welcome_unittest"))

    def test_trial(self) -> None:
        """Those for trial pass."""
        directory = self.mktemp()
        said = self.run_tests("twisted.trial", "--temp-directory", os.path.abspath(directory), "test_welcome_trial")
        self.assertIn("Ran 1 tests", said)


class PageTests(SynchronousTestCase):
    def test_faults(self) -> None:
        """The page has each fault."""
        for name in set(faults.__all__) - {"Call", "Fault"}:
            self.assertIn(f"``{name}(", PAGES["testing.rst"])
