"""
Tests of smtpsvc.watchoptions: --metrics and --log-json.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.python.reflect import namedAny
from twisted.python.usage import UsageError
from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.jsonlines import JSONLog, standard_output
from smtpsvc.tap import Options, makeService
from smtpsvc.watching import Watching
from smtpsvc.watchoptions import replace_text


def planned(*options: str) -> Watching:
    """What the options say of watching."""
    parsed = Options()
    parsed.parseOptions(["--port", "0", "--backend", "null:", *options])
    return parsed.plan.watching


class MetricsOptionTests(SynchronousTestCase):
    """--metrics."""

    def refused(self, *options: str) -> str:
        """The sentence for a mistake."""
        return str(self.assertRaises(UsageError, planned, *options))

    def test_off(self) -> None:
        """Without the options nothing watches, and nothing of it is loaded."""
        watching = planned()
        self.assertEqual((watching.monitors, watching.listeners, watching.metrics), ([], [], None))

    def test_loopback(self) -> None:
        """A bare number is for this machine."""
        [listener] = planned("--metrics", "0").listeners
        self.assertTrue(listener.loopback)
        self.assertTrue(all(place.local for place in listener.places))

    def test_endpoint(self) -> None:
        """Any endpoint will do."""
        [listener] = planned("--metrics", "unix:/run/metrics").listeners
        self.assertEqual([place.path for place in listener.places], ["/run/metrics"])

    def test_mistakes(self) -> None:
        """A mistake is a sentence that names the option."""
        self.assertIn("--metrics 99999: 99999 is no port", self.refused("--metrics", "99999"))
        self.assertIn("--metrics haproxy:9100: it takes no haproxy:", self.refused("--metrics", "haproxy:9100"))
        self.assertIn("--metrics implicit-tls:1: ", self.refused("--metrics", "implicit-tls:1"))

    def test_missing(self) -> None:
        """Without the library the sentence says how to install it."""
        names = [name for name in sys.modules if name.partition(".")[0] == "prometheus_client"]
        for name in {"prometheus_client", *names}:
            # None there is Python's own way to say that a module cannot be imported.
            before = sys.modules.get(name)
            self.addCleanup(sys.modules.__setitem__, name, before) if before else self.addCleanup(sys.modules.pop, name)
            sys.modules[name] = None  # type: ignore[assignment]
        expected = "--metrics needs prometheus_client: pip install 'smtpsvc[metrics]'"
        self.assertEqual(self.refused("--metrics", "0"), expected)

    def test_service(self) -> None:
        """The service has the pages for a part, and its start lines say where they are."""
        options = Options()
        options.parseOptions(["--port", "0", "--backend", "null:", "--metrics", "0"])
        service: Any = makeService(options)
        service.startService()
        self.addCleanup(service.stopService)
        self.assertRegex(service.start_lines()[-1], r"^metrics on 127\.0\.0\.1:\d+( and \[::1\]:\d+)?$")


class LogOptionTests(SynchronousTestCase):
    """--log-json."""

    def test_file(self) -> None:
        """It names a file, which is not opened yet."""
        log = planned("--log-json", "/nowhere/log.json").json_log
        assert log is not None
        self.assertEqual(log.path, "/nowhere/log.json")

    def test_mistakes(self) -> None:
        """What is no file is a sentence."""
        for text in ("", "/var/log/"):
            error = self.assertRaises(UsageError, planned, "--log-json", text)
            self.assertIn("--log-json: this is no file", str(error))

    def replaced(self, parent: dict[str, Any] | None, path: str = "-") -> tuple[bool, Any]:
        """Whether JSON takes the place of the text."""
        log = JSONLog(path)
        return replace_text(parent, log), log

    def test_replaces_text(self) -> None:
        """On the standard output JSON takes the place of the text, for twistd and for twist."""
        twistd: dict[str, Any] = {"nodaemon": 1, "logfile": None, "logger": None, "syslog": 0}
        replaced, log = self.replaced(twistd)
        self.assertTrue(replaced)
        self.assertIs(namedAny(twistd["logger"]), standard_output)
        twist: dict[str, Any] = {"logFile": sys.stdout, "fileLogObserverFactory": None}
        replaced, log = self.replaced(twist)
        self.assertIs(twist["fileLogObserverFactory"](sys.stdout), log)
        self.assertTrue(replaced)

    def test_beside_text(self) -> None:
        """Where the text goes elsewhere, or JSON to a file, there are both."""
        for more in ({"logfile": "x.log"}, {"syslog": 1}, {"logger": lambda: None}):
            parent = {"nodaemon": 1, "logfile": None, "logger": None, "syslog": 0, **more}
            before = dict(parent)
            self.assertFalse(self.replaced(parent)[0])
            self.assertEqual(parent, before)
        self.assertFalse(self.replaced({"logFile": sys.stderr, "fileLogObserverFactory": None})[0])
        self.assertFalse(self.replaced({"nodaemon": 1}, "file")[0])
        self.assertFalse(self.replaced(None)[0])

    def test_daemon(self) -> None:
        """A daemon has no standard output, and that is a sentence."""
        command = ["smtpsvc", "--port", "0", "--backend", "null:", "--log-json", "-"]
        error = self.assertRaises(SystemExit, ServerOptions().parseOptions, command)
        self.assertIn("--log-json -: a daemon has no standard output", str(error))
        ServerOptions().parseOptions(["-n", *command])
