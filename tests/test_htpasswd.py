"""
Tests of password files: their entries, their lines, the checker, and the command that makes a line.
"""

from __future__ import annotations

import io
import os
import sys
from base64 import b64encode
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import argon2
import bcrypt
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from smtpsvc.checkers import passwords
from smtpsvc.checkers.htpasswd import HtpasswdChecker, main, parse_users
from smtpsvc.checkers.passwords import make_entry, parse_entry
from smtpsvc.grammar.replies import TemporaryError
from smtpsvc.sasl.credentials import IScramCredentials, IScramSecrets, PasswordLogin
from smtpsvc.sasl.scram import derive
from tests.logins import PASSWORD, Client, offered, plain, wire_with
from tests.support import given, st
from tests.test_auth_exchange import go_to_proof

# As cheap as each form can be.
ARGON2 = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
BCRYPT = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()

#: The third example of RFC 7914 §12.
RFC_7914 = (
    "$scrypt$ln=10,r=8,p=16$TmFDbA"
    "$/bq+HJ00cgB4VucZDQHp/nxq18vII3gw53N2Y0s3MWIurzDZLiKjiG/xCSedmDDaxyevuUqD7m2DYMvfoswGQA"
)
#: What the server of RFC 7677 §3 keeps.
RFC_7677 = (
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ=="
    "$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)


def scram(password: str = PASSWORD, hash: str = "SHA-256", iterations: int = 4096) -> str:
    """Make a SCRAM entry."""
    made = derive(hash, password, iterations=iterations)
    salt, stored, server = (b64encode(each).decode() for each in (made.salt, made.stored_key, made.server_key))
    return f"SCRAM-{hash}${made.iterations}:{salt}${stored}:{server}"


class EntryTests(SynchronousTestCase):
    #: An entry of each form, and its password.
    GOOD = (
        (RFC_7914, "password"),
        # of crypt_blowfish
        ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"),
        (BCRYPT, PASSWORD),
        (BCRYPT.replace("$2b$", "$2y$"), PASSWORD),
        (ARGON2, PASSWORD),
        (scram(), PASSWORD),
        (scram(hash="SHA-1"), PASSWORD),
        (RFC_7677, "pencil"),
    )

    def test_right_and_wrong(self) -> None:
        """Each form knows its password and no other."""
        for entry, password in self.GOOD:
            parsed = parse_entry(entry)
            with self.subTest(entry=entry):
                self.assertTrue(parsed.verify(password.encode()))
                for wrong in (password + "x", password.upper() + "?", "", "\u00e9"):
                    self.assertFalse(parsed.verify(wrong.encode()))
                self.assertFalse(parsed.verify(b"\xff\xfe"))

    def test_long(self) -> None:
        """A long password is compared, not an error; of bcrypt the first 72 octets count."""
        for entry, password in self.GOOD:
            self.assertFalse(parse_entry(entry).verify(b"x" * 9000), (entry, password))
        entry = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
        self.assertTrue(parse_entry(entry).verify(b"x" * 80))

    def test_made(self) -> None:
        """What is made can be read, and two entries of one password differ."""
        self.patch(passwords, "LOG_N", 4)
        for form in ("scrypt", "argon2id", "scram-sha-256", "scram-sha-1", ""):
            with self.subTest(form=form):
                entry = make_entry("pässwörd", form)
                self.assertTrue(parse_entry(entry).verify("pässwörd".encode()))
                self.assertNotEqual(entry, make_entry("pässwörd", form))

    def test_usual_form(self) -> None:
        """Without the extra scrypt is made, with it argon2id."""
        self.assertTrue(make_entry("x").startswith("$argon2id$"))
        self.patch(passwords, "LOG_N", 4)
        self.patch(sys, "modules", {**sys.modules, "argon2": None})
        self.assertTrue(make_entry("x").startswith("$scrypt$ln=4,r=8,p=3$"))

    def test_cost(self) -> None:
        """New scrypt entries cost 32 MiB."""
        self.assertEqual(128 * (1 << passwords.LOG_N) * passwords.R, 32 * 1024 * 1024)

    def test_malformed(self) -> None:
        """An entry out of form, or one that would cost too much, is refused in words that do not repeat it."""
        for entry in (
            "",
            "secret",
            "$1$salt$hash",
            "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
            "$scrypt$ln=99,r=8,p=1$TmFDbA$AAAAAAAAAAAAAAAAAAAAAAAA",
            "$scrypt$ln=10,r=8,p=1$TmFDbA$AAAA",
            "$scrypt$ln=10,r=8,p=1$!$AAAAAAAAAAAAAAAAAAAAAAAA",
            "$scrypt$N=10$a$b",
            "$argon2id$v=19$m=8",
            ARGON2.replace("argon2id", "argon2d"),
            "$2b$04$short",
            BCRYPT[:-1],
            "SCRAM-SHA-512$4096:AAAA$AAAA:AAAA",
            "SCRAM-SHA-256$100:W22ZaJ0SNY7soEsUEjb6gQ==$AAAA:AAAA",
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$AAAA:AAAA",
            scram(hash="SHA-1").replace("SHA-1", "SHA-256"),
            scram().replace("=", "=="),
        ):
            with self.subTest(entry=entry):
                error = self.assertRaises(ValueError, parse_entry, entry)
                if len(entry) > 10:
                    self.assertNotIn(entry[10:], str(error))

    @given(st.text() | st.sampled_from(["$scrypt$", "$argon2id$", "$2b$", "SCRAM-"]).flatmap(
        lambda start: st.text().map(start.__add__)))  # fmt: skip
    def test_any(self, text: str) -> None:
        """Whatever stands in a file is an entry or a ValueError."""
        try:
            parse_entry(text)
        except ValueError:
            pass

    def test_missing_extra(self) -> None:
        """An entry that needs a library which is not there says what to install."""
        for entry, module in ((ARGON2, "argon2"), (BCRYPT, "bcrypt"), (scram(), "scramp")):
            self.patch(sys, "modules", {**sys.modules, module: None})
            with self.assertRaisesRegex(ValueError, rf"needs {module}: pip install 'smtpsvc\[auth\]'"):
                parse_entry(entry)


class FileTests(SynchronousTestCase):
    def test_lines(self) -> None:
        """Comments, empty lines and line ends of any kind are let pass; a name may have several forms."""
        users = parse_users(f"# users\n\njoe:{BCRYPT}\r\njöe:{scram()}\n  \njoe:{scram()}\n".encode())
        self.assertEqual(set(users.entries), {b"joe", "jöe".encode()})
        self.assertEqual(len(users.entries[b"joe"]), 2)

    def test_mistakes(self) -> None:
        """A mistake names its line, and shows nothing of the entry."""
        for text, sentence in (
            (f"joe:{BCRYPT}\njim\n", "line 2: a line is name:entry"),
            (f":{BCRYPT}", "line 1: a line is name:entry"),
            ("joe:secret", "line 1: what follows the name"),
            (f"joe:{BCRYPT}\n\njoe:{ARGON2}", "line 3: 'joe' has an entry of that form already"),
            (f"joe:{scram()}\njoe:{scram()}", "line 2: 'joe' has"),
            (b"j\xffe:x", "line 1: not UTF-8"),
        ):
            with self.subTest(text=text):
                content = text if isinstance(text, bytes) else text.encode()
                error = self.assertRaises(ValueError, parse_users, content)
                self.assertIn(sentence, str(error))
                self.assertNotIn("secret", str(error))

    def test_scram_hashes(self) -> None:
        """A hash is served while everybody has an entry of it."""
        for text, hashes in (
            ("", set()),
            (f"joe:{scram()}", {"SHA-256"}),
            (f"joe:{scram()}\njim:{BCRYPT}", set()),
            (f"joe:{scram()}\njim:{BCRYPT}\njim:{scram()}", {"SHA-256"}),
            (f"joe:{scram()}\njoe:{scram(hash='SHA-1')}\njim:{scram()}", {"SHA-256"}),
        ):
            self.assertEqual(parse_users(text.encode()).scram_hashes, hashes)


class Inline:
    """A pool that runs what it is given at once, and counts."""

    def __init__(self) -> None:
        self.runs: list[Any] = []

    def run(self, function: Any, *args: Any) -> Deferred[Any]:
        """Run it now."""
        self.runs.append(function)
        return succeed(function(*args))


class CheckerTests(SynchronousTestCase):
    def checker(self, text: str) -> HtpasswdChecker:
        """Make a checker of a file with this text."""
        self.path = self.mktemp()
        self.write(text)
        self.pool = Inline()
        return HtpasswdChecker(self.path, pool=self.pool)

    def write(self, text: str) -> None:
        """Put a file in the place."""
        with open(f"{self.path}.new", "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(f"{self.path}.new", self.path)

    def ask(self, checker: HtpasswdChecker, name: str = "joe", password: str = PASSWORD) -> Any:
        """Ask it; give the name, or None for a refusal."""
        found: list[Any] = []
        asked = checker.requestAvatarId(PasswordLogin(name.encode(), password.encode()))
        asked.addCallbacks(found.append, lambda failure: failure.trap(UnauthorizedLogin))
        return found[0] if found else None

    def test_passwords(self) -> None:
        """Each form of entry lets its user in with the right password only."""
        for entry in (ARGON2, BCRYPT, scram()):
            checker = self.checker(f"joe:{entry}\n")
            verifyObject(IScramSecrets, checker)
            with self.subTest(entry=entry):
                self.assertEqual(self.ask(checker), b"joe")
                self.assertIsNone(self.ask(checker, password="x"))
                self.assertIsNone(self.ask(checker, "jim"))

    def test_first_line(self) -> None:
        """PLAIN is checked with the first of a name's lines."""
        checker = self.checker(f"joe:{BCRYPT}\njoe:{scram('other')}\n")
        self.assertEqual((self.ask(checker), self.ask(checker, password="other")), (b"joe", None))

    def test_unknown_user(self) -> None:
        """For a user who is not there as much work is done, with an entry of the commonest kind."""
        cheap = bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode()
        checker = self.checker(f"ann:{scram()}\njoe:{BCRYPT}\njim:{cheap}\n")
        self.assertIsNone(self.ask(checker, "nobody"))
        (verify,) = self.pool.runs
        self.assertEqual(verify.__self__.kind, "$2b$04$")
        self.assertIsNone(self.ask(checker, "nobody", PASSWORD), "the decoy's own password lets nobody in")

    def test_empty_file(self) -> None:
        """A file without users lets nobody in."""
        self.assertIsNone(self.ask(self.checker("")))

    def test_reread(self) -> None:
        """A changed file counts from the next login on; one that makes no sense does not."""
        checker = self.checker(f"joe:{BCRYPT}\n")
        self.write(f"jim:{BCRYPT}\n")
        self.assertEqual((self.ask(checker), self.ask(checker, "jim")), (None, b"jim"))
        self.write("joe:nonsense\n")
        self.assertEqual(self.ask(checker, "jim"), b"jim")
        self.write(f"joe:{scram()}\n")
        self.assertEqual(self.ask(checker), b"joe")
        self.assertEqual(checker.scram_hashes, {"SHA-256"})

    def test_offer(self) -> None:
        """SCRAM is offered while everybody can use it, also after the file has changed."""
        wire = wire_with(self.checker(f"joe:{scram()}\n"))
        self.assertEqual(offered(wire), ["SCRAM-SHA-256", "PLAIN", "LOGIN"])
        self.write(f"joe:{scram()}\njim:{BCRYPT}\n")
        self.assertEqual(offered(wire), ["PLAIN", "LOGIN"])

    def test_scram(self) -> None:
        """SCRAM works over the wire, and refuses a wrong password and an unknown user alike."""
        for client, last in (
            (Client("SHA-256"), [334, 334, 235]),
            (Client("SHA-256", password="x"), [334, 535, 500]),
            (Client("SHA-256", name="nobody"), [334, 535, 500]),
        ):
            wire = wire_with(self.checker(f"joe:{scram(iterations=5000)}\n"))
            go_to_proof(wire, client)
            self.assertEqual(wire.say("").codes, last)

    def test_salts(self) -> None:
        """Who is not there has a salt of the usual length and cost, the same in every process."""
        text = f"joe:{scram(iterations=5000)}\n"
        one, other = self.checker(text), self.checker(text)
        made_up = one.scram_parameters(b"nobody", "SHA-256")
        self.assertEqual(made_up, other.scram_parameters(b"nobody", "SHA-256"))
        self.assertEqual((len(made_up.salt), made_up.iterations, made_up.known), (32, 5000, False))
        self.assertNotEqual(made_up.salt, one.scram_parameters(b"someone", "SHA-256").salt)
        self.assertTrue(one.scram_parameters(b"joe", "SHA-256").known)
        self.write(f"{text}jim:{scram(iterations=5000)}\n")
        self.assertEqual(made_up, other.scram_parameters(b"nobody", "SHA-256"), "more users change no salt")

    def test_no_secrets(self) -> None:
        """Where nobody has an entry of a hash, nobody is let in by it."""
        checker = self.checker(f"joe:{BCRYPT}\n")
        self.assertRaises(UnauthorizedLogin, checker.scram_parameters, b"joe", "SHA-256")

    def test_busy(self) -> None:
        """When too many wait, the client is told 454 4.7.0."""

        class Full:
            def run(self, function: Any, *args: Any) -> Any:
                raise TemporaryError("Too many logins at once, try again later", "4.7.0", 454)

        self.checker(f"joe:{BCRYPT}\n")
        wire = wire_with(HtpasswdChecker(self.path, pool=Full())).say(f"AUTH PLAIN {plain()}")
        self.assertEqual((wire.last_reply.code, wire.last_reply.enhanced), (454, "4.7.0"))

    def test_interfaces(self) -> None:
        """It takes passwords and proofs."""
        self.assertEqual(HtpasswdChecker.credentialInterfaces, (IUsernamePassword, IScramCredentials))


class ThreadTests(TestCase):
    async def test_pool(self) -> None:
        """With the pool that it brings, a password is checked in a thread."""
        path = self.mktemp()
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"joe:{BCRYPT}\n")
        checker = HtpasswdChecker(path)
        asked = checker.requestAvatarId(PasswordLogin(b"joe", PASSWORD.encode()))
        self.assertNoResult(asked)
        self.assertEqual(await asked, b"joe")


class CommandTests(SynchronousTestCase):
    def run_main(self, *arguments: str, typed: str = f"{PASSWORD}\n") -> tuple[int, str, str]:
        """Run the command with a password on its stdin; give its exit code, output and errors."""
        self.patch(sys, "stdin", io.StringIO(typed))
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as error:
            try:
                code = main(arguments)
            except SystemExit as stop:
                code = int(stop.code or 0)
        return code, out.getvalue(), error.getvalue()

    def test_line(self) -> None:
        """It prints a line that a file can have."""
        self.patch(passwords, "LOG_N", 4)
        for form in ("scrypt", "scram-sha-256", "scram-sha-1", "argon2id"):
            code, line, _ = self.run_main("joe", "--form", form)
            with self.subTest(form=form):
                self.assertEqual(code, 0)
                self.assertTrue(parse_users(line.encode()).entries[b"joe"][0].verify(PASSWORD.encode()))
                self.assertNotIn(PASSWORD, line)

    def test_mistakes(self) -> None:
        """A name or a password that no line can have is refused."""
        for arguments, typed in (
            (["jo:e"], "x\n"),
            (["#joe"], "x\n"),
            ([" joe"], "x\n"),
            (["j\ne"], "x\n"),
            (["joe"], "\n"),
            (["joe"], ""),
            (["joe", "--form", "scram-sha-256"], "a\x07b\n"),
        ):
            with self.subTest(arguments=arguments, typed=typed):
                code, line, error = self.run_main(*arguments, typed=typed)
                self.assertEqual((code, line), (2, ""))
                self.assertIn("error: ", error)
