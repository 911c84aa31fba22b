"""
Who may log in: checkers of ``twisted.cred`` by name, and a realm for them.

What stands behind ``--auth NAME:ARGUMENT`` is found among Twisted's plugins, so Twisted's own
(``memory:``, ``file:`` …), ours and other people's all work.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from inspect import isawaitable
from typing import Any

from twisted.cred import strcred
from twisted.cred.checkers import (
    ANONYMOUS,
    FilePasswordDB,
    ICredentialsChecker,
    InMemoryUsernamePasswordDatabaseDontUse,
)
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import LoginDenied, UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred
from zope.interface import implementer

from smtpsvc.interfaces import IAccount
from smtpsvc.sasl.credentials import IScramSecrets, ScramParameters
from smtpsvc.values import Account

#: Every hash that SCRAM is served with.
HASHES = frozenset({"SHA-1", "SHA-256"})


@implementer(IRealm)
class AccountRealm:
    """A realm that gives everybody who is let in an :class:`~smtpsvc.values.Account` of that name."""

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: Any) -> tuple[Any, Account, Any]:
        """
        Give the account.

        :param avatarId: the name, as text or as UTF-8.
        :raises NotImplementedError: if something other than an IAccount is asked for.
        :raises LoginDenied: if the name could garble a log.
        """
        if IAccount not in interfaces:
            raise NotImplementedError("this realm has accounts and nothing else")
        if avatarId == ANONYMOUS:
            name = ""
        else:
            name = avatarId.decode() if isinstance(avatarId, bytes) else str(avatarId)
            if not name or not name.isprintable():
                raise LoginDenied
        return IAccount, Account(name), lambda: None


@implementer(ICredentialsChecker, IScramSecrets)
class AnyOf:
    """
    Asks several checkers, one after another: whom one of them lets in is let in.

    :class:`~twisted.cred.portal.Portal` keeps one checker for each kind of credentials.

    :param checkers: in the order to ask them.
    """

    def __init__(self, checkers: Iterable[Any]) -> None:
        self.checkers: Sequence[Any] = tuple(checkers)
        #: All that one of them takes.
        self.credentialInterfaces = tuple(dict.fromkeys(each for c in self.checkers for each in c.credentialInterfaces))

    @property
    def scram_hashes(self) -> frozenset[str]:
        """The hashes for which every user of every checker can be served."""
        hashes = HASHES
        for checker in self.checkers:
            if IScramSecrets.providedBy(checker):
                hashes &= checker.scram_hashes
            elif IUsernameHashedPassword not in checker.credentialInterfaces and (
                IUsernamePassword in checker.credentialInterfaces
            ):
                return frozenset()
        return hashes

    async def scram_parameters(self, username: bytes, hash: str) -> ScramParameters:
        """Give a user's salt and iterations, those of the first checker that knows the user."""
        made_up: ScramParameters | None = None
        for checker in self.checkers:
            if IScramSecrets.providedBy(checker):
                found = checker.scram_parameters(username, hash)
                parameters: ScramParameters = await found if isawaitable(found) else found
                if parameters.known:
                    return parameters
                made_up = made_up or parameters
        if made_up is None:
            raise UnauthorizedLogin
        return made_up

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """Ask the checkers that take the credentials; the last refusal stands."""
        return Deferred.fromCoroutine(self._ask(credentials))

    async def _ask(self, credentials: Any) -> Any:
        refusal: UnauthorizedLogin = UnauthorizedLogin()
        for checker in self.checkers:
            if not any(each.providedBy(credentials) for each in checker.credentialInterfaces):
                continue
            try:
                avatar = checker.requestAvatarId(credentials)
                return await avatar if isawaitable(avatar) else avatar
            except UnauthorizedLogin as error:
                refusal = error
        if IUsernameHashedPassword.providedBy(credentials):
            # As much work for a user whom nobody knows as for one whose password is wrong.
            credentials.checkPassword(b"")
        raise refusal


def make_portal(checkers: Sequence[Any]) -> Portal:
    """Make a portal of checkers, whose realm gives accounts by name."""
    return Portal(AccountRealm(), [AnyOf(checkers)])


def make_checker(description: str) -> Any:
    """
    Make the checker that a description names.

    :param description: ``NAME`` or ``NAME:ARGUMENT``, e.g. ``"htpasswd:/etc/mail.users"``.
    :raises ValueError: with a sentence for the person who typed it.
    """
    name, _, argument = description.partition(":")
    factory = checker_factory(name)
    if name == "file" and not os.path.isfile(argument):
        # Twisted's own prints a warning and makes a checker that lets nobody in.
        raise ValueError(f"file: there is no file {argument!r}" if argument else "file: write file:PATH")
    try:
        checker = factory.generateChecker(argument)
    except (ValueError, strcred.StrcredException) as error:
        text = " ".join(str(error).split())
        raise ValueError(text if text.startswith(name) else f"{name}: {text}") from error
    except Exception as error:
        raise ValueError(f"{name} does not work: {type(error).__name__}: {error}") from error
    if isinstance(checker, FilePasswordDB):
        _check_readable(argument)
    if isinstance(checker, InMemoryUsernamePasswordDatabaseDontUse):
        # The plugin keeps text, while names and passwords from the wire are octets.
        checker.users = {_octets(user): _octets(password) for user, password in checker.users.items()}
    return checker


def checker_factory(name: str) -> Any:
    """
    Find the plugin that makes checkers of a name.

    :returns: an :class:`~twisted.cred.strcred.ICheckerFactory`.
    :raises ValueError: with a sentence that lists the names, if there is none.
    """
    factories = checker_factories()
    if name in factories:
        return factories[name]
    near = get_close_matches(name, factories, n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"there is no checker {name!r}{guess}; there are {', '.join(factories)}")


def checker_factories() -> dict[str, Any]:
    """Find the plugins that make checkers by name; those of which no mechanism makes credentials are left out."""
    from smtpsvc.sasl import default_mechanisms

    wanted = {interface for mechanism in default_mechanisms() for interface in mechanism.credentials}
    found: dict[str, Any] = {}
    for factory in strcred.findCheckerFactories():
        if wanted.intersection(factory.credentialInterfaces):
            found.setdefault(factory.authType, factory)
    return dict(sorted(found.items()))


def _check_readable(path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ValueError(f"file: {path!r}: {error.strerror}") from error


def _octets(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else value
