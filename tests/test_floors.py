"""
Tests of the architecture: who imports whom.

A floor imports from itself and the floors before it; see :data:`FLOORS`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.policyoptions import policy_factories

ROOT = Path(__file__).parent.parent
MAX_LINES = 400

#: The floors from the ground up; a package stands for all its modules.
FLOORS = (
    ("grammar",),
    (
        *("interfaces", "values", "parameters", "settings", "session", "extras", "crew", "watched", "current"),
        *("failures", "awaiting", "resolver", "nameservers"),
    ),
    ("server", "extensions", "sasl"),
    ("backends", "policies", "client", "message", "checkers"),
    (
        *("service", "launch", "listeners", "transport", "proxied", "tls", "roles", "workers", "metrics", "logs"),
        *("events", "jsonlines", "watching"),
        *("handover", "frames", "worker", "workerlog", "workerprocess", "forker", "launchworkers"),
        *("plugins", "dotted", "chaos", "nest", "tlslayer", "connection", "direct", "testing", "tlstesting"),
    ),
    (
        *("tap", "__main__", "authoptions", "listenoptions", "watchoptions", "policyoptions"),
        *("optiontable", "routeoptions", "send"),
    ),
)
#: What people plug in could be a stranger's: it needs no more than the first two floors.
PLUGGED = ("backends", "policies", "client", "message")
#: Of no floor: a version imports nothing, and the package itself names everything and imports nothing.
APART = ("", "_version")


def modules() -> dict[str, Path]:
    """Find all our modules by dotted name without the package: ``""`` is the package."""
    found = {}
    for path in sorted((ROOT / "smtpsvc").rglob("*.py")):
        parts = path.relative_to(ROOT / "smtpsvc").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def floor_of(module: str) -> int | None:
    """Give the floor of a module, counted from 0, or None if it has none."""
    head = module.partition(".")[0]
    return next((number for number, names in enumerate(FLOORS) if head in names), None)


@cache
def tree_of(path: Path) -> ast.Module:
    """Parse a module."""
    return ast.parse(path.read_bytes(), str(path))


def statements(body: list[ast.stmt], *, later: bool) -> Iterator[ast.stmt]:
    """
    Give all statements of a module.

    :param later: also those that do not run when it is imported: in functions and behind ``if TYPE_CHECKING``.
    """
    for statement in body:
        yield statement
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)) and not later:
            continue
        typing_only = isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING")
        for name, value in ast.iter_fields(statement):
            if not isinstance(value, list) or (name == "body" and typing_only and not later):
                continue
            for part in value:
                if isinstance(part, (ast.ExceptHandler, ast.match_case)):
                    yield from statements(part.body, later=later)
            yield from statements([part for part in value if isinstance(part, ast.stmt)], later=later)


def imports(path: Path, *, later: bool) -> set[str]:
    """Give the dotted names that a module imports; of ``from a import b`` both ``a`` and ``a.b``."""
    found = set()
    for statement in statements(tree_of(path).body, later=later):
        if isinstance(statement, ast.Import):
            found.update(alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            source = "." * statement.level + (statement.module or "")
            found.add(source)
            found.update(f"{source}.{alias.name}" for alias in statement.names)
    return found


def ours(names: set[str]) -> set[str]:
    """Of imported names, give our modules, without the package's name."""
    return {name[len("smtpsvc.") :] for name in names if name.startswith("smtpsvc.")} & set(MODULES)


