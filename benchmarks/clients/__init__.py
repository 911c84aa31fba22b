"""
Clients to be measured, each a program: ``python -m benchmarks.clients.NAME PORT KIND COUNT CONNECTIONS``.

They send COUNT messages over CONNECTIONS connections that they keep, and print the seconds of CPU time and of the
clock that it took, from the first message to the last reply.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from typing import Final

SENDER: Final = "sender@example.org"
RECIPIENT: Final = "recipient@example.com"

_HEAD: Final = b"From: <sender@example.org>\r\nTo: <recipient@example.com>\r\nSubject: measured\r\n\r\n"
#: A kilobyte of text, and 25 MiB of base64 as an attachment has them.
MESSAGES: Final = {
    "small": lambda: _HEAD + b"some text in a line that is as long as lines of text are.\r\n" * 16,
    "large": lambda: _HEAD + (b"QUJD" * 19 + b"\r\n") * (25 * 1024 * 1024 // 78),
}


def started() -> Callable[[], None]:
    """Begin to measure; what is given ends that, and prints the figures."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    cpu, wall = used(), time.monotonic()

    def ended() -> None:
        print(json.dumps({"cpu": used() - cpu, "wall": time.monotonic() - wall}))

    return ended
