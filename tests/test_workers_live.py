"""
``--workers``: a real parent and real workers.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.certificates import pair
from tests.hooks import MAIL, RCPT
from tests.live import PATIENCE, ROOT, Server, until
from tests.test_twistd import FOREGROUND, TWISTD, ProcessTestCase, is_running, ports_in, send, wait_for

#: The program of the documentation.
EXAMPLE = str(ROOT / "docs" / "examples" / "cluster.py")


def children(pid: int) -> list[int]:
    """Give the processes that a process has started and that have not ended."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in map(int, found) if is_running(child)]


def workers_of(pid: int) -> list[int]:
    """Give the processes of the workers of a parent: the children of its helper."""
    return [worker for helper in children(pid) for worker in children(helper)]


class Dialogue:
    """A client that speaks line by line."""

    def __init__(self, server: Server, path: Path | None = None) -> None:
        if path is None:
            self.socket = server.connect()
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(PATIENCE)
            self.socket.connect(str(path))
        self._lines = self.socket.makefile("rb")
        self.greeting = self.reply()

    def reply(self) -> bytes:
        """Read a reply; its last line is given, or nothing at the end."""
        while (line := self._lines.readline())[3:4] == b"-":
            pass
        return line

    def say(self, *lines: str) -> list[int]:
        """Say lines one after the other, and give the codes of the replies."""
        codes = []
        for line in lines:
            self.socket.sendall(line.encode() + b"\r\n")
            codes.append(int(self.reply()[:3] or b"0"))
        return codes

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self.socket.close()


class WorkersTestCase(SynchronousTestCase):
    """A parent with two workers."""

    def serve(self, *options: str, count: int = 2) -> Server:
        """Start them."""
        server = Server("--workers", str(count), *options)
        self.addCleanup(server.close)
        return server

    def pids(self, server: Server) -> list[int]:
        """Give the process numbers of the workers."""
        return workers_of(server.process.pid)

    def connect(self, server: Server, path: Path | None = None) -> Dialogue:
        """Connect a client."""
        client = Dialogue(server, path)
        self.addCleanup(client.close)
        return client

    def connect_each(self, server: Server, path: Path | None = None) -> dict[int, Dialogue]:
        """Connect clients until each worker has one; give them by its process number."""
        found: dict[int, Dialogue] = {}

        def one_more() -> bool:
            before = {pid: connections(pid) for pid in self.pids(server)}
            client = self.connect(server, path)
            for pid, count in before.items():
                if connections(pid) > count:
                    found.setdefault(pid, client)
            return len(found) == len(before)

        until(one_more, "a client for each worker")
        return found

    def ended(self, server: Server, *pids: int) -> None:
        """Wait until the parent and workers have ended."""
        server.process.wait(PATIENCE)
        for pid in pids:
            until(lambda pid=pid: not is_running(pid), "the end of a worker")

    def text(self, server: Server) -> str:
        """Give the log."""
        return server.log.read_text()


