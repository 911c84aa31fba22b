"""
MT-PRIORITY: priorities of messages (RFC 6710).
"""

from __future__ import annotations

import re
from typing import Final

from smtpsvc.extensions import Extension
from smtpsvc.interfaces import IConversation

#: The profiles of RFC 6710's registry: what the numbers mean to their communities.
PROFILES: Final = ("MIXER", "NSEP", "STANAG4406")

_PRIORITY: Final = re.compile(r"0|-?[1-9]", re.ASCII)


def parse_priority(value: str | None) -> int:
    """
    Read MT-PRIORITY (RFC 6710 §4).

    :returns: -9 to 9; 0 is the usual one, and more is sooner.
    :raises ValueError: for anything else; a plus sign, a leading zero and ``-0`` are none.
    """
    if not _PRIORITY.fullmatch(value or ""):
        raise ValueError("must be a whole number from -9 to 9")
    return int(value or "")


class MTPriority(Extension):
    """
    MT-PRIORITY (RFC 6710): some messages go before others.

    :param profile: one of :data:`PROFILES`, to be announced; "" for none.
    :raises ValueError: for a profile that is not registered.
    """

    keyword = "MT-PRIORITY"
    on_request = True
    argument = "PROFILE"
    mail_params = {"MT-PRIORITY": parse_priority}

    def __init__(self, profile: str = "") -> None:
        if profile and profile not in PROFILES:
            raise ValueError(f"{profile!r} is no profile; there are {', '.join(PROFILES)}")
        self.profile = profile

    def configured(self, argument: str) -> MTPriority:
        """Take the profile, in any case."""
        return MTPriority(argument.upper())

    def advertise(self, conversation: IConversation) -> str:
        """Show the profile, if there is one."""
        return self.profile
