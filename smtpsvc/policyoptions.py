"""
The options of ``twistd smtpsvc`` that put policies in front of the backend.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from twisted.plugin import getPlugins
from twisted.python import usage
from zope.interface import Invalid
from zope.interface.verify import verifyObject

from smtpsvc.interfaces import IPolicy, IPolicyFactory
from smtpsvc.nameservers import parse_server
from smtpsvc.plugins import describe_error, one_line
from smtpsvc.policies.arguments import Arguments
from smtpsvc.policies.modified import HELP, read_modifiers
from smtpsvc.resolver import use_servers

_SECRET = re.compile(r"\b((?:password|secret|token|key)=)[^,]*")


class PolicyOptions:
    """A part of :class:`smtpsvc.tap.Options`."""

    if TYPE_CHECKING:

        def __getitem__(self, name: str) -> Any: ...

    def opt_policy(self, text: str) -> None:
        """
        Check mail before the backend sees it: NAME:ARGUMENTS, such as deny:192.0.2.0/24; may be given several
        times. The policies are asked in the order given, and the first refusal is the answer.
        --help-policies lists the names.
        """
        self["policy"].append(text)

    def opt_dns_server(self, text: str) -> None:
        """
        Ask this name server: HOST, or HOST:PORT, an address; may be given several times. The next is asked where
        one has no answer. [default: those of /etc/resolv.conf]
        """
        self["dns-server"].append(text)

    def opt_help_policies(self) -> NoReturn:
        """List the policies and exit."""
        print(policies_table())
        raise SystemExit(0)

    def opt_help_policy(self, name: str) -> NoReturn:
        """Describe a policy and exit."""
        try:
            print(policy_help(name.partition(":")[0]))
        except ValueError as error:
            raise usage.UsageError(f"--help-policy: {error}") from error
        raise SystemExit(0)

    def use_dns_servers(self, reactor: Any) -> None:
        """
        Have whatever asks the DNS ask the servers of ``--dns-server``.

        :raises ValueError: with a sentence that names the option.
        """
        try:
            use_servers([parse_server(text) for text in self["dns-server"]], reactor)
        except ValueError as error:
            raise ValueError(f"--dns-server: {error}") from error

    def policies(self, reactor: Any) -> list[IPolicy]:
        """
        Make what ``--policy`` asks for.

        :raises ValueError: with a sentence that names the option.
        """
        made = []
        for text in self["policy"]:
            try:
                made.append(find_policy(text, reactor, hostname=self["hostname"] or ""))
            except ValueError as error:
                raise ValueError(f"--policy {error}") from error
        return made


def policy_factories(plugins: Iterable[Any] | None = None) -> dict[str, Any]:
    """
    Find the policies that are installed.

    :param plugins: objects to look through; None asks ``twisted.plugin``.
    :returns: each :class:`~smtpsvc.interfaces.IPolicyFactory` by its name, in the order of names.
        Of two with one name, ours stays.
    """
    found: dict[str, Any] = {}
    for plugin in getPlugins(IPolicyFactory) if plugins is None else plugins:
        name = getattr(plugin, "name", None)
        ours = str(getattr(plugin, "dotted", "")).startswith("smtpsvc.")
        if isinstance(name, str) and (name not in found or ours):
            found[name] = plugin
    return dict(sorted(found.items()))


def policy_factory(name: str, plugins: Iterable[Any] | None = None) -> Any:
    """
    Find one policy's factory.

    :raises ValueError: with a sentence that lists the names, if there is none of that name.
    """
    factories = policy_factories(plugins)
    if name in factories:
        return factories[name]
    near = difflib.get_close_matches(name, factories, n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"{name}: there is no such policy{guess}; there are {', '.join(factories) or 'none at all'}")


def find_policy(
    description: str, reactor: Any, plugins: Iterable[Any] | None = None, *, hostname: str = ""
) -> IPolicy:
    """
    Make the policy that a description names.

    :param description: ``NAME`` or ``NAME:ARGUMENTS``, e.g. ``"deny:192.0.2.0/24,warn-only"``.
    :param hostname: our own name; "" if it is not known.
    :raises ValueError: with a sentence that begins with the name, whatever is wrong with the name, the arguments or
        the plugin's own code.
    """
    name, _, text = description.partition(":")
    factory = policy_factory(name, plugins)
    try:
        arguments = Arguments(text, hostname=hostname)
        modify = read_modifiers(arguments)
        policy = factory.make(arguments, reactor)
        arguments.end()
        if not IPolicy.providedBy(policy):
            raise ValueError(f"it gives no policy but {type(policy).__name__}: it must provide smtpsvc.IPolicy")
        verifyObject(IPolicy, policy)
    except Invalid as error:
        raise ValueError(f"{name}: it gives no whole policy: {one_line(error)}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {one_line(error)}") from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"{name}: it does not work: {describe_error(error)}") from error
    return modify(policy, reactor)


def policy_help(name: str, plugins: Iterable[Any] | None = None) -> str:
    """
    Describe one policy in full.

    :raises ValueError: with a sentence, if there is none of that name or it cannot be loaded.
    """
    factory = policy_factory(name, plugins)
    try:
        text = str(factory.help).strip()
    except Exception as error:
        raise ValueError(f"{name} does not work: {describe_error(error)}") from error
    return f"{usage_of(factory)}\n\n{text}\n\n{HELP}"


def policies_table(plugins: Iterable[Any] | None = None) -> str:
    """List the policies, two lines each: how it is written, and what it does."""
    return "\n".join(f"{usage_of(each)}\n    {each.summary}" for each in policy_factories(plugins).values())


def usage_of(factory: Any) -> str:
    """Say how a policy is written."""
    return f"{factory.name}:{factory.argument}" if factory.argument else str(factory.name)


def shown_policy(description: str) -> str:
    """Give a description without its secrets."""
    return _SECRET.sub(r"\1...", description)
