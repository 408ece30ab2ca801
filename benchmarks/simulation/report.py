"""Results as reStructuredText: simple tables, which a terminal shows as well."""

from __future__ import annotations

from collections.abc import Sequence

from .cases import Case
from .cases import OURS
from .results import Result
from .results import verdicts

HEAD = (
    "server",
    "mean",
    "p50",
    "p95",
    "p99",
    "max",
    "workers",
    "peak",
    "worker-s",
    "idle-s",
    "spawned",
    "retired",
)


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.1f}"


def cells(result: Result) -> tuple[str, ...]:
    """A line of a case's table."""
    waits = (result.mean, result.p50, result.p95, result.p99, result.longest)
    return (
        result.server,
        *map(milliseconds, waits),
        f"{result.workers:,.1f}",
        f"{result.peak:,}",
        f"{result.worker_seconds:,.0f}",
        f"{result.idle_seconds:,.0f}",
        f"{result.spawned:,}",
        f"{result.retired:,}",
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A simple table; the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = [rule, line(head, widths), rule]
    lines += [line(row, widths) for row in rows]
    return "\n".join([*lines, rule]) + "\n"


def line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(row, widths, strict=True)
    parts = [first[0].ljust(first[1])]
    parts += [text.rjust(width) for text, width in others]
    return "  ".join(parts).rstrip()


def figures(case: Case, results: Sequence[Result]) -> str:
    """All servers of a case, with the min-idle that is shown."""
    shown = [one for one in results if one.min_idle == case.shown]
    return table(HEAD, [cells(one) for one in shown])


def bought(results: Sequence[Result]) -> str:
    """What each min-idle gives and costs, with our own policy."""
    rows = [
        (
            f"{one.min_idle:,}",
            *map(milliseconds, (one.mean, one.p99, one.longest)),
            f"{one.workers:,.1f}",
            f"{one.peak:,}",
            f"{one.spawned:,}",
        )
        for one in results
        if one.server == OURS
    ]
    return table(("min-idle", "mean", "p99", "max", "workers", "peak", "spawned"), rows)


def judgement(results: Sequence[Result]) -> str:
    """For each server: whose settings beat whose."""
    rows = []
    for one in verdicts(results):
        rows.append(
            (
                one.server,
                f"{one.beaten} of {one.settings}",
                f"{one.ours_beaten} of {one.ours}",
                ", ".join(str(result.min_idle) for result in one.unbeaten) or "none",
            )
        )
    head = ("server", "beaten by ours", "of ours beaten", "its unbeaten min-idle")
    return table(head, rows)


def setting(case: Case, result: Result) -> str:
    """What a case's figures were made with."""
    machine = case.machine
    settled = f", after {case.settle:g} s" if case.settle else ""
    return (
        f"{result.requests:,} requests in {result.seconds:,.0f} s; a fork takes"
        f" {machine.fork * 1000:g} ms, then {machine.boot * 1000:g} ms until the worker"
        f" accepts, and its first request {machine.warm_up * 1000:g} ms more. min-idle"
        f" {case.shown:,}, max-idle twice that, max-workers {case.max_workers:,};"
        f" waiting times in ms{settled}."
    )


def section(case: Case, results: Sequence[Result]) -> str:
    """What a case came to."""
    title = case.name[0].upper() + case.name[1:]
    heading = f"{title}\n{'-' * len(title)}\n"
    paragraphs = [f"{case.about}\n", f"{setting(case, results[0])}\n"]
    parts = [heading, *paragraphs, figures(case, results)]
    if any(one.server == OURS for one in results):
        parts += [f"What each min-idle gives with {OURS}:\n", bought(results)]
        if verdicts(results):
            tried = ", ".join(f"{number:,}" for number in case.min_idle)
            parts += [f"All with min-idle {tried}:\n", judgement(results)]
    return "\n".join(parts)


def speed(results: Sequence[Result]) -> str:
    """How fast the simulation was."""
    cpu = sum(one.cpu for one in results)
    events = sum(one.events for one in results)
    requests = sum(one.requests for one in results)
    return (
        f"{len(results)} runs, {requests:,} requests, {events:,} events in"
        f" {cpu:.1f} s of CPU time: {events / cpu:,.0f} events a second."
    )
