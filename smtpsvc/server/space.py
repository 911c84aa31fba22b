"""
Free space: no mail is begun that the disk may have no room for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from smtpsvc.grammar.commands import Path
from smtpsvc.grammar.replies import Reply
from smtpsvc.interfaces import IStorage
from smtpsvc.settings import format_size

if TYPE_CHECKING:
    from smtpsvc.server.conversation import Conversation

#: The client keeps the message and comes again (RFC 1870 §6.1, RFC 3463 §3.4).
NO_ROOM: Final = Reply(452, "Insufficient system storage", "4.3.1")
#: What the backend has said holds so many seconds: a busy server has thousands of MAILs in that time.
HOLDS: Final = 1.0


class SpaceGuard:
    """
    Refuses MAIL while the backend has less than a given room, before any content is read.

    A size that the client declared must fit too, and leave that room.

    :param storage: asked at most once a second; what it does not know, or fails to tell, refuses nothing.
    :param least: in bytes.
    """

    __slots__ = ("_least", "_refusing", "_room", "_storage", "_until")

    def __init__(self, storage: IStorage, least: int) -> None:
        self._storage = storage
        self._least = least
        # What a message may take; infinite where nobody knows.
        self._room: float = math.inf
        self._until = -math.inf
        self._refusing = False

    def check(self, conversation: Conversation, path: Path) -> Reply | None:
        """Let a MAIL pass if there is room for its message, else give 452 4.3.1."""
        now = conversation.factory.clock.seconds()
        if now >= self._until:
            self._until = now + HOLDS
            self._look(conversation)
        return None if self._room >= path.params.get("SIZE", 0) else NO_ROOM

    def _look(self, conversation: Conversation) -> None:
        log = conversation.factory.log
        try:
            free = self._storage.free_space()
        except Exception:
            log.failure("{storage}: free_space() failed", storage=self._storage)
            free = None
        self._room = math.inf if free is None else free - self._least
        refusing = self._room < 0
        if refusing is self._refusing:
            return
        self._refusing = refusing
        if refusing:
            log.warn(
                "{storage}: less than {least} is free, so mail is refused with 452 4.3.1 until there is more",
                storage=self._storage,
                least=format_size(self._least),
                free=free,
            )
        else:
            log.info("{storage}: there is room again, mail is taken", storage=self._storage, free=free)
