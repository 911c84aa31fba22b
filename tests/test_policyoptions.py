"""
Tests of smtpsvc.policyoptions: policies by name.
"""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

from twisted.internet.task import Clock
from twisted.plugin import IPlugin
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from smtpsvc.interfaces import IBackendFactory, IPolicyFactory
from smtpsvc.plugins import PolicyFactory
from smtpsvc.policies.domains import Domains
from smtpsvc.policies.modified import Modified
from smtpsvc.policyoptions import find_policy, policies_table, policy_factories, policy_help, shown_policy
from smtpsvc.resolver import resolver_for
from smtpsvc.tap import Options
from smtpsvc.testing import Wire, clocked_factory

DOMAINS = PolicyFactory("domains", "smtpsvc.policies.domains:make", "DOMAIN,...", "Take some.")
ABSENT = PolicyFactory("absent", "smtpsvc_absent.policy:make", "", "Is not installed.")


class Stranger:
    """A plugin of someone else's: it makes what a function gives."""

    argument = ""
    summary = "Strange."

    def __init__(self, made: Any, name: str = "strange") -> None:
        self.name = name
        self.made = made

    def make(self, arguments: object, reactor: object) -> Any:
        """Make whatever it is."""
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


class FactoryTests(SynchronousTestCase):
    def test_interfaces(self) -> None:
        """It is a plugin and a factory of policies, and not one of backends."""
        self.assertTrue(IPlugin.providedBy(DOMAINS))
        self.assertTrue(verifyObject(IPolicyFactory, DOMAINS))
        self.assertFalse(IBackendFactory.providedBy(DOMAINS))

    def test_lazy(self) -> None:
        """What it names is not imported before it is needed."""
        self.assertIn("absent", policies_table([ABSENT]))
        self.assertNotIn("smtpsvc_absent", sys.modules)

    def test_installed(self) -> None:
        """Ours are installed, each can be described, and says what can be said of any."""
        names = [
            "allow",
            "deny",
            "domains",
            "early-talker",
            "helo",
            "rate",
            "require-auth",
            "require-tls",
            "sender-login",
        ]
        self.assertLessEqual(set(names), set(policy_factories()))
        for name in names:
            text = policy_help(name)
            self.assertTrue(text.startswith(name), name)
            self.assertIn("warn-only", text)
            self.assertLessEqual(max(map(len, text.splitlines())), 120, name)

    def test_ours_first(self) -> None:
        """Of two with one name ours stays; what has no name is left out."""
        factories = policy_factories([Stranger(None, "domains"), DOMAINS, Stranger(None, "domains"), object()])
        self.assertEqual(factories, {"domains": DOMAINS})


class FindTests(SynchronousTestCase):
    def find(self, text: str, *plugins: Any) -> Any:
        """Find a policy."""
        return find_policy(text, Clock(), plugins or None)

    def test_plain(self) -> None:
        """A policy of which nothing more is said is as its factory makes it."""
        self.assertIsInstance(self.find("domains:x.example, y.example"), Domains)

    def test_modified(self) -> None:
        """What can be said of any policy can be said of each, before or behind its own settings."""
        made = self.find(
            "deny:warn-only,192.0.2.0/24,sender=x.example,defer=yes,deadline=5s,on-timeout=accept,except=auth"
        )
        self.assertIsInstance(made, Modified)
        self.assertEqual((made.warn_only, made.defer, made.deadline, made.on_timeout), (True, True, 5, None))
        self.assertTrue(made.spared)
        self.assertEqual(self.find("domains:x.example,deadline=1s").on_timeout.code, 451)

    def test_mistakes(self) -> None:
        """Each mistake is a sentence that begins with the name."""
        cases: dict[str, tuple[str, tuple[Any, ...]]] = {
            "domain:x": ("domain: there is no such policy (did you mean domains?); there are domains", (DOMAINS,)),
            "x": ("x: there is no such policy; there are none at all", (object(),)),
            "domains:x_y": ("domains: 'x_y' is no domain: domain may have only letters, digits, hyphens and dots", ()),
            "domains:x.example,y=1": (
                "domains: y is no setting of it; there are deadline, defer, except, on-timeout, warn-only",
                (),
            ),
            "domains:x.example,except=1": (
                "domains: except: '1' is no address or network; write such as 192.0.2.1 or 2001:db8::/32",
                (),
            ),
            "domains:x.example,on-timeout=no": ("domains: on-timeout: 'no' is not one of 451, accept", ()),
            "strange": ("strange: it gives no policy but int: it must provide smtpsvc.IPolicy", (Stranger(1),)),
            "strange:": ("strange: it does not work: KeyError: 'oops'", (Stranger(KeyError("oops")),)),
            "absent": ("absent: it does not work: ModuleNotFoundError: No module named 'smtpsvc_absent'", (ABSENT,)),
        }
        for text, (sentence, plugins) in cases.items():
            with self.subTest(text):
                error = str(self.assertRaises(ValueError, self.find, text, *plugins))
                self.assertEqual(error.partition(f" ({__file__}")[0], sentence)

    def test_no_help(self) -> None:
        """To describe what is not there, or cannot be loaded, is a mistake."""
        for name in ("x", "absent"):
            self.assertRaises(ValueError, policy_help, name, [ABSENT])

    def test_secrets(self) -> None:
        """Secrets are not shown."""
        self.assertEqual(shown_policy("hook:http://h,secret=a=b,x=1"), "hook:http://h,secret=...,x=1")