def files_of(pid: int) -> list[str]:
    """Name what a process has open."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(entry))
        except FileNotFoundError:
            continue
    return found


def connections(pid: int) -> int:
    """Count the sockets of a process."""
    return sum(name.startswith("socket:") for name in files_of(pid))


class ServeTests(WorkersTestCase):
    def test_both(self) -> None:
        """Both accept on one TCP port and on one unix socket, mail from both comes into one Maildir, once each."""
        server = self.serve("--lmtp", "unix:lmtp:mode=600")
        path = server.directory / "lmtp"
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        count = 0
        for way, hello in ((None, "EHLO client.example"), (path, "LHLO client.example")):
            clients = self.connect_each(server, way)
            self.assertEqual(set(clients), set(self.pids(server)))
            for client in clients.values():
                self.assertEqual(client.say(hello, MAIL, RCPT, "DATA", "x\r\n."), [250, 250, 250, 354, 250])
                count += 1
        self.assertEqual(len(server.mails()), count)
        log = self.text(server)
        self.assertEqual(log.count("listening for "), 2)
        self.assertEqual(log.count("to try it: "), 1)
        self.assertIn(f"mail goes to {server.maildir}; 2 workers serve\n", log)
        until(lambda: len(re.findall(r" 250 from ", self.text(server))) == count, "the summary lines")
        for number in (1, 2):
            self.assertIn(f"[worker {number} smtpsvc#info] ", self.text(server))
        pids = self.pids(server)
        server.stop()
        self.ended(server, *pids)
        self.assertFalse(path.exists())
        self.assertNotIn("Traceback", self.text(server))

    def test_killed(self) -> None:
        """Where one is killed the other serves at once, a new one comes, and the socket's path stays."""
        server = self.serve("--port", "unix:smtp")
        first, second = self.pids(server)
        os.kill(first, signal.SIGKILL)
        for way in (None, server.directory / "smtp"):
            client = self.connect(server, way)
            self.assertEqual(client.say("HELO client.example", MAIL, RCPT, "DATA", "x\r\n."), [250, 250, 250, 354, 250])
        until(lambda: len(self.pids(server)) == 2 and first not in self.pids(server), "a new worker")
        self.assertIn(second, self.pids(server))
        until(lambda: f"worker 1 (process {first}) was ended by SIGKILL; it is started again" in self.text(server)
              or f"worker 2 (process {first}) was ended by SIGKILL; it is started again" in self.text(server), "a line")
        for way in (None, server.directory / "smtp"):
            self.assertEqual(set(self.connect_each(server, way)), set(self.pids(server)))
        self.assertNotIn("Traceback", self.text(server))

    def test_stopped(self) -> None:
        """One that is told to stop ends in order, is started anew, and neither port nor path suffers."""
        server = self.serve("--port", "unix:smtp")
        pid, client = next(iter(self.connect_each(server).items()))
        self.assertEqual(client.say("HELO client.example", MAIL, RCPT), [250, 250, 250])
        os.kill(pid, signal.SIGTERM)
        # Others of its clients, which have no transaction open, are just being told.
        until(lambda: "clients not done yet: " in self.text(server), "the worker stops")
        self.assertEqual(client.say("DATA", "x\r\n."), [354, 250])
        self.assertEqual(client.reply()[:3], b"421")
        until(lambda: len(self.pids(server)) == 2 and pid not in self.pids(server), "a new worker")
        for way in (None, server.directory / "smtp"):
            self.assertEqual(set(self.connect_each(server, way)), set(self.pids(server)))
        self.assertEqual(len(server.mails()), 1)

    def test_shares(self) -> None:
        """Of many clients that come at once, each worker has its part."""
        server = self.serve("--backend", "null:")
        before = {pid: connections(pid) for pid in self.pids(server)}
        clients = [server.connect() for _ in range(60)]
        for client in clients:
            self.addCleanup(client.close)
            self.assertEqual(client.recv(4), b"220 ")
        self.assertEqual([pid for pid, count in before.items() if connections(pid) - count < 10], [])

    def test_limits(self) -> None:
        """The limits of connections hold for all workers together."""
        server = self.serve("--max-connections", "12", "--max-connections-per-client", "10")
        clients = [self.connect(server) for _ in range(10)]
        refused = [self.connect(server).greeting for _ in range(6)]
        self.assertEqual([client.greeting[:3] for client in clients], [b"220"] * 10)
        self.assertEqual({line[:9] for line in refused}, {b"421 4.7.0"})
        # What a worker has counted that is killed, is counted no longer.
        for pid in self.pids(server):
            os.kill(pid, signal.SIGKILL)
        self.assertEqual(self.connect(server).greeting[:3], b"220")


