"""
Optional libraries: imported when they are needed, and missed in words that help.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def need(module: str, extra: str, what: str) -> Any:
    """
    Import a library that is not installed with every smtpsvc.

    :param extra: the extra of smtpsvc that brings it.
    :param what: what needs it, as the beginning of a sentence.
    :raises ValueError: with a sentence that says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ValueError(f"{what} needs {module}: pip install 'smtpsvc[{extra}]'") from error
