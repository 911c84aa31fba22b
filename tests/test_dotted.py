"""
Tests of smtpsvc.dotted: ``--backend python:pkg.mod.factory``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.backends.null import NullBackend
from smtpsvc.dotted import make
from smtpsvc.interfaces import IBackend

MODULE = """
from smtpsvc.backends.function import on_message
from smtpsvc.backends.null import NullBackend

ready = NullBackend()
number = 7

def factory():
    return ready

class Holder:
    make = staticmethod(factory)

@on_message
def printer(message):
    print(message.size)

async def later():
    return ready

def of_message(message):
    pass

def broken():
    raise KeyError("x")

def leaving():
    raise SystemExit(3)
"""


class DottedTests(SynchronousTestCase):
    """A dotted name gives a backend or a sentence."""

    def setUp(self) -> None:
        """Make modules in a directory of their own, and go there."""
        home = Path(self.mktemp()).resolve()
        (home / "dotted_package").mkdir(parents=True)
        (home / "dotted_package" / "__init__.py").touch()
        (home / "dotted_package" / "inner.py").write_text(MODULE)
        (home / "dotted_module.py").write_text(MODULE)
        (home / "dotted_bad_zero.py").write_text("1 / 0\n")
        (home / "dotted_bad_syntax.py").write_text("def (\n")
        (home / "dotted_bad_import.py").write_text("\nimport dotted_nowhere\n")
        (home / "dotted_bad_exit.py").write_text("raise SystemExit(3)\n")
        self.home = home
        self.addCleanup(os.chdir, os.getcwd())
        self.patch(sys, "path", [*sys.path])
        self.addCleanup(self.forget)
        os.chdir(home)

    def forget(self) -> None:
        """Remove the modules of this test from Python's memory."""
        for name in [name for name in sys.modules if name.startswith("dotted_")]:
            del sys.modules[name]

    def test_found(self) -> None:
        """A function, a class, a thing in one or in a package, and a backend itself are ways to a backend."""
        for name in (
            "dotted_module.factory",
            "dotted_module:factory",
            "dotted_module.NullBackend",
            "dotted_module.Holder.make",
            "dotted_module.ready",
            "dotted_package.inner.factory",
        ):
            with self.subTest(name):
                self.assertIsInstance(make(name, None), NullBackend)

    def test_on_message(self) -> None:
        """A function with ``@on_message`` is a backend, and is not called."""
        self.assertTrue(IBackend.providedBy(make("dotted_module.printer", None)))

    def test_current_directory_is_last(self) -> None:
        """The current directory is searched for what is not found elsewhere, and hides nothing."""
        make("dotted_module.factory", None)
        self.assertEqual(sys.path.index(str(self.home)), len(sys.path) - 1)

    def test_installed(self) -> None:
        """For what is installed, the path stays as it was."""
        make("smtpsvc.backends.null.NullBackend", None)
        self.assertNotIn(str(self.home), sys.path)

    def test_sentences(self) -> None:
        """Each mistake has its sentence, with the other side's exception and its place, in one line."""
        cases = {
            "": "must name a function in a module, such as python:pkg.mod.factory",
            "os": "must name a function in a module, such as python:pkg.mod.factory",
            "os..path": "must name a function in a module, such as python:pkg.mod.factory",
            "dotted_nowhere.x": "cannot be imported: ModuleNotFoundError: No module named 'dotted_nowhere'",
            "dotted_package.nowhere.x": "cannot be imported: ModuleNotFoundError: "
            "No module named 'dotted_package.nowhere'",
            "dotted_module.nothing": "cannot be imported: AttributeError: "
            "module 'dotted_module' has no attribute 'nothing'",
            "dotted_bad_zero.x": "cannot be imported: ZeroDivisionError: division by zero "
            f"({self.home}/dotted_bad_zero.py, line 1)",
            "dotted_bad_import.x": "cannot be imported: ModuleNotFoundError: No module named 'dotted_nowhere' "
            f"({self.home}/dotted_bad_import.py, line 2)",
            "dotted_bad_syntax.x": "cannot be imported: SyntaxError: invalid syntax (dotted_bad_syntax.py, line 1)",
            "dotted_bad_exit.x": f"cannot be imported: SystemExit: 3 ({self.home}/dotted_bad_exit.py, line 1)",
            "dotted_module.number": "is neither a backend nor a function that returns one, but of type int",
            "dotted_module.of_message": "cannot be called without arguments (missing a required argument: 'message'); "
            "a function that takes messages needs @smtpsvc.on_message above it",
            "dotted_module.broken": f"failed: KeyError: 'x' ({self.home}/dotted_module.py, line 25)",
            "dotted_module.leaving": f"failed: SystemExit: 3 ({self.home}/dotted_module.py, line 28)",
            "dotted_module.later": "is a coroutine function; the backend must be returned at once",
        }
        for name, sentence in cases.items():
            with self.subTest(name):
                error = self.assertRaises(ValueError, make, name, None)
                self.assertEqual(str(error), f"python:{name} {sentence}")
