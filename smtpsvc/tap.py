"""
``twistd smtpsvc``: its options, and the service that they ask for.

Each option is checked when it is read. A mistake is one line that names the option, what is wrong
and what to do, and exit code 1.
"""

from __future__ import annotations

import getopt
import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from operator import attrgetter
from typing import Any, ClassVar, NoReturn

from twisted.application.service import IService
from twisted.python import usage

from smtpsvc._version import __version__
from smtpsvc.authoptions import AuthOptions, Logins
from smtpsvc.backends.dedupe import with_dedupe
from smtpsvc.extensions import defaults
from smtpsvc.extensions.offer import check_roles, offered
from smtpsvc.handover import HeldPorts
from smtpsvc.interfaces import IBackend, IExtension, IPolicy
from smtpsvc.launch import LaunchedService, Plan, load_late_modules
from smtpsvc.launchworkers import ParentService, check_shareable, holding
from smtpsvc.listeners import ListenError
from smtpsvc.listenoptions import (
    LISTS,
    ListenOptions,
    check_listeners,
    effective,
    make_certificates,
    make_listeners,
    previews,
)
from smtpsvc.logs import SummaryLog
from smtpsvc.optiontable import DEDUPE, FLAGS, PARAMETERS, WORKERS
from smtpsvc.plugins import backend_help, backends_table, extensions_table, find_extension
from smtpsvc.policies.chain import with_policies
from smtpsvc.policies.domains import Domains
from smtpsvc.policyoptions import PolicyOptions, shown_policy
from smtpsvc.routeoptions import RouteOptions
from smtpsvc.server.deadlines import MonotonicClock
from smtpsvc.settings import BareNewline, Limits, Settings
from smtpsvc.watchoptions import WatchOptions, make_watching

DEFAULT_BACKEND = "maildir:./Maildir"

_DEFAULTS = Settings()


