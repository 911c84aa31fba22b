"""
Links to names by where they are given, such as :class:`smtpsvc.Reply`, lead to where they are described.
"""

from __future__ import annotations

import importlib
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

#: The packages that give names which are at home in their modules.
_PACKAGES = ("smtpsvc.client", "smtpsvc.message", "smtpsvc.testing", "smtpsvc")


def home_of(target: str) -> str | None:
    """Give the full name of what a package gives, or None."""
    for package in _PACKAGES:
        name, _, member = target.removeprefix(f"{package}.").partition(".")
        thing = getattr(importlib.import_module(package), name, None)
        module = getattr(thing, "__module__", None)
        if target.startswith(f"{package}.") and module not in (None, package):
            return ".".join(filter(None, (module, name, member)))
    return None


def resolve(app: Sphinx, env: BuildEnvironment, node: Any, content: nodes.TextElement) -> nodes.reference | None:
    """Find what a link means that leads nowhere by itself."""
    found = home_of(node.get("reftarget", "")) if node.get("refdomain") == "py" else None
    if found is None or found == node["reftarget"]:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], found, node, content)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx."""
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
