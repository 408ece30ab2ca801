"""The snapshot as text for a terminal: the output of ``prefork-status``.

All that came from clients or over the wire is escaped: a request's target can't
move the cursor.
"""

from __future__ import annotations

import textwrap
import typing as t
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence

import click

from .snapshot import GenerationView
from .snapshot import LimitView
from .snapshot import PoolSample
from .snapshot import Quantiles
from .snapshot import Snapshot
from .snapshot import STATES
from .snapshot import WorkerView

#: What rates are shown for, in seconds, as far as the history reaches.
_WINDOWS = (10, 60, 300)
#: Samples come about once a second.
_LATE = 1.0
_COLOURS = {
    "I": "green",
    "O": "cyan",
    "B": "cyan",
    "S": "blue",
    "R": "magenta",
    "K": "red",
}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
#: Where the text of a line begins that a word stands before.
_INDENT = 11


class Span(t.NamedTuple):
    """A piece of a line."""

    text: str
    colour: str | None = None
    bold: bool = False


Line = Sequence[Span]


def render(snapshot: Snapshot, width: int = 80, colour: bool = False) -> str:
    """Write what there is to see, without a line's end after the last line.

    :param width: The terminal's; no line is longer, unless that is absurd.
    :param colour: Whether to colour by ANSI escapes.
    """
    width = max(width, 2 * _INDENT)
    lines: list[Line] = [
        _head(snapshot),
        [Span("  ".join(map(_plain, snapshot.addresses)))],
        [],
        *_letters(snapshot.generations, width),
        [],
        *_figures(snapshot, width),
    ]
    if snapshot.workers:
        lines += [[], *_table(snapshot.generations)]
    return "\n".join(_paint(line, width, colour) for line in lines)


def _paint(line: Line, width: int, colour: bool) -> str:
    if sum(len(span.text) for span in line) > width:
        line = [*_cut(line, width - 3), Span("...")]
    return "".join(
        click.style(span.text, span.colour, bold=span.bold or None)
        if colour and (span.colour or span.bold)
        else span.text
        for span in line
    )


def _cut(line: Line, width: int) -> Iterator[Span]:
    for span in line:
        yield span._replace(text=span.text[:width])
        width = max(0, width - len(span.text))


def _plain(text: str) -> str:
    """The text in printable ASCII, each character of it one column wide."""
    return text.encode("unicode_escape").decode("ascii")


def _head(snapshot: Snapshot) -> Line:
    """Who it is, and how it is."""
    ready = Span("ready", "green") if snapshot.ready else Span("not ready", "red")
    line = [
        Span(f"flask_prefork {_plain(snapshot.version)}", bold=True),
        Span(f" {_plain(snapshot.phase)}, "),
        ready,
    ]
    if not snapshot.responsive:
        line += [Span(", "), Span("the dispatcher doesn't answer", "red")]
    line.append(Span(f", pid {snapshot.pid}, up {duration(snapshot.uptime)}"))
    return line


def _letters(generations: Iterable[GenerationView], width: int) -> Iterator[Line]:
    """A letter for each slot, in as many lines as it takes."""
    for generation in generations:
        title = f"generation {generation.number}  {generation.role:<8}  "
        room = max(1, width - len(title))
        letters = _plain(generation.letters)
        for start in range(0, len(letters) or 1, room):
            part = letters[start : start + room]
            yield [
                Span(title if start == 0 else " " * len(title)),
                *(Span(letter, _COLOURS.get(letter)) for letter in part),
            ]


