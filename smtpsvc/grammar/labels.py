"""
U-labels: the labels of a domain as people read them (RFC 5890 §2.3.2.1).
"""

from __future__ import annotations

from functools import lru_cache

import idna

__all__ = ["u_labels"]


@lru_cache(maxsize=1024)
def u_labels(domain: str) -> str:
    """
    Give the form of a domain to show to people.

    :param domain: in lower case, all its labels US-ASCII.
    :returns: with a U-label for each valid A-label; what only looks like an A-label is left as it is.
    """
    return ".".join(map(_u_label, domain.split(".")))


def _u_label(label: str) -> str:
    if not label.startswith("xn--"):
        return label
    try:
        return idna.decode(label, strict=True)
    except (idna.IDNAError, UnicodeError):
        return label
