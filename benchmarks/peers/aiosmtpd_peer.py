"""aiosmtpd's controller, with a handler that drops the message."""

from __future__ import annotations

import signal
import ssl
from typing import Any

from aiosmtpd.controller import Controller

from benchmarks.peers import arguments, count, write_counts_at_the_end


class Dropping:
    """Takes everything."""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Count it."""
        count(len(envelope.content))
        return "250 OK"


def main() -> None:
    """Serve until SIGTERM."""
    port, tls_port, certificate, key = arguments()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    most = 1 << 30
    Controller(Dropping(), hostname="127.0.0.1", port=port, tls_context=context, data_size_limit=most).start()
    Controller(Dropping(), hostname="127.0.0.1", port=tls_port, ssl_context=context, data_size_limit=most).start()
    write_counts_at_the_end()
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
