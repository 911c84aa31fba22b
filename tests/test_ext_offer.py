"""
Tests of smtpsvc.extensions.offer: --enable, --disable and what backends support.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc import Extension, Role, Settings
from smtpsvc.extensions import defaults
from smtpsvc.extensions.offer import check_roles, extension_lines, offered
from smtpsvc.testing import ScriptedBackend
from tests.extended import extended, keywords, protect

#: What a backend must keep the promise of, and so is offered only on request.
PROMISES = {"DELIVERBY", "FUTURERELEASE", "MT-PRIORITY", "NO-SOLICITING", "REQUIRETLS", "RRVS"}


class Echo(Extension):
    """XECHO: repeats what it was made with."""

    keyword = "XECHO"
    argument = "TEXT"
    switches = frozenset({"XLOUD"})

    def __init__(self, text: str = "") -> None:
        self.text = text

    def configured(self, argument: str) -> Echo:
        """Take any text but one."""
        if argument == "no":
            raise ValueError("that is no text")
        return Echo(argument)

    def advertise(self, conversation: Any) -> str:
        """Show the text."""
        return self.text


def names(supports: frozenset[str] = frozenset(), **fields: Any) -> set[str]:
    """Give the keywords that are offered."""
    return {extension.keyword for extension in offered([*defaults(), Echo()], Settings(**fields), supports)}


class OfferedTests(SynchronousTestCase):
    def refused(self, **fields: Any) -> str:
        """Give the sentence that refuses settings."""
        return str(self.assertRaises(ValueError, names, **fields))

    def test_usual(self) -> None:
        """What is a promise of the backend's is not offered unasked; the rest is."""
        self.assertFalse(names() & (PROMISES | {"XOORG"}))
        self.assertLessEqual({"PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "LIMITS", "XECHO"}, names())

    def test_supports(self) -> None:
        """What the backend supports is offered."""
        for name in sorted(PROMISES):
            with self.subTest(name):
                self.assertEqual(names(frozenset({name})) - names(), {name})

    def test_enable(self) -> None:
        """What is enabled is offered, in whatever case it is written."""
        for name in sorted(PROMISES):
            with self.subTest(name):
                self.assertEqual(names(enable={name.lower()}) - names(), {name})

    def test_disable(self) -> None:
        """Every extension can be disabled, also what the backend supports."""
        for extension in defaults():
            name = extension.keyword
            with self.subTest(name):
                there = names(frozenset(PROMISES))
                self.assertEqual(there - names(frozenset(PROMISES), disable={name.lower()}), {name} & there)

    def test_enable_what_is_on(self) -> None:
        """To enable what is offered anyway changes nothing."""
        self.assertEqual(names(enable={"PIPELINING", "DSN"}), names())

    def test_argument(self) -> None:
        """An argument makes the extension anew, and is kept as it was written."""
        self.assertIn("XECHO Some:Text", keywords(self.wire(enable={"xecho:Some:Text"})))

    def test_no_argument(self) -> None:
        """A name with nothing behind its colon is the name alone."""
        self.assertIn("XECHO", keywords(self.wire(enable={"xecho:"})))

    def wire(self, **fields: Any) -> Any:
        """Connect to a server that has Echo too."""
        from tests.support import connect, settings_with

        return connect(None, settings_with(**fields), extensions=[*defaults(), Echo()])

    def test_switches(self) -> None:
        """An extension may have further names; they take no argument."""
        self.assertEqual(names(enable={"XLOUD"}), names())
        self.assertEqual(names(disable={"XLOUD"}), names())
        self.assertEqual(self.refused(enable={"XLOUD:1"}), "--enable: XLOUD takes no argument")

    def test_unknown(self) -> None:
        """A name that no extension has is refused with a guess and the list."""
        for option in ("enable", "disable"):
            with self.subTest(option):
                sentence = self.refused(**{option: {"DELIVERYBY"}})
                start = rf"^--{option}: there is no extension 'DELIVERYBY' \(did you mean DELIVERBY\?\); there are 8BIT"
                self.assertRegex(sentence, start)

    def test_bad_argument(self) -> None:
        """An argument that the extension does not take is refused in its words."""
        self.assertEqual(self.refused(enable={"XECHO:no"}), "--enable: XECHO:no: that is no text")
        self.assertEqual(self.refused(enable={"SIZE:5"}), "--enable: SIZE:5: it takes no argument")


class SettingsTests(SynchronousTestCase):
    def refused(self, **fields: Any) -> str:
        """Give the sentence that refuses settings."""
        return str(self.assertRaises(ValueError, Settings, **fields))

    def test_names(self) -> None:
        """Names are kept in upper case, whatever they come in."""
        settings = Settings(enable=["dsn", "Deliverby:Ab"], disable=("size",))  # type: ignore[arg-type]
        self.assertEqual(settings.enable, {"DSN", "DELIVERBY:Ab"})
        self.assertEqual(settings.disable, {"SIZE"})

    def test_enabled(self) -> None:
        """It tells what is enabled, and with what."""
        settings = Settings(enable=frozenset({"DSN", "DELIVERBY:600"}))
        self.assertEqual([settings.enabled(name) for name in ("DSN", "DELIVERBY", "SIZE")], ["", "600", None])

    def test_mistakes(self) -> None:
        """Names that are none, contradictions and arguments of --disable are refused."""
        cases: list[tuple[dict[str, Any], str]] = [
            ({"enable": {"A B"}}, "--enable: 'A B' is no name of an extension"),
            ({"disable": {""}}, "--disable: '' is no name of an extension"),
            ({"enable": {"A:1", "a:2"}}, "--enable: A is given twice, with different arguments"),
            ({"enable": {"A"}, "disable": {"a"}}, "--disable: A is given with --enable too; which is meant?"),
            ({"disable": {"A:1"}}, "--disable: 'A:1' has an argument; write the name alone"),
        ]
        for fields, sentence in cases:
            with self.subTest(sentence):
                self.assertEqual(self.refused(**fields), sentence)

    def test_one_string(self) -> None:
        """A string alone is one name, and not its letters."""
        self.assertEqual(Settings(enable="DSN").enable, {"DSN"})  # type: ignore[arg-type]


class RolesTests(SynchronousTestCase):
    def test_no_listener(self) -> None:
        """What is enabled and has no listener that could have it is refused."""
        settings = Settings(enable=frozenset({"FUTURERELEASE"}))
        chosen = offered(defaults(), settings, ())
        sentence = "--enable: FUTURERELEASE is for submission listeners, and there is none"
        self.assertEqual(str(self.assertRaises(ValueError, check_roles, chosen, settings, {Role.SMTP})), sentence)
        self.assertIsNone(check_roles(chosen, settings, {Role.SMTP, Role.SUBMISSION}))

    def test_not_enabled(self) -> None:
        """What the backend merely supports needs no listener."""
        chosen = offered(defaults(), Settings(), {"FUTURERELEASE"})
        self.assertIsNone(check_roles(chosen, Settings(), {Role.SMTP}))


class ServerTests(SynchronousTestCase):
    def test_backend(self) -> None:
        """A server offers what its backend supports."""
        backend = ScriptedBackend()
        backend.supports = frozenset(PROMISES)  # type: ignore[misc]
        wire = protect(extended(backend, role=Role.SUBMISSION))
        self.assertEqual({line.partition(" ")[0] for line in keywords(wire)} & PROMISES, PROMISES)

    def test_disabled_codes(self) -> None:
        """Without ENHANCEDSTATUSCODES replies have no enhanced codes."""
        wire = extended(disable={"ENHANCEDSTATUSCODES"}).greeted().say("NOOP")
        self.assertEqual(wire.output, b"250 OK\r\n")

    def test_disabled_size(self) -> None:
        """Without SIZE its parameter is 555, and the limit holds all the same."""
        wire = extended(disable={"SIZE"}, message_size=10).greeted()
        wire.say("MAIL FROM:<> SIZE=1", "MAIL FROM:<>", "RCPT TO:<b@y.example>", "DATA", "12345678901", ".")
        self.assertEqual(wire.codes, [555, 250, 250, 354, 552])

    def test_unknown(self) -> None:
        """A factory with an unknown name is refused when it is made."""
        self.assertRaisesRegex(ValueError, "^--enable: there is no extension 'XNONE'", extended, None, "XNONE")


class LinesTests(SynchronousTestCase):
    def test_lines(self) -> None:
        """Extensions are described by how they are written, who must ask, and what their docstrings begin with."""
        lines = {line[0]: line[1:] for line in extension_lines([*defaults(), Echo()])}
        self.assertEqual(lines["PIPELINING"], ("on", "RFC 2920: commands may come in groups."))
        self.assertEqual(lines["DELIVERBY[:SECONDS]"][0], "on request")
        self.assertEqual(lines["XECHO[:TEXT]"], ("on", "repeats what it was made with."))

    def test_all(self) -> None:
        """Each has words."""
        for usage, _, words in extension_lines(defaults()):
            with self.subTest(usage):
                self.assertRegex(words, r"\S \S")