class EndTests(WorkersTestCase):
    def begin(self, *options: str) -> tuple[Server, Dialogue, list[int]]:
        """Open a transaction."""
        server = self.serve(*options)
        client = self.connect(server)
        self.assertEqual(client.say("HELO client.example", MAIL, RCPT, "DATA"), [250, 250, 250, 354])
        return server, client, self.pids(server)

    def test_drain(self) -> None:
        """At SIGTERM the ports are closed, the message in flight is kept and answered, and all end."""
        server, client, pids = self.begin()
        server.process.terminate()
        until(lambda: "clients not done yet: 1" in self.text(server), "the stop")
        until(lambda: len(self.pids(server)) == 1, "the end of the idle worker")
        self.assertRaises(ConnectionRefusedError, server.connect)
        self.assertIsNone(server.process.poll())
        self.assertEqual(client.say("x\r\n."), [250])
        self.assertEqual(client.reply()[:3], b"421")
        self.ended(server, *pids)
        self.assertIn(server.process.returncode, (0, -signal.SIGTERM))
        self.assertEqual(len(server.mails()), 1)
        self.assertNotIn("Traceback", self.text(server))
        self.assertNotIn("started again", self.text(server))

    def test_group(self) -> None:
        """A signal that reaches the workers too, as from systemd, is no second one."""
        server, client, pids = self.begin()
        for pid in (*pids, server.process.pid):
            os.kill(pid, signal.SIGTERM)
        until(lambda: len(self.pids(server)) == 1, "the end of the idle worker")
        self.assertEqual(client.say("x\r\n."), [250])
        self.ended(server, *pids)

    def test_second(self) -> None:
        """A second signal breaks transactions off."""
        for first, second in ((signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)):
            server, client, pids = self.begin("--grace", "1000")
            server.process.send_signal(first)
            until(lambda server=server: "clients not done yet: 1" in self.text(server), "the stop")
            server.process.send_signal(second)
            self.assertEqual([client.reply()[:3] for _ in range(2)], [b"421", b""])
            self.ended(server, *pids)
            self.assertIn(server.process.returncode, (0, -first))
            self.assertNotIn("Traceback", self.text(server))

    def test_parent_killed(self) -> None:
        """Where the parent is killed the workers end too: at once where they have nothing to do, else in order."""
        server, client, pids = self.begin()
        (helper,) = children(server.process.pid)
        server.kill()
        until(lambda: not is_running(helper), "the end of the helper")
        until(lambda: sum(map(is_running, pids)) == 1, "the end of the idle worker")
        self.assertRaises(ConnectionRefusedError, server.connect)
        self.assertEqual(client.say("x\r\n."), [250])
        self.ended(server, *pids)
        self.assertEqual(len(server.mails()), 1)

    def test_helper_killed(self) -> None:
        """Where the helper that starts workers is killed, the service ends in order, says why, and with status 1."""
        server, client, pids = self.begin()
        os.kill(children(server.process.pid)[0], signal.SIGKILL)
        until(lambda: "clients not done yet: 1" in self.text(server), "the stop")
        self.assertEqual(client.say("x\r\n."), [250])
        self.ended(server, *pids)
        self.assertEqual(server.process.returncode, 1)
        self.assertIn("the process that starts workers has ended", self.text(server))
        self.assertNotIn("Traceback", self.text(server))

    def test_nothing_left(self) -> None:
        """Workers that are killed leave no descriptor open, in the parent, the helper, or those that follow."""
        server = self.serve()

        def counts() -> list[int]:
            helper = children(server.process.pid)
            return [len(os.listdir(f"/proc/{pid}/fd")) for pid in (server.process.pid, *helper, *self.pids(server))]

        before = counts()
        for number in range(5):
            os.kill(self.pids(server)[0], signal.SIGKILL)
            started = 3 + number + 1
            until(lambda started=started: self.text(server).count("smtpsvc starting on") == started, "a new worker")
        until(lambda: counts() == before, "the same number of descriptors")

    def test_hangup(self) -> None:
        """SIGHUP has each worker read its certificates anew."""
        with tempfile.NamedTemporaryFile(suffix=".pem", delete=False) as file:
            file.write(b"".join(pair()))
        path = Path(file.name)
        self.addCleanup(path.unlink)
        server = self.serve("--tls-certificate", str(path))
        server.process.send_signal(signal.SIGHUP)
        until(lambda: self.text(server).count("read TLS certificates for") == 2, "both have read them")
        self.assertEqual(len(self.pids(server)), 2)

    def test_new_certificate(self) -> None:
        """A worker that is started later has the certificates of that time."""
        with tempfile.NamedTemporaryFile(suffix=".pem", delete=False) as file:
            file.write(b"".join(pair()))
        path = Path(file.name)
        self.addCleanup(path.unlink)
        server = self.serve("--tls-certificate", str(path))
        path.write_bytes(b"".join(pair("new.example")))
        os.kill(self.pids(server)[0], signal.SIGKILL)
        until(lambda: "read TLS certificates for new.example" in self.text(server), "the new certificate")


