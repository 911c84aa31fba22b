"""
The packages: sdist, wheel and editable install, each in a fresh environment; the README's commands.

Nothing is downloaded. The fresh environments see the distributions of the running one, file by file as
their records name them, so that an smtpsvc installed here (or its plugin) is not among what they see.
"""

from __future__ import annotations

import atexit
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import venv
import zipfile
from collections.abc import Callable
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

from twisted.internet import task
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from smtpsvc.__main__ import main as start

ROOT = Path(__file__).resolve().parent.parent
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")
NOT_SOURCE = ("__pycache__", "*.egg-info", ".*_cache", "build", "dist", "_trial_temp*", "Maildir", "dropin.cache")
HIDDEN_SOURCE = (".ci", ".gitignore")


def version() -> str:
    """Read the version as setup.py does."""
    text = (ROOT / "smtpsvc" / "_version.py").read_text(encoding="utf-8")
    return text.split('__version__ = "')[1].split('"')[0]


def run(*command: str | Path, cwd: Path) -> str:
    """
    Run a command that must succeed, in a directory without our sources.

    :returns: what it printed.
    :raises AssertionError: with all of its output, if it fails.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


@cache
def workshop() -> Path:
    """Make the directory of this process for all that is built; it goes when the process ends."""
    directory = Path(tempfile.mkdtemp(prefix="packaging-")).resolve()
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


@cache
def dependencies() -> Path:
    """Make a directory that shows what is installed here, but for smtpsvc, by links to the recorded files."""
    directory = workshop() / "dependencies"
    for distribution in distributions():
        if distribution.metadata["Name"] == "smtpsvc":
            continue
        for file in distribution.files or []:
            if file.is_absolute() or ".." in file.parts or file.suffix == ".pth" or "__pycache__" in file.parts:
                continue
            link = directory / file
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(distribution.locate_file(file))
    return directory


@cache
def sdist() -> Path:
    """Build the sdist from a copy of the sources; building writes beside them."""
    copy = workshop() / "copy"
    hidden = [entry.name for entry in ROOT.iterdir() if entry.name.startswith(".") and entry.name not in HIDDEN_SOURCE]
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_SOURCE, *hidden))
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", workshop(), copy, cwd=workshop())
    (built,) = workshop().glob("smtpsvc-*.tar.gz")
    return built


@cache
def unpacked() -> Path:
    """Unpack the sdist; what is missing in it is missed by all that follows."""
    with tarfile.open(sdist()) as archive:
        archive.extractall(workshop() / "unpacked", filter="data")
    (directory,) = (workshop() / "unpacked").iterdir()
    return directory


@cache
def wheel() -> Path:
    """Build the wheel from the sdist."""
    run(
        sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", workshop(), unpacked(), cwd=workshop()
    )
    (built,) = workshop().glob("smtpsvc-*.whl")
    return built


def install(name: str, *what: str | Path) -> Path:
    """
    Make a fresh environment and install one thing there by pip, without a network.

    :returns: its interpreter.
    """
    home = workshop() / name
    venv.create(home, with_pip=False, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{dependencies()}\n", encoding="utf-8")
    python = home / "bin" / "python"
    run(*PIP, "--python", python, "install", "--no-index", "--no-deps", "--no-build-isolation", *what, cwd=workshop())
    return python


class InstallTests(SynchronousTestCase):
    """What pip installs is the whole service, however it is installed."""

    def check(self, python: Path, home: Path) -> None:
        """Every way to the installed service finds it, and its files are under *home*."""
        empty = Path(self.mktemp()).resolve()
        empty.mkdir()
        twistd = "from twisted.scripts.twistd import run; run()"
        imported = run(python, "-c", "import smtpsvc; print(smtpsvc.__file__)", cwd=empty)
        package = Path(imported.strip()).parent
        with self.subTest("the installed one"):
            self.assertIn(home, package.parents)
        with self.subTest("py.typed"):
            self.assertTrue((package / "py.typed").is_file())
        with self.subTest("twistd"):
            self.assertRegex(run(python, "-c", twistd, "--help", cwd=empty), r"(?m)^ +smtpsvc +\w")
        with self.subTest("twist"):
            self.assertRegex(run(python, "-m", "twisted", "--help", cwd=empty), r"(?m)^ +smtpsvc +\w")
        with self.subTest("python -m"):
            self.assertIn(version(), run(python, "-m", "smtpsvc", "--version", cwd=empty))
        with self.subTest("backends"):
            listed = run(python, "-c", twistd, "-n", "smtpsvc", "--help-backends", cwd=empty)
            for backend in ("maildir", "null", "debug", "python"):
                self.assertIn(backend, listed)

    def test_wheel(self) -> None:
        """A wheel brings the package, its types and the plugin."""
        python = install("from-wheel", wheel())
        self.check(python, python.parent.parent)

    def test_sdist(self) -> None:
        """An sdist brings the same."""
        python = install("from-sdist", sdist())
        self.check(python, python.parent.parent)

    def test_editable(self) -> None:
        """An editable install shows the plugin to Twisted as well, and is the sources themselves."""
        python = install("editable", "--editable", unpacked())
        self.check(python, unpacked())


class ContentTests(SynchronousTestCase):
    """The archives hold what they should."""

    def test_wheel(self) -> None:
        """A wheel holds the package and the plugin, and nothing that would stand in Twisted's way."""
        with zipfile.ZipFile(wheel()) as archive:
            names = [name for name in archive.namelist() if ".dist-info/" not in name]
        tops = {name.split("/")[0] for name in names}
        self.assertEqual(tops, {"smtpsvc", "twisted"})
        self.assertEqual([name for name in names if name.startswith("twisted")], ["twisted/plugins/smtpsvc_plugin.py"])

    def test_every_package(self) -> None:
        """Each Python file of the package is in the wheel; a directory without ``__init__.py`` would be left out."""
        with zipfile.ZipFile(wheel()) as archive:
            names = set(archive.namelist())
        sources = {str(path.relative_to(ROOT)) for path in (ROOT / "smtpsvc").rglob("*.py")}
        self.assertEqual(sources - names, set())

    def test_sdist(self) -> None:
        """An sdist has what packagers need: tests, documentation, licence and the files of the tools."""
        files = ("LICENSE", "NEWS.rst", "README.rst", "tox.ini", ".ci/run", "tests/__init__.py", "docs", "examples")
        for name in files:
            with self.subTest(name):
                self.assertTrue((unpacked() / name).exists(), name)

    def test_version(self) -> None:
        """The archives have the version that the package states."""
        self.assertEqual(sdist().name, f"smtpsvc-{version()}.tar.gz")
        self.assertEqual(wheel().name, f"smtpsvc-{version()}-py3-none-any.whl")


