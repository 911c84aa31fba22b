"""
swaks gives XCLIENT and the PROXY protocol, as a filter and a load balancer do.
"""

from __future__ import annotations

from tests.clients import PASSWORD, USER
from tests.live import Server, until
from tests.test_clients_swaks import CLOSED, XCLIENT_FAILED, SwaksTestCase

TRUST = ("--trusted-proxies", "127.0.0.1")


class XClientTests(SwaksTestCase):
    def test_attributes(self) -> None:
        """Each attribute that swaks can give reaches the backend."""
        server = self.serve(*TRUST)
        message = self.taken(
            server.port,
            "--xclient-addr", "192.0.2.7",
            "--xclient-name", "real.example",
            "--xclient-port", "50123",
            "--xclient-proto", "ESMTP",
            "--xclient-helo", "helo.example",
            "--xclient-destaddr", "198.51.100.1",
            "--xclient-destport", "25",
        )  # fmt: skip
        self.assertEqual((message["host"], message["port"], message["name"]), ("192.0.2.7", 50123, "real.example"))
        self.assertEqual(message["destination"], ["198.51.100.1", 25])
        self.assertIn("([192.0.2.7])", message["content"])

    def test_ipv6(self) -> None:
        """An IPv6 address may be given."""
        server = self.serve(*TRUST)
        message = self.taken(server.port, "--xclient-addr", "IPV6:2001:db8::7")
        self.assertEqual(message["host"], "2001:db8::7")

    def test_several(self) -> None:
        """XCLIENT may be given twice; the second adds to the first."""
        server = self.serve(*TRUST)
        message = self.taken(
            server.port, "--xclient-addr", "192.0.2.7", "--xclient-delim", "--xclient-name", "real.example"
        )
        self.assertEqual((message["host"], message["name"]), ("192.0.2.7", "real.example"))

    def test_unavailable(self) -> None:
        """A name that is not known is no name."""
        server = self.serve(*TRUST)
        message = self.taken(server.port, "--xclient-addr", "192.0.2.7", "--xclient-name", "[UNAVAILABLE]")
        self.assertEqual((message["host"], message["name"]), ("192.0.2.7", ""))

    def test_login(self) -> None:
        """LOGIN sets the account where --xclient-login is given, and is not shown elsewhere."""
        options = ("--xclient-addr", "192.0.2.7", "--xclient-login", USER)
        self.swaks(self.serve(*TRUST).port, *options, status=XCLIENT_FAILED)
        server = self.serve(*TRUST, "--xclient-login")
        self.assertEqual(self.taken(server.port, *options)["account"], USER)

    def test_stranger(self) -> None:
        """XCLIENT is neither shown to strangers nor served to them."""
        server = self.serve("--trusted-proxies", "192.0.2.0/24")
        self.swaks(server.port, "--xclient-addr", "192.0.2.7", status=XCLIENT_FAILED)
        said = self.swaks(server.port, "--xclient-no-verify", "--xclient", "ADDR=192.0.2.7", status=XCLIENT_FAILED)
        self.assertNotIn("250-XCLIENT", said)
        self.assertNotIn("<-  220 mx.example ESMTP smtpsvc\n<-  220", said)

    def test_nonsense(self) -> None:
        """What is no attribute, or no value of one, is refused."""
        server = self.serve(*TRUST)
        for argument in ("FOO=bar", "ADDR=nonsense", "PORT=66000", "NAME=+0D+0A"):
            with self.subTest(argument):
                said = self.swaks(server.port, "--xclient-no-verify", "--xclient", argument, status=XCLIENT_FAILED)
                self.assertIn("<** 501 5.5.4", said)

    def test_with_tls(self) -> None:
        """XCLIENT goes before STARTTLS or behind it, and a login follows."""
        server = self.serve(*TRUST, *self.tls(), *self.logins())
        login = ("--tls", "--auth", "PLAIN", "--auth-user", USER, "--auth-password", PASSWORD)
        for more in ((), ("--xclient-before-starttls",)):
            with self.subTest(str(more)):
                message = self.taken(server.port, *login, "--xclient-addr", "192.0.2.7", *more)
                self.assertEqual((message["host"], message["account"]), ("192.0.2.7", USER))
                self.assertEqual(message["tls"], "TLSv1.3")

    def test_lmtp(self) -> None:
        """XCLIENT is served over LMTP, by a unix socket whose clients are trusted."""
        path = f"{self.home}/lmtp"
        self.serve("--trusted-proxies", "unix", "--lmtp", f"unix:{path}")
        message = self.taken(path, "--protocol", "LMTP", "--xclient-addr", "192.0.2.7")
        self.assertEqual(message["host"], "192.0.2.7")


