"""
Tests of smtpsvc.interfaces: each is public, documented, and provided by something.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.interface import InterfaceClass, Method
from zope.interface.verify import verifyObject

import smtpsvc
from smtpsvc import interfaces
from smtpsvc.backends.maildir import MaildirBackend
from smtpsvc.backends.null import NullBackend
from smtpsvc.events import EventMonitor
from smtpsvc.extensions import Extension
from smtpsvc.plugins import BackendFactory, ExtensionFactory, MechanismFactory, PolicyFactory
from smtpsvc.sasl import Context
from smtpsvc.sasl.plain import Plain
from smtpsvc.testing import ScriptedBackend
from smtpsvc.values import Peer
from tests.live import ROOT
from tests.test_conversation import conversation

PEER = Peer(None, "c1")  # type: ignore[arg-type]

OURS = {name: value for name, value in vars(interfaces).items() if isinstance(value, InterfaceClass)}
OURS.pop("Interface")


@implementer(interfaces.IAuthorizer, interfaces.IReady)
class Optional:
    """What nothing of ours is."""

    def authorize(self, account: interfaces.IAccount, identity: str) -> Any:
        return None

    def ready(self) -> Any:
        return None


class Keyword(Extension):
    """An extension like the simplest of all."""

    keyword = "X-KEY"


def providers() -> dict[str, Any]:
    """Give an object for each interface."""
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        from sessions import Far  # type: ignore[import-not-found, unused-ignore]
    finally:
        sys.path.remove(str(ROOT / "examples"))
        sys.modules.pop("sessions", None)
    guest = Far(PEER, None)
    scripted = ScriptedBackend(provides=[interfaces.IVerifier]).open_session(PEER, None)  # type: ignore[arg-type]
    talk, _ = conversation()
    return {
        **dict.fromkeys(("IAuthenticated", "IGreeting", "ILogged", "ISecured"), guest),
        **dict.fromkeys(("IConnection", "IConversation"), talk),
        **dict.fromkeys(("IAuthorizer", "IReady"), Optional()),
        "IAccount": smtpsvc.Account("anna"),
        "IBackend": NullBackend(),
        "IBackendFactory": BackendFactory("x", "smtpsvc.backends.null:NullBackend", "", "does x"),
        "IDelivery": smtpsvc.Delivery(),
        "IExtension": Keyword(),
        "IExtensionFactory": ExtensionFactory("x", "smtpsvc.backends.null:NullBackend", summary="does x"),
        "IMechanismFactory": MechanismFactory("X", "smtpsvc.backends.null:NullBackend"),
        "IMonitor": smtpsvc.Monitor(),
        "IPolicy": smtpsvc.Policy(),
        "IPolicyFactory": PolicyFactory("x", "smtpsvc.backends.null:NullBackend", "", "does x"),
        "IRoleMonitor": EventMonitor(),
        "ISASLExchange": Plain().start(Context()),
        "ISASLMechanism": Plain(),
        "ISession": smtpsvc.Session(),
        "IStorage": MaildirBackend("nowhere"),
        "IVerifier": scripted,
    }


class InterfaceTests(SynchronousTestCase):
    def test_provided(self) -> None:
        """Each interface is provided by something that has all its methods, with the same parameters."""
        made = providers()
        self.assertEqual(sorted(made), sorted(OURS))
        for name, thing in made.items():
            with self.subTest(name):
                self.assertTrue(verifyObject(OURS[name], thing))

    def test_public(self) -> None:
        """Each is a public name of smtpsvc."""
        self.assertEqual({name for name in OURS if getattr(smtpsvc, name, None) is not OURS[name]}, set())
        self.assertLessEqual(set(OURS), set(smtpsvc.__all__))

    def test_described(self) -> None:
        """The parameters that a method's docstring describes are those that it has."""
        for name, interface in OURS.items():
            for each, member in interface.namesAndDescriptions():
                # zope.interface does not tell the names of parameters that stand behind a "*".
                if isinstance(member, Method) and not member.getSignatureInfo()["varargs"]:
                    described = re.findall(r":param (\w+):", member.__doc__)
                    self.assertLessEqual(set(described), set(member.getSignatureInfo()["positional"]), f"{name}.{each}")
