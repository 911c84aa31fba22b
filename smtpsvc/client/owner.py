"""
What a transaction needs of the connection that it is on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from smtpsvc.client.capabilities import Capabilities
from smtpsvc.client.dialogue import Dialogue
from smtpsvc.client.options import Options


class Owner(Protocol):
    """What a transaction asks of its connection."""

    dialogue: Dialogue
    options: Options
    capabilities: Capabilities
    #: True if no message can be sent any more.
    spoiled: bool

    @property
    def lmtp(self) -> bool:
        """True if replies come for each recipient."""

    @property
    def trusted(self) -> bool:
        """True if the server is who it should be."""

    @property
    def chunking(self) -> bool:
        """True if content goes by BDAT."""

    def advance(self) -> None:
        """Begin the next message, if it may follow."""

    def followed(self, transaction: Any) -> bool:
        """Tell whether the next message is on its way already."""

    def ended(self, transaction: Any) -> None:
        """A transaction is over."""

    def reset_after(self, ready: Callable[[object], object] = ...) -> None:
        """Say RSET."""
