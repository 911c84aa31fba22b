"""
gsasl logs in by SCRAM, also bound to the channel of TLS.
"""

from __future__ import annotations

import socket
from threading import Thread

from tests.clients import PASSWORD, USER, ClientTestCase
from tests.live import PATIENCE, need, run


class Introducer:
    """
    Says EHLO for gsasl, which begins with STARTTLS, and then carries what both sides say.

    :param port: the service's.
    """

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.port: int = self._listener.getsockname()[1]
        self._threads = [Thread(target=self._introduce)]
        self._threads[0].start()

    def _introduce(self) -> None:
        greeting = self._server.recv(1 << 16)
        self._server.sendall(b"EHLO client.example\r\n")
        while b"\r\n250 " not in self._server.recv(1 << 16):
            pass
        self._listener.settimeout(PATIENCE)
        client, _ = self._listener.accept()
        client.sendall(greeting)
        self._threads.append(Thread(target=self._carry, args=(client, self._server)))
        self._threads[1].start()
        self._carry(self._server, client)
        self._threads[1].join()
        client.close()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        """Wait for the end."""
        self._threads[0].join(PATIENCE)
        self._server.close()
        self._listener.close()


class GsaslTests(ClientTestCase):
    def gsasl(self, port: int, mechanism: str, password: str = PASSWORD, status: int = 0) -> str:
        """Log in, and give the dialogue and what gsasl makes of it."""
        introducer = Introducer(port)
        self.addCleanup(introducer.close)
        bound = () if mechanism.endswith("-PLUS") else ("--no-cb",)
        done = run(
            need("gsasl"), "--smtp", f"--connect=127.0.0.1:{introducer.port}", "--hostname=mx.example",
            f"--mechanism={mechanism}", f"--authentication-id={USER}", f"--password={password}",
            "--starttls", f"--x509-ca-file={self.ca}", "--verbose", *bound, input=b"", status=status,
        )  # fmt: skip
        return (done.stdout + done.stderr).decode()

    def test_scram(self) -> None:
        """SCRAM logs in, and shows the client that the server knows the password."""
        server = self.serve(*self.tls(), *self.logins())
        for mechanism in ("SCRAM-SHA-1", "SCRAM-SHA-256"):
            with self.subTest(mechanism):
                self.assertIn("Client authentication finished (server trusted)", self.gsasl(server.port, mechanism))

    def test_scram_plus(self) -> None:
        """SCRAM that is bound to the channel of TLS 1.3 logs in."""
        server = self.serve(*self.tls(), *self.logins())
        for mechanism in ("SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"):
            with self.subTest(mechanism):
                self.assertIn("Client authentication finished (server trusted)", self.gsasl(server.port, mechanism))

    def test_wrong_password(self) -> None:
        """A wrong password is refused by each kind of SCRAM."""
        server = self.serve(*self.tls(), *self.logins())
        for mechanism in ("SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"):
            with self.subTest(mechanism):
                self.assertIn("535 5.7.8", self.gsasl(server.port, mechanism, "wrong", status=1))