class LoadTests(WorkersTestCase):
    def test_killed(self) -> None:
        """Nothing that was answered 250 is lost while workers are killed under load, and nothing is there twice."""
        server = self.serve()
        kept: list[str] = []
        for turn in range(6):
            client = self.connect(server)
            client.say("HELO client.example")
            for number in range(20):
                name = f"m{turn}-{number}"
                if number == 10:
                    for pid in self.pids(server)[turn % 2 :: 2]:
                        os.kill(pid, signal.SIGKILL)
                try:
                    codes = client.say(MAIL, RCPT, "DATA", f"Subject: {name}\r\n\r\nx\r\n.")
                except OSError:
                    break
                if codes != [250, 250, 354, 250]:
                    break
                kept.append(name)
            until(lambda: len(self.pids(server)) == 2, "the workers")
        there = [mail.partition(b"Subject: ")[2].split()[0].decode() for mail in server.mails()]
        self.assertEqual([name for name in kept if there.count(name) != 1], [])
        self.assertGreater(len(kept), 60)


class MistakeTests(ProcessTestCase):
    """What is wrong is said once, by the parent."""

    def check(self, *arguments: str, sentence: str) -> None:
        """Each way to run the service refuses *arguments* with one line, and exit status 1."""
        for name, command in FOREGROUND.items():
            with self.subTest(name):
                code, out, err = self.run_through(*command, "--workers", "2", *arguments)
                self.assertEqual((code, err), (1, f"smtpsvc: {sentence}\n"))
                self.assertNotIn("Traceback", out)

    def test_busy_port(self) -> None:
        """A port in use; nothing is started."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            number = other.getsockname()[1]
            self.check(
                "--port", str(number), sentence=f"--port {number}: 127.0.0.1:{number} is in use by another program; "
                "end it or give another port"
            )
        self.assertFalse((self.home / "Maildir").exists())

    def test_not_shareable(self) -> None:
        """A backend that one process only may use."""
        (self.home / "hello.py").write_text("from smtpsvc import on_message\n@on_message\ndef it(message): pass\n")
        for backend in ("debug:", "python:hello.it"):
            code, _, err = self.run_through(*FOREGROUND["python -m"], "--workers", "2", "--backend", backend)
            self.assertEqual(code, 1)
            self.assertTrue(err.startswith(f"smtpsvc: --workers: {backend} is for one process only"), err)
            self.assertEqual(err.count("\n"), 1)

    def test_none_starts(self) -> None:
        """Where no worker can start, its sentence is told once."""
        (self.home / "broken.py").write_text(
            "from smtpsvc.backends.null import NullBackend\nfrom twisted.application.service import Service\n"
            "class Broken(NullBackend, Service):\n"
            "    def startService(self): raise ValueError('there is no room')\n"
        )
        for name, command in FOREGROUND.items():
            with self.subTest(name):
                arguments = ("--port", "0", "--backend", "python:broken.Broken")
                code, out, err = self.run_through(*command, "--workers", "2", *arguments)
                self.assertEqual((code, err), (1, "smtpsvc: --backend: there is no room\n"), out)
                self.assertNotIn("Traceback", out)
                self.assertFalse((self.home / "twistd.pid").exists())

    def test_check(self) -> None:
        """``--check`` starts nothing and opens nothing."""
        code, out, err = self.run_through(*FOREGROUND["python -m"], "--workers", "3", "--check", "--port", "0")
        self.assertEqual((code, err), (0, ""))
        self.assertIn("\nworkers = 3\n", out)
        self.assertEqual(list(self.home.iterdir()), [])


class ReactorTests(ProcessTestCase):
    def test_reactors(self) -> None:
        """Under any reactor workers serve, by either transport, and end."""
        for reactor, transport in (("poll", "direct"), ("select", "stock"), ("asyncio", "direct")):
            with self.subTest(reactor):
                before = (*TWISTD, "-n", f"--reactor={reactor}", "--pidfile=", "smtpsvc")
                options = ("--workers", "2", "--port", "0", "--transport", transport, "--backend", "null:")
                process = self.start(*before, *options)
                for _ in range(4):
                    send(ports_in(self.log.read_text())[0])
                pids = workers_of(process.pid)
                process.terminate()
                self.assertEqual(process.wait(PATIENCE), -signal.SIGTERM)
                for pid in pids:
                    wait_for(lambda pid=pid: not is_running(pid), "the end of a worker")
                self.assertNotIn("Traceback", self.log.read_text())

    def test_json(self) -> None:
        """The log as JSON is written by the parent, each message once, with the number of its worker."""
        process = self.start(*FOREGROUND["python -m"], "--workers", "2", "--port", "0", "--log-json", "json")
        for _ in range(6):
            send(ports_in(self.log.read_text())[0])
        # Nobody else keeps what is rotated away.
        for pid in (*children(process.pid), *workers_of(process.pid)):
            self.assertNotIn(str(self.home / "json"), files_of(pid))
        process.terminate()
        process.wait(PATIENCE)
        events = [json.loads(line) for line in (self.home / "json").read_text().splitlines()]
        messages = [event for event in events if event.get("event") == "message"]
        self.assertEqual(len({event["id"] for event in messages}), 6)
        self.assertEqual(len(messages), 6)
        self.assertLessEqual({event["worker"] for event in messages}, {1, 2})
        self.assertEqual(self.log.read_text().count(" 250 from "), 6)


class DaemonTests(ProcessTestCase):
    def test_daemon(self) -> None:
        """In the background: what it says is in the log, mail is kept, and all end with the parent."""
        rundir = self.home / "run"
        rundir.mkdir()
        options = ("--workers", "2", "--port", "0")
        pid = self.daemon(*options, before=(f"--rundir={rundir}",))
        pids = workers_of(pid)
        self.assertEqual(len(pids), 2)
        send(ports_in(self.log.read_text())[0])
        self.assertEqual(len(self.mails(rundir / "Maildir")), 1)
        self.end(pid)
        for each in pids:
            wait_for(lambda each=each: not is_running(each), "the end of a worker")
        self.assertFalse((self.home / "pid").exists())
        self.assertNotIn("Traceback", self.log.read_text())

    def test_user(self) -> None:
        """With ``--uid`` the port is bound as root, and the workers are that user's."""
        if os.getuid() != 0:
            self.skipTest("only root can change its user")
        rundir = self.home / "run"
        rundir.mkdir()
        os.chown(rundir, 65534, 65534)
        pid = self.daemon(
            "--workers", "2", "--port", "0", before=(f"--rundir={rundir}", "--uid=65534", "--gid=65534", "--umask=077")
        )
        for each in (pid, *children(pid), *workers_of(pid)):
            self.assertEqual(os.stat(f"/proc/{each}").st_uid, 65534)
        send(ports_in(self.log.read_text())[0])
        (file,) = (rundir / "Maildir" / "new").iterdir()
        self.assertEqual((file.stat().st_uid, file.stat().st_mode & 0o777), (65534, 0o600))
        self.end(pid)

    def test_root_directory(self) -> None:
        """With ``--chroot`` there is no Python any more: workers serve all the same, and new ones come."""
        if os.getuid() != 0:
            self.skipTest("only root can change its root directory")
        root = self.home / "root"
        (root / "dev").mkdir(parents=True)
        # A daemon opens it; twistd leaves it to the one who makes the directory.
        os.mknod(root / "dev" / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        pid = self.daemon("--workers", "2", "--port", "0", before=(f"--chroot={root}", "--pidfile=/pid"))
        self.assertIn("mail goes to /Maildir", self.log.read_text())
        port = ports_in(self.log.read_text())[0]
        send(port)
        before = workers_of(pid)
        os.kill(before[0], signal.SIGKILL)
        wait_for(lambda: len(workers_of(pid)) == 2 and before[0] not in workers_of(pid), "a new worker")
        send(port)
        self.assertEqual(len(self.mails(root / "Maildir")), 2)
        self.end(pid)
        self.assertNotIn("Traceback", self.log.read_text())

    def test_inherited_socket(self) -> None:
        """A socket that systemd has opened is accepted on by all."""
        with socket.create_server(("127.0.0.1", 0)) as ours:
            script = 'export LISTEN_FDS=1 LISTEN_FDNAMES=smtp LISTEN_PID=$$; exec "$@" 3<&0'
            service = (*FOREGROUND["twistd"], "--port", "systemd:domain=INET:index=0", "--backend", "null:")
            with self.log.open("w") as log:
                process = subprocess.Popen(
                    ["/bin/sh", "-c", script, "sh", *service, "--workers", "2"],
                    cwd=self.home, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                    stdin=ours.fileno(), stdout=log, stderr=log,
                )  # fmt: skip
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
            wait_for(lambda: "2 workers serve" in self.log.read_text() or process.poll() is not None, "the start")
            for _ in range(4):
                send(ours.getsockname()[1])
            self.assertNotIn("Traceback", self.log.read_text())


class ProgramTests(ProcessTestCase):
    """A program of one's own, whose workers are programs too."""

    def test_program(self) -> None:
        """They serve, answer, are started again, and end with it; a socket's path is the parent's."""
        for listener in ("tcp:0:interface=127.0.0.1", "unix:socket"):
            with self.subTest(listener):
                self.check(listener)

    def check(self, listener: str) -> None:
        """Run the program of the documentation."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with self.log.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, EXAMPLE, listener], cwd=self.home, env=environment, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        wait_for(lambda: "\n" in self.log.read_text() or process.poll() is not None, "the start")
        log_text = self.log.read_text()
        self.assertTrue(log_text.startswith("worker 1 worker 2 on "), log_text)
        place = re.search(r"'127.0.0.1', port=(\d+)", log_text)
        for _ in range(2):
            before = children(process.pid)
            self.assertEqual(self.greeting(int(place[1]) if place else None)[:4], b"220 ")
            os.kill(before[0], signal.SIGKILL)
            self.assertEqual(self.greeting(int(place[1]) if place else None)[:4], b"220 ")
            wait_for(
                lambda before=before: len(children(process.pid)) == 2 and before[0] not in children(process.pid),
                "a new worker",
            )
        self.assertEqual((self.home / "socket").is_socket(), place is None)
        pids = children(process.pid)
        process.terminate()
        process.wait(PATIENCE)
        for pid in pids:
            wait_for(lambda pid=pid: not is_running(pid), "the end of a worker")
        self.assertFalse((self.home / "socket").exists())
        self.assertNotIn("Traceback", self.log.read_text())

    def greeting(self, port: int | None) -> bytes:
        """Connect, and read the greeting."""
        with socket.socket(socket.AF_UNIX if port is None else socket.AF_INET) as client:
            client.settimeout(PATIENCE)
            client.connect(str(self.home / "socket") if port is None else ("127.0.0.1", port))
            return client.recv(100)

    def test_alone(self) -> None:
        """A worker that nobody has started says so."""
        code, _, err = self.run_through(sys.executable, EXAMPLE, "tcp:0", "worker")
        self.assertEqual(code, 1)
        self.assertIn("NoParentError: this is for a process that was started as a worker by its parent", err)
