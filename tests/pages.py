"""
The pages of the documentation, for tests that compare them with the code.
"""

from __future__ import annotations

import importlib.util
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from tests.live import ROOT

DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
PAGES = {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.rst"))}
CODE = sorted((ROOT / "smtpsvc").rglob("*.py"))

_spec = importlib.util.spec_from_file_location("docs_tables", DOCS / "_ext" / "tables.py")
assert _spec is not None and _spec.loader is not None
tables: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)


def directive(page: str, name: str, argument: str = "") -> tuple[dict[str, list[str]], list[str]]:
    """Give the notes of a directive on a page, and the names that it leaves out."""
    head = re.escape(f".. {name}:: {argument}".rstrip())
    found = re.search(rf"^{head}\n((?:   .*\n|\n)*)", PAGES[page], re.MULTILINE)
    assert found is not None, f"{page} has no {name}"
    text = textwrap.dedent(found[1])
    without = re.match(r":without:((?:.*\n)(?: .*\n)*)", text)
    return tables.parse_notes(text[without.end() if without else 0 :].splitlines()), (
        without[1].split() if without else []
    )


def blocks(page: str, *languages: str) -> Iterator[str]:
    """Give the code blocks of a page in one of the languages."""
    for _, language, text in marked_blocks(page):
        if language in languages:
            yield text


def marked_blocks(page: str) -> Iterator[tuple[str, str, str]]:
    """Give the code blocks of a page: the comment before each that says how it is tested, its language, its text."""
    mark = r"(?:^\.\. ((?:run by|not run:) (?:.*\n)(?:   .*\n)*)\n)?"
    pattern = mark + r"^\.\. code-block:: (\w+)\n(?:   :.*\n)*\n((?:   .*\n|\n)*)"
    for found in re.finditer(pattern, PAGES[page], re.MULTILINE):
        yield " ".join((found[1] or "").split()), found[2], textwrap.dedent(found[3]).strip()


def run_by(test: str) -> list[str]:
    """Give the code blocks whose comment names a test."""
    return [text for page in PAGES for mark, _, text in marked_blocks(page) if mark == f"run by {test}"]
