"""
The documentation says what is so: its tables are complete and right.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.interface import InterfaceClass

import smtpsvc
from smtpsvc.extensions import defaults
from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IVerifier
from smtpsvc.policies.chain import with_policies
from smtpsvc.policies.domains import Domains
from smtpsvc.settings import Limits, Role, Settings
from smtpsvc.tap import Options
from smtpsvc.testing import ScriptedBackend, Wire, clocked_factory
from tests.live import ROOT
from tests.logins import CountingRealm, joes
from tests.pages import CODE, PAGES, directive, tables

HELLO, MAIL, RCPT = "EHLO c.example", "MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>"
MESSAGE = (HELLO, MAIL, RCPT, "DATA", "Hello", ".")


def last_reply(
    *lines: str | bytes,
    backend: Any = None,
    settings: Settings | None = None,
    then: Callable[[Any, Any], object] = lambda factory, clock: None,
    role: Role = Role.SMTP,
    behind: int = 0,
) -> Reply:
    """Say lines to a server, let something happen, and give its last reply, or one so many before it."""
    factory, clock = clocked_factory(backend or ScriptedBackend(), settings, role=role)
    wire = Wire(factory).say(*lines)
    then(factory, clock)
    return wire.replies[-1 - behind]


def _later(factory: Any, clock: Any) -> None:
    clock.advance(400)


class ReplyTests(SynchronousTestCase):
    #: What provokes each stock reply, by its row of the table.
    DIALOGUES: ClassVar[Mapping[str, Callable[[], Reply]]] = {
        "OK": lambda: last_reply("NOOP", "RSET"),
        "SENDER_OK": lambda: last_reply(HELLO, MAIL),
        "RECIPIENT_OK": lambda: last_reply(HELLO, MAIL, RCPT),
        "BYE": lambda: last_reply("QUIT"),
        "CANNOT_VERIFY": lambda: last_reply("VRFY b"),
        "EACH_FOLLOWS": lambda: last_reply(
            HELLO,
            MAIL + " PRDR",
            RCPT,
            RCPT,
            "DATA",
            ".",
            backend=ScriptedBackend(finish=lambda: [None, None]),
            settings=Settings(enable={"PRDR"}),
            behind=3,
        ),
        "START_MAIL": lambda: last_reply(HELLO, MAIL, RCPT, "DATA"),
        "SHUTTING_DOWN": lambda: last_reply(HELLO, then=lambda factory, clock: factory.shut_down()),
        "TIMED_OUT": lambda: last_reply(HELLO, then=_later),
        "NO_SESSION": lambda: last_reply(backend=ScriptedBackend(open_session=KeyError)),
        "TOO_BUSY": lambda: _second(Limits(connections=1)),
        "TOO_MANY_CONNECTIONS": lambda: _second(Limits(connections_per_client=1)),
        "TOO_MANY_ERRORS": lambda: last_reply(*["NOPE"] * 20),
        "TOO_MANY_LOGINS": lambda: _guessing(),  # noqa: PLW0108 (it is defined below)
        "EARLY": lambda: last_reply(HELLO, settings=Settings(limits=Limits(greet_delay=1)), then=_later),
        "ONLY_SMTP": lambda: last_reply("GET / HTTP/1.1"),
        "TOO_MANY_HOPS": lambda: last_reply(HELLO, MAIL, RCPT, "DATA", *["Received: x"] * 51, "", "."),
        "HEADER_TOO_BIG": lambda: last_reply(
            *(HELLO, MAIL, RCPT, "DATA", "Subject: x", "", "."), settings=Settings(limits=Limits(header_size=3))
        ),
        "TEXT_LINE_TOO_LONG": lambda: last_reply(*MESSAGE, settings=Settings(limits=Limits(text_line=3))),
        "LOCAL_ERROR": lambda: last_reply(HELLO, MAIL, backend=ScriptedBackend(mail=KeyError)),
        "HOOK_TIMED_OUT": lambda: last_reply(HELLO, MAIL, backend=ScriptedBackend(mail=Deferred()), then=_later),
        "RECIPIENT_TIMED_OUT": lambda: last_reply(
            "LHLO c.example",
            MAIL,
            RCPT,
            "DATA",
            ".",
            backend=ScriptedBackend(finish=Deferred()),
            role=Role.LMTP,
            then=_later,
        ),
        "TOO_MANY_RECIPIENTS": lambda: last_reply(
            HELLO, MAIL, RCPT, RCPT, settings=Settings(limits=Limits(recipients=1))
        ),
        "ONE_RECIPIENT_EACH": lambda: last_reply(HELLO, MAIL, RCPT, RCPT, backend=_one_each()),
        "LINE_TOO_LONG": lambda: last_reply("NOOP " + "x" * 2000),
        "BAD_LINE_END": lambda: last_reply(b"NO\nOP"),
        "UNKNOWN_COMMAND": lambda: last_reply("NOPE"),
        "NO_ARGUMENT": lambda: last_reply("QUIT now"),
        "NEED_NAME": lambda: last_reply("EHLO " + "x" * 256),
        "NEED_ARGUMENT": lambda: last_reply("VRFY"),
        "BAD_ARGUMENT": lambda: last_reply("NOOP \a"),
        "NOT_IMPLEMENTED": lambda: last_reply("ETRN x"),
        "NO_EXPANSION": lambda: last_reply("EXPN list"),
        "SAY_HELLO": lambda: last_reply(MAIL),
        "SAY_LHLO": lambda: last_reply(MAIL, role=Role.LMTP),
        "SAY_MAIL": lambda: last_reply(HELLO, RCPT),
        "SAY_RCPT": lambda: last_reply(HELLO, MAIL, "DATA"),
        "NESTED_MAIL": lambda: last_reply(HELLO, MAIL, MAIL),
        "IN_CHUNKS": lambda: last_reply(HELLO, MAIL, RCPT, "BDAT 0", "DATA"),
        "BINARY_NEEDS_BDAT": lambda: last_reply(HELLO, MAIL + " BODY=BINARYMIME", RCPT, "DATA"),
        "NO_SUCH_USER": lambda: last_reply("EXPN list", backend=_verifier(expand=[[]])),
        "SENDER_NOT_ASCII": lambda: last_reply(HELLO, "MAIL FROM:<ü@x.example>"),
        "RECIPIENT_NOT_ASCII": lambda: last_reply(HELLO, MAIL, "RCPT TO:<ü@y.example>"),
        "NOT_TRUSTED": lambda: last_reply(HELLO, "XCLIENT NAME=x.example"),
        "RELAYING_DENIED": lambda: _without_id(
            last_reply(HELLO, MAIL, RCPT, backend=with_policies(ScriptedBackend(), Domains(["z.example"])))
        ),
        "TOO_BIG": lambda: last_reply(*MESSAGE, settings=Settings(limits=Limits(message_size=3))),
        "PARAMETERS_NEED_EHLO": lambda: last_reply("HELO c.example", MAIL + " SIZE=1"),
        "UNKNOWN_PARAMETER": lambda: last_reply(HELLO, MAIL + " FOO=1"),
    }

    #: What provokes replies with words of their own: the lines, the code and the enhanced code.
    OWN_WORDS: ClassVar[list[tuple[tuple[str | bytes, ...], int, str]]] = [
        ((), 220, ""),
        ((HELLO,), 250, ""),
        ((HELLO, "HELP"), 214, "2.0.0"),
        (MESSAGE, 250, "2.0.0"),
        ((HELLO, MAIL, "RCPT TO:<>"), 501, "5.1.3"),
        ((HELLO, "MAIL FROM:<@>"), 501, "5.1.7"),
        ((HELLO, "MAIL <a@x.example>"), 501, "5.5.4"),
        ((HELLO, MAIL + " SIZE=x"), 501, "5.5.4"),
        ((HELLO, MAIL + " SIZE=1 SIZE=1"), 501, "5.5.4"),
        ((HELLO, "BDAT x"), 501, "5.5.4"),
        ((HELLO, MAIL, "BDAT 0", "BDAT 0"), 503, "5.5.1"),
        ((HELLO, MAIL, RCPT, "DATA", b"a\nb", "."), 550, "5.5.2"),
        ((HELLO, MAIL, RCPT, "DATA", b"a\0b", "."), 550, "5.5.2"),
    ]

    def test_complete(self) -> None:
        """The table has each stock reply, but for those that nothing sends."""
        notes, unsent = directive("replies.rst", "reply-table")
        self.assertEqual(notes.keys() | set(unsent), tables.stock_replies().keys())
        for name in unsent:
            senders = [path for path in CODE if f"replies.{name}" in path.read_text(encoding="utf-8")]
            self.assertEqual(senders, [], f"{name} is sent, and needs a row")
        self.assertIn("``552``", "\n".join(tables.reply_table(notes, unsent)))

    def test_conditions(self) -> None:
        """Each stock reply of the table comes when the table says."""
        notes, _ = directive("replies.rst", "reply-table")
        self.assertEqual(notes.keys(), self.DIALOGUES.keys())
        for name, dialogue in self.DIALOGUES.items():
            with self.subTest(name):
                given, known = dialogue(), getattr(replies, name)
                self.assertEqual((given.code, given.text), (known.code, known.text))
                self.assertIn(given.enhanced, ("", known.enhanced))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 2)

    def test_own_words(self) -> None:
        """Replies with words of their own have a row too."""
        for lines, code, enhanced in self.OWN_WORDS:
            with self.subTest(lines=lines):
                reply = last_reply(*lines)
                self.assertEqual((reply.code, reply.enhanced), (code, enhanced))
                shown = f"   - ``{enhanced}``" if enhanced else "   -"
                self.assertIn(f"   * - ``{code}``\n  {shown}\n", PAGES["replies.rst"])
        found = last_reply(HELLO, "VRFY b", backend=_verifier(verify=[["b@y.example"]]))
        self.assertEqual(found, Reply(250, "b@y.example", "2.1.5"))


def _second(limits: Limits) -> Reply:
    """Connect twice."""
    factory, _ = clocked_factory(ScriptedBackend(), Settings(limits=limits))
    return [Wire(factory) for _ in range(2)][1].last_reply


def _without_id(reply: Reply) -> Reply:
    """Take off the id that a policy's refusal ends with."""
    return Reply(reply.code, reply.text.rpartition(" (")[0], reply.enhanced)


