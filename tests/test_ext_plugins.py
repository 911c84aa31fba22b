"""
Tests of extensions as plugins, and of the options about extensions.
"""

from __future__ import annotations

import io
import sys
from typing import Any

from twisted.plugin import IPlugin
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import smtpsvc.plugins
import smtpsvc.routeoptions
from smtpsvc.interfaces import IExtensionFactory
from smtpsvc.plugins import ExtensionFactory, extension_factories, extensions_table, find_extension
from smtpsvc.tap import Options, makeService
from smtpsvc.testing import Wire

ECHO = ExtensionFactory("echo", "tests.test_ext_offer:Echo", "Repeats.", "TEXT")
PLAIN = ExtensionFactory("plain", "tests.test_ext_offer:Echo", "Keeps silent.")
ABSENT = ExtensionFactory("absent", "smtpsvc_absent:Extension", "Is not installed.")
WRONG = ExtensionFactory("wrong", "builtins:object", "Is none.")
PLUGINS = (ECHO, PLAIN, ABSENT, WRONG)


class FactoryTests(SynchronousTestCase):
    def refused(self, description: str) -> str:
        """Give the sentence that refuses a description."""
        return str(self.assertRaises(ValueError, find_extension, description, PLUGINS))

    def test_interfaces(self) -> None:
        """It is a Twisted plugin and a factory of extensions."""
        self.assertTrue(IPlugin.providedBy(ECHO))
        self.assertTrue(verifyObject(IExtensionFactory, ECHO))

    def test_make(self) -> None:
        """The class that it names is called with the argument, if there is one."""
        self.assertEqual(find_extension("echo", PLUGINS).text, "")
        self.assertEqual(find_extension("echo:a:b", PLUGINS).text, "a:b")

    def test_names(self) -> None:
        """Factories are found by name, in order."""
        self.assertEqual(list(extension_factories([*PLUGINS, object()])), ["absent", "echo", "plain", "wrong"])

    def test_installed(self) -> None:
        """What is installed is looked for in Twisted's plugins."""
        self.assertIsInstance(extension_factories(), dict)

    def test_unknown(self) -> None:
        """A name that is not there is refused with a guess and the list."""
        sentence = "no extension 'ecko' is installed (did you mean echo?); there are absent, echo, plain, wrong"
        self.assertEqual(self.refused("ecko"), sentence)
        self.assertRaisesRegex(ValueError, "^no extension 'x' is installed; there are none$", find_extension, "x", [])

    def test_mistakes(self) -> None:
        """What cannot be made is refused with a sentence."""
        self.assertEqual(self.refused("plain:x"), "plain: it takes no argument")
        self.assertRegex(self.refused("absent"), "^absent does not work: ModuleNotFoundError: No module named")
        self.assertRegex(self.refused("wrong"), "^wrong gives no whole extension: ")

    def test_repr(self) -> None:
        """It shows its name and what it names."""
        self.assertEqual(repr(ECHO), "<ExtensionFactory echo: tests.test_ext_offer:Echo>")

    def test_table(self) -> None:
        """The table lists those of smtpsvc and those that are installed."""
        lines = extensions_table([ECHO.make("")], [PLAIN, ECHO]).splitlines()
        self.assertEqual(lines[0], "XECHO[:TEXT]  on           repeats what it was made with.")
        self.assertEqual(lines[1], "echo:TEXT     --extension  Repeats.")
        self.assertEqual(lines[2], "plain         --extension  Keeps silent.")


class OptionsTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Install plugins, and redirect the output."""
        self.patch(smtpsvc.plugins, "getPlugins", lambda interface: PLUGINS if interface is IExtensionFactory else [])
        self.out = io.StringIO()
        self.patch(sys, "stdout", self.out)

    def parse(self, *arguments: str) -> Options:
        """Read a command line."""
        from smtpsvc.backends.null import make

        self.patch(smtpsvc.routeoptions, "find_backend", lambda *_: make("", None))
        options = Options()
        options.parseOptions(["--backend", "null:", *arguments])
        return options

    def refused(self, *arguments: str) -> str:
        """Give the sentence that refuses a command line."""
        error = self.assertRaises(usage.UsageError, self.parse, *arguments)
        self.assertEqual(len(str(error).splitlines()), 1)
        return str(error)

    def announced(self, *arguments: str) -> list[str]:
        """Give what a server of these options announces."""
        service: Any = makeService(self.parse(*arguments))
        return Wire(service.factory()).say("EHLO x").hang_up().last_reply.text.splitlines()[1:]

    def test_enable(self) -> None:
        """--enable offers an extension, --disable takes one away; both may be given several times."""
        options = ("--enable", "deliverby:60", "--enable", "RRVS", "--disable", "pipelining", "--disable", "DSN")
        lines = self.announced(*options)
        self.assertLessEqual({"DELIVERBY 60", "RRVS"}, set(lines))
        self.assertFalse({"PIPELINING", "DSN"} & set(lines))

    def test_extension(self) -> None:
        """--extension adds one that is installed."""
        self.assertIn("XECHO hello", self.announced("--extension", "echo:hello"))

    def test_limits(self) -> None:
        """--max-messages and --max-domains are announced."""
        lines = self.announced("--max-messages", "3", "--max-domains", "2", "--max-recipients", "9")
        self.assertIn("LIMITS MAILMAX=3 RCPTMAX=9 RCPTDOMAINMAX=2", lines)

    def test_mistakes(self) -> None:
        """A mistake is one line that names the option."""
        cases = {
            ("--enable", "XNONE"): "--enable: there is no extension 'XNONE'",
            ("--disable", "XNONE"): "--disable: there is no extension 'XNONE'",
            ("--enable", "deliverby:x"): "--enable: DELIVERBY:x: must be a number",
            ("--enable", "FUTURERELEASE"): "--enable: FUTURERELEASE is for submission listeners",
            ("--enable", "DSN", "--disable", "DSN"): "--disable: DSN is given with --enable too",
            ("--extension", "ecko"): "--extension: no extension 'ecko' is installed",
            ("--extension", "plain:x"): "--extension: plain: it takes no argument",
            ("--max-messages", "x"): "--max-messages: 'x' is no whole number",
        }
        for arguments, sentence in cases.items():
            with self.subTest(arguments):
                self.assertTrue(self.refused(*arguments).startswith(sentence), self.refused(*arguments))

    def test_help(self) -> None:
        """--help-extensions lists them all and ends."""
        self.assertEqual(self.assertRaises(SystemExit, self.parse, "--help-extensions").code, 0)
        self.assertRegex(self.out.getvalue(), r"(?m)^DELIVERBY\[:SECONDS\] +on request +RFC 2852: ")
        self.assertRegex(self.out.getvalue(), r"(?m)^echo:TEXT +--extension +Repeats")

    def test_check(self) -> None:
        """--check prints what was asked for."""
        self.assertRaises(SystemExit, self.parse, "--check", "--port", "0", "--enable", "rrvs", "--disable", "DSN",
                          "--extension", "echo:hi")  # fmt: skip
        for line in ("enable = RRVS", "disable = DSN", "extension = echo:hi", "250-RRVS"):
            with self.subTest(line):
                self.assertIn(line, self.out.getvalue().splitlines())
