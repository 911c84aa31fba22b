"""
The configurations and scripts of the how-to pages do what the pages say, with the programs they are for.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import smtplib
import socket
import ssl
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.clients import AUTHORITY, CONTENT, RECIPIENT, SENDER, ClientTestCase
from tests.live import PATIENCE, ROOT, Server, free_port, need, run, until
from tests.pages import run_by
from tests.test_twistd import TWISTD

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
#: Commands of ours, by the names of scripts that may not be installed here.
SCRIPTS = {"twistd": TWISTD, "twist": [sys.executable, "-m", "twisted"]}


class CertbotTests(ClientTestCase):
    def renew(self, systemctl: str) -> None:
        """Issue a certificate, and run the hook as the page does, with our directories for those of the system."""
        lineage = self.home / "live" / "mx.example.org"
        lineage.mkdir(parents=True, exist_ok=True)
        certificate, key = AUTHORITY.issue("mx.example.org")
        (lineage / "fullchain.pem").write_bytes(certificate)
        (lineage / "privkey.pem").write_bytes(key)
        hook, by_hand = run_by("test_howto.CertbotTests")
        program = self.home / "renewal-hooks" / "deploy" / "smtpsvc"
        program.parent.mkdir(parents=True, exist_ok=True)
        (self.home / "smtpsvc").mkdir(exist_ok=True)
        text = hook.replace("/etc/smtpsvc", f"{self.home}/smtpsvc").replace("chgrp mail", f"chgrp {os.getgid()}")
        self.assertNotEqual(text.count(str(os.getgid())), 0)
        program.write_text(text + "\n")
        program.chmod(0o755)
        programs = self.home / "bin"
        programs.mkdir(exist_ok=True)
        (programs / "systemctl").write_text(f"#!/bin/sh\n{systemctl}\n")
        (programs / "systemctl").chmod(0o755)
        command = by_hand.replace("/etc/letsencrypt", str(self.home))
        run("sh", "-c", command, env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"})

    def shown(self, server: Server) -> bytes:
        """Give the certificate that the server shows."""
        context = ssl.create_default_context(cafile=self.ca)
        with smtplib.SMTP("127.0.0.1", server.port, timeout=PATIENCE) as client:
            client._host = "mx.example.org"  # type: ignore[attr-defined] # what it asks for, and believes
            client.starttls(context=context)
            assert isinstance(client.sock, ssl.SSLSocket)
            return client.sock.getpeercert(binary_form=True) or b""

    def test_hook(self) -> None:
        """The hook brings the first certificate, and has a running service take up the next at once."""
        self.renew("exit 3")
        path = self.home / "smtpsvc" / "mail.pem"
        self.assertEqual(path.stat().st_mode & 0o777, 0o640)
        server = self.serve("--tls-certificate", str(path))
        before = self.shown(server)
        # "is-active" says yes, and "reload" does what ExecReload= does.
        self.renew(f'[ "$1" = reload ] && kill -HUP {server.process.pid}; exit 0')
        until(lambda: self.shown(server) != before, "the service shows the new certificate")


class HAProxyTests(ClientTestCase):
    def test_balance(self) -> None:
        """HAProxy shares clients out over two servers, who see the clients' own addresses."""
        program = need("haproxy")
        listener = ("--trusted-proxies", "127.0.0.1", "--port", "haproxy:tcp:0:interface=127.0.0.1")
        servers = [self.serve(*listener), self.serve(*listener)]
        [text] = run_by("test_howto.HAProxyTests")
        port = free_port()
        text = text.replace("bind :25\n", f"bind 127.0.0.1:{port}\n")
        for server, address in zip(servers, ("192.0.2.20:2525", "192.0.2.21:2525"), strict=True):
            self.assertIn(address, text)
            text = text.replace(address, f"127.0.0.1:{server.ports()[1]}")
        path = self.write("haproxy.cfg", text.encode() + b"\n")
        process = subprocess.Popen(
            [program, "-db", "-f", path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        until(lambda: self.sent(port), "HAProxy listens")
        for _ in range(3):
            self.assertTrue(self.sent(port))
        self.assertEqual(len(self.messages()), 4)
        for server in servers:
            until(lambda log=server.log: " 250 from 127.0.0.1" in log.read_text(), "each has had a client")
        servers[0].stop()
        self.assertTrue(until(lambda: self.sent(port), "the other server serves"))

    def sent(self, port: int) -> bool:
        """Send a mail, if that can be done."""
        try:
            with smtplib.SMTP("127.0.0.1", port, "client.example", timeout=PATIENCE) as client:
                client.sendmail(SENDER, [RECIPIENT], CONTENT)
        except (OSError, smtplib.SMTPException):
            return False
        return True


class SystemdTests(ClientTestCase):
    def test_units(self) -> None:
        """systemd finds nothing to say about the units."""
        analyze = need("systemd-analyze")
        socket_unit, service = run_by("test_howto.SystemdTests")
        # What is to be run must be there.
        service = service.replace("/opt/smtpsvc/bin/twistd", need("true"))
        paths = [
            self.write(name, text.encode() + b"\n")
            for name, text in (("smtpsvc.socket", socket_unit), ("smtpsvc.service", service))
        ]
        done = run(analyze, "verify", "--man=no", *paths, env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"})
        said = [line for line in (done.stdout + done.stderr).decode().splitlines() if "smtpsvc" in line]
        self.assertEqual(said, [])

    def test_activation(self) -> None:
        """With what systemd hands over by these units, the command of the service serves."""
        socket_unit, service = run_by("test_howto.SystemdTests")
        name = (re.findall(r"FileDescriptorName=(.*)", socket_unit) or [""])[0]
        self.assertIn("ListenStream=25\n", socket_unit)
        [command] = re.findall(r"ExecStart=/opt/smtpsvc/bin/(.*)", service)
        program, *options = shlex.split(command)
        # A bare number is a socket for IPv6 and IPv4.
        with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as ours:
            script = f'export LISTEN_FDS=1 LISTEN_FDNAMES={name} LISTEN_PID=$$; exec "$@" 3<&0'
            process = subprocess.Popen(
                ["sh", "-c", script, "sh", *SCRIPTS[program], *options],
                cwd=self.home,
                env=ENVIRONMENT,
                stdin=ours.fileno(),
                stdout=subprocess.DEVNULL,
            )
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
            port = ours.getsockname()[1]
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
            client.sendmail("me@example.com", ["you@example.org"], CONTENT)
            self.assertRaises(
                smtplib.SMTPRecipientsRefused, client.sendmail, "me@example.com", ["you@example.com"], CONTENT
            )
        self.assertEqual(len(list((self.home / "Maildir" / "new").iterdir())), 1)


class DockerTests(SynchronousTestCase):
    def test_command(self) -> None:
        """What the image runs takes mail, in its directory, and ends in order at SIGTERM."""
        [text] = run_by("test_howto.DockerTests")
        entry, arguments = (json.loads(re.findall(rf"^{word} (.*)$", text, re.M)[0]) for word in ("ENTRYPOINT", "CMD"))
        self.assertEqual(arguments, ["--port", "tcp:2525"])
        self.assertIn("EXPOSE 2525", text)
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        port = free_port()
        process = subprocess.Popen(
            [*SCRIPTS[entry[0]], *entry[1:], "--port", f"tcp:{port}"],
            cwd=directory,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        assert process.stdout is not None
        for line in process.stdout:
            if b"listening for SMTP" in line:
                break
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
            client.sendmail("me@example.com", ["you@example.com"], CONTENT)
        process.terminate()
        self.assertEqual(process.wait(PATIENCE), -15)
        self.assertEqual(len(list((directory / "Maildir" / "new").iterdir())), 1)
