"""
Strangers' octets as people may see them: in a log, on a terminal, in a header field.
"""

from __future__ import annotations

__all__ = ["shown"]


def shown(octets: bytes) -> str:
    r"""
    Decode what a stranger has sent, and escape what is no printable text.

    :returns: one line: controls, separators of lines and marks of direction are written as Python
        does (``\x1b``, ``\u202e``), octets that are not UTF-8 as ``\xff``.
    """
    text = octets.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
