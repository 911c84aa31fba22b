"""
The tables of the documentation, made from the code itself.

A page brings what only a person can say, as *notes*: a field for each row, its columns separated by
``|``. Names, codes and defaults come from the code. A note too many or too few is an error, so no
table can lag behind. Nothing here needs Sphinx: everything gives reStructuredText.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from zope.interface.interface import InterfaceClass

from smtpsvc import interfaces
from smtpsvc.events import EVENTS
from smtpsvc.extensions import defaults
from smtpsvc.grammar import replies
from smtpsvc.grammar.replies import Reply
from smtpsvc.grammar.states import ALLOWED, FOLLOWS, NOT_SERVED, State, out_of_sequence
from smtpsvc.metrics.families import FAMILIES
from smtpsvc.server.watch import ACTING, LIMITS
from smtpsvc.settings import KIB, format_size

Notes = Mapping[str, Sequence[str]]

_NOTE = re.compile(r":([^:\s]+):(?:\s+(.*))?\Z")
_BAR = re.compile(r"(?:^|\s)\|(?=\s|$)")


def parse_notes(lines: Iterable[str]) -> dict[str, list[str]]:
    """
    Read the notes of a page.

    :param lines: ``:NAME: column | column``; a line that is indented goes on with the one before.
    :returns: the columns of each name.
    :raises ValueError: if a line is none of these, or a name comes twice.
    """
    notes: dict[str, str] = {}
    name = ""
    for line in lines:
        if not line.strip():
            continue
        found = _NOTE.match(line)
        if found is None and line.startswith(" ") and name:
            notes[name] += " " + line.strip()
        elif found is None or found[1] in notes:
            raise ValueError(f"{line!r} is no note, or the second of its name")
        else:
            name = found[1]
            notes[name] = found[2] or ""
    return {name: [column.strip() for column in _BAR.split(text)] for name, text in notes.items()}


def matched(names: Iterable[str], notes: Notes, columns: int) -> None:
    """
    Check that there is a note for each name, and none besides.

    :raises ValueError: with what is missing or unknown.
    """
    names = set(names)
    problems = [f"without a note: {name}" for name in sorted(names - notes.keys())]
    problems += [f"unknown: {name}" for name in sorted(notes.keys() - names)]
    problems += [f"not {columns} columns: {name}" for name, note in notes.items() if len(note) != columns]
    if problems:
        raise ValueError("; ".join(problems))


def plain(text: str) -> str:
    """Escape what reStructuredText would take for markup."""
    return re.sub(r"([\\*`|_])", r"\\\1", text)


def list_table(header: Sequence[str], rows: Iterable[Sequence[str]], widths: str) -> list[str]:
    """Write a table as reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in (header, *rows):
        for index, cell in enumerate(row):
            lines.append(f"   {'* -' if index == 0 else '  -'} {cell}".rstrip())
    return [*lines, ""]


def stock_replies() -> dict[str, Reply]:
    """The constants of :mod:`smtpsvc.grammar.replies`, by name, in the order of codes."""
    found = {name: value for name, value in vars(replies).items() if isinstance(value, Reply)}
    return dict(sorted(found.items(), key=lambda item: (item[1].code, item[1].enhanced)))


def reply_table(notes: Notes, unsent: Sequence[str] = ()) -> list[str]:
    """
    List the stock replies.

    :param notes: who sends each, and when.
    :param unsent: the names of those that nothing sends yet.
    """
    known = {name: reply for name, reply in stock_replies().items() if name not in unsent}
    matched(known, notes, 2)
    rows = [
        [f"``{reply.code}``", f"``{reply.enhanced}``" if reply.enhanced else "", plain(reply.text), *notes[name]]
        for name, reply in known.items()
    ]
    return list_table(["Code", "Enhanced", "Text", "From", "When"], rows, "6 9 30 12 43")


def policy_table(notes: Notes) -> list[str]:
    """
    List the policies.

    :param notes: what each answers where it refuses.
    """
    from smtpsvc.policyoptions import policy_factories, usage_of

    known = policy_factories()
    matched(known, notes, 1)
    rows = [[f"``{usage_of(known[name])}``", plain(known[name].summary), notes[name][0]] for name in notes]
    return list_table(["Policy", "What it does", "Refusals"], rows, "30 45 25")


def policy_help(name: str) -> list[str]:
    """Describe a policy by its own help."""
    from smtpsvc.policyoptions import policy_factory, usage_of

    factory = policy_factory(name)
    return [f"``{usage_of(factory)}``", "", *plain(factory.help).splitlines(), ""]


def sequence_table() -> list[str]:
    """Show which verb is served in which state, and where it leads."""
    states = [state for state in State if state is State.CONNECTED or state in FOLLOWS.values()]
    rows = []
    for verb, allowed in ALLOWED.items():
        cells = [
            "yes" if state & allowed else f"503: {plain(out_of_sequence(allowed, state).text)}" for state in states
        ]
        follows = FOLLOWS.get(verb)
        rows.append([f"``{verb}``", *cells, str(follows.name) if follows is not None else "the same state"])
    header = ["Verb", *(str(state.name) for state in states), "Then"]
    return list_table(header, rows, "8 " + "18 " * len(states) + "14")


