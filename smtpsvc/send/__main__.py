"""
Send one message from the command line.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import IO, Any

from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.ssl import Certificate, KeyPair, PrivateCertificate, trustRootFromCertificates

from smtpsvc.client import TLS, ClientError, Fate, Frugality, Login, Mailer, Options, Report, Timeouts
from smtpsvc.client.composing import gather
from smtpsvc.client.connecting import default_port
from smtpsvc.client.exchangers import IGNORED
from smtpsvc.client.routes import STRANGERS
from smtpsvc.grammar.shown import shown
from smtpsvc.message.fields import LONGEST_HEADER, Header, edited, field
from smtpsvc.resolver import resolver_for, use_servers
from smtpsvc.send.options import DEFERRED, DELIVERED, REFUSED, UNKNOWN, USAGE, read
from smtpsvc.send.transcript import Transcript
from smtpsvc.values import Body

PASSWORD = "SMTPSVC_PASSWORD"
_LONGEST_PASSWORD = 65536


def main(arguments: Sequence[str]) -> None:
    """
    Do what the command line says.

    :raises SystemExit: with what became of it.
    """
    options = read(arguments)

    def run(reactor: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(_run(options, reactor))

    task.react(run)


async def _run(options: argparse.Namespace, reactor: Any) -> None:
    status = await send(options, reactor, sys.stdin.buffer, _printer(sys.stdout), _printer(sys.stderr))
    raise SystemExit(status)


def _printer(file: Any) -> Callable[[str], None]:
    def write(line: str) -> None:
        print(line, file=file, flush=True)

    return write


async def send(
    options: argparse.Namespace,
    reactor: Any,
    standard_input: IO[bytes],
    tell: Callable[[str], None],
    complain: Callable[[str], None],
) -> int:
    """
    Send the message.

    :param options: as :func:`smtpsvc.send.options.read` gives them.
    :param tell: gets the lines of the report.
    :param complain: gets the transcript and what is wrong.
    :returns: the exit status.
    """
    try:
        how = make_options(options, complain)
        mailer = make_mailer(options, how, reactor)
        message = await make_message(options, standard_input)
    except (OSError, ValueError) as error:
        complain(f"smtpsvc.send: {_line(error)}")
        return USAGE
    params, recipients = options.mail_params, None
    if options.to is not None:
        recipients = [address.strip() for text in options.to for address in text.split(",") if address.strip()]
    if options.binary:
        params = {**params, "BODY": Body.BINARY_MIME}
    try:
        report = await mailer.send(
            message, options.sender, recipients, params=params, recipient_params=options.rcpt_params,
            forward=dict(options.xforward) or None, normalize=not (options.raw or options.binary),
        )  # fmt: skip
    except (ClientError, OSError, ValueError) as error:
        complain(f"smtpsvc.send: {_line(error)}")
        return USAGE
    finally:
        await mailer.close()
    if not options.quiet:
        for line in map(str, report.recipients):
            tell(shown(line.encode()))
        if report.dropped:
            tell(f"left out, as the server does not know it: {', '.join(report.dropped)}")
    return status_of(report)


def _line(error: Exception) -> str:
    return shown(" ".join(str(error).split()).encode("utf-8", "backslashreplace"))


def status_of(report: Report) -> int:
    """Give the exit status that says what became of a message."""
    for fate, status in ((Fate.REFUSED, REFUSED), (Fate.UNKNOWN, UNKNOWN), (Fate.DEFERRED, DEFERRED)):
        if report.of(fate):
            return status
    return DELIVERED


def make_options(options: argparse.Namespace, complain: Callable[[str], None]) -> Options:
    """
    Say how to talk to the server.

    :raises ValueError: with a sentence.
    :raises OSError: if a file cannot be read.
    """
    login = _login(options)
    changes: dict[str, Any] = {
        "hostname": options.ehlo,
        "verify": not options.insecure,
        "server_name": options.server_name,
        "login": login,
        "xclient": dict(options.xclient),
        "chunking": not options.no_chunking,
        "source": options.source,
        "tls": options.tls or (TLS.REQUIRED if login is not None or options.ca else TLS.OPPORTUNISTIC),
    }
    if options.chunk_size is not None:
        changes["chunk_size"] = options.chunk_size
    if options.timeout is not None:
        names = Timeouts.__dataclass_fields__
        changes["timeouts"] = Timeouts(**dict.fromkeys(names, options.timeout))
    if options.ca:
        found = Path(options.ca).read_bytes()
        mark = b"-----BEGIN CERTIFICATE-----"
        certificates = [Certificate.loadPEM(mark + part) for part in found.split(mark)[1:]]
        if not certificates:
            raise ValueError(f"--ca: there is no certificate in {options.ca}")
        changes["trust"] = trustRootFromCertificates(certificates)
    if options.certificate:
        key = KeyPair.load(Path(options.key).read_bytes(), 1)
        certificate = Certificate.loadPEM(Path(options.certificate).read_bytes())
        changes["certificate"] = PrivateCertificate.fromCertificateAndKeyPair(certificate, key)
    if options.verbose:
        changes["observer"] = lambda host: Transcript(complain, host, content=options.verbose > 1)
    return STRANGERS.changed(**changes)


def _login(options: argparse.Namespace) -> Login | None:
    if options.auth is None and not options.external:
        return None
    secret = None if options.external else _secret(options)
    return Login(
        options.auth or "",
        password=None if options.token else secret,
        token=secret if options.token else None,
        identity=options.identity,
        external=options.external,
        mechanisms=options.mechanism,
        in_clear=options.auth_in_clear,
    )


def _secret(options: argparse.Namespace) -> str:
    """Find the password: nowhere where others could see it, as they see a command line."""
    if options.password_file:
        with Path(options.password_file).open("rb") as file:
            return file.readline(_LONGEST_PASSWORD).rstrip(b"\r\n").decode()
    if PASSWORD in os.environ:
        return os.environ[PASSWORD]
    if not sys.stdin.isatty():
        raise ValueError(f"--auth: there is no password; give --password-file, or {PASSWORD} in the environment")
    return getpass.getpass(f"Password of {options.auth}: ")


def make_mailer(options: argparse.Namespace, how: Options, reactor: Any) -> Mailer:
    """
    Make what sends it.

    :raises ValueError: with a sentence.
    """
    frugality = Frugality(idle=0)
    if options.mx:
        resolver = use_servers(options.dns_server, reactor) if options.dns_server else resolver_for(reactor)
        # Who says whom to ask says what is to be believed.
        ignored = () if options.dns_server else IGNORED
        return Mailer(
            None, how, port=options.port, ignored=ignored, frugality=frugality, resolver=resolver, reactor=reactor
        )
    found = [parse_where(text, how, reactor) for text in options.server]
    hows = [each for _, each in found]
    if any(each.lmtp != hows[0].lmtp or each.tls is not hows[0].tls for each in hows):
        raise ValueError("--server: all servers must be of the same kind")
    return Mailer([where for where, _ in found], hows[0], frugality=frugality, reactor=reactor)


def parse_where(text: str, how: Options, reactor: Any) -> tuple[Any, Options]:
    """
    Read what ``--server`` says.

    :returns: where it is, and how to talk to it.
    :raises ValueError: with a sentence.
    """
    kind, colon, rest = text.partition(":")
    if colon and kind in ("smtp", "smtps", "lmtp") and not (rest.isdigit() and kind != "lmtp"):
        text = rest
        if kind == "smtps":
            how = how.changed(tls=TLS.IMPLICIT)
        elif kind == "lmtp":
            how = how.changed(lmtp=True)
    if text.startswith("unix:"):
        if len(text) == len("unix:"):
            raise ValueError("--server: unix: needs a path")
        return UNIXClientEndpoint(reactor, text.removeprefix("unix:")), how
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        if port and not port.startswith(":"):
            raise ValueError(f"--server: {text!r} is no server")
        port = port[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        port = port or "-"
    if not host or (port and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536)):
        raise ValueError(f"--server: {text!r} is no server; write such as mx.example.org:25")
    return (host, int(port) if port else default_port(how)), how


async def make_message(options: argparse.Namespace, standard_input: IO[bytes]) -> Any:
    """
    Find or make the message.

    :returns: a message, or a file that can be read again.
    :raises OSError: if it cannot be read.
    :raises ValueError: if a field cannot be written.
    """
    fields = []
    for text in options.header:
        name, colon, value = text.partition(":")
        if not colon:
            raise ValueError(f"--header: {text!r} has no colon; write such as 'X-Test: yes'")
        fields.append((name.strip(), value.strip()))
    if options.file is None and (options.subject is not None or options.body is not None):
        return _made(options, fields)
    file: Any = standard_input if options.file in (None, "-") else Path(options.file).open("rb")  # noqa: SIM115
    if options.subject is not None:
        fields.append(("Subject", options.subject))
    if fields:

        def edit(header: Header) -> None:
            for name, value in fields:
                if name.lower() == "subject":
                    header.replace(name, field(name, value))
                else:
                    header.append(field(name, value))

        return await gather(edited(file, edit, LONGEST_HEADER))
    return file


def _made(options: argparse.Namespace, fields: list[tuple[str, str]]) -> EmailMessage:
    message = EmailMessage()
    given = {name.lower() for name, _ in fields}
    if options.sender and "from" not in given:
        message["From"] = options.sender
    if options.to and "to" not in given:
        message["To"] = ", ".join(options.to)
    if options.subject is not None:
        message["Subject"] = options.subject
    for name, value in fields:
        field(name, value)
        message[name] = value
    message.set_content((options.body or "").rstrip("\n") + "\n")
    return message


if __name__ == "__main__":
    main(sys.argv[1:])
