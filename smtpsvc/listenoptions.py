"""
The options of ``twistd smtpsvc`` that open listeners, and those that give them TLS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final

from zope.interface import implementer

from smtpsvc.direct import DIRECT, listening_reactor
from smtpsvc.interfaces import IAccount
from smtpsvc.listeners import Listener, parse_listener
from smtpsvc.roles import check_role
from smtpsvc.service import MailService
from smtpsvc.settings import Role, Settings
from smtpsvc.tls import CertificateStore
from smtpsvc.values import TLSInfo

DEFAULT_PORT: Final = "2525"

#: What each option opens: its role, and whether TLS comes first.
_ROLES: Final = {
    "port": (Role.SMTP, False),
    "submission": (Role.SUBMISSION, False),
    "smtps": (Role.SUBMISSION, True),
    "lmtp": (Role.LMTP, False),
}

#: Takes a free port each time.
_ANY_PORT: Final = re.compile("(.*:)?(tcp:)?0(:.*)?")

#: The options that may be given several times.
LISTS: Final = (*_ROLES, "tls-certificate", "tls-key")


class ListenOptions:
    """A part of :class:`smtpsvc.tap.Options`."""

    optFlags: ClassVar[list[list[str | None]]] = [
        ["require-tls", None, "Serve nobody without TLS: 530 5.7.0 to all but EHLO, NOOP, STARTTLS and QUIT."],
    ]
    optParameters: ClassVar[list[list[Any]]] = [
        ["transport", None, DIRECT, "Serve TCP by our own transport (direct) or by Twisted's (stock)."],
        ["tls-client-ca", None, None, "Ask clients for certificates, and believe those of the authorities in FILE."],
    ]

    def opt_port(self, text: str) -> None:
        """
        Listen for mail there; may be given several times. A number is for clients on this machine
        only (127.0.0.1 and ::1), tcp:2525 is for all, and any other endpoint of Twisted will do,
        such as unix:/run/smtp. In front of each may stand haproxy: for clients that are proxies and
        send a PROXY header (then --trusted-proxies is needed), and implicit-tls: for TLS from the first
        byte. [default: 2525]
        """
        self._given("port").append(text)

    def opt_submission(self, text: str) -> None:
        """Listen there for mail of users: they begin TLS, then log in. What may be given is as for --port."""
        self._given("submission").append(text)

    def opt_smtps(self, text: str) -> None:
        """Listen there for mail of users, as --submission does, with TLS from the first byte."""
        self._given("smtps").append(text)

    def opt_lmtp(self, text: str) -> None:
        """Listen there for a mail server that wants a reply for each recipient (LMTP), such as unix:/run/lmtp."""
        self._given("lmtp").append(text)

    def opt_tls_certificate(self, path: str) -> None:
        """
        Offer TLS with the certificate in this PEM file, which has those of its issuers behind it; may be
        given several times. Clients get the one for the name that they ask for, or else the first. It is
        read anew at SIGHUP and when it changes.
        """
        self._given("tls-certificate").append(path)

    def opt_tls_key(self, path: str) -> None:
        """Find the key of a certificate in this PEM file; may be given several times. [default: the certificate's]"""
        self._given("tls-key").append(path)

    def _given(self, name: str) -> list[Any]:
        options: Any = self
        found: list[Any] = options.setdefault(name, [])
        return found


def make_listeners(
    options: Mapping[str, Any], reactor: Any, choose: Callable[[Any, str], Any] = listening_reactor
) -> list[Listener]:
    """
    Read what was given for the options that open listeners.

    :param options: lists of values by the options' names; if there are none, it is ``--port 2525``.
    :param choose: gives what endpoints listen with, of the reactor and the transport.
    :raises ValueError: with a sentence that names the option.
    """
    given = {option: options.get(option) or [] for option in _ROLES}
    if not any(given.values()):
        given["port"] = [DEFAULT_PORT]
    try:
        reactor = choose(reactor, options["transport"])
    except ValueError as error:
        raise ValueError(f"--transport: {error}") from error
    listeners = []
    for option, (role, implicit) in _ROLES.items():
        listeners += [
            parse_listener(text, reactor, option=f"--{option}", role=role, implicit_tls=implicit)
            for text in given[option]
        ]
    _check_places(listeners)
    return listeners


def _check_places(listeners: Iterable[Listener]) -> None:
    """
    Check that no place is given twice: the second could not be opened, and no other program were to blame.

    :raises ValueError: with a sentence that names the options, if one is.
    """
    found: dict[str, str] = {}
    for listener in listeners:
        option, _, place = listener.name.partition(" ")
        if _ANY_PORT.fullmatch(place):
            continue
        before = found.setdefault(place, listener.name)
        if before is not listener.name:
            what = "it is given twice" if before == listener.name else f"{before} listens there already"
            raise ValueError(f"{option} {place}: {what}; leave one away, or give another place")


def make_certificates(options: Mapping[str, Any]) -> CertificateStore | None:
    """
    Make what TLS begins with; no file is read yet.

    :returns: None if there is no certificate.
    :raises ValueError: with a sentence that names the option, if there is something else.
    """
    certificates = options.get("tls-certificate")
    keys, client_ca = options.get("tls-key") or (), options["tls-client-ca"] or ""
    if certificates:
        return CertificateStore(certificates, keys, client_ca)
    if keys or client_ca:
        option = "--tls-key" if keys else "--tls-client-ca"
        raise ValueError(f"{option}: there is no certificate; give --tls-certificate FILE")
    return None


def check_listeners(listeners: Iterable[Listener], settings: Settings, *, certificates: bool, logins: bool) -> None:
    """
    Check that each listener could serve somebody; see :func:`smtpsvc.roles.check_role`.

    :raises ValueError: with a sentence that names the option.
    """
    for listener in listeners:
        listener.check_settings(settings)
        check_role(listener, settings, certificates=certificates, logins=logins)


def effective(options: Mapping[str, Any], listeners: Iterable[Listener]) -> list[str]:
    """Say what these options come to, a line each."""
    lines = [listener.name.removeprefix("--").replace(" ", " = ", 1) for listener in listeners]
    for name in ("tls-certificate", "tls-key"):
        lines += [f"{name} = {path}" for path in options.get(name) or ()]
    lines.append(f"transport = {options['transport']}")
    return [*lines, f"tls-client-ca = {options['tls-client-ca'] or '(none)'}"]


def previews(service: MailService) -> list[str]:
    """Show what EHLO is answered on each listener, before and after TLS and AUTH."""
    shown: dict[tuple[Role, bool], list[str]] = {}
    for binding in service.bindings:
        shown.setdefault((binding.role, binding.implicit_tls), []).append(binding.endpoint.name)
    lines = []
    for (role, implicit), names in shown.items():
        factory = service.factory(role, implicit_tls=implicit)
        stages = {} if implicit else {"": factory.preview()}
        if factory.tls is not None:
            stages["" if implicit else ", after STARTTLS"] = factory.preview(tls=TLSInfo("TLSv1.3", ""))
        if "AUTH" in factory.tables.keywords:
            stages[", after AUTH"] = factory.preview(
                tls=TLSInfo("TLSv1.3", "") if factory.tls is not None else None, account=_Somebody()
            )
        before: list[str] = []
        for stage, reply in stages.items():
            title = f"# {'LHLO' if role is Role.LMTP else 'EHLO'} on {' and '.join(names)}{stage}"
            lines += ["", f"{title}: the same"] if reply == before else ["", title, *reply]
            before = reply
    return lines


@implementer(IAccount)
class _Somebody:
    """Whoever has logged in."""

    name = "somebody"