def verbs_not_served() -> list[str]:
    """Name the verbs that are known and not served."""
    return [", ".join(f"``{verb}``" for verb in NOT_SERVED), ""]


def option_names(options: Any) -> dict[str, tuple[bool, str]]:
    """
    Look into a ``usage.Options``.

    :returns: for each long option, in the order of names: whether it takes a value, and its help.
    """
    found = {}
    for entry in sorted(options.longOpt):
        name = entry.rstrip("=")
        if name in options.docs and name != "help":
            found[name] = (entry.endswith("="), options.docs[name])
    return found


def option_list(options: Any, notes: Notes) -> list[str]:
    """
    Describe the options of the command line by their own help.

    :param options: an instance of ``smtpsvc.tap.Options``.
    :param notes: for an option a word for its value, and more to say; those of other options do not count.
        Options come in their order, and then those without.
    """
    known = option_names(options)
    presets = {row[0]: row[2] for row in options.optParameters}
    lines = []
    for name in [*(name for name in notes if name in known), *(name for name in known if name not in notes)]:
        takes_value, text = known[name]
        word, more = notes.get(name, ("", ""))
        lines += [f".. option:: --{name}{' ' + (word or 'VALUE') if takes_value else ''}", ""]
        if presets.get(name) and "[default" not in text and name != "hostname":
            text += f" [default: {presets[name]}]"
        lines += [f"   {plain(text)}", ""]
        if more:
            lines += [f"   {more}", ""]
    return lines


def settings_table(settings: type, notes: Notes) -> list[str]:
    """
    List the fields of a dataclass that anything reads with their defaults, by the comments that describe them.

    :param notes: for a field its option or nothing, and why it is so; those of other fields do not count.
    """
    described = comments(settings)
    code = "".join(inspect.getsource(module) for module in modules() if module.__name__ != settings.__module__)
    rows = []
    for each in dataclasses.fields(settings):
        option, why = notes.get(each.name, ("", ""))
        if re.search(rf"\.{each.name}\b", code):
            text = f"{described.get(each.name, '')} {why}".strip()
            rows.append([f"``{each.name}``", _default(each), f":option:`{option}`" if option else "", text])
    return list_table(["Name", "Default", "Option", "What and why"], rows, "17 17 20 46")


def comments(settings: type) -> dict[str, str]:
    """Find the comments that describe the fields of a class, which stand before them behind ``#:``."""
    found: dict[str, str] = {}
    comment: list[str] = []
    for line in inspect.getsource(settings).splitlines():
        line = line.strip()
        field = re.match(r"(\w+): ", line)
        if line.startswith("#: "):
            comment.append(line[3:])
        else:
            if field is not None and comment:
                found[field[1]] = " ".join(comment)
            comment = []
    return found


def _default(each: dataclasses.Field[Any]) -> str:
    value = each.default
    if value is dataclasses.MISSING:
        return "see there"
    if isinstance(value, enum.Enum):
        return f"``{value}``"
    if isinstance(value, int) and not isinstance(value, bool) and value >= KIB and value % KIB == 0:
        return f"``{value}`` ({format_size(value)})"
    return f"``{value!r}``"


def extension_table(notes: Notes) -> list[str]:
    """
    List the extensions that there are, by the first sentences of their docstrings.

    :param notes: the status of their RFCs; those of extensions that are not there do not count.
    """
    rows = []
    for extension in defaults():
        summary = " ".join((inspect.getdoc(type(extension)) or "").partition("\n\n")[0].split())
        head, _, brings = summary.partition(": ")
        source = re.findall(r"\((.*)\)", head)
        params = [*extension.mail_params, *extension.rcpt_params]
        on_request = getattr(extension, "on_request", False)
        asked = ["the backend, or the settings"] if on_request else []
        asked += ["the client, by a command" if extension.verbs else "the client, by a parameter"] * bool(
            params or extension.verbs
        )
        rows.append(
            [
                f"``{extension.keyword}``",
                ", ".join([*source, *notes.get(extension.keyword, ())]),
                "on request" if on_request else "on",
                ", ".join(f"``{name}``" for name in [*params, *extension.verbs]) or "none",
                brings[:1].upper() + brings[1:],
                ", then ".join(asked) or "nobody",
            ]
        )
    header = ["Keyword", "Source, status", "Default", "Parameters, verbs", "What it brings", "Who must ask"]
    return list_table(header, rows, "16 16 8 14 30 16")


def metric_table() -> list[str]:
    """List the metrics."""
    rows = [
        [f"``{each.name}``", each.kind, ", ".join(f"``{label}``" for label in each.labels), plain(each.help)]
        for each in FAMILIES.values()
    ]
    return list_table(["Metric", "Kind", "Labels", "What it is"], rows, "34 10 18 38")


