"""
Call a Python function to get the backend.

``python:pkg.mod.factory`` imports ``pkg.mod`` and calls ``factory()``, which returns the backend.
It is called before the process goes into the background and gives up its privileges: open files
and start threads in the backend's ``startService``. An object that is a backend already is taken
as it is, for instance a function with ``@on_message`` above it::

    from smtpsvc import on_message

    @on_message
    async def backend(message):
        print(message.sender, "->", *message.recipients, message.size, "bytes")

In a file ``hello.py``, this is ``--backend python:hello.backend``. A module that is not installed is
also looked for in the current directory.
"""

from __future__ import annotations

import inspect
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from smtpsvc.interfaces import IBackend
from smtpsvc.plugins import describe_error


def make(argument: str, reactor: object) -> Any:
    """
    Import what a dotted name names, and call it if it is no backend itself.

    :param argument: e.g. ``"pkg.mod.factory"``.
    :returns: what is there; whether it is a backend, the caller checks.
    :raises ValueError: with a sentence that has the other side's exception, but no traceback.
    """
    parts = argument.replace(":", ".").split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ValueError(f"python:{argument} must name a function in a module, such as python:pkg.mod.factory")
    named = _load(argument, parts)
    # A class that implements the interface does not provide it; its instances do.
    return named if IBackend.providedBy(named) else _call(argument, named)


def _load(argument: str, parts: list[str]) -> Any:
    try:
        _find_here(parts[0])
        found: Any = import_module(parts[0])
        for count, part in enumerate(parts[1:], 2):
            if not hasattr(found, part) and hasattr(found, "__path__"):
                import_module(".".join(parts[:count]))
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        raise ValueError(f"python:{argument} cannot be imported: {describe_error(error)}") from error
    return found


def _find_here(top: str) -> None:
    # Last on the path, so that it hides nothing that is installed.
    here = os.getcwd()
    if top not in sys.modules and here not in sys.path and find_spec(top) is None:
        sys.path.append(here)


def _call(argument: str, named: Any) -> Any:
    if not callable(named):
        kind = type(named).__name__
        raise ValueError(f"python:{argument} is neither a backend nor a function that returns one, but of type {kind}")
    try:
        inspect.signature(named).bind()
    except TypeError as error:
        raise ValueError(
            f"python:{argument} cannot be called without arguments ({error}); "
            "a function that takes messages needs @smtpsvc.on_message above it"
        ) from error
    except ValueError:
        pass  # a built-in without a signature: call it and see
    try:
        backend = named()
    except (Exception, SystemExit) as error:
        raise ValueError(f"python:{argument} failed: {describe_error(error)}") from error
    if inspect.iscoroutine(backend):
        backend.close()
        raise ValueError(f"python:{argument} is a coroutine function; the backend must be returned at once")
    return backend