class ProxyTests(SwaksTestCase):
    TCP4 = (
        "--proxy-source", "192.0.2.7", "--proxy-source-port", "50123",
        "--proxy-dest", "198.51.100.1", "--proxy-dest-port", "25",
    )  # fmt: skip
    TCP6 = (
        "--proxy-source", "2001:db8::7", "--proxy-source-port", "50123",
        "--proxy-dest", "2001:db8::1", "--proxy-dest-port", "25",
    )  # fmt: skip

    def proxied(self, *options: str, prefix: str = "haproxy:", trusted: str = "127.0.0.1") -> tuple[Server, int]:
        """Start the service with a listener for proxies, and give its port too."""
        server = self.serve(
            "--trusted-proxies", trusted, "--port", f"{prefix}tcp:0:interface=127.0.0.1", *options
        )  # fmt: skip
        return server, server.ports()[1]

    def test_header(self) -> None:
        """Version 1 and 2 of the header say who the client is."""
        _, port = self.proxied()
        for version, family, addresses in (
            ("1", "TCP4", self.TCP4),
            ("1", "TCP6", self.TCP6),
            ("2", "AF_INET", self.TCP4),
            ("2", "AF_INET6", self.TCP6),
        ):
            with self.subTest(version, family=family):
                message = self.taken(port, "--proxy-version", version, "--proxy-family", family, *addresses)
                self.assertEqual((message["host"], message["port"]), (addresses[1], 50123))
                self.assertEqual(message["destination"], [addresses[5], 25])

    def test_local(self) -> None:
        """A header that names nobody leaves the socket's address."""
        _, port = self.proxied()
        for options in (
            ("--proxy", "UNKNOWN"),
            ("--proxy-version", "2", "--proxy-family", "AF_UNSPEC", "--proxy-protocol", "UNSPEC", *self.TCP4),
        ):
            with self.subTest(str(options[:6])):
                self.assertEqual(self.taken(port, *options)["host"], "127.0.0.1")

    def test_malformed(self) -> None:
        """A malformed header, or none, ends the connection before a greeting; a line in the log says so."""
        server, port = self.proxied()
        for options in (("--proxy", "TCP4 nonsense"), ("--proxy", "TCP4 192.0.2.7 198.51.100.1 50123 66000")):
            before = server.log.read_text().count("\n")
            said = self.swaks(port, *options, status=CLOSED)
            self.assertNotIn("220 mx.example", said)
            until(lambda seen=before: server.log.read_text().count("\n") == seen + 1, "a line in the log")
        self.assertNotIn("Traceback", server.log.read_text())

    def test_stranger(self) -> None:
        """Whoever is not trusted is turned away, however good the header."""
        server, port = self.proxied(trusted="192.0.2.0/24")
        said = self.swaks(port, "--proxy-family", "TCP4", *self.TCP4, status=CLOSED)
        self.assertNotIn("220 mx.example", said)
        until(lambda: "127.0.0.1" in server.log.read_text().splitlines()[-1], "a line in the log")

    def test_tls(self) -> None:
        """TLS goes on behind the header, by STARTTLS or at once."""
        for prefix, option in (("haproxy:", "--tls"), ("haproxy:implicit-tls:", "--tls-on-connect")):
            with self.subTest(prefix):
                server, port = self.proxied(*self.tls(), prefix=prefix)
                message = self.taken(
                    port, option, "--proxy-version", "2", "--proxy-family", "AF_INET", *self.TCP4,
                    "--tls-verify", "--tls-ca-path", self.ca,
                )  # fmt: skip
                self.assertEqual((message["host"], message["tls"]), ("192.0.2.7", "TLSv1.3"))
                self.assertIn("with ESMTPS id", message["content"])
                server.close()