def _figures(snapshot: Snapshot, width: int) -> Iterator[Line]:
    """The server's numbers, a line for each matter."""
    paragraphs = {
        "workers": _workers(snapshot),
        "waiting": _waiting(snapshot),
        "requests": _rates(snapshot),
        "latency": _quantiles(snapshot.latency),
        "queue time": _quantiles(snapshot.queue_time),
        "saturated": f"{'now' if snapshot.saturated else 'not now'},"
        f" {duration(snapshot.totals.saturated)} in all",
        "served": _served(snapshot),
        "processes": _processes(snapshot),
    }
    if deliveries := _named(snapshot.totals.deliveries):
        total = sum(snapshot.totals.deliveries.values())
        paragraphs["sender"] = f"{_of(total, 'response')}{deliveries}"
    if handshakes := _named(snapshot.totals.tls_handshakes):
        paragraphs["tls"] = (
            f"{_of(snapshot.tls_connections, 'connection')},"
            f" {_of(sum(snapshot.totals.tls_handshakes.values()), 'handshake')}"
            f"{handshakes}"
            f"{_aborted(snapshot.totals.tls_aborted)}"
        )
    if shed := _named(snapshot.totals.shed):
        total = sum(snapshot.totals.shed.values())
        paragraphs["shed"] = f"{_of(total, 'request')}{shed}"
    if snapshot.limits:
        paragraphs["limits"] = "; ".join(map(_limit, snapshot.limits))
    if snapshot.memory_budget:
        paragraphs["memory"] = (
            f"{size(snapshot.memory)} of {size(snapshot.memory_budget)},"
            f" {_of(snapshot.totals.shortages, 'time')} exhausted"
        )
    for title, text in paragraphs.items():
        alarming = title == "saturated" and snapshot.saturated
        for line in _wrap(title, text, width):
            yield [Span(line, "red" if alarming else None)]


def _wrap(title: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=f"{title:<{_INDENT}}",
        subsequent_indent=" " * _INDENT,
    )


def _of(count: int, noun: str) -> str:
    """So many of them."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _waiting(snapshot: Snapshot) -> str:
    limit = f" of {snapshot.queue_limit:,}" if snapshot.queue_limit else ""
    states = _named(snapshot.parked_by_state)
    told = [
        f"{snapshot.waiting:,} for a worker",
        f"{snapshot.queue:,}{limit} in the queue",
        f"{snapshot.parked:,} parked{states}",
    ]
    if snapshot.delivering:
        told.append(f"{snapshot.delivering:,} at the sender")
    if snapshot.spooled:
        told.append(f"{size(snapshot.spooled)} spooled")
    return ", ".join(told)


def _aborted(counts: Mapping[str, int]) -> str:
    named = _named(counts)
    return f", {sum(counts.values()):,} aborted{named}" if named else ""


def _named(counts: Mapping[str, int]) -> str:
    """Those that aren't 0, in parentheses."""
    told = [f"{count:,} {_plain(word)}" for word, count in counts.items() if count]
    return f" ({', '.join(told)})" if told else ""


def _workers(snapshot: Snapshot) -> str:
    counts = {word: snapshot.count(letter) for letter, word in STATES.items()}
    # Who was ordered to accept counts as busy, on the page too.
    counts["busy"] += counts.pop("ordered")
    told = [f"{count:,} {word}" for word, count in counts.items() if count]
    if snapshot.upgraded:
        told.append(f"of these {snapshot.upgraded:,} upgraded")
    return (
        f"{len(snapshot.workers):,} ({', '.join(told) or 'none'}),"
        f" at most {snapshot.max_workers:,},"
        f" {snapshot.min_idle:,} to {snapshot.max_idle:,} idle"
    )


def _sample(snapshot: Snapshot, window: float) -> PoolSample | None:
    """The oldest sample that is about as old as the window, or younger."""
    young = [s for s in snapshot.history if 0 < s.age <= window + _LATE]
    return max(young, key=lambda sample: sample.age, default=None)


def _rates(snapshot: Snapshot) -> str:
    samples = dict.fromkeys(_sample(snapshot, window) for window in _WINDOWS)
    rates = [
        f"{(snapshot.totals.requests - s.requests) / s.age:,.1f}/s"
        f" over {duration(round(s.age))}"
        for s in samples
        if s is not None
    ]
    return ", ".join(rates) or "no history yet"


def _limit(limit: LimitView) -> str:
    most = f" of {limit.concurrency:,}" if limit.concurrency else ""
    return (
        f"{_plain(limit.name)} {limit.running:,}{most} running,"
        f" {limit.waiting:,} waiting, {limit.refused:,} refused"
    )


