"""
For tests of mail code: clients in memory, servers on free ports, and backends that keep or spoil messages.

Without sockets, a :class:`Wire` carries octets to a factory and its replies back, and time passes when the
test says so. With sockets, a :class:`ThreadedServer` serves blocking tests and those of asyncio, and a
:class:`ServerMixin` those of ``twisted.trial``. Behind either may stand a :class:`RecordingBackend`, or a
:class:`ScriptedBackend` with faults.

Each name is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smtpsvc.testing.faults import Call, Fault, cut, drop, each, nth, raw, say, slow, sometimes, stall
    from smtpsvc.testing.recording import RecordedMessage, RecordingBackend
    from smtpsvc.testing.scripted import Message, ScriptedBackend, ScriptedDelivery, ScriptedSession
    from smtpsvc.testing.servers import LocalServer, ServerMixin
    from smtpsvc.testing.threaded import ThreadedServer
    from smtpsvc.testing.wire import Wire, WireTransport, clocked_factory, parse_replies

__all__ = [
    "Call",
    "Fault",
    "LocalServer",
    "Message",
    "RecordedMessage",
    "RecordingBackend",
    "ScriptedBackend",
    "ScriptedDelivery",
    "ScriptedSession",
    "ServerMixin",
    "ThreadedServer",
    "Wire",
    "WireTransport",
    "clocked_factory",
    "cut",
    "drop",
    "each",
    "nth",
    "parse_replies",
    "raw",
    "say",
    "slow",
    "sometimes",
    "stall",
]

_HOMES = {
    **dict.fromkeys(("RecordedMessage", "RecordingBackend"), "recording"),
    **dict.fromkeys(("Message", "ScriptedBackend", "ScriptedDelivery", "ScriptedSession"), "scripted"),
    **dict.fromkeys(("LocalServer", "ServerMixin"), "servers"),
    "ThreadedServer": "threaded",
    **dict.fromkeys(("Wire", "WireTransport", "clocked_factory", "parse_replies"), "wire"),
}


def __getattr__(name: str) -> Any:
    """Import the module that has a public name, and keep the name here."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'faults')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names too, imported or not."""
    return sorted({*globals(), *__all__})
