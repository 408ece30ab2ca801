"""A Sphinx extension: directives for what the manual takes from the code.

Each build reads the pages with such directives again, because Sphinx doesn't watch the
code.
"""

from __future__ import annotations

import typing as t

import house_table
import metrics_table
import options_table
import sequence_diagram
import state_diagram
from blinker import NamedSignal
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from flask_prefork.cli import prefork_run
from flask_prefork.ipc.states import Reason
from flask_prefork.observe.command import prefork_status
from flask_prefork.zygote import hooks

if t.TYPE_CHECKING:
    import click
    from sphinx.application import Sphinx

_COMMANDS: dict[str, click.Command] = {
    "prefork-run": prefork_run,
    "prefork-status": prefork_status,
}


class Options(SphinxDirective):
    """The options of a command, or those of one of its groups."""

    option_spec: t.ClassVar = {
        "command": lambda word: directives.choice(word, tuple(_COMMANDS)),
        "group": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        name = self.options.get("command", "prefork-run")
        group = self.options.get("group")
        if group is None:
            chosen = options_table.entries(_COMMANDS[name])
        else:
            chosen = options_table.in_group(_COMMANDS[name], group)
        if not chosen:
            raise self.error(f"no option is in the group {group}")
        self.env.note_reread()
        text = (
            f".. program:: flask {name}\n\n{options_table.render(chosen)}\n"
            f".. program:: flask prefork-run\n"
        )
        return self.parse_text_to_nodes(text)


class States(SphinxDirective):
    """A worker's life, as a diagram and as a table."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        drawn = nodes.raw("", state_diagram.draw(), format="html")
        return [drawn, *self.parse_text_to_nodes(state_diagram.table())]


class Sequence(SphinxDirective):
    """Messages between parties, in their order."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        try:
            drawn = sequence_diagram.draw([*self.content])
        except ValueError as e:
            raise self.error(str(e)) from None
        return [nodes.raw("", drawn, format="html")]


class House(SphinxDirective):
    """Every module of the package, with its one idea."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        return self.parse_text_to_nodes(house_table.render())


class Rooms(SphinxDirective):
    """Every folder of the package, with its one idea."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        return self.parse_text_to_nodes(house_table.rooms())


class Metrics(SphinxDirective):
    """Every metric of the server."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        return self.parse_text_to_nodes(metrics_table.render())


class Reasons(SphinxDirective):
    """Why workers ended, by the words of the metrics."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        analyzer = ModuleAnalyzer.for_module(Reason.__module__)
        comments = analyzer.find_attr_docs()
        lines = [".. list-table::", "    :widths: 25 75", ""]
        for reason in Reason:
            told = " ".join(comments[Reason.__name__, reason.name]).strip()
            lines += [f"    * - ``{reason.value}``", f"      - {told}"]
        return self.parse_text_to_nodes("\n".join(lines))


class Signals(SphinxDirective):
    """Every signal of the package, as its documentation says."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        text = "\n".join(
            f".. data:: {name}\n\n    {value.__doc__}\n"
            for name, value in vars(hooks).items()
            if isinstance(value, NamedSignal)
        )
        return self.parse_text_to_nodes(text)


def setup(app: Sphinx) -> dict[str, t.Any]:
    """Called by Sphinx."""
    app.add_directive("prefork-options", Options)
    app.add_directive("prefork-states", States)
    app.add_directive("prefork-sequence", Sequence)
    app.add_directive("prefork-house", House)
    app.add_directive("prefork-rooms", Rooms)
    app.add_directive("prefork-metrics", Metrics)
    app.add_directive("prefork-reasons", Reasons)
    app.add_directive("prefork-signals", Signals)
    return {"parallel_read_safe": True, "env_version": 1}