class Options(AuthOptions, ListenOptions, PolicyOptions, RouteOptions, WatchOptions, usage.Options):
    """
    The options of ``twistd smtpsvc``.

    Below ``twistd`` or ``twist``, which would print all of their help, a mistake ends the process
    with one line; on its own, :meth:`parseOptions` raises UsageError with that line.
    """

    longdesc = (
        "Takes mail by SMTP and keeps it. Without options it listens on port 2525 of this machine, takes mail for "
        "any domain, and keeps it in ./Maildir. Options of twistd itself, such as -n to stay in the foreground, "
        "stand before the word smtpsvc."
    )
    optFlags: ClassVar[list[list[str | None]]] = [
        ["lenient-paths", None, "Also take addresses with odd dots, and paths without angle brackets."],
        ["trust-proxy-tls", None, "Let TLS that ended at a trusted proxy count as TLS where TLS is needed."],
        ["xclient-login", None, "Believe trusted proxies too who has logged in (XCLIENT LOGIN)."],
        ["check", None, "Check options, ports and backend, print the settings and the reply to EHLO, and exit."],
    ]
    optParameters: ClassVar[list[list[Any]]] = [
        ["backend", None, DEFAULT_BACKEND, "Where mail goes: NAME:ARGUMENT; --help-backends lists the names."],
        [DEDUPE.name, None, "0", DEDUPE.doc],
        [WORKERS.name, None, "1", WORKERS.doc],
        *([row.name, None, row.show(attrgetter(row.field)(_DEFAULTS)) or None, row.doc] for row in PARAMETERS),
    ]
    compData = usage.Completions(
        multiUse=["auth", *LISTS, "domain", "policy", "dns-server", "route", "enable", "disable", "extension"],
        optActions={"bare-newline": usage.CompleteList([each.value for each in BareNewline])},
    )

    #: What the options say; made by :meth:`postOptions`.
    plan: Plan
    #: Holds the ports that workers share; None for a single process.
    held: HeldPorts | None = None

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # The help is wrapped anew, but for the indentation of docstrings.
        self.docs = {name: " ".join((text or "").split()) for name, text in self.docs.items()}
        for name in LISTS:
            self[name] = []
        self["domain"] = []
        self["policy"] = []
        self["dns-server"] = []
        self["enable"] = []
        self["disable"] = []
        self["extension"] = []
        self["auth"] = []

    def opt_domain(self, text: str) -> None:
        """
        Take recipients in this domain, and postmaster; may be given several times. Others are refused
        with 550 5.7.1. [default: all domains]
        """
        self["domain"].append(text)

    def opt_enable(self, text: str) -> None:
        """
        Offer an extension that waits to be asked for, or give one an argument: NAME or NAME:ARGUMENT;
        may be given several times. --help-extensions lists the names.
        """
        self["enable"].append(text)

    def opt_disable(self, name: str) -> None:
        """Do not offer this extension; may be given several times."""
        self["disable"].append(name)

    def opt_extension(self, text: str) -> None:
        """Add an extension that is installed as a plugin: NAME or NAME:ARGUMENT; may be given several times."""
        self["extension"].append(text)

    def opt_help_extensions(self) -> NoReturn:
        """List the extensions and exit."""
        print(extensions_table(defaults()))
        raise SystemExit(0)

    def opt_version(self) -> NoReturn:
        """Print the version and exit."""
        print(f"smtpsvc {__version__}")
        raise SystemExit(0)

    def opt_help_backends(self) -> NoReturn:
        """List the backends and exit."""
        print(backends_table())
        raise SystemExit(0)

    def opt_help_backend(self, name: str) -> NoReturn:
        """Describe a backend and exit."""
        try:
            print(backend_help(name.partition(":")[0]))
        except ValueError as error:
            raise usage.UsageError(f"--help-backend: {error}") from error
        raise SystemExit(0)

    def getSynopsis(self) -> str:
        """Say how it is called, without the options of ``twistd``."""
        return f"Usage: {_program()} [options]"

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Read and check the options.

        :raises UsageError: with one line, if there is a mistake and no parent.
        :raises SystemExit: with that line, if there is a parent.
        """
        try:
            try:
                getopt.getopt(sys.argv[1:] if options is None else options, self.shortOpt, self.longOpt)
            except getopt.GetoptError as error:
                raise usage.UsageError(self._explain(error)) from error
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            if self.parent is None:
                raise
            raise SystemExit(f"smtpsvc: {error}") from error

    def parseArgs(self, *args: str) -> None:
        """
        Refuse what is no option.

        :raises UsageError: if there is anything.
        """
        if args:
            hint = f"; for a port write --port {args[0]}" if args[0].isdigit() else f"; see {_program()} --help"
            raise usage.UsageError(f"{args[0]!r} is no option{hint}")

    def postOptions(self) -> None:
        """
        Check what the options say together, and do ``--check``.

        :raises UsageError: with a sentence that names the option.
        """
        try:
            self.plan = self._plan()
            service = LaunchedService(self.plan) if self["check"] else None
        except ValueError as error:
            raise usage.UsageError(str(error)) from error
        if service is not None:
            raise SystemExit(self._check(service))

    def _plan(self) -> Plan:
        from twisted.internet import reactor

        workers = self._workers()
        self.use_dns_servers(reactor)
        logins = Logins(self["auth"])
        settings = self._settings(logins)
        if workers > 1:
            self.held = HeldPorts(reactor)
            listeners = make_listeners(self, reactor, holding(self.held))
        else:
            listeners = make_listeners(self, reactor)
        certificates = make_certificates(self)
        policies: list[IPolicy] = []
        if self["domain"]:
            try:
                policies.append(Domains(self["domain"]))
            except ValueError as error:
                raise ValueError(f"--domain: {error}") from error
        policies += self.policies(reactor)
        backend = self._backend(reactor)
        extensions = [*self._extensions(), *logins.extensions()]
        chosen = offered(extensions, settings, backend.supports)
        check_roles(chosen, settings, {listener.role for listener in listeners})
        check_listeners(
            listeners,
            settings,
            certificates=certificates is not None,
            logins=any(extension.keyword == "AUTH" for extension in extensions),
        )
        plan = Plan(
            settings=settings,
            backend_name=self["backend"],
            backend=with_policies(backend, *policies, reactor=reactor),
            listeners=listeners,
            domains=tuple(
                domain
                for policy in policies
                if not getattr(policy, "warn_only", False)
                for domain in getattr(policy, "domains", ())
            ),
            extensions=extensions,
            certificates=certificates,
            summary=SummaryLog(reactor),
            watching=make_watching(self, reactor),
            workers=workers,
        )
        check_shareable(plan)
        return plan

    def _workers(self) -> int:
        try:
            number: int = WORKERS.read(self["workers"] or "")
        except ValueError as error:
            raise ValueError(f"--workers: {error}") from error
        return number

    def _backend(self, reactor: Any) -> IBackend:
        backend = self.routed_backend(reactor)
        try:
            seconds = DEDUPE.read(self["dedupe"] or "")
        except ValueError as error:
            raise ValueError(f"--dedupe: {error}") from error
        if seconds and self._workers() > 1:
            raise ValueError("--dedupe: what one of several --workers remembers the others do not know; leave one away")
        return with_dedupe(backend, seconds, clock=MonotonicClock(reactor)) if seconds else backend

    def _extensions(self) -> list[IExtension]:
        extensions: list[IExtension] = [*defaults()]
        for text in self["extension"]:
            try:
                extensions.append(find_extension(text))
            except ValueError as error:
                raise ValueError(f"--extension: {error}") from error
        return extensions

    def _settings(self, logins: Logins) -> Settings:
        fields: dict[str, Any] = {}
        limits: dict[str, Any] = {}
        for row in PARAMETERS:
            try:
                value = row.read(self[row.name] or "")
            except ValueError as error:
                raise ValueError(f"--{row.name}: {error}") from error
            group, _, name = row.field.rpartition(".")
            (limits if group else fields)[name] = value
        fields.update((flag.replace("-", "_"), bool(self[flag])) for flag in FLAGS)
        return Settings(
            limits=Limits(**limits),
            enable=frozenset(self["enable"]) | logins.enable(but=self["disable"]),
            disable=frozenset(self["disable"]),
            **fields,
        )

    def _explain(self, error: getopt.GetoptError) -> str:
        """Word what getopt found wrong, with a guess at what was meant."""
        short = len(error.opt) == 1
        given = f"{'-' if short else '--'}{error.opt}"
        names = [name.rstrip("=") for name in self.longOpt]
        fitting = [f"--{name}" for name in names if name.startswith(error.opt)]
        if "requires argument" in error.msg:
            return f"{given} needs a value; see {_program()} --help"
        if "must not have" in error.msg:
            return f"{given} takes no value"
        if "unique prefix" in error.msg:
            return f"{given} can mean {' or '.join(fitting)}"
        if self.parent is not None and error.opt in self.parent.synonyms:
            return f"{given} is an option of the command itself: it stands before the word smtpsvc"
        near = [] if short else get_close_matches(error.opt, names, n=1)
        guess = f"did you mean --{near[0]}?" if near else f"see {_program()} --help"
        return f"{given} is no option; {guess}"

    def _check(self, service: LaunchedService) -> int:
        """
        Print what would run, and whether it could.

        :returns: the exit code.
        """
        parent: Mapping[str, Any] = self.parent or {}
        problems = []
        try:
            # Relative paths mean what they will mean then.
            os.chdir(parent.get("rundir") or ".")
        except OSError as error:
            problems.append(f"--rundir: {error}")
        print("\n".join(self._effective(service)))
        for listener in (*self.plan.listeners, *self.plan.watching.listeners):
            try:
                listener.check()
            except ListenError as error:
                problems.append(str(error))
        if self.plan.certificates is not None:
            try:
                self.plan.certificates.check()
            except ValueError as error:
                problems.append(str(error))
        try:
            getattr(self.plan.backend, "check", lambda: None)()
        except (OSError, ValueError) as error:
            problems.append(f"--backend: {error}")
        for problem in problems:
            print(f"smtpsvc: {problem}", file=sys.stderr)
        return 1 if problems else 0

    def _effective(self, service: LaunchedService) -> list[str]:
        settings = self.plan.settings
        lines = effective(self, self.plan.listeners)
        lines += [f"backend = {self.plan.backend_name}", f"dedupe = {self['dedupe']}", f"workers = {self.plan.workers}"]
        lines += self.shown_routes()
        lines += [f"domain = {domain}" for domain in self.plan.domains] or ["domain = (all)"]
        lines += [f"policy = {shown_policy(text)}" for text in self["policy"]]
        lines += [f"dns-server = {text}" for text in self["dns-server"]] or ["dns-server = (system)"]
        lines += [f"{name} = {self[name] or '(none)'}" for name in ("metrics", "log-json")]
        lines += [f"{row.name} = {row.show(attrgetter(row.field)(settings)) or '(none)'}" for row in PARAMETERS]
        lines += [f"{flag} = {'yes' if getattr(settings, flag.replace('-', '_')) else 'no'}" for flag in FLAGS]
        lines += [f"auth = {text.partition(':')[0]}" for text in self["auth"]]
        lines += [f"enable = {item}" for item in sorted(settings.enable)]
        lines += [f"disable = {name}" for name in sorted(settings.disable)]
        lines += [f"extension = {text}" for text in self["extension"]]
        return [*lines, *previews(service)]


def makeService(options: Options) -> IService:
    """
    Make the service that the options ask for; it opens and starts nothing before it is started.

    :param options: parsed.
    """
    load_late_modules()
    return LaunchedService(options.plan) if options.held is None else ParentService(options.plan, options.held)


def _program() -> str:
    name = os.path.basename(sys.argv[0])
    return "python -m smtpsvc" if name == "__main__.py" else f"{name} smtpsvc"
