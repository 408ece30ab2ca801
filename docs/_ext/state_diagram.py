"""A worker's life as a diagram, drawn from the pool's ``TRANSITIONS``.

The diagram has exactly the transitions of the table. The positions of the states are
set here. If a new state has no position, the build fails.
"""

from __future__ import annotations

import typing as t

from drawing import arrow
from drawing import box
from drawing import picture
from drawing import Point
from drawing import text

from flask_prefork.ipc.states import Event
from flask_prefork.ipc.states import State
from flask_prefork.ipc.states import TRANSITIONS

_WIDTH, _HEIGHT = 96.0, 40.0
_PLACES = {
    State.FREE: Point(70, 110),
    State.STARTING: Point(250, 110),
    State.IDLE: Point(400, 110),
    State.ORDERED: Point(550, 110),
    State.BUSY: Point(700, 110),
    State.RETIRING: Point(330, 290),
    State.KILLED: Point(590, 290),
}
#: How far the middle of an arrow is to the left of the straight way.
_BENDS = {
    (State.IDLE, State.ORDERED): 20.0,
    (State.ORDERED, State.IDLE): 20.0,
    (State.IDLE, State.BUSY): 58.0,
    (State.BUSY, State.IDLE): 58.0,
    (State.RETIRING, State.FREE): 20.0,
    (State.KILLED, State.FREE): 135.0,
}


class Edge(t.NamedTuple):
    """An arrow; the group of serving states stands as ``None``."""

    start: State | None
    event: Event
    end: State


def serving() -> frozenset[State]:
    """The states from which a worker can be told to retire."""
    return frozenset(state for state, event in TRANSITIONS if event is Event.RETIRE)


def edges() -> list[Edge]:
    """All transitions; one that all serving states have is a single arrow."""
    group = serving()
    found: dict[Edge, None] = {}
    for (state, event), end in TRANSITIONS.items():
        alike = all(TRANSITIONS.get((one, event)) is end for one in group)
        found[Edge(None if alike and state in group else state, event, end)] = None
    return [*found]


def _group_corners() -> tuple[Point, Point]:
    places = [_PLACES[state] for state in serving()]
    left, right = min(p.x for p in places), max(p.x for p in places)
    top, bottom = min(p.y for p in places), max(p.y for p in places)
    return Point(left - 62, top - 82), Point(right + 62, bottom + 82)


def _draw_group() -> str:
    low, high = _group_corners()
    center = Point((low.x + high.x) / 2, (low.y + high.y) / 2)
    return box(center, high.x - low.x, high.y - low.y, "group")


def _toward(start: Point, end: Point) -> Point:
    """Where the line from a box's center to another point leaves the box."""
    dx, dy = end.x - start.x, end.y - start.y
    scale = min(
        _WIDTH / 2 / abs(dx) if dx else 9e9, _HEIGHT / 2 / abs(dy) if dy else 9e9
    )
    return Point(start.x + dx * scale, start.y + dy * scale)


def _draw(edge: Edge) -> str:
    end = _PLACES[edge.end]
    if edge.start is None:
        return _draw_from_group(edge, end)
    start = _PLACES[edge.start]
    dx, dy = end.x - start.x, end.y - start.y
    bend = _BENDS.get((edge.start, edge.end), 0.0) / (dx * dx + dy * dy) ** 0.5
    middle = Point((start.x + end.x) / 2, (start.y + end.y) / 2)
    if not bend:
        line = arrow(_toward(start, end), None, _toward(end, start))
        return line + text(Point(middle.x, middle.y - 7), edge.event.value, "label")
    # To the left of the way as it is seen, where y goes down. A curve goes half as
    # far as the point that it is bent to.
    middle = Point(middle.x + dy * bend, middle.y - dx * bend)
    far = Point(middle.x + dy * bend, middle.y - dx * bend)
    line = arrow(_toward(start, far), far, _toward(end, far))
    return line + text(Point(middle.x, middle.y + 4), edge.event.value, "label")


def _draw_from_group(edge: Edge, end: Point) -> str:
    low, high = _group_corners()
    if end.x < low.x:
        # Beside the group, at the height of its foot.
        start = Point(low.x, high.y - 20)
        goal = Point(end.x + _WIDTH / 3, end.y + _HEIGHT / 2)
        middle = Point(end.x + _WIDTH / 2, start.y)
        at = Point((start.x + goal.x) / 2, start.y - 7)
        return arrow(start, middle, goal) + text(at, edge.event.value, "label")
    start, goal = Point(end.x, high.y), Point(end.x, end.y - _HEIGHT / 2)
    at = Point(end.x, (start.y + goal.y) / 2 + 4)
    return arrow(start, None, goal) + text(at, edge.event.value, "label")


def draw() -> str:
    """The diagram, as SVG."""
    parts = [_draw_group()]
    parts += [_draw(edge) for edge in edges()]
    for state, place in _PLACES.items():
        parts.append(box(place, _WIDTH, _HEIGHT))
        parts.append(text(Point(place.x, place.y + 5), state.name, "name"))
    return picture(
        790, 390, "The states of a worker and the events between them", parts
    )


def table() -> str:
    """The same as a table, in reStructuredText."""
    lines = [".. list-table::", "    :header-rows: 1", ""]
    lines += ["    * - State", "      - Letter"]
    events = [*Event]
    lines += [f"      - {event.value}" for event in events]
    for state in State:
        lines += [f"    * - {state.name}", f"      - ``{state.value}``"]
        for event in events:
            end = TRANSITIONS.get((state, event))
            lines.append(f"      - {end.name if end is not None else ''}".rstrip())
    return "\n".join(lines) + "\n"
