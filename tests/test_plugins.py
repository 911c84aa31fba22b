"""
Tests of smtpsvc.plugins: backends by name.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.plugin import IPlugin
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from smtpsvc.backends.null import NullBackend
from smtpsvc.interfaces import IBackendFactory
from smtpsvc.plugins import (
    BackendFactory,
    backend_factories,
    backend_factory,
    backend_help,
    backends_table,
    describe_error,
    find_backend,
)

NULL = BackendFactory("null", "smtpsvc.backends.null:make", "", "Keep nothing.")
MAILDIR = BackendFactory("maildir", "smtpsvc.backends.maildir:make", "DIR", "Keep files.")
ABSENT = BackendFactory("absent", "smtpsvc_absent.backend:make", "X", "Is not installed.")


class Stranger:
    """A plugin of someone else's: it makes what a function gives."""

    argument = ""
    summary = "Strange."

    def __init__(self, name: str, made: Any) -> None:
        self.name = name
        self.made = made

    @property
    def help(self) -> str:
        """What it does, or what goes wrong."""
        return str(self.made())

    def make(self, argument: str, reactor: object) -> Any:
        """Make whatever it is."""
        return self.made()


def raising(error: BaseException) -> Stranger:
    """Give a plugin that fails with *error*."""

    def make() -> Any:
        raise error

    return Stranger("strange", make)


class BackendFactoryTests(SynchronousTestCase):
    """A plugin object knows a dotted name, and loads it on use."""

    def test_interfaces(self) -> None:
        """It is a Twisted plugin and a factory of backends."""
        self.assertTrue(IPlugin.providedBy(NULL))
        self.assertTrue(verifyObject(IBackendFactory, NULL))

    def test_make(self) -> None:
        """It calls the function that it names."""
        self.assertIsInstance(NULL.make("", None), NullBackend)

    def test_lazy(self) -> None:
        """What it names is not imported before it is needed."""
        self.assertEqual(ABSENT.name, "absent")
        self.assertNotIn("smtpsvc_absent", sys.modules)
        self.assertRaises(ModuleNotFoundError, ABSENT.make, "", None)

    def test_help(self) -> None:
        """Its help is the docstring of the module that it names."""
        self.assertIn("for measurements", NULL.help)


class FactoriesTests(SynchronousTestCase):
    """Plugins are found by their names."""

    def test_installed(self) -> None:
        """Those of smtpsvc itself are installed."""
        found = backend_factories()
        for name in ("maildir", "null", "debug", "python"):
            with self.subTest(name):
                self.assertEqual(found[name].name, name)
                self.assertTrue(verifyObject(IBackendFactory, found[name]))

    def test_nameless(self) -> None:
        """A plugin without a name is left out, and the others are found."""
        self.assertEqual(list(backend_factories([object(), NULL, Stranger(None, None)])), ["null"])  # type: ignore[arg-type]

    def test_ours_stays(self) -> None:
        """A stranger cannot take one of our names, wherever its plugin stands."""
        stranger = Stranger("null", object)
        for plugins in ([stranger, NULL], [NULL, stranger]):
            with self.subTest(plugins):
                self.assertIs(backend_factories(plugins)["null"], NULL)

    def test_unknown(self) -> None:
        """An unknown name is answered with the nearest and with all of them."""
        error = self.assertRaises(ValueError, backend_factory, "maildr", [NULL, MAILDIR])
        self.assertEqual(
            str(error), "there is no backend 'maildr' (did you mean maildir?); there are maildir, null"
        )

    def test_nothing_near(self) -> None:
        """Where nothing is near, nothing is guessed."""
        error = self.assertRaises(ValueError, backend_factory, "zzz", [NULL])
        self.assertEqual(str(error), "there is no backend 'zzz'; there are null")

    def test_table(self) -> None:
        """The list shows how each is written and what it does, a line each."""
        self.assertEqual(
            backends_table([NULL, MAILDIR]).splitlines(), ["maildir:DIR  Keep files.", "null:        Keep nothing."]
        )

    def test_backend_help(self) -> None:
        """The help of one shows how it is written, and all that it says of itself."""
        first, blank, *rest = backend_help("null", [NULL]).splitlines()
        self.assertEqual((first, blank), ("null:", ""))
        self.assertIn("It takes no argument.", rest)

    def test_broken_help(self) -> None:
        """The help of a plugin that cannot be loaded is a sentence."""
        error = self.assertRaises(ValueError, backend_help, "absent", [ABSENT])
        self.assertEqual(str(error), "absent does not work: ModuleNotFoundError: No module named 'smtpsvc_absent'")


class FindTests(SynchronousTestCase):
    """``--backend NAME:ARGUMENT`` gives a backend or a sentence."""

    def test_name_alone(self) -> None:
        """The colon may be left out where there is no argument."""
        for description in ("null", "null:"):
            with self.subTest(description):
                self.assertIsInstance(find_backend(description, None, [NULL]), NullBackend)

    def test_argument(self) -> None:
        """All after the first colon is the argument."""
        self.assertEqual(find_backend("maildir:a:b", None, [MAILDIR]).directory, "a:b")

    def test_sentences(self) -> None:
        """Whatever goes wrong in a plugin is one line that says what."""
        cases = [
            (raising(ValueError("strange: needs\na file")), "strange: needs a file"),
            (raising(ValueError("needs a file")), "strange: needs a file"),
            (raising(KeyError("x")), f"strange:it does not work: KeyError: 'x' ({__file__}, line "),
            (raising(SystemExit(2)), f"strange:it does not work: SystemExit: 2 ({__file__}, line "),
            (Stranger("strange", lambda: None), "strange:it gives no backend but NoneType: it must provide"),
            (Stranger("strange", lambda: NullBackend), "strange:it gives no backend but type: it must provide"),
        ]
        for plugin, sentence in cases:
            with self.subTest(sentence):
                error = self.assertRaises(ValueError, find_backend, "strange:it", None, [plugin])
                self.assertTrue(str(error).startswith(sentence), str(error))
                self.assertNotIn("\n", str(error))

    def test_incomplete(self) -> None:
        """What claims to be a backend and is none is told with what is missing."""
        backend = NullBackend()
        backend.open_session = None  # type: ignore[method-assign, assignment]
        plugin = Stranger("strange", lambda: backend)
        error = self.assertRaises(ValueError, find_backend, "strange", None, [plugin])
        self.assertIn("strange gives no whole backend: ", str(error))
        self.assertIn("open_session", str(error))


class DescribeTests(SynchronousTestCase):
    """An exception in half a sentence."""

    def test_no_message(self) -> None:
        """One without a message is told by its type."""
        self.assertEqual(describe_error(KeyError()), "KeyError")

    def test_syntax_error(self) -> None:
        """A syntax error is told with its own place, once."""
        try:
            compile("def (", "mine.py", "exec")
        except SyntaxError as error:
            self.assertEqual(describe_error(error), "SyntaxError: invalid syntax (mine.py, line 1)")
