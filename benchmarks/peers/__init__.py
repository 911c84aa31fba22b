"""
Other servers, as programs: each accepts all mail and drops it.

They take ``PORT TLS_PORT CERTIFICATE KEY`` and, at SIGTERM, write how many messages and octets
they were given to the file that ``BENCH_COUNTS`` names.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

_counts = [0, 0]


def count(size: int) -> None:
    """A message was taken."""
    _counts[0] += 1
    _counts[1] += size


def arguments() -> tuple[int, int, str, str]:
    """Read the command line."""
    _, port, tls_port, certificate, key = sys.argv
    return int(port), int(tls_port), certificate, key


def write_counts_at_the_end() -> None:
    """Write the counts when SIGTERM comes, and end."""

    def end(*_: Any) -> None:
        Path(os.environ["BENCH_COUNTS"]).write_text("{} {}".format(*_counts))
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
