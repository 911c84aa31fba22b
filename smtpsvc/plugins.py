"""
Backends and extensions by name: what stands behind ``--backend NAME:ARGUMENT`` and ``--extension NAME``.

A plugin object knows a dotted name and loads it on use, so that whoever asks Twisted for other
people's plugins does not import what it makes. A package of your own adds a name with a file in
``twisted/plugins/``, which has no ``__init__.py``::

    from smtpsvc.plugins import BackendFactory

    lists = BackendFactory("lists", "mylists.backend:make", "FILE", "Deliver to the lists in FILE.")

An :class:`ExtensionFactory` there adds an extension in the same way, a :class:`PolicyFactory` a policy, a
:class:`MechanismFactory` a SASL mechanism, and a :class:`CheckerFactory` what stands behind ``--auth``.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from twisted.cred.strcred import ICheckerFactory
from twisted.logger import Logger
from twisted.plugin import IPlugin, getPlugins
from zope.interface import Invalid, implementer, implementer_only
from zope.interface.verify import verifyObject

from smtpsvc.interfaces import (
    IBackend,
    IBackendFactory,
    IExtension,
    IExtensionFactory,
    IMechanismFactory,
    IPolicyFactory,
    ISASLMechanism,
)

if TYPE_CHECKING:
    from collections.abc import Callable

log = Logger(namespace="smtpsvc")


@implementer(IPlugin, IBackendFactory)
class BackendFactory:
    """
    Makes a backend by calling a function that is imported when it is needed.

    :param name: what stands before the colon in ``--backend NAME:ARGUMENT``.
    :param dotted: ``"package.module:function"``. The function is called with the argument and the
        reactor, returns an :class:`~smtpsvc.interfaces.IBackend`, and raises ValueError with a
        sentence for the person who typed it.
    :param argument: what stands after the colon, in one word, e.g. ``"DIR"``; "" for nothing.
    :param summary: what the backend does, in one line.
    """

    def __init__(self, name: str, dotted: str, argument: str, summary: str) -> None:
        self.name = name
        self.dotted = dotted
        self.argument = argument
        self.summary = summary

    def __repr__(self) -> str:
        return f"<BackendFactory {self.name}: {self.dotted}>"

    @property
    def help(self) -> str:
        """The docstring of the module that has the function."""
        return inspect.getdoc(self._module()) or self.summary

    def make(self, argument: str, reactor: Any) -> Any:
        """
        Make the backend; it opens and starts nothing before its ``startService``.

        :raises ValueError: with a sentence for the person who typed it.
        """
        make: Callable[[str, Any], Any] = getattr(self._module(), self.dotted.partition(":")[2])
        return make(argument, reactor)

    def _module(self) -> ModuleType:
        return importlib.import_module(self.dotted.partition(":")[0])


@implementer_only(IPlugin, IPolicyFactory)
class PolicyFactory(BackendFactory):
    """
    Makes a policy by calling a function that is imported when it is needed.

    The parameters are those of :class:`BackendFactory`; the function is called with
    :class:`~smtpsvc.policies.arguments.Arguments` and the reactor, and returns an
    :class:`~smtpsvc.interfaces.IPolicy`.
    """


def backend_factories(plugins: Iterable[Any] | None = None) -> dict[str, Any]:
    """
    Find the backends that are installed.

    :param plugins: objects to look through; None asks ``twisted.plugin``.
    :returns: each :class:`~smtpsvc.interfaces.IBackendFactory` by its name, in the order of names.
        Of two with one name, ours stays; what has no name is left out.
    """
    found: dict[str, Any] = {}
    for plugin in getPlugins(IBackendFactory) if plugins is None else plugins:
        name = _name(plugin)
        if name is not None and (name not in found or _is_ours(plugin)):
            found[name] = plugin
    return dict(sorted(found.items()))


def backend_factory(name: str, plugins: Iterable[Any] | None = None) -> Any:
    """
    Find one backend.

    :returns: its :class:`~smtpsvc.interfaces.IBackendFactory`.
    :raises ValueError: with a sentence that lists the names, if there is none of that name.
    """
    factories = backend_factories(plugins)
    if name in factories:
        return factories[name]
    near = difflib.get_close_matches(name, factories, n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"there is no backend {name!r}{guess}; there are {', '.join(factories) or 'none at all'}")


def find_backend(description: str, reactor: Any, plugins: Iterable[Any] | None = None) -> Any:
    """
    Make the backend that a description names.

    :param description: ``NAME`` or ``NAME:ARGUMENT``, e.g. ``"maildir:/var/mail"``.
    :returns: an :class:`~smtpsvc.interfaces.IBackend`, not started.
    :raises ValueError: with a sentence, whatever is wrong with the name, the argument or the
        plugin's own code.
    """
    name, _, argument = description.partition(":")
    factory = backend_factory(name, plugins)
    try:
        backend = factory.make(argument, reactor)
        if not IBackend.providedBy(backend):
            kind = type(backend).__name__
            raise ValueError(f"{description} gives no backend but {kind}: it must provide smtpsvc.IBackend")
        verifyObject(IBackend, backend)
    except Invalid as error:
        raise ValueError(f"{description} gives no whole backend: {one_line(error)}") from error
    except ValueError as error:
        text = one_line(error)
        raise ValueError(text if text.startswith(name) else f"{name}: {text}") from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"{description} does not work: {describe_error(error)}") from error
    return backend


def backend_help(name: str, plugins: Iterable[Any] | None = None) -> str:
    """
    Describe one backend in full.

    :raises ValueError: with a sentence, if there is none of that name or it cannot be loaded.
    """
    factory = backend_factory(name, plugins)
    try:
        text = str(factory.help).strip()
    except Exception as error:
        raise ValueError(f"{name} does not work: {describe_error(error)}") from error
    return f"{_usage(factory)}\n\n{text}"


def backends_table(plugins: Iterable[Any] | None = None) -> str:
    """List the backends, a line each: how it is written, and what it does."""
    factories = backend_factories(plugins).values()
    width = max((len(_usage(factory)) for factory in factories), default=0)
    return "\n".join(f"{_usage(factory):{width}}  {factory.summary}" for factory in factories)


@implementer(IPlugin, IExtensionFactory)
class ExtensionFactory:
    """
    Makes an extension by calling a class or function that is imported when it is needed.

    :param name: what stands before the colon in ``--extension NAME:ARGUMENT``.
    :param dotted: ``"package.module:Class"``. It is called with the argument, if there is one, and
        gives an :class:`~smtpsvc.interfaces.IExtension`.
    :param summary: what the extension does, in one line.
    :param argument: what stands after the colon, in one word; "" for nothing.
    """

    def __init__(self, name: str, dotted: str, summary: str, argument: str = "") -> None:
        self.name = name
        self.dotted = dotted
        self.summary = summary
        self.argument = argument

    def __repr__(self) -> str:
        return f"<ExtensionFactory {self.name}: {self.dotted}>"

    def make(self, argument: str) -> Any:
        """
        Make the extension.

        :raises ValueError: with a sentence for the person who typed it.
        """
        if argument and not self.argument:
            raise ValueError("it takes no argument")
        module, _, name = self.dotted.partition(":")
        make: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return make(argument) if argument else make()


def extension_factories(plugins: Iterable[Any] | None = None) -> dict[str, Any]:
    """
    Find the extensions that are installed as plugins.

    :param plugins: objects to look through; None asks ``twisted.plugin``.
    :returns: each :class:`~smtpsvc.interfaces.IExtensionFactory` by its name, in the order of names.
    """
    found = getPlugins(IExtensionFactory) if plugins is None else plugins
    named = {name: plugin for plugin in found if (name := _name(plugin)) is not None}
    return dict(sorted(named.items()))


def find_extension(description: str, plugins: Iterable[Any] | None = None) -> Any:
    """
    Make the extension that a description names.

    :param description: ``NAME`` or ``NAME:ARGUMENT``.
    :returns: an :class:`~smtpsvc.interfaces.IExtension`.
    :raises ValueError: with a sentence, whatever is wrong with the name, the argument or the
        plugin's own code.
    """
    name, _, argument = description.partition(":")
    factories = extension_factories(plugins)
    if name not in factories:
        near = difflib.get_close_matches(name, factories, n=1)
        guess = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"no extension {name!r} is installed{guess}; there are {', '.join(factories) or 'none'}")
    try:
        extension = factories[name].make(argument)
        verifyObject(IExtension, extension)
    except Invalid as error:
        raise ValueError(f"{description} gives no whole extension: {one_line(error)}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {one_line(error)}") from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"{description} does not work: {describe_error(error)}") from error
    return extension


def extensions_table(extensions: Iterable[Any], plugins: Iterable[Any] | None = None) -> str:
    """List extensions, a line each: how it is written, who must ask for it, and what it does."""
    from smtpsvc.extensions.offer import extension_lines

    lines = extension_lines(extensions)
    lines += [(_usage(each).rstrip(":"), "--extension", each.summary) for each in extension_factories(plugins).values()]
    usage, state = (max((len(line[column]) for line in lines), default=0) for column in (0, 1))
    return "\n".join(f"{line[0]:{usage}}  {line[1]:{state}}  {line[2]}" for line in lines)


@implementer(IPlugin, IMechanismFactory)
class MechanismFactory:
    """
    Makes a SASL mechanism from a class that is imported when it is needed.

    :param name: the mechanism's.
    :param dotted: ``"package.module:Class"``. It is called without arguments and gives an
        :class:`~smtpsvc.interfaces.ISASLMechanism`.
    """

    def __init__(self, name: str, dotted: str) -> None:
        self.name = name
        self.dotted = dotted

    def __repr__(self) -> str:
        return f"<MechanismFactory {self.name}: {self.dotted}>"

    def make(self) -> Any:
        """Make the mechanism."""
        return _load(self.dotted)()


def find_mechanisms(plugins: Iterable[Any] | None = None) -> list[Any]:
    """
    Make the SASL mechanisms: those that come with smtpsvc, the strongest first, and then those of others.

    One of others that cannot be had is a line in the log, and is not offered: nobody has asked for it by name.

    :param plugins: objects to look through; None asks ``twisted.plugin``.
    """
    from smtpsvc.sasl import default_mechanisms

    found: dict[str, Any] = {mechanism.name: mechanism for mechanism in default_mechanisms()}
    for factory in getPlugins(IMechanismFactory) if plugins is None else plugins:
        name = _name(factory)
        if name in found:
            continue
        try:
            if name is None:
                raise ValueError(f"a {type(factory).__name__} has no name")
            mechanism = factory.make()
            verifyObject(ISASLMechanism, mechanism)
        except (Exception, SystemExit) as error:
            problem = one_line(error) if isinstance(error, Invalid) else describe_error(error)
            log.warn("the SASL mechanism {name} is not offered: {problem}", name=name or "of a plugin", problem=problem)
        else:
            found[name] = mechanism
    return list(found.values())


@implementer(IPlugin, ICheckerFactory)
class CheckerFactory:
    """
    Makes a checker of ``twisted.cred`` by calling a function that is imported when it is needed.

    :param name: what stands before the colon in ``--auth NAME:ARGUMENT``.
    :param dotted: ``"package.module:function"``. It is called with the argument, and raises ValueError
        with a sentence for the person who typed it.
    :param argument: what stands after the colon.
    :param interfaces: ``"package.module:Interface"`` of each kind of credentials that the checker takes.
    """

    def __init__(self, name: str, dotted: str, argument: str, *interfaces: str) -> None:
        self.authType = name
        self.dotted = dotted
        self.argStringFormat = argument
        self._interfaces = interfaces

    def __repr__(self) -> str:
        return f"<CheckerFactory {self.authType}: {self.dotted}>"

    @property
    def credentialInterfaces(self) -> list[Any]:
        """The kinds of credentials that the checker takes."""
        return [_load(dotted) for dotted in self._interfaces]

    @property
    def authHelp(self) -> str:
        """The docstring of the module that has the function."""
        return inspect.getdoc(importlib.import_module(self.dotted.partition(":")[0])) or self.argStringFormat

    def generateChecker(self, argstring: str = "") -> Any:
        """
        Make the checker.

        :raises ValueError: with a sentence for the person who typed it.
        """
        return _load(self.dotted)(argstring)


def _load(dotted: str) -> Any:
    module, _, name = dotted.partition(":")
    return getattr(importlib.import_module(module), name)


def _name(plugin: Any) -> str | None:
    """Give the name of anybody's plugin, or None if it has none."""
    try:
        return plugin.name if isinstance(plugin.name, str) else None
    except Exception:
        return None


def describe_error(error: BaseException) -> str:
    """
    Put someone else's exception into half a sentence, in place of a traceback.

    :returns: its type, its message, and the file and line of the code that raised it, if that is
        not our own.
    """
    text = one_line(error)
    return (f"{type(error).__name__}: {text}" if text else type(error).__name__) + _location(error)


def one_line(error: BaseException) -> str:
    """Give an exception's message with each run of white space as one space."""
    return " ".join(str(error).split())


def _location(error: BaseException) -> str:
    if isinstance(error, SyntaxError):  # the message of that ends with file and line
        return ""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(_MACHINERY):
            return f" ({frame.filename}, line {frame.lineno})"
    return ""


def _usage(factory: Any) -> str:
    return f"{factory.name}:{factory.argument}" if factory.argument else f"{factory.name}:"


def _is_ours(plugin: Any) -> bool:
    return isinstance(plugin, BackendFactory) and plugin.dotted.startswith("smtpsvc.")


#: Files whose lines tell nobody where the mistake is: ours, and those that import.
_MACHINERY = (f"{Path(__file__).parent}{os.sep}", f"{Path(importlib.__file__).parent}{os.sep}", "<frozen importlib")
