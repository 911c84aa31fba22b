"""
A mail service for Twisted: takes mail by SMTP and keeps it, or hands it to your Python.

The names here are the public ones. Each is imported when it is first asked for, so that Twisted can
look for plugins, and a program can choose its reactor, without loading a server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smtpsvc._version import __version__
    from smtpsvc.awaiting import asyncio_hook
    from smtpsvc.backends.dedupe import with_dedupe
    from smtpsvc.backends.function import FunctionBackend, Message, on_message
    from smtpsvc.backends.route import Route
    from smtpsvc.checkers import AccountRealm
    from smtpsvc.extensions import Extension
    from smtpsvc.grammar.addresses import Address
    from smtpsvc.grammar.replies import PermanentError, Reply, SMTPError, TemporaryError
    from smtpsvc.handover import HeldPorts
    from smtpsvc.interfaces import (
        IAccount,
        IAuthenticated,
        IAuthorizer,
        IBackend,
        IBackendFactory,
        IConnection,
        IConversation,
        IDelivery,
        IExtension,
        IExtensionFactory,
        IGreeting,
        ILogged,
        IMechanismFactory,
        IMonitor,
        IPolicy,
        IPolicyFactory,
        IReady,
        IRoleMonitor,
        ISASLExchange,
        ISASLMechanism,
        ISecured,
        ISession,
        IStorage,
        IVerifier,
    )
    from smtpsvc.parameters import ByMode, DeliverBy, Notify, OriginalRecipient, Ret, RRVSAction, ValidSince
    from smtpsvc.policies.chain import Policy, with_policies
    from smtpsvc.policies.held import HeldMessage
    from smtpsvc.policies.modified import modified
    from smtpsvc.server.factory import SMTPFactory
    from smtpsvc.server.watch import Monitor
    from smtpsvc.service import MailService
    from smtpsvc.session import Backend, Delivery, Session
    from smtpsvc.settings import BareNewline, Limits, Role, Settings
    from smtpsvc.tls import CertificateStore
    from smtpsvc.values import (
        Abandoned,
        Account,
        Body,
        Envelope,
        Forwarded,
        Peer,
        Quarantine,
        Recipient,
        Results,
        TLSInfo,
    )
    from smtpsvc.worker import Worker
    from smtpsvc.workers import Workers

__all__ = [
    "Abandoned",
    "Account",
    "AccountRealm",
    "Address",
    "Backend",
    "BareNewline",
    "Body",
    "ByMode",
    "CertificateStore",
    "DeliverBy",
    "Delivery",
    "Envelope",
    "Extension",
    "Forwarded",
    "FunctionBackend",
    "HeldMessage",
    "HeldPorts",
    "IAccount",
    "IAuthenticated",
    "IAuthorizer",
    "IBackend",
    "IBackendFactory",
    "IConnection",
    "IConversation",
    "IDelivery",
    "IExtension",
    "IExtensionFactory",
    "IGreeting",
    "ILogged",
    "IMechanismFactory",
    "IMonitor",
    "IPolicy",
    "IPolicyFactory",
    "IReady",
    "IRoleMonitor",
    "ISASLExchange",
    "ISASLMechanism",
    "ISecured",
    "ISession",
    "IStorage",
    "IVerifier",
    "Limits",
    "MailService",
    "Message",
    "Monitor",
    "Notify",
    "OriginalRecipient",
    "Peer",
    "PermanentError",
    "Policy",
    "Quarantine",
    "RRVSAction",
    "Recipient",
    "Reply",
    "Results",
    "Ret",
    "Role",
    "Route",
    "SMTPError",
    "SMTPFactory",
    "Session",
    "Settings",
    "TLSInfo",
    "TemporaryError",
    "ValidSince",
    "Worker",
    "Workers",
    "__version__",
    "asyncio_hook",
    "modified",
    "on_message",
    "with_dedupe",
    "with_policies",
]

_MODULES = {
    "_version": ("__version__",),
    "awaiting": ("asyncio_hook",),
    "backends.dedupe": ("with_dedupe",),
    "backends.function": ("FunctionBackend", "Message", "on_message"),
    "backends.route": ("Route",),
    "checkers": ("AccountRealm",),
    "extensions": ("Extension",),
    "grammar.addresses": ("Address",),
    "parameters": ("ByMode", "DeliverBy", "Notify", "OriginalRecipient", "RRVSAction", "Ret", "ValidSince"),
    "grammar.replies": ("PermanentError", "Reply", "SMTPError", "TemporaryError"),
    "handover": ("HeldPorts",),
    "policies.chain": ("Policy", "with_policies"),
    "policies.held": ("HeldMessage",),
    "policies.modified": ("modified",),
    "server.factory": ("SMTPFactory",),
    "server.watch": ("Monitor",),
    "service": ("MailService",),
    "session": ("Backend", "Delivery", "Session"),
    "settings": ("BareNewline", "Limits", "Role", "Settings"),
    "tls": ("CertificateStore",),
    "values": (
        "Abandoned",
        "Account",
        "Body",
        "Envelope",
        "Forwarded",
        "Peer",
        "Quarantine",
        "Recipient",
        "Results",
        "TLSInfo",
    ),
    "worker": ("Worker",),
    "workers": ("Workers",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import the module that has a public name, and keep the name here."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'interfaces')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names too, imported or not."""
    return sorted({*globals(), *__all__})
