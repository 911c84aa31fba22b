"""
To stand in front of a backend, a session or a delivery, and change some of its hooks.
"""

from __future__ import annotations

from typing import Any, ClassVar

from zope.interface import providedBy

__all__ = ["Front"]


class Front:
    """
    Stands in front of an object: whatever it lacks is the other's, and so is what it provides.

    Only public names pass through, so that nothing which copies, pickles or adapts takes the one
    object for the other.
    """

    __slots__ = ("_behind",)

    #: What stands there, in a word.
    what: ClassVar[str] = "policies"

    _behind: Any

    @property
    def __providedBy__(self) -> Any:
        # What zope.interface reads first. The object behind has all that it provides, so this one has it too.
        return providedBy(self._behind)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._behind, name)

    def __repr__(self) -> str:
        return f"<{self.what} in front of {self._behind!r}>"
