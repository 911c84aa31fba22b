"""
The arguments of policies, as people type them: ``VALUE,VALUE,SETTING=VALUE,SETTING=VALUE``.

All policies have this syntax. A name may come several times where a policy takes several values, and blanks around
commas are ignored.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from smtpsvc.settings import parse_size

_Value = TypeVar("_Value")

_SETTING = re.compile(r"([a-z][a-z0-9-]*)=(.*)", re.DOTALL)
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d|w|)")
_UNITS: Final[Mapping[str, float]] = {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_YES: Final = {"yes": True, "no": False}


class Arguments:
    """
    What stands behind a policy's name, to be taken piece by piece.

    Each method raises ValueError with a sentence that names the setting. What was not taken is a mistake, and
    :meth:`end` says so.
    """

    def __init__(self, text: str, *, hostname: str = "") -> None:
        #: Our own name, as ``--hostname`` says; "" if it is not known.
        self.hostname = hostname
        self._values: list[str] = []
        self._settings: dict[str, list[str]] = {}
        self._given: dict[str, str] = {}
        self._known: list[str] = []
        self._taken = False
        for item in filter(None, map(str.strip, text.split(","))):
            found = _SETTING.fullmatch(item)
            if found is not None:
                self._settings.setdefault(found[1], []).append(found[2].strip())
                self._given[found[1]] = found[2].strip()
            else:
                self._values.append(item)

    def values(self) -> list[str]:
        """Take all values without a name."""
        self._taken = True
        return self._values

    def value(self, what: str, default: str | None = None) -> str:
        """
        Take the one value without a name.

        :param what: it is, for the sentence, e.g. ``"a file"``.
        :param default: None if it must be there.
        """
        self._taken = True
        if len(self._values) > 1:
            raise ValueError(f"there are {len(self._values)} values; write {what} only, and a name before the others")
        if not self._values and default is None:
            raise ValueError(f"{what} is missing")
        return self._values[0] if self._values else str(default)

    def texts(self, name: str) -> list[str]:
        """Take all values of a setting."""
        self._known.append(name)
        return self._settings.pop(name, [])

    def given(self, name: str) -> str:
        """Give the text of a setting that is taken elsewhere; "" if it is not there."""
        return self._given.get(name, "")

    def read(self, name: str, read: Callable[[str], _Value], default: _Value) -> _Value:
        """
        Take the value of a setting that may be given once.

        :param read: makes it of its text; raises ValueError with a sentence.
        """
        texts = self.texts(name)
        if len(texts) > 1:
            raise ValueError(f"{name} is given {len(texts)} times; once is enough")
        if not texts:
            return default
        try:
            return read(texts[0])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def text(self, name: str, default: str = "") -> str:
        """Take a text."""
        return self.read(name, str, default)

    def count(self, name: str, default: int) -> int:
        """Take a whole number."""
        return self.read(name, parse_count, default)

    def size(self, name: str, default: int) -> int:
        """Take a size in bytes, written as ``10M``."""
        return self.read(name, parse_size, default)

    def seconds(self, name: str, default: float) -> float:
        """Take a time, written as ``5s``, ``10m``, ``2h`` or ``1d``."""
        return self.read(name, parse_duration, default)

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        """Take one of several words."""
        return self.read(name, lambda text: parse_choice(text, choices), default)

    def yes(self, name: str) -> bool:
        """Take a switch: ``NAME=yes``, or the name alone among the values; off if it is not there."""
        if name in self._values:
            self._values.remove(name)
            return True
        return self.read(name, lambda text: _YES[parse_choice(text, tuple(_YES))], False)

    def end(self) -> None:
        """
        Take nothing more.

        :raises ValueError: with a sentence, if something is left.
        """
        known = sorted(self._known)
        for name in self._settings:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"{name} is no setting of it{guess}; there are {', '.join(known) or 'none'}")
        if self._values and not self._taken:
            raise ValueError(f"it takes no value without a name, such as {self._values[0]!r}")


def parse_count(text: str) -> int:
    """
    Read a whole number.

    :raises ValueError: with a sentence.
    """
    if not (text.isascii() and text.isdigit()) or len(text) > 12:
        raise ValueError(f"{text!r} is no whole number; write digits only")
    return int(text)


def parse_duration(text: str) -> float:
    """
    Read a time as people write it.

    :param text: a number with ``ms``, ``s``, ``m``, ``h``, ``d`` or ``w``; without one it is seconds.
    :returns: seconds.
    :raises ValueError: with a sentence.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r} is no time; write such as 5s, 10m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2]]


def parse_choice(text: str, choices: Sequence[str]) -> str:
    """
    Read one of several words, in any case.

    :raises ValueError: with a sentence.
    """
    if text.lower() not in choices:
        raise ValueError(f"{text!r} is not one of {', '.join(choices)}")
    return text.lower()
