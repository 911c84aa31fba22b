"""
Tests of what watches the service, in real processes: metrics, and the log as JSON.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families as parse
from twisted.trial.unittest import SynchronousTestCase

from tests.live import PATIENCE, Server, until
from tests.test_metrics_pages import fetch
from tests.test_twistd import ENVIRONMENT, FOREGROUND, send
from tests.test_workers_live import workers_of


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of a log."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class ServerTests(SynchronousTestCase):
    def test_metrics_and_log(self) -> None:
        """A message is counted, and is an object in the log; after SIGHUP the log is a new file."""
        server = Server("--backend", "null:", "--metrics", "tcp:0:interface=127.0.0.1", "--log-json", "log.json")
        self.addCleanup(server.close)
        found = until(lambda: re.search(r"metrics on 127\.0\.0\.1:(\d+)", server.log.read_text()), "metrics are served")
        port = int(found[1])
        send(server.port)
        status, _, page = fetch(port)
        self.assertEqual(status, 200)
        samples = {(s.name, s.labels.get("result")): s.value for f in parse(page.decode()) for s in f.samples}
        self.assertEqual(samples["smtpsvc_messages_total", "taken"], 1)
        self.assertGreater(samples["smtpsvc_process_resident_bytes", None], 1 << 20)
        self.assertEqual(fetch(port, "/readyz")[0], 200)

        log = server.directory / "log.json"
        [message] = [record for record in records(log) if record.get("event") == "message"]
        self.assertEqual((message["sender"], message["code"]), ("me@example.com", 250))
        until(lambda: f"{message['id']} 250 from 127.0.0.1" in server.log.read_text(), "the line for people")
        old = log.rename(log.with_suffix(".1"))
        server.process.send_signal(signal.SIGHUP)
        until(log.exists, "a new file")
        send(server.port)
        until(lambda: any(record.get("event") == "message" for record in records(log)), "the second message")
        self.assertEqual(server.stop(), -signal.SIGTERM)
        messages = [record["message"] for record in records(old)]
        self.assertEqual(len([text for text in messages if text.startswith("listening for SMTP")]), 1)
        self.assertEqual(len(set(messages)), len(messages), "each event is there once")

    def test_workers(self) -> None:
        """What several workers count is summed, also when one is killed and another takes its place."""
        server = Server("--backend", "null:", "--workers", "2", "--metrics", "tcp:0:interface=127.0.0.1")
        self.addCleanup(server.close)
        found = until(lambda: re.search(r"metrics on 127\.0\.0\.1:(\d+)", server.log.read_text()), "metrics are served")
        port = int(found[1])

        def value(name: str, **labels: str) -> float:
            families = parse(fetch(port)[2].decode())
            samples = (sample for family in families for sample in family.samples if sample.name == name)
            return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

        for _ in range(5):
            send(server.port)
        self.assertEqual(value("smtpsvc_messages_total", result="taken"), 5)
        self.assertEqual(value("smtpsvc_processes"), 2)
        before = workers_of(server.process.pid)
        os.kill(before[0], signal.SIGKILL)
        until(lambda: len({*workers_of(server.process.pid)} - {*before}) == 1, "a new worker")
        until(lambda: value("smtpsvc_processes") == 2, "two that listen")
        send(server.port)
        self.assertEqual(value("smtpsvc_messages_total", result="taken"), 6)
        self.assertEqual(fetch(port, "/readyz")[0], 200)
        self.assertEqual(server.stop(), -signal.SIGTERM)

    def test_busy(self) -> None:
        """A port that is busy, or a file that cannot be, is one sentence, and the service does not start."""
        taken = Server("--backend", "null:")
        self.addCleanup(taken.close)
        for option, value, expected in (
            ("--metrics", f"tcp:{taken.port}:interface=127.0.0.1", "in use by another program"),
            ("--log-json", "/nowhere/log.json", "No such file or directory"),
        ):
            command = [*FOREGROUND["twistd"], "--port", "0", "--backend", "null:", option, value]
            done = self.run_in(tempfile.mkdtemp(prefix="smtpsvc-"), command)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertRegex(done.stderr.decode(), rf"smtpsvc: {option} [^\n]*{expected}[^\n]*\n\Z")

    def run_in(self, directory: str, command: list[str]) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end."""
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        return subprocess.run(
            command, cwd=directory, env=ENVIRONMENT, capture_output=True, timeout=PATIENCE, check=False
        )


class StandardOutputTests(SynchronousTestCase):
    def check_output(self, command: list[str]) -> None:
        """Run a service, send a mail, end it, and look at its output."""
        directory = Path(tempfile.mkdtemp(prefix="smtpsvc-"))
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        output = directory / "output"
        options = ["--port", "tcp:0:interface=127.0.0.1", "--backend", "null:", "--log-json", "-"]
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*command, *options], cwd=directory, env=ENVIRONMENT, stdout=file, stderr=subprocess.DEVNULL
            )
        try:
            listening = re.compile(r"listening for SMTP on 127\.0\.0\.1:(\d+)")
            found = until(lambda: listening.search(output.read_text()), "it listens")
            send(int(found[1]))
            until(lambda: '"event":"message"' in output.read_text(), "the message")
        finally:
            process.terminate()
            process.wait(PATIENCE)
        found = records(output)
        self.assertEqual(len([record for record in found if record.get("event") == "message"]), 1)
        self.assertEqual(len([record for record in found if "listening for SMTP" in record["message"]]), 1)
        self.assertFalse(any("lines" in record for record in found), "the summary for people is left out")

    def test_twistd(self) -> None:
        """With ``--log-json -`` the standard output of twistd has JSON alone."""
        self.check_output(FOREGROUND["twistd"])

    def test_python(self) -> None:
        """So has that of ``python -m smtpsvc``."""
        self.check_output(FOREGROUND["python -m"])
