"""The results of a suite as text, for the docs and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

from charts import Chart
from charts import draw
from charts import DrawError
from machine import machine
from measured_code import code
from options import ANATOMY
from peers import own_versions
from progress import schedule
from results import Meta
from results import Results
from results import today
from suites.suite import Options
from suites.suite import Suite
from tables import in_short
from tables import to_rst

HEADER = ".. Written by ``{command}``; what is changed here is lost.\n"


def rst(suite: Suite, results: Results) -> str:
    """What ``docs/benchmarks/index.rst`` includes; it is no page of its own."""
    parts = [HEADER.format(command=f"python benchmarks {suite.name}")]
    parts += [table.rst() for table in suite.tables(results)]
    parts += [_image(chart) for chart in suite.charts(results)]
    parts += [to_rst(note) + "\n" for note in notes(suite, results)]
    parts.append(f"::\n\n    {results.meta.command}\n")

    if results.meta.commands:
        parts.append(_commands(results.meta.commands))

    return "\n".join(parts)


def _commands(commands: Mapping[str, Sequence[str]]) -> str:
    """How each server was started, as a table whose last column may be long."""
    lines = [
        ".. list-table:: How the servers were started",
        "   :header-rows: 1",
        "   :widths: 20 80",
        "",
        "   * - server",
        "     - command",
    ]

    for name, every in commands.items():
        cell = " and, for connections that are kept alive, ".join(
            f"`{one}`" for one in every
        )
        lines += [f"   * - {to_rst(name)}", f"     - {to_rst(cell)}"]

    return "\n".join(lines) + "\n"


def _image(chart: Chart) -> str:
    # Relative to the page that includes it.
    return f".. image:: results/{chart.file}\n   :alt: {to_rst(chart.title)}\n"


def markdown(suite: Suite, results: Results) -> str:
    """The same for a terminal or a README, without plots."""
    parts = [table.markdown() for table in suite.tables(results)]
    parts += notes(suite, results)
    return "\n\n".join([*parts, f"    {results.meta.command}"])


def notes(suite: Suite, results: Results) -> list[str]:
    """How it was measured, who isn't there, and on what machine."""
    meta = results.meta
    options = Options(**meta.options)
    rounds = {trial.round for trial, one in results.outcomes.items() if one.figures}
    found = [
        f"Rounds: {len(rounds)}, in rotating order. Figures are medians, with"
        f" (lowest–highest). {suite.method(options)}"
    ]

    planned = [
        trial
        for trial in schedule(options.rounds, suite.cases(options))
        if trial.contender not in results.absent
    ]
    missing = sum(trial not in results.outcomes for trial in planned)

    if missing:
        found.append(f"Interrupted: {missing} of {len(planned)} trials are missing.")

    if failures := results.failures():
        reasons = [f"{who} ({in_short(why)})" for who, why in failures.items()]
        found.append(f"Left out: {'; '.join(reasons)}.")

    return [*found, of(meta)]


def of(meta: Meta) -> str:
    """When it was measured, which code, on what machine, and with what."""
    day = meta.date or "an unknown day"
    commit = f"commit {meta.commit}" if meta.commit else "an unknown commit"
    versions = ", ".join(f"{name} {version}" for name, version in meta.versions.items())
    return f"Measured on {day}, flask_prefork at {commit}. {meta.machine}. {versions}."


def write_anatomy(lines: Sequence[str], folder: Path) -> str:
    """Write what ``anatomy`` has printed.

    :return: What is to be told about it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{ANATOMY}.inc"
    command = f"python benchmarks {ANATOMY}"
    block = "\n".join(f"    {line}".rstrip() for line in lines)
    meta = Meta(command, {}, machine(), own_versions(), today(), *code())
    path.write_text(
        f"{HEADER.format(command=command)}\n::\n\n{block}\n\n{to_rst(of(meta))}\n"
    )
    return f"wrote {path}"


def write(suite: Suite, results: Results, folder: Path) -> list[str]:
    """Write the docs' file, and the plots if there is something to draw with.

    :return: What is to be told about it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{suite.name}.inc"
    path.write_text(rst(suite, results))

    try:
        for chart in suite.charts(results):
            (folder / chart.file).write_text(draw(chart))
    except DrawError as error:
        return [f"wrote {path}", str(error)]

    return [f"wrote {path} and its plots"]