def _guessing() -> Reply:
    """Fail to log in as often as one may."""
    portal = Portal(CountingRealm(), [joes()])
    factory, _ = clocked_factory(ScriptedBackend(), Settings(allow_insecure_auth=True), portal=portal)
    return Wire(factory).say(HELLO, *["AUTH PLAIN AHgAeA=="] * 3).last_reply


def _one_each() -> ScriptedBackend:
    backend = ScriptedBackend()
    backend.per_recipient = True
    return backend


def _verifier(**answers: Any) -> ScriptedBackend:
    return ScriptedBackend(provides=[IVerifier], **answers)


class TableTests(SynchronousTestCase):
    def test_notes(self) -> None:
        """A note without a row, a row without a note and a wrong count of columns are errors."""
        for notes in ({"a": ["1"]}, {"a": ["1"], "b": ["1", "2"]}, {"a": ["1"], "b": ["1"], "c": ["1"]}):
            with self.subTest(notes=notes):
                self.assertRaises(ValueError, tables.matched, ["a", "b"], notes, 1)
        self.assertRaises(ValueError, tables.parse_notes, [":a: 1", ":a: 2"])
        self.assertEqual(tables.parse_notes([":a: 1 |", "", ":b: 2", "   3 | 4"]), {"a": ["1", ""], "b": ["2 3", "4"]})

    def test_options(self) -> None:
        """The page of options describes each by its help, and shows its default."""
        notes, _ = directive("options.rst", "option-list")
        self.assertLessEqual(notes.keys(), tables.option_names(Options()).keys())
        text = "\n".join(tables.option_list(Options(), notes))
        self.assertIn(".. option:: --max-message-size N", text)
        self.assertIn("[default: 32M]", text)

    def test_settings(self) -> None:
        """The page of settings describes each with its default, and names only options that exist."""
        names = tables.option_names(Options())
        for kind in (Settings, Limits):
            notes, _ = directive("settings.rst", "settings-table", kind.__name__)
            shown = "\n".join(tables.settings_table(kind, notes))
            self.assertNotRegex(shown, r"- ``\w+``\n     - .*\n     -.*\n     -\n", "a field without a description")
            self.assertLessEqual({option.removeprefix("--") for option, _ in notes.values() if option}, names.keys())
            self.assertLessEqual(notes.keys(), {each.name for each in dataclasses.fields(kind)})
        self.assertIn("- ``message_size``\n     - ``33554432`` (32M)\n     - :option:`--max-message-size`\n", shown)

    def test_extensions(self) -> None:
        """The page of extensions has each with its source, its status and what it brings."""
        notes, _ = directive("extensions.rst", "extension-table")
        shown = "\n".join(tables.extension_table(notes))
        row = "- ``8BITMIME``\n     - RFC 6152, Internet Standard (STD 71)\n     - on\n     - ``BODY``\n"
        self.assertIn(row, shown)
        self.assertEqual({each.keyword for each in defaults()} - notes.keys(), set(), "without a status")
        self.assertNotIn("     -\n", shown)

    def test_policies(self) -> None:
        """The page of policies has each with its refusals, and describes each by its help."""
        notes, _ = directive("policies.rst", "policy-table")
        shown = "\n".join(tables.policy_table(notes))
        self.assertIn("- ``domains:DOMAIN,...``\n", shown)
        for name in notes:
            self.assertIn(f".. policy-help:: {name}\n", "".join(PAGES.values()), name)
            self.assertGreater(len(tables.policy_help(name)), 3)

    def test_sequence(self) -> None:
        """The sequence table shows what a server answers."""
        text = "\n".join(tables.sequence_table())
        self.assertIn("* - ``MAIL``\n     - 503: Send EHLO or HELO first\n     - yes\n", text)
        self.assertNotIn("CHUNKS", text)

    def test_hooks(self) -> None:
        """The page of hooks has each of a backend, a session and a delivery."""
        for interface in (smtpsvc.IBackend, smtpsvc.ISession, smtpsvc.IDelivery):
            for name in interface.names():
                if callable(getattr(interface[name], "getSignatureInfo", None)):
                    self.assertIn(f"``{interface.__name__}.{name}``", PAGES["hooks.rst"])


