"""
What a listener's role needs, so that one that could serve nobody is refused before it is opened.
"""

from __future__ import annotations

from smtpsvc.listeners import Listener
from smtpsvc.settings import Role, Settings


def check_role(listener: Listener, settings: Settings, *, certificates: bool, logins: bool) -> None:
    """
    Check that a listener can do what it is for.

    :param certificates: there is something that TLS can begin with.
    :param logins: there is somebody who can log in.
    :raises ValueError: with a sentence that names the listener's option and what to give.
    """
    needed = _needed(listener, settings)
    if needed and not certificates:
        raise ValueError(f"{listener.name}: {needed}, and there is no certificate; give --tls-certificate FILE")
    if listener.role is Role.SUBMISSION and not logins:
        raise ValueError(
            f"{listener.name}: its clients must log in, and nobody could; say who can, such as --auth htpasswd:FILE"
        )


def _needed(listener: Listener, settings: Settings) -> str:
    """Say why a listener needs a certificate, if it does."""
    if listener.implicit_tls:
        return "TLS comes first here"
    # An endpoint that is none of ours may have TLS of its own, and a proxy may have it for us.
    if settings.trust_proxy_tls if listener.proxied else not listener.plain:
        return ""
    if settings.require_tls:
        return "--require-tls serves nobody without TLS"
    if listener.role is Role.SUBMISSION and not settings.allow_insecure_auth:
        return "who logs in here needs TLS (unless --allow-insecure-auth is given)"
    return ""