class FloorTests(SynchronousTestCase):
    def test_every_module_has_one(self) -> None:
        """Every module stands on a floor."""
        homeless = [module for module in MODULES if floor_of(module) is None and module not in APART]
        self.assertEqual(homeless, [])

    def test_no_one_climbs(self) -> None:
        """No module imports from a later floor, in functions and for types neither."""
        climbers = [
            f"{module} imports {name}"
            for module, path in MODULES.items()
            if module not in APART
            for name in ours(imports(path, later=True))
            if name not in APART and (floor_of(name) or 0) > (floor_of(module) or 0)
        ]
        self.assertEqual(climbers, [])

    def test_plugged(self) -> None:
        """Backends and policies import the first two floors and each other: a stranger's could do the same."""
        reaching = [
            f"{module} imports {name}"
            for module, path in MODULES.items()
            if module.partition(".")[0] in PLUGGED
            for name in ours(imports(path, later=True))
            if (floor_of(name) or 0) > 1 and name.partition(".")[0] not in PLUGGED
        ]
        self.assertEqual(reaching, [])

    def test_plugin_file(self) -> None:
        """The file that Twisted imports for everybody needs nothing but the plugin objects."""
        (path,) = (ROOT / "twisted" / "plugins").glob("*.py")
        self.assertEqual(ours(imports(path, later=True)), {"plugins"})

    def test_absolute(self) -> None:
        """Imports are absolute, so that this test understands them."""
        relative = [module for module, path in MODULES.items() if any(n[0] == "." for n in imports(path, later=True))]
        self.assertEqual(relative, [])

    def test_grammar_is_pure(self) -> None:
        """The grammar imports the standard library and idna only."""
        allowed = {*sys.stdlib_module_names, "idna"} - {"socket", "asyncio", "threading", "selectors", "subprocess"}
        impure = [
            f"{module} imports {name}"
            for module, path in MODULES.items()
            if floor_of(module) == 0
            for name in imports(path, later=True)
            if not name.startswith("smtpsvc.grammar") and name != "smtpsvc" and name.partition(".")[0] not in allowed
        ]
        self.assertEqual(impure, [])

    def test_no_cycles(self) -> None:
        """Imports that run when a module is imported go round in no circle."""
        graph = {module: ours(imports(path, later=False)) - {module} for module, path in MODULES.items()}
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            self.fail(f"these import each other: {error.args[1]}")

    def test_no_reactor(self) -> None:
        """No module but tap imports the reactor when it is imported: that would choose one."""
        choosing = [
            module
            for module, path in MODULES.items()
            if module != "tap" and "twisted.internet.reactor" in imports(path, later=False)
        ]
        self.assertEqual(choosing, [])


class SizeTests(SynchronousTestCase):
    def test_lines(self) -> None:
        """No module has more than 400 lines but interfaces.py, which is documentation."""
        paths = [path for module, path in MODULES.items() if module != "interfaces"]
        counts = {str(path.relative_to(ROOT)): len(path.read_bytes().splitlines()) for path in paths}
        self.assertEqual({path: count for path, count in counts.items() if count > MAX_LINES}, {})

    def test_policies(self) -> None:
        """A policy is a file of less than 200 lines."""
        modules = {factory.dotted.partition(":")[0] for factory in policy_factories().values()}
        self.assertGreater(len(modules), 15)
        paths = [ROOT / f"{module.replace('.', '/')}.py" for module in modules]
        counts = {path.name: len(path.read_bytes().splitlines()) for path in paths}
        self.assertEqual({name: count for name, count in counts.items() if count >= 200}, {})


class LoadedTests(SynchronousTestCase):
    def loaded(self, names: list[str]) -> set[str]:
        """Import modules in a fresh interpreter, and give the names of all that were loaded."""
        code = f"import sys, {', '.join(names)}; print(*sys.modules, sep='\\n')"
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        return set(run.stdout.split())

    def test_grammar(self) -> None:
        """To import the grammar loads nothing of Twisted."""
        names = [f"smtpsvc.{module}" for module in MODULES if floor_of(module) == 0]
        self.assertEqual({name for name in self.loaded(names) if name.startswith(("twisted", "zope"))}, set())

    def test_package(self) -> None:
        """To import the package loads none of its modules."""
        self.assertEqual({name for name in self.loaded(["smtpsvc"]) if name.startswith(("twisted", "smtpsvc."))}, set())

    def test_reactor(self) -> None:
        """To import everything below tap chooses no reactor."""
        names = [f"smtpsvc.{module}" for module in MODULES if module and floor_of(module) != len(FLOORS) - 1]
        self.assertNotIn("twisted.internet.reactor", self.loaded(names))


class ReaderTests(SynchronousTestCase):
    SOURCE = (
        "import a\n"
        "if TYPE_CHECKING:\n    import b\nelse:\n    import c\n"
        "try:\n    import d\nexcept ImportError:\n    import e\nfinally:\n    import f\n"
        "class C:\n    import g\n    def m(self):\n        import h\n"
        "def f():\n    if x:\n        from i import j\n"
        "with x:\n    from . import k\n"
        "match x:\n    case 1:\n        import l\n"
    )

    def test_everything_is_read(self) -> None:
        """This test reads imports wherever they stand, and knows which run at once."""
        body = ast.parse(self.SOURCE).body
        for later, names in ((True, "abcdefghkl"), (False, "acdefgkl")):
            found = [part for part in statements(body, later=later) if isinstance(part, (ast.Import, ast.ImportFrom))]
            self.assertEqual("".join(part.names[0].name for part in found).replace("j", ""), names)