class ReadmeTests(SynchronousTestCase):
    """The README's two commands do all set-up on a fresh machine."""

    def commands(self) -> list[str]:
        """Find the commands in the README's literal blocks."""
        text = (ROOT / "README.rst").read_text(encoding="utf-8")
        return re.findall(r"^    (python3 .*)$", text, re.MULTILINE)

    def test_two(self) -> None:
        """There are two: one runs the service, the other the tests."""
        service, tests = self.commands()
        self.assertTrue(service.endswith("twistd -n smtpsvc --port 2525"), service)
        self.assertTrue(tests.endswith("tox"), tests)

    def test_ci(self) -> None:
        """CI calls the second as it is written."""
        self.assertIn(f"\n{self.commands()[1]}\n", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))

    def test_program(self) -> None:
        """The program for embedding defines what it says: all its names can be imported, and a main to run."""
        text = (ROOT / "README.rst").read_text(encoding="utf-8")
        block = text.split(".. code-block:: python\n")[1].split("\nA function is")[0]
        mains: list[object] = []
        self.patch(task, "react", mains.append)
        names: dict[str, object] = {}
        exec(compile(textwrap.dedent(block), "README.rst", "exec"), names)
        self.assertEqual(mains, [names["main"]])


class ModuleTests(SynchronousTestCase):
    """``python -m smtpsvc`` is twist with our options."""

    def start(self, run_module: Callable[..., object]) -> None:
        """Call it with ``--port 2525``, with *run_module* in place of Python's."""
        self.patch(sys, "argv", ["__main__.py", "--port", "2525"])
        self.patch(runpy, "run_module", run_module)
        start()

    def test_arguments(self) -> None:
        """twist gets the name of the service, then all that was typed; the log is text."""
        seen: list[list[str]] = []
        self.start(lambda *_, **__: seen.append(sys.argv[1:]))
        self.assertEqual(seen, [["--log-format=text", "smtpsvc", "--port", "2525"]])

    def test_mistake(self) -> None:
        """Options that do not fit together end it with a line, which Python prints before exit status 1."""

        def refuse(*_: object, **__: object) -> None:
            raise UsageError("--port: 2525 is in use")

        error = self.assertRaises(SystemExit, self.start, refuse)
        self.assertEqual(error.code, "smtpsvc: --port: 2525 is in use")


class SummaryTests(SynchronousTestCase):
    """CI's closing line counts what trial says."""

    def test_trial(self) -> None:
        """A skip counts as a failure, and so does every other outcome but success."""
        count = runpy.run_path(str(ROOT / ".ci" / "summary.py"))["count_trial"]
        cases = [
            ("PASSED (successes=3)", (3, 0)),
            ("\x1b[32mPASSED\x1b[0m (expectedFailures=1, successes=3)", (4, 0)),
            ("PASSED (skips=2, successes=3)\r\n", (3, 2)),
            ("FAILED (skips=1, failures=2, errors=3, unexpectedSuccesses=1, successes=4)", (4, 7)),
            ("PASSED", (0, 0)),
            ("Segmentation fault", None),
        ]
        for line, counted in cases:
            with self.subTest(line):
                self.assertEqual(count(f"Ran tests in 1s\n\n{line}\n"), counted)