class ReferenceTests(SynchronousTestCase):
    def test_rfcs(self) -> None:
        """The tests that the page of RFCs names exist."""
        named = re.findall(r"``(test_\w+)(?:\.(\w+))?``", PAGES["rfcs.rst"])
        self.assertGreater(len(named), 20)
        for module, name in named:
            with self.subTest(f"{module}.{name}"):
                tree = (ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8")
                self.assertRegex(tree, rf"(?m)^class {name}\(" if name else r"(?m)^class \w+Tests\(")

    def test_readme(self) -> None:
        """What the README links to is there."""
        text = (ROOT / "README.rst").read_text(encoding="utf-8")
        for target in re.findall(r"<([\w./]+)>`_", text) + re.findall(r"``(docs/[\w./]*)``", text):
            with self.subTest(target):
                self.assertTrue((ROOT / target).exists(), target)
        for promise in text.partition("What it promises")[2].partition("What it speaks")[0].split("\n- ")[1:]:
            self.assertRegex(promise, r"<(tests/test_|docs/rfcs)", "a promise without a test")

    def test_modules(self) -> None:
        """Each module has one place in the API."""
        described = []
        for page, text in PAGES.items():
            described += re.findall(r"automodule:: (\S+)\n(?! +:no-index)", text)
            for package in re.findall(r"module-list:: (\S+)", text):
                _, elsewhere = directive(page, "module-list", package)
                lines = tables.module_list(package, elsewhere)
                described += [line.split()[-1] for line in lines if "automodule" in line]
        self.assertEqual(sorted(described), sorted(m.__name__ for m in tables.modules() if m is not smtpsvc))

    def test_interfaces(self) -> None:
        """Each interface that anything asks for is described with its methods, and is a public name."""
        described = "\n".join(tables.interface_list("smtpsvc.interfaces"))
        self.assertIn("   .. py:method:: rcpt(envelope: Envelope, recipient: Recipient) -> Outcome\n", described)
        listed = "\n".join(tables.public_names())
        for name in smtpsvc.__all__:
            asked = name not in tables.unasked_interfaces() and not name.startswith("__")
            self.assertEqual(f".{name}`" in listed, asked, name)
            if isinstance(getattr(smtpsvc, name), InterfaceClass):
                self.assertEqual(f".. py:class:: {name}(" in described, asked, name)
        for name in ("IBackend", "IConnection", "ISession", "IVerifier"):
            self.assertIn(f".. py:class:: {name}(", described)

    def test_docstrings(self) -> None:
        """Nothing public is without a docstring of its own."""
        without = [
            f"{module.__name__}.{name}"
            for module in tables.modules()
            for name, thing in _public(module)
            if not (thing.__doc__ or "").strip()
        ]
        self.assertEqual(without, [])


def _public(module: Any) -> Iterator[tuple[str, Any]]:
    """Give what a module defines and does not call its own, with the members of classes and interfaces."""
    yield "", module
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing):
            yield name, thing
        elif isinstance(thing, InterfaceClass):
            yield name, thing
            yield from ((f"{name}.{each}", member) for each, member in thing.namesAndDescriptions())
        elif inspect.isclass(thing):
            yield name, thing
            for each, member in vars(thing).items():
                plain = inspect.unwrap(member) if callable(member) else member
                if not each.startswith("_") and (inspect.isfunction(plain) or isinstance(plain, property)):
                    yield f"{name}.{each}", plain