class OptionTests(SynchronousTestCase):
    def test_dns_server(self) -> None:
        """What asks the DNS asks the servers that are named, in their order, or else those of the system."""
        from twisted.internet import reactor

        for options, servers in (
            (("--dns-server", "192.0.2.53", "--dns-server", "[::1]:5353"), (("192.0.2.53", 53), ("::1", 5353))),
            ((), ()),
        ):
            Options().parseOptions(["--port", "0", "--backend", "null:", *options])
            source: Any = resolver_for(reactor)._source
            self.assertEqual(source.servers, servers)

    def test_no_dns_server(self) -> None:
        """A name server without an address is a mistake."""
        error = self.assertRaises(UsageError, Options().parseOptions, ["--dns-server", "ns.example"])
        self.assertIn("--dns-server: 'ns.example' is no address", str(error))

    def parse(self, *options: str) -> Options:
        """Parse options, for a port that is free."""
        made = Options()
        made.parseOptions(["--port", "0", "--backend", "null:", *options])
        return made

    def test_order(self) -> None:
        """Policies are asked in the order given, behind the domains."""
        plan = self.parse("--policy", "deny:sender=x.example", "--policy", "allow:sender=x.example").plan
        shown = repr(plan.backend)
        self.assertLess(shown.index("Deny"), shown.index("Allow"))
        plan = self.parse("--policy", "deny:sender=x.example", "--domain", "y.example").plan
        self.assertLess(repr(plan.backend).index("Domains"), repr(plan.backend).index("Deny"))

    def test_none(self) -> None:
        """Without policies the backend is bare."""
        self.assertNotIn("in front of", repr(self.parse().plan.backend))

    def test_served(self) -> None:
        """What the option asks for is served."""
        plan = self.parse("--policy", "deny:sender=x.example").plan
        wire = Wire(clocked_factory(plan.backend)[0]).greeted().say("MAIL FROM:<a@x.example>")
        self.assertEqual((wire.last_reply.code, wire.last_reply.enhanced), (550, "5.7.1"))

    def test_domains(self) -> None:
        """Domains of a policy count as those of --domain do, unless it only warns."""
        self.assertEqual(self.parse("--policy", "domains:x.example").plan.domains, ("x.example",))
        self.assertEqual(self.parse("--policy", "domains:x.example,warn-only").plan.domains, ())

    def test_mistake(self) -> None:
        """A mistake is one line that names the option and the policy."""
        error = self.assertRaises(UsageError, self.parse, "--policy", "deny")
        self.assertTrue(str(error).startswith("--policy deny: nothing is listed"), error)

    def test_help(self) -> None:
        """The names are listed and one is described on request."""
        for options, text in ((["--help-policies"], "require-tls"), (["--help-policy", "rate:"], "450 4.7.1")):
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                self.assertRaises(SystemExit, Options().parseOptions, options)
            self.assertIn(text, output.getvalue())
        self.assertRaises(UsageError, Options().parseOptions, ["--help-policy", "x"])
