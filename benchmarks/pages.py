"""The results of a suite as text, for the docs and for the terminal."""

from __future__ import annotations

from pathlib import Path

from charts import Chart
from charts import draw
from charts import DrawError
from progress import schedule
from results import Results
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
    return "\n".join(parts)


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

    versions = ", ".join(f"{name} {version}" for name, version in meta.versions.items())
    return [*found, f"{meta.machine}. {versions}."]


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
