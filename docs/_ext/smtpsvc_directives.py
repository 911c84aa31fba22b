"""
Directives that put the tables of :mod:`tables` into pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import measured
import tables
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import inspect
from sphinx.util.docutils import SphinxDirective

#: The full name of an interface; "~" before it shows the last part of it.
_INTERFACE = re.compile(r"(?<![\w.~])((?:\w+\.)+I[A-Z]\w+)")


def _names(argument: str | None) -> list[str]:
    return (argument or "").split()


class Generated(SphinxDirective):
    """A directive whose content is made by :meth:`lines`."""

    has_content = True
    #: True if it makes sections of the page.
    sections: ClassVar[bool] = False
    option_spec: ClassVar[dict[str, Callable[[str], Any]]] = {"without": _names}

    @property
    def without(self) -> Sequence[str]:
        """The names that the page leaves out."""
        names: Sequence[str] = self.options.get("without", ())
        return names

    def lines(self, notes: tables.Notes) -> list[str]:
        """Make the reStructuredText."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Parse it; what does not fit is an error of the page."""
        # The page changes with the code, whether its own text does or not.
        self.env.note_reread()
        try:
            lines = self.lines(tables.parse_notes(self.content))
        except ValueError as error:
            raise self.error(str(error)) from error
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=self.sections)


class ReplyTable(Generated):
    """``reply-table``: the stock replies."""

    def lines(self, notes: tables.Notes) -> list[str]:
        """Make the table."""
        return tables.reply_table(notes, self.without)


class PolicyTable(Generated):
    """``policy-table``: the policies that are installed."""

    def lines(self, notes: tables.Notes) -> list[str]:
        """Make the table."""
        return tables.policy_table(notes)


class PolicyHelp(Generated):
    """``policy-help:: name``: the help of a policy."""

    required_arguments = 1

    def lines(self, notes: tables.Notes) -> list[str]:
        """Make the paragraphs."""
        return tables.policy_help(self.arguments[0])


class SequenceTable(Generated):
    """``sequence-table``: which verb is served when."""

    def lines(self, notes: tables.Notes) -> list[str]:
        """Make the table."""
        return tables.sequence_table()


class VerbsNotServed(Generated):
    """``verbs-not-served``: their names."""

    def lines(self, notes: tables.Notes) -> list[str]:
        """Make the list."""
        return tables.verbs_not_served()


class OptionList(Generated):
    """``option-list``: the options of the command line."""

    def lines(self, notes: tables.Notes) -> list[str]:
        """Make the list."""
        from smtpsvc.tap import Options

        return tables.option_list(Options(), notes)


class SettingsTable(Generated):
    """``settings-table:: Class``: the fields of a class of :mod:`smtpsvc.settings`."""

    required_arguments = 1

    def lines(self, notes: tables.Notes) -> list[str]:
        """Make the table."""
        from smtpsvc import settings

        return tables.settings_table(getattr(settings, self.arguments[0]), notes)


class ExtensionTable(Generated):
    """``extension-table``: the extensions that are on."""

    def lines(self, notes: tables.Notes) -> list[str]:
        """Make the table."""
        return tables.extension_table(notes)


class MetricTable(Generated):
    """``metric-table``: what ``/metrics`` shows."""

    def lines(self, notes: tables.Notes) -> list[str]:
        """Make the table."""
        return tables.metric_table()


class LimitList(Generated):
    """``limit-list``: the limits that monitors are told of."""

    def lines(self, notes: tables.Notes) -> list[str]:
        """Make the list."""
        return tables.limit_list()


class EventTable(Generated):
    """``event-table``: the events of the log and their fields."""

    def lines(self, notes: tables.Notes) -> list[str]:
        """Make the table."""
        return tables.event_table()


class InterfaceList(Generated):
    """``interface-list:: module``: its zope interfaces."""

    required_arguments = 1

    def lines(self, notes: tables.Notes) -> list[str]:
        """Make the descriptions."""
        return tables.interface_list(self.arguments[0])


class ModuleList(Generated):
    """``module-list:: package``: its modules."""

    required_arguments = 1
    sections = True

    def lines(self, notes: tables.Notes) -> list[str]:
        """Make the sections."""
        return tables.module_list(self.arguments[0], self.without)


class PublicNames(Generated):
    """``public-names``: what the package itself exports."""

    def lines(self, notes: tables.Notes) -> list[str]:
        """Make the table."""
        return tables.public_names()


class WorkloadTable(Generated):
    """``workload-table``: what each workload of the benchmark came to."""

    def lines(self, notes: tables.Notes) -> list[str]:
        """Make the table."""
        return measured.workload_table()


class GoalTable(Generated):
    """``goal-table``: what the service is to reach, and what was measured."""

    def lines(self, notes: tables.Notes) -> list[str]:
        """Make the table."""
        return measured.goal_table()


class Machine(Generated):
    """``machine``: what the benchmark ran on."""

    def lines(self, notes: tables.Notes) -> list[str]:
        """Make the sentence."""
        return measured.machine()


def short_interfaces(
    app: Sphinx, what: str, name: str, thing: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Show interfaces in a signature by their names, without their modules."""

    def short(text: str | None) -> str | None:
        return text and _INTERFACE.sub(r"~\1", text)

    return short(signature), short(returns)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx the directives."""
    app.add_directive("reply-table", ReplyTable)
    app.add_directive("policy-table", PolicyTable)
    app.add_directive("policy-help", PolicyHelp)
    app.add_directive("sequence-table", SequenceTable)
    app.add_directive("verbs-not-served", VerbsNotServed)
    app.add_directive("option-list", OptionList)
    app.add_directive("settings-table", SettingsTable)
    app.add_directive("extension-table", ExtensionTable)
    app.add_directive("metric-table", MetricTable)
    app.add_directive("limit-list", LimitList)
    app.add_directive("event-table", EventTable)
    app.add_directive("interface-list", InterfaceList)
    app.add_directive("module-list", ModuleList)
    app.add_directive("public-names", PublicNames)
    app.add_directive("workload-table", WorkloadTable)
    app.add_directive("goal-table", GoalTable)
    app.add_directive("machine", Machine)
    # autodoc words an alias within another type by its repr().
    vars(inspect)["TypeAliasForwardRef"].__repr__ = lambda alias: f"~{alias.name}"
    app.connect("autodoc-process-signature", short_interfaces)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