def limit_list() -> list[str]:
    """Name the values of the label ``limit``."""
    names = ", ".join(f"``{name}``" for name in sorted({*LIMITS.values(), *ACTING}))
    return [f"``limit`` is one of {names}.", ""]


def event_table() -> list[str]:
    """List the events and their fields; those that all have come first."""
    common = set.intersection(*(set(fields) for fields in EVENTS.values()))
    first = next(iter(EVENTS.values()))
    rows = [["all", f"``{name}``", text] for name, text in first.items() if name in common]
    for event, fields in EVENTS.items():
        rows += [[f"``{event}``", f"``{name}``", text] for name, text in fields.items() if name not in common]
    return list_table(["Event", "Field", "What it is"], rows, "12 20 68")


def interface_list(module: str) -> list[str]:
    """Describe the zope interfaces of a module that something asks for, from its source, which has annotations."""
    skipped = unasked_interfaces()
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    lines = [f".. py:currentmodule:: {module}", ""]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name not in skipped:
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            lines += [f".. py:class:: {node.name}({bases})", "", *_doc(node, 3)]
            for member in node.body:
                lines += _member(member)
    return lines


def _member(member: ast.stmt) -> list[str]:
    if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
        returns = f" -> {ast.unparse(member.returns)}" if member.returns is not None else ""
        options = ["      :async:"] if isinstance(member, ast.AsyncFunctionDef) else []
        head = f"   .. py:method:: {member.name}({ast.unparse(member.args)}){returns}"
        return [head, *options, "", *_doc(member, 6)]
    if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name) and isinstance(member.value, ast.Call):
        text = ast.literal_eval(member.value.args[0])
        head = f"   .. py:attribute:: {member.target.id}"
        return [head, f"      :type: {ast.unparse(member.annotation)}", "", f"      {text}", ""]
    return []


def _doc(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, indent: int) -> list[str]:
    text = ast.get_docstring(node) or ""
    return [*(" " * indent + line if line else "" for line in text.splitlines()), ""]


def unasked_interfaces() -> set[str]:
    """Name our interfaces that no module provides or asks for: they stand there for later."""
    ours = {name: value for name, value in vars(interfaces).items() if isinstance(value, InterfaceClass)}
    found: set[str] = set()
    for module in modules():
        if module is not interfaces:
            for use in re.findall(r"(\w+)\.providedBy|implementer(?:_only)?\(([^)]*)\)", inspect.getsource(module)):
                found.update(re.findall(r"\w+", " ".join(use)))
    asked = {base.__name__ for name in found & ours.keys() for base in ours[name].__iro__}
    return {name for name, value in ours.items() if value.__module__ == interfaces.__name__} - asked


def public_names() -> list[str]:
    """List what ``import smtpsvc`` gives and something asks for, with the first sentence of each docstring."""
    skipped = unasked_interfaces()
    package = importlib.import_module("smtpsvc")
    rows = []
    for name in package.__all__:
        if name in skipped or name.startswith("__"):
            continue
        thing = getattr(package, name)
        summary = (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")
        rows.append([f":py:obj:`~{thing.__module__}.{name}`", summary])
    return list_table(["Name", "What it is"], rows, "20 80")


def modules() -> list[ModuleType]:
    """Import all modules of the package that have a public name, in the order of names."""
    package = importlib.import_module("smtpsvc")
    found = [package.__name__, *(each.name for each in pkgutil.walk_packages(package.__path__, "smtpsvc."))]
    return [importlib.import_module(name) for name in sorted(found) if "._" not in name]


def module_list(package: str, skipped: Sequence[str] = ()) -> list[str]:
    """
    Describe a package and all modules in it by their docstrings, a section each.

    :param skipped: the names of modules and packages that have pages of their own.
    """
    lines = []
    for module in modules():
        name = module.__name__
        elsewhere = any(f"{name}.".startswith(f"{each}.") for each in skipped)
        if f"{name}.".startswith(f"{package}.") and name != "smtpsvc" and not elsewhere:
            lines += [name, "-" * len(name), "", f".. automodule:: {name}", *_members(module), ""]
    return lines


def _members(module: ModuleType) -> list[str]:
    """Leave the members of a module out that only gives names which are at home elsewhere: they are described there."""
    given = [getattr(module, name) for name in getattr(module, "__all__", ())]
    elsewhere = given and all(getattr(each, "__module__", "") != module.__name__ for each in given)
    return ["   :no-members:"] if elsewhere and hasattr(module, "__path__") else []


def interface_names() -> dict[str, str]:
    """Give the full name of each interface that a module uses, ours and others'."""
    return {
        name: f"{value.__module__}.{value.__name__}"
        for module in modules()
        for name, value in vars(module).items()
        if isinstance(value, InterfaceClass)
    }
