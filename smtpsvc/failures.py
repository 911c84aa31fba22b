"""
Failures of hooks as they may be logged.

What a hook raises often has words of its client's in it, which must not look like lines of ours, nor steer a terminal.
"""

from __future__ import annotations

from typing import Any

from twisted.python.failure import Failure
from twisted.python.reflect import safe_str

from smtpsvc.grammar.shown import shown

#: Begins each further line of an exception's words.
_MARK = "\n    | "


class _Shown(Failure):
    """A failure whose traceback has the exception's words in marked lines, and nothing that is not printable."""

    def getTraceback(self, elideFrameworkCode: int = 0, detail: str = "default") -> str:
        """Word the traceback."""
        text: str = super().getTraceback(elideFrameworkCode, detail)
        words: str = safe_str(self.value)
        if "\n" in words:
            text = text.replace(words, words.replace("\n", _MARK))
        return "\n".join(shown(line.encode("utf-8", "backslashreplace")) for line in text.split("\n"))


def shown_failure(failure: Failure) -> Failure:
    r"""
    Give a failure that can be logged: controls in its traceback are escaped, as ``\x1b``.

    :param failure: is left as it is.
    :returns: one of the same exception.
    """
    copy: Any = _Shown.__new__(_Shown)
    copy.__dict__.update(failure.__dict__)
    return copy  # type: ignore[no-any-return]