def _quantiles(found: Quantiles) -> str:
    if not found.window:
        return "no history yet"
    over = f"over {duration(round(found.window))}"
    if not found.requests:
        return f"no request {over}"
    told = f"p50 {brief(found.p50)}, p90 {brief(found.p90)}, p99 {brief(found.p99)}"
    return f"{told} {over}"


def _served(snapshot: Snapshot) -> str:
    totals = snapshot.totals
    words = ("without a response", "1xx", "2xx", "3xx", "4xx", "5xx")
    classes = [
        f"{count:,} {word}"
        for count, word in zip(totals.classes, words, strict=False)
        if count
    ]
    return (
        f"{_of(totals.requests, 'request')} ({', '.join(classes) or 'none'})"
        f" on {_of(totals.connections, 'connection')}, {size(totals.sent)} sent,"
        f" {_of(totals.orders, 'order')}, {_of(totals.parked, 'time')} parked"
    )


def _processes(snapshot: Snapshot) -> str:
    totals = snapshot.totals
    return (
        f"{totals.spawned:,} started, {totals.retired:,} retired,"
        f" {sum(totals.deaths.values()):,} died"
        f"{_named(totals.deaths)};"
        f" {_of(totals.reloads, 'reload')}"
    )


#: The table's columns; those of words are aligned to the left.
_COLUMNS = ("GEN", "SLOT", "PID", "STATE", "AGE", "REQUESTS", "PSS", "FOR", "REQUEST")
_WORDS = ("STATE", "REQUEST")


def _table(generations: Iterable[GenerationView]) -> Iterator[Line]:
    """A row for each worker."""
    workers = [(g.number, worker) for g in generations for worker in g.workers]
    rows = [_COLUMNS, *(_row(number, worker) for number, worker in workers)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    colours = [None, *(_COLOURS.get(worker.state) for _, worker in workers)]
    for row, colour in zip(rows, colours, strict=True):
        line: list[Span] = []
        for title, cell, width in zip(_COLUMNS, row, widths, strict=True):
            align = "<" if title in _WORDS else ">"
            text = f"{cell:{align}{width}}" if title != _COLUMNS[-1] else cell
            line += [
                Span(text, colour if title == "STATE" else None, row is _COLUMNS),
                Span("  "),
            ]
        yield line[:-1]


def _state(worker: WorkerView) -> str:
    """A word for it; one that retires is no less upgraded."""
    if worker.upgraded and worker.state == "B":
        return "upgraded"
    return STATES.get(worker.state, _plain(worker.state))


def _row(generation: int, worker: WorkerView) -> tuple[str, ...]:
    return (
        str(generation),
        str(worker.slot),
        str(worker.pid or "-"),
        _state(worker),
        duration(worker.age),
        f"{worker.requests:,}",
        "-" if worker.pss is None else size(worker.pss),
        "-" if worker.busy_for is None else duration(worker.busy_for),
        _plain(f"{worker.method} {worker.target}".strip()) or "-",
    )


def brief(seconds: float | None) -> str:
    """What a request took, by three digits and a unit, as the page has it."""
    if seconds is None:
        return "-"
    seconds = float(f"{seconds:.3g}")
    if seconds >= 60:
        return duration(seconds)
    if not seconds or seconds >= 1:
        return f"{seconds:g}s"
    if seconds >= 0.001:
        return f"{seconds * 1e3:g}ms"
    return f"{seconds * 1e6:g}us"


def duration(seconds: float) -> str:
    """Seconds in at most two units."""
    if seconds < 60:
        return f"{round(seconds, 2 if seconds < 10 else 1):g}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")]
    while not parts[0][0]:
        del parts[0]
    return "".join(f"{number:,}{unit}" for number, unit in parts[:2] if number)


def size(count: int) -> str:
    """Bytes in the unit that fits."""
    power = max(0, min((count.bit_length() - 1) // 10, len(_UNITS) - 1))
    return f"{count / 1024**power:,.{min(power, 1)}f} {_UNITS[power]}"
