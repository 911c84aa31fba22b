"""
Links lead to where a name is described.

A name may be written by where it is given, such as :class:`smtpsvc.Reply`. And one without a module, as
annotations have it, is what the module has imported: there may be several of that name.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from functools import cache
from typing import Any

from docutils import nodes
from sphinx import addnodes
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


@cache
def known_in(module: str) -> dict[str, str]:
    """Give the full names of our classes and functions that a module defines or imports, be it for types only."""
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(inspect.getsource(importlib.import_module(module)))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("smtpsvc"):
            found.update({each.asname or each.name: f"{node.module}.{each.name}" for each in node.names})
    here = vars(importlib.import_module(module)).items()
    return found | {name: f"{module}.{name}" for name, thing in here if getattr(thing, "__module__", "") == module}


def complete(app: Sphinx, document: nodes.document) -> None:
    """Write names without a module in full."""
    for node in document.findall(addnodes.pending_xref):
        module, target = node.get("py:module"), node.get("reftarget", "")
        if node.get("refdomain") == "py" and module and "." not in target:
            node["reftarget"] = known_in(module).get(target, target)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx."""
    app.connect("doctree-read", complete)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
