"""
The options of ``twistd smtpsvc`` that say who may log in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from twisted.cred.credentials import IAnonymous, IUsernameHashedPassword
from twisted.python import usage

from smtpsvc.checkers import checker_factories, checker_factory, make_checker, make_portal
from smtpsvc.extensions.auth import Auth
from smtpsvc.plugins import find_mechanisms


class AuthOptions:
    """A part of :class:`smtpsvc.tap.Options`."""

    optFlags: ClassVar[list[list[str | None]]] = [
        ["require-auth", None, "Refuse mail from clients that have not logged in (530 5.7.0)."],
        ["allow-insecure-auth", None, "Offer mechanisms that send passwords as they are without TLS too."],
    ]

    if TYPE_CHECKING:

        def __getitem__(self, name: str) -> Any: ...

    def opt_auth(self, text: str) -> None:
        """
        Let clients log in, and check them so: NAME:ARGUMENT, such as htpasswd:FILE; may be given several
        times. --help-auth lists the names.
        """
        self["auth"].append(text)

    def opt_help_auth(self) -> NoReturn:
        """List the checkers for --auth and exit."""
        factories = checker_factories()
        width = max(map(len, factories), default=0) + 1
        for name, factory in factories.items():
            print(f"{name + ':':{width}}  {factory.argStringFormat}")
        raise SystemExit(0)

    def opt_help_auth_type(self, name: str) -> NoReturn:
        """Describe a checker for --auth and exit."""
        try:
            factory = checker_factory(name.partition(":")[0])
        except ValueError as error:
            raise usage.UsageError(f"--help-auth-type: {error}") from error
        print(f"{factory.authType}:  {factory.argStringFormat}\n\n{factory.authHelp.strip()}")
        raise SystemExit(0)


class Logins:
    """
    What ``--auth`` says, read and checked.

    :param descriptions: the option's values.
    :raises ValueError: with a sentence that names the option.
    """

    def __init__(self, descriptions: list[str]) -> None:
        self._checkers = []
        for text in descriptions:
            try:
                self._checkers.append(make_checker(text))
            except ValueError as error:
                raise ValueError(f"--auth: {error}") from error
        #: The checkers' names; their arguments may be secrets.
        self.names = [text.partition(":")[0] for text in descriptions]

    def extensions(self) -> list[Auth]:
        """Make the extension AUTH; none if nobody can log in."""
        return [Auth(make_portal(self._checkers), find_mechanisms())] if self._checkers else []

    def enable(self, but: Iterable[str]) -> set[str]:
        """
        Give the mechanisms that are asked for without ``--enable``.

        :param but: names of ``--disable``.
        :returns: CRAM-MD5 for ``memory:`` and ``file:``, which hold passwords as they are, and ANONYMOUS for
            ``anonymous``.
        """
        asked = set()
        if {"memory", "file"}.intersection(self.names) and self._takes(IUsernameHashedPassword):
            asked.add("CRAM-MD5")
        if self._takes(IAnonymous):
            asked.add("ANONYMOUS")
        return asked.difference(map(str.upper, but))

    def _takes(self, interface: Any) -> bool:
        return any(interface in checker.credentialInterfaces for checker in self._checkers)
