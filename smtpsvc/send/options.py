"""
The command line of ``python -m smtpsvc.send``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from smtpsvc.extensions import defaults
from smtpsvc.nameservers import parse_server

#: How the program ends.
DELIVERED, REFUSED, USAGE, UNKNOWN, DEFERRED = 0, 1, 2, 3, 75

_DESCRIPTION: Final = "Send one message, and tell what becomes of it for each recipient."
_EPILOG: Final = """\
The message is read from standard input, unless --file, --subject or --body gives it. Without --from and --to its
header says from whom and to whom it is. Line ends become CRLF.

The exit status is 0 if it was delivered to all, 1 if it was refused for somebody, 3 if somebody's server was lost
before it answered, so that nobody knows, 75 if it may be tried again for those who are left, and 2 for a mistake on
the command line; of several the first of 1, 3, 75.

The password is the first line of --password-file, or SMTPSVC_PASSWORD of the environment, or asked for.
"""
_FORMS: Final = "HOST, HOST:PORT, [IPv6]:PORT or unix:PATH; in front may stand smtp:, smtps: (TLS at once) or lmtp:"

#: Parameters of MAIL: option, name, help. What has no metavar is a switch.
_MAIL: Final = (
    ("--ret", "RET", "FULL|HDRS", "what a notification of failure gives back"),
    ("--envid", "ENVID", "TEXT", "an identifier that notifications carry"),
    ("--by", "BY", "SECONDS;N|R[T]", "the time within which it is to be delivered: N to be told, R to get it back"),
    ("--mt-priority", "MT-PRIORITY", "NUMBER", "from -9 to 9"),
    ("--hold-for", "HOLDFOR", "SECONDS", "hold it for so long"),
    ("--hold-until", "HOLDUNTIL", "TIME", "hold it until then: 2030-01-31T08:00:00Z"),
    ("--submitter", "AUTH", "ADDRESS", "who has submitted it; empty for nobody knows"),
    ("--xoorg", "XOORG", "DOMAIN", "the organization that it comes from"),
    ("--solicit", "SOLICIT", "KEYWORDS", "keywords of NO-SOLICITING, with commas"),
    ("--requiretls", "REQUIRETLS", "", "all the way by verified TLS, or not at all"),
    ("--prdr", "PRDR", "", "ask for a reply for each recipient"),
    ("--smtputf8", "SMTPUTF8", "", "say SMTPUTF8, also where nothing needs it"),
)
#: Parameters of RCPT.
_RCPT: Final = (
    ("--notify", "NOTIFY", "WORDS", "NEVER, or some of SUCCESS,FAILURE,DELAY"),
    ("--orcpt", "ORCPT", "TYPE;ADDRESS", "the recipient as it was before somebody changed it"),
    ("--rrvs", "RRVS", "TIME[;C|R]", "the mailbox must have had the same owner since then"),
)
#: These are written as they are meant; the others as the wire has them.
_PLAIN: Final = frozenset({"ENVID", "AUTH", "XOORG"})


def _parsers() -> dict[str, Callable[[str], Any]]:
    """Give what reads the value of each parameter that the service knows."""
    found: dict[str, Callable[[str], Any]] = {}
    for extension in defaults():
        found.update({**extension.mail_params, **extension.rcpt_params})
    return {name: parse for name, parse in found.items() if name not in _PLAIN}


def _value(name: str, text: str, parsers: dict[str, Callable[[str], Any]]) -> Any:
    try:
        return parsers[name](text) if name in parsers else text
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{name}: the value {error}") from None


def _address(text: str) -> tuple[str, int]:
    try:
        return parse_server(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _named(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    if not name:
        raise argparse.ArgumentTypeError("it is NAME or NAME=VALUE")
    return name.upper(), value if equals else None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say it in one line."""
        self.exit(USAGE, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """Make what reads the command line."""
    made = _Parser(
        prog="smtpsvc.send", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    known = _parsers()
    group = made.add_argument_group("where to")
    group.add_argument("--server", action="append", default=[], help=f"{_FORMS}; given again, the next one to try")
    group.add_argument("--mx", action="store_true", help="the mail exchangers of each recipient's domain")
    group.add_argument("--port", type=int, default=25, help="of mail exchangers (%(default)s)")
    group.add_argument(
        "--dns-server", type=_address, action="append", default=[], metavar="ADDRESS[:PORT]",
        help="who is asked for mail exchangers",
    )  # fmt: skip
    group.add_argument("--source", default="", metavar="ADDRESS", help="our address to connect from")
    group.add_argument("--ehlo", default="", metavar="NAME", help="our name")
    group.add_argument("--timeout", type=float, metavar="SECONDS", help="for each step; those of RFC 5321 if not given")
    group = made.add_argument_group("the message")
    group.add_argument("--from", dest="sender", metavar="ADDRESS", help='"" for the sender of notifications')
    group.add_argument("--to", action="append", metavar="ADDRESS", help="may be given several times, or with commas")
    group.add_argument("--file", metavar="PATH", help="the message; - is standard input")
    group.add_argument("--subject", help="make a message with this subject")
    group.add_argument("--body", help="and this text")
    group.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", help="add a field")
    group.add_argument("--raw", action="store_true", help="leave line ends as they are; bare ones are refused")
    group = made.add_argument_group("TLS; without these where offered, not verified; with --auth or --ca required")
    modes = group.add_mutually_exclusive_group()
    modes.add_argument("--starttls", dest="tls", action="store_const", const="required", help="STARTTLS, verified")
    modes.add_argument("--tls", dest="tls", action="store_const", const="implicit", help="at once, verified")
    modes.add_argument("--no-tls", dest="tls", action="store_const", const="none", help="never")
    group.add_argument("--ca", metavar="FILE", help="certificates that are trusted, instead of the system's")
    group.add_argument("--insecure", action="store_true", help="take any certificate")
    group.add_argument("--server-name", default="", metavar="NAME", help="that the certificate must have")
    group.add_argument("--certificate", metavar="FILE", help="to show, with --key")
    group.add_argument("--key", metavar="FILE", help="of that certificate")
    group = made.add_argument_group("login")
    group.add_argument("--auth", metavar="USER", help="log in as this user")
    group.add_argument("--password-file", metavar="FILE", help="its first line is the password or token")
    group.add_argument("--token", action="store_true", help="it is a token (OAUTHBEARER, XOAUTH2)")
    group.add_argument("--external", action="store_true", help="the certificate is the proof")
    group.add_argument("--identity", default="", metavar="USER", help="act as this user")
    group.add_argument("--mechanism", action="append", metavar="NAME", help="use this one; may be repeated")
    group.add_argument("--auth-in-clear", action="store_true", help="show the password without verified TLS")
    group = made.add_argument_group("parameters")
    for (option, name, metavar, text), where in [(row, "MAIL") for row in _MAIL] + [(row, "RCPT") for row in _RCPT]:
        if metavar:
            read = _reader(name, known)
            group.add_argument(option, dest=f"{where} {name}", type=read, metavar=metavar, help=text)
        else:
            group.add_argument(option, dest=f"{where} {name}", action="store_const", const=True, help=text)
    group.add_argument("--binary", action="store_true", help="the message is BINARYMIME, with any octets")
    for option, verb in (("--mail-param", "MAIL"), ("--rcpt-param", "RCPT")):
        group.add_argument(
            option, type=_named, action="append", default=[], metavar="NAME[=VALUE]", help=f"any other one of {verb}"
        )
    for option in ("--xclient", "--xforward"):
        group.add_argument(option, type=_named, action="append", default=[], metavar="NAME=VALUE", help="an attribute")
    group.add_argument("--no-chunking", action="store_true", help="DATA also where BDAT is offered")
    group.add_argument("--chunk-size", type=int, metavar="OCTETS", help="of BDAT")
    group = made.add_argument_group("what is told")
    group.add_argument("-v", "--verbose", action="count", default=0, help="what is said; twice, the message too")
    group.add_argument("-q", "--quiet", action="store_true", help="nothing but mistakes")
    return made


def _reader(name: str, known: dict[str, Callable[[str], Any]]) -> Callable[[str], Any]:
    return lambda text: _value(name, text, known)


def read(arguments: Sequence[str]) -> argparse.Namespace:
    """
    Read a command line.

    :raises SystemExit: with 2 and one line on standard error for a mistake; with 0 for ``--help``.
    """
    made = parser()
    options = made.parse_args(arguments)
    if bool(options.server) == options.mx:
        made.error("say where to: --server or --mx")
    if (options.certificate is None) != (options.key is None):
        made.error("--certificate and --key go together")
    if options.external and (options.certificate is None or options.token or options.password_file):
        made.error("--external needs --certificate, and no password")
    if options.auth is None and not options.external:
        for name in ("password_file", "token", "identity", "mechanism", "auth_in_clear"):
            if getattr(options, name):
                made.error(f"--{name.replace('_', '-')} needs --auth")
    if options.raw and (options.header or options.subject is not None or options.body is not None):
        made.error("--raw sends a message as it is, without --header, --subject and --body")
    if options.file is not None and options.body is not None:
        made.error("--file and --body are both the message")
    options.mail_params = _gathered(options, "MAIL", options.mail_param)
    options.rcpt_params = _gathered(options, "RCPT", options.rcpt_param)
    return options


def _gathered(options: argparse.Namespace, verb: str, others: list[tuple[str, str | None]]) -> dict[str, Any]:
    found = {name: value for name, value in vars(options).items() if name.startswith(f"{verb} ") and value is not None}
    named = {name.partition(" ")[2]: value for name, value in found.items()}
    return {**named, **{name: True if value is None else value for name, value in others}}
