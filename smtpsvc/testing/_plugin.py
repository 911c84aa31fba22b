"""
The plugin for pytest: fixtures that give real servers. It is loaded wherever smtpsvc is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from smtpsvc.testing.threaded import ThreadedServer


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "smtp_server(backend=None, *, tls='', role=Role.SMTP, unix=False, accounts=None, settings=None): "
        "what the fixture smtp_server shall serve, in the words of smtpsvc.testing.ThreadedServer.",
    )


@pytest.fixture
def make_smtp_server() -> Iterator[Callable[..., ThreadedServer]]:
    """Starts an ``smtpsvc.testing.ThreadedServer`` with the arguments it is called with; it ends with the test."""
    # Loaded by a test that wants it only.
    from smtpsvc.testing.threaded import ThreadedServer

    servers: list[ThreadedServer] = []

    def make(*args: Any, **options: Any) -> ThreadedServer:
        server = ThreadedServer(*args, **options).start()
        servers.append(server)
        return server

    try:
        yield make
    finally:
        for server in reversed(servers):
            server.stop()


@pytest.fixture
def smtp_server(request: pytest.FixtureRequest, make_smtp_server: Callable[..., ThreadedServer]) -> ThreadedServer:
    """A real mail server on a free port, that keeps messages; ``@pytest.mark.smtp_server(...)`` says otherwise."""
    marker = request.node.get_closest_marker("smtp_server")
    return make_smtp_server(*(marker.args if marker else ()), **(marker.kwargs if marker else {}))
