"""
Names and hashed passwords in a file.

``htpasswd:FILE`` reads lines ``name:entry``; empty lines and those that begin with ``#`` are let pass. An
entry is argon2id, bcrypt, scrypt or SCRAM. A name may have several lines, at most one of each form of
SCRAM and one other; PLAIN and LOGIN are checked with the first. The file is read again when it
changes; a change that makes no sense is logged, and the file stands as it was.

Passwords are checked in two threads. When more than 32 logins wait for them, further ones are told to
come again (454 4.7.0). SCRAM is offered while every name has an entry of it. A line is made by::

    python -m smtpsvc.checkers.htpasswd NAME

which asks for the password, or reads it from a pipe, and prints the line.
"""

from __future__ import annotations

import argparse
import getpass
import hmac
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from smtpsvc.checkers.passwords import Entry, Scram, make_entry, parse_entry
from smtpsvc.checkers.pool import Pool
from smtpsvc.sasl.credentials import IScramCredentials, IScramSecrets, ScramParameters
from smtpsvc.watched import WatchedFile


class Users:
    """The content of a password file."""

    def __init__(self, entries: dict[bytes, list[Entry]]) -> None:
        self.entries = entries
        hashes = [{entry.hash for entry in each if isinstance(entry, Scram)} for each in entries.values()]
        #: The hashes of which everybody has a SCRAM entry.
        self.scram_hashes = frozenset(set.intersection(*hashes)) if hashes else frozenset()
        #: Checked in the place of the entry of a user who is not there: one of the commonest kind.
        self.decoy = _commonest([each[0] for each in entries.values()])

    def scram(self, username: bytes, hash: str) -> Scram | None:
        """Give a user's SCRAM entry of a hash."""
        for entry in self.entries.get(username, ()):
            if isinstance(entry, Scram) and entry.hash == hash:
                return entry
        return None

    def scram_decoy(self, hash: str) -> Scram | None:
        """Give the entry whose cost is shown to those who ask for a user who is not there."""
        found = [self.scram(username, hash) for username in self.entries]
        entry = _commonest([each for each in found if each is not None])
        assert entry is None or isinstance(entry, Scram)
        return entry


def _commonest(entries: Sequence[Entry]) -> Entry | None:
    if not entries:
        return None
    kind = Counter(entry.kind for entry in entries).most_common(1)[0][0]
    return next(entry for entry in entries if entry.kind == kind)


def parse_users(content: bytes) -> Users:
    """
    Read a password file.

    :raises ValueError: with a sentence that names the line, and never repeats an entry.
    """
    users: dict[bytes, list[Entry]] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip() or line.startswith(b"#"):
            continue
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise ValueError(f"line {number}: not UTF-8") from None
        name, colon, rest = text.rstrip().partition(":")
        if not colon or not name:
            raise ValueError(f"line {number}: a line is name:entry")
        try:
            entry = parse_entry(rest)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        others = users.setdefault(name.encode(), [])
        if any(_form(entry) == _form(other) for other in others):
            raise ValueError(f"line {number}: {name!r} has an entry of that form already")
        others.append(entry)
    return Users(users)


def _form(entry: Entry) -> str:
    return entry.hash if isinstance(entry, Scram) else ""


@implementer(ICredentialsChecker, IScramSecrets)
class HtpasswdChecker:
    """
    Checks names and passwords against a file.

    :param path: of the file.
    :param pool: has the threads that check; one of its own if None.
    :raises ValueError: with a sentence, if the file cannot be read or makes no sense.
    """

    credentialInterfaces = (IUsernamePassword, IScramCredentials)

    def __init__(self, path: str, *, pool: Any = None) -> None:
        self._file = WatchedFile(path, parse_users)
        self._pool = Pool() if pool is None else pool

    @property
    def scram_hashes(self) -> frozenset[str]:
        """The hashes of which everybody has a SCRAM entry."""
        return self._file.current().scram_hashes

    def scram_parameters(self, username: bytes, hash: str) -> ScramParameters:
        """
        Give a user's salt and iterations.

        The salt of a user who is not there is made of the name and of a secret in the file, so it is
        the same in every process and after every start.
        """
        users = self._file.current()
        entry = users.scram(username, hash)
        if entry is not None:
            return ScramParameters(entry.secrets.salt, entry.secrets.iterations, True)
        decoy = users.scram_decoy(hash)
        if decoy is None:
            raise UnauthorizedLogin
        like = decoy.secrets
        salt = hmac.digest(like.server_key, b"salt of " + username, "sha256")[: len(like.salt)]
        return ScramParameters(salt, like.iterations, False)

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """
        Judge credentials.

        :returns: a Deferred of the name; it fails with UnauthorizedLogin, or with a 454 4.7.0 while too
            many wait.
        """
        if IScramCredentials.providedBy(credentials):
            return self._judge_scram(credentials)
        return Deferred.fromCoroutine(self._judge_password(credentials))

    def _judge_scram(self, credentials: Any) -> Deferred[Any]:
        # Two HMACs: no work for a thread.
        users = self._file.current()
        entry = users.scram(credentials.username, credentials.hash)
        known = entry or users.scram_decoy(credentials.hash)
        good = known is not None and credentials.proves(known.secrets)
        return succeed(credentials.username) if good and entry is not None else fail(UnauthorizedLogin())

    async def _judge_password(self, credentials: Any) -> bytes:
        users = self._file.current()
        entries = users.entries.get(credentials.username)
        entry = entries[0] if entries else users.decoy
        # The work is done for a user who is not there too, so that the time says nothing.
        good = entry is not None and await self._pool.run(entry.verify, credentials.password)
        if not good or not entries:
            raise UnauthorizedLogin
        username: bytes = credentials.username
        return username


def make(argument: str) -> HtpasswdChecker:
    """
    Make the checker for ``--auth htpasswd:FILE``.

    :raises ValueError: with a sentence.
    """
    if not argument:
        raise ValueError("htpasswd: write htpasswd:FILE; python -m smtpsvc.checkers.htpasswd NAME makes a line of it")
    return HtpasswdChecker(argument)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Print a line for a password file.

    :returns: the exit code.
    """
    parser = argparse.ArgumentParser(
        prog="python -m smtpsvc.checkers.htpasswd",
        description="Print a line for the file of --auth htpasswd:FILE. "
        "It asks for the password, or reads it from a pipe.",
    )
    parser.add_argument("name", help="who logs in with it")
    parser.add_argument(
        "--form",
        choices=["argon2id", "scrypt", "scram-sha-256", "scram-sha-1"],
        default="",
        help="how the password is kept; argon2id if it is installed, else scrypt",
    )
    options = parser.parse_args(arguments)
    name = options.name
    if ":" in name or not name.isprintable() or name.startswith("#") or name != name.strip():
        parser.error("a name has no colon, no control characters, no # at its beginning and no spaces around it")
    password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not password or "\0" in password:
        parser.error("a password is not empty and has no NUL in it")
    try:
        print(f"{name}:{make_entry(password, options.form)}")
    except ValueError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
