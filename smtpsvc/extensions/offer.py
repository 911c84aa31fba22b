"""
Which extensions are offered: ``--enable`` and ``--disable``, and what the backend supports.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Collection, Iterable

from smtpsvc.interfaces import IExtension
from smtpsvc.settings import Role, Settings

# How the docstrings of extensions begin: "KEYWORD (RFC 1): " or "KEYWORD: ".
_OPENING = re.compile(r"\A[A-Z0-9-]++(?: \(([^)]*+)\)(?=:))?(?:: )?+")


def offered(extensions: Iterable[IExtension], settings: Settings, supports: Collection[str]) -> list[IExtension]:
    """
    Choose from the extensions that there are.

    One with ``on_request`` is left out unless the backend or ``settings.enable`` has its keyword; any
    is left out that ``settings.disable`` has. One that is enabled with an argument is made anew with it.

    :param supports: the backend's; upper-case keywords.
    :raises ValueError: with a sentence that names the option, for a name that no extension has and for
        an argument that its extension does not take.
    """
    extensions = list(extensions)
    known = {name for extension in extensions for name in (extension.keyword.upper(), *extension.switches)}
    for option, items in (("--enable", settings.enable), ("--disable", settings.disable)):
        for item in sorted(items):
            _check_known(option, item.partition(":")[0], known)
    _check_switches(extensions, settings)
    return [
        _configured(extension, settings.enabled(extension.keyword.upper()))
        for extension in extensions
        if _is_offered(extension, settings, supports)
    ]


def check_roles(extensions: Iterable[IExtension], settings: Settings, roles: Collection[Role]) -> None:
    """
    Check that what was enabled has a listener that can have it.

    :param extensions: those that are offered.
    :param roles: of the listeners.
    :raises ValueError: with a sentence.
    """
    for extension in extensions:
        if settings.enabled(extension.keyword.upper()) is not None and not extension.roles & set(roles):
            kinds = " and ".join(sorted(role.value for role in extension.roles))
            raise ValueError(f"--enable: {extension.keyword} is for {kinds} listeners, and there is none")


def extension_lines(extensions: Iterable[IExtension]) -> list[tuple[str, str, str]]:
    """
    Describe extensions.

    :returns: for each how ``--enable`` takes it, ``on`` or ``on request``, and what it does.
    """
    found = []
    for extension in extensions:
        usage = f"{extension.keyword}[:{extension.argument}]" if extension.argument else extension.keyword
        summary = (inspect.getdoc(type(extension)) or "").partition("\n\n")[0]
        words = " ".join(summary.replace("`", "").split())
        found.append((usage, "on request" if extension.on_request else "on", _OPENING.sub(_source, words)))
    return found


def _source(opening: re.Match[str]) -> str:
    return f"{opening[1]}: " if opening[1] else ""


def _check_known(option: str, name: str, known: Collection[str]) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"{option}: there is no extension {name!r}{guess}; there are {', '.join(sorted(known))}")


def _check_switches(extensions: Iterable[IExtension], settings: Settings) -> None:
    for name in (name for extension in extensions for name in extension.switches):
        if settings.enabled(name):
            raise ValueError(f"--enable: {name} takes no argument")


def _is_offered(extension: IExtension, settings: Settings, supports: Collection[str]) -> bool:
    keyword = extension.keyword.upper()
    if keyword in settings.disable:
        return False
    return not extension.on_request or keyword in supports or settings.enabled(keyword) is not None


def _configured(extension: IExtension, argument: str | None) -> IExtension:
    if not argument:
        return extension
    try:
        return extension.configured(argument)
    except ValueError as error:
        raise ValueError(f"--enable: {extension.keyword}:{argument}: {error}") from error
