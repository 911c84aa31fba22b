"""
haproxy stands in front of the service: PROXY headers, health checks, TLS that ends here or there.
"""

from __future__ import annotations

import shutil
import smtplib
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path

from tests.clients import CONTENT, PASSWORD, RECIPIENT, SENDER, USER, ClientTestCase
from tests.live import PATIENCE, Server, need, until

_CONFIGURATION = """\
global
    stats socket {directory}/stats level admin
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend mail
    bind fd@{descriptor} {bind}
    default_backend service
backend service
    {backend}
    server it {address} {server}
"""


class HAProxy:
    """
    A haproxy of our own, that listens on a free port of 127.0.0.1.

    :param address: where it connects to.
    :param server: options for that server.
    :param bind: options of the listener.
    :param backend: a line for the backend.
    :raises SkipTest: if it is not installed.
    """

    def __init__(self, address: str | int, server: str, bind: str = "", backend: str = "") -> None:
        program = need("haproxy")
        self.directory = Path(tempfile.mkdtemp(prefix="haproxy-"))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port: int = listener.getsockname()[1]
            text = _CONFIGURATION.format(
                directory=self.directory,
                descriptor=listener.fileno(),
                bind=bind,
                backend=backend,
                address=f"127.0.0.1:{address}" if isinstance(address, int) else address,
                server=server,
            )
            path, self.log = self.directory / "conf", self.directory / "log"
            path.write_text(text)
            with self.log.open("wb") as output:
                self.process = subprocess.Popen(
                    [program, "-db", "-f", str(path)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=[listener.fileno()],
                )
        until(lambda: (self.directory / "stats").exists() or self._ended(), "haproxy listens")

    def _ended(self) -> None:
        if self.process.poll() is not None:
            raise AssertionError(f"haproxy ended: {self.log.read_text()}")

    def ask(self, command: str) -> str:
        """Give it a command."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(f"{self.directory}/stats")
            client.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: client.recv(1 << 16), b"")).decode()

    def check(self) -> str:
        """What the last health check found, such as ``L4OK``; "" or ``INI`` if there was none yet."""
        names, *rows = (line.split(",") for line in self.ask("show stat").removeprefix("# ").splitlines() if line)
        [row] = [row for row in rows if row[1] == "it"]
        return dict(zip(names, row, strict=True))["check_status"].removeprefix("* ")

    def close(self) -> None:
        """End it, and remove its directory."""
        self.process.kill()
        self.process.wait(PATIENCE)
        shutil.rmtree(self.directory, ignore_errors=True)


class HAProxyTests(ClientTestCase):
    def setUp(self) -> None:
        need("haproxy")
        super().setUp()

    def proxied(self, *options: str, prefix: str = "haproxy:") -> tuple[Server, int]:
        """Start the service with a listener for proxies, and give its port too."""
        server = self.serve(
            "--trusted-proxies", "127.0.0.1,unix", "--port", f"{prefix}tcp:0:interface=127.0.0.1", *options
        )  # fmt: skip
        return server, server.ports()[1]

    def haproxy(self, address: str | int, server: str, bind: str = "", backend: str = "") -> HAProxy:
        """Start a haproxy."""
        haproxy = HAProxy(address, server, bind, backend)
        self.addCleanup(haproxy.close)
        return haproxy

    def context(self) -> ssl.SSLContext:
        """What believes the certificates of these tests only."""
        return ssl.create_default_context(cafile=self.ca)

    def send(self, haproxy: HAProxy) -> int:
        """Send a mail through it, and give the port that the client had."""
        with smtplib.SMTP("127.0.0.1", haproxy.port, "client.example", timeout=PATIENCE) as client:
            client.sendmail(SENDER, [RECIPIENT], CONTENT)
            return self.local_port(client)

    @staticmethod
    def local_port(client: smtplib.SMTP) -> int:
        """The client's port."""
        assert client.sock is not None
        return int(client.sock.getsockname()[1])

    def test_header(self) -> None:
        """Each version of the header carries the client's address and port."""
        _, port = self.proxied()
        for version in ("send-proxy", "send-proxy-v2"):
            with self.subTest(version):
                haproxy = self.haproxy(port, version)
                client_port = self.send(haproxy)
                message = self.message()
                self.assertEqual((message["host"], message["port"]), ("127.0.0.1", client_port))
                self.assertEqual(message["destination"], ["127.0.0.1", haproxy.port])

    def test_options(self) -> None:
        """A header of version 2 with checksum, unique id and authority is understood."""
        _, port = self.proxied()
        haproxy = self.haproxy(port, "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority")
        client_port = self.send(haproxy)
        self.assertEqual(self.message()["port"], client_port)

    def test_unix_socket(self) -> None:
        """The service may listen for the proxy on a unix socket."""
        path = f"{self.home}/smtp"
        self.serve("--trusted-proxies", "unix", "--port", f"haproxy:unix:{path}:mode=666")
        client_port = self.send(self.haproxy(f"unix@{path}", "send-proxy-v2"))
        message = self.message()
        self.assertEqual((message["host"], message["port"]), ("127.0.0.1", client_port))
        self.assertIn("Received: from client.example ([127.0.0.1])", message["content"])

    def test_starttls(self) -> None:
        """STARTTLS and a login go through a proxy."""
        _, port = self.proxied(*self.tls(), *self.logins())
        haproxy = self.haproxy(port, "send-proxy-v2")
        with smtplib.SMTP("127.0.0.1", haproxy.port, "client.example", timeout=PATIENCE) as client:
            client.starttls(context=self.context())
            client.login(USER, PASSWORD)
            client.sendmail(SENDER, [RECIPIENT], CONTENT)
            client_port = self.local_port(client)
        message = self.message()
        self.assertEqual((message["port"], message["tls"], message["account"]), (client_port, "TLSv1.3", USER))

    def test_implicit_tls(self) -> None:
        """The header comes before TLS that begins at the client and ends here."""
        _, port = self.proxied(*self.tls(), prefix="haproxy:implicit-tls:")
        for version in ("send-proxy", "send-proxy-v2"):
            with self.subTest(version):
                haproxy = self.haproxy(port, version)
                context = self.context()
                with smtplib.SMTP_SSL("127.0.0.1", haproxy.port, "client.example", context=context) as client:
                    client.sendmail(SENDER, [RECIPIENT], CONTENT)
                    client_port = self.local_port(client)
                message = self.message()
                self.assertEqual((message["port"], message["tls"]), (client_port, "TLSv1.3"))
                self.assertFalse(message["tls_of_proxy"])

    def test_tls_of_the_proxy(self) -> None:
        """TLS that ends at the proxy is known, and counts where --trust-proxy-tls is given."""
        bind = f"ssl crt {self.certificate()}"
        for trust in ((), ("--trust-proxy-tls",)):
            with self.subTest(str(trust)):
                _, port = self.proxied("--require-tls", *self.tls(), *self.logins(), *trust)
                haproxy = self.haproxy(port, "send-proxy-v2-ssl-cn", bind)
                context = self.context()
                with smtplib.SMTP_SSL("127.0.0.1", haproxy.port, "client.example", context=context) as client:
                    client.ehlo()
                    if not trust:
                        self.assertEqual(client.mail(SENDER)[0], 530)
                        continue
                    self.assertEqual(client.login(USER, PASSWORD)[0], 235)
                    client.sendmail(SENDER, [RECIPIENT], CONTENT)
        message = self.message()
        self.assertEqual((message["tls"], message["tls_of_proxy"]), ("TLSv1.3", True))
        self.assertIn("with ESMTPSA id", message["content"])

    def test_client_certificate(self) -> None:
        """The name in a client's certificate that the proxy saw is known."""
        _, port = self.proxied("--trust-proxy-tls")
        haproxy = self.haproxy(
            port, "send-proxy-v2-ssl-cn", f"ssl crt {self.certificate()} ca-file {self.ca} verify optional"
        )
        context = self.context()
        context.load_cert_chain(self.certificate("client.example"))
        with smtplib.SMTP_SSL("127.0.0.1", haproxy.port, "client.example", context=context) as client:
            client.sendmail(SENDER, [RECIPIENT], CONTENT)
        self.assertEqual(self.message()["name_of_proxy"], "client.example")

    def test_checks(self) -> None:
        """Health checks of each kind find the service well, and leave no line in the log."""
        server, port = self.proxied(*self.tls())
        begun = server.log.read_text()
        for name, address, options, backend, found in (
            ("connect", server.port, "", "", "L4OK"),
            ("smtp", server.port, "", "option smtpchk EHLO proxy.example", "L7OK"),
            ("helo", server.port, "", "option smtpchk HELO proxy.example", "L7OK"),
            ("http", server.port, "", "option httpchk", "L7RSP"),
            ("header 1", port, "send-proxy check-send-proxy", "", "L4OK"),
            ("header 2", port, "send-proxy-v2 check-send-proxy", "", "L4OK"),
            ("header 1, smtp", port, "send-proxy check-send-proxy", "option smtpchk EHLO proxy.example", "L7OK"),
            ("header 2, smtp", port, "send-proxy-v2 check-send-proxy", "option smtpchk EHLO proxy.example", "L7OK"),
        ):
            with self.subTest(name):
                haproxy = self.haproxy(address, f"check inter 50ms {options}", backend=backend)
                until(lambda asked=haproxy: asked.check() not in ("", "INI"), "a health check")
                self.assertEqual(haproxy.check(), found)
                haproxy.close()
        server.stop()
        after = server.log.read_text().removeprefix(begun).splitlines()
        self.assertEqual([line for line in after if "smtpsvc" in line and "Received SIGTERM" not in line], [])

    def test_checks_of_tls(self) -> None:
        """A health check that begins TLS, and then goes, leaves no more than a line."""
        server, port = self.proxied(*self.tls(), prefix="haproxy:implicit-tls:")
        begun = server.log.read_text()
        haproxy = self.haproxy(
            port, f"check inter 50ms send-proxy-v2 check-send-proxy check-ssl ca-file {self.ca} verify required"
        )
        until(lambda: haproxy.check() not in ("", "INI"), "a health check")
        self.assertEqual(haproxy.check(), "L6OK")
        haproxy.close()
        server.stop()
        self.assertNotIn("Traceback", server.log.read_text().removeprefix(begun))
