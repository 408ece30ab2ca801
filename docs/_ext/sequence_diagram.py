"""A sequence diagram, drawn from lines of text.

The first line has the names of the participants, separated by commas. Each further line
is a message, ``from -> to: what``, or what a participant does, ``name: what``.
"""

from __future__ import annotations

import re
import typing as t

from drawing import arrow
from drawing import box
from drawing import picture
from drawing import Point
from drawing import text

_MESSAGE = re.compile(r"(?P<start>.+?)(?: -> (?P<end>.+?))?: (?P<words>.+)")
_COLUMN, _ROW, _MARGIN, _TOP = 200.0, 34.0, 90.0, 26.0


class Message(t.NamedTuple):
    """A line of the diagram.

    :param start: Who says it.
    :param end: Who hears it; the same for what a party does by itself.
    :param words: What.
    """

    start: str
    end: str
    words: str


def parse(lines: t.Sequence[str]) -> tuple[list[str], list[Message]]:
    """Take the text apart.

    :return: The parties, and the messages.
    :raises ValueError: For a line that is none.
    """
    parties = [name.strip() for name in lines[0].split(",")]
    messages = []
    for line in filter(None, map(str.strip, lines[1:])):
        found = _MESSAGE.fullmatch(line)
        if found is None:
            raise ValueError(f"{line!r} is not 'from -> to: what'")
        start, end = found["start"], found["end"] or found["start"]
        if not {start, end} <= {*parties}:
            raise ValueError(f"{line!r} names nobody of {', '.join(parties)}")
        messages.append(Message(start, end, found["words"]))
    return parties, messages


def draw(lines: t.Sequence[str]) -> str:
    """The diagram, as SVG."""
    parties, messages = parse(lines)
    columns = {name: _MARGIN + _COLUMN * i for i, name in enumerate(parties)}
    height = _TOP + _ROW * (len(messages) + 1) + 16
    parts = []
    for name, x in columns.items():
        parts.append(
            f'<path class="life" d="M{x:g} {_TOP + 16:g}L{x:g} {height - 8:g}"/>'
        )
        parts.append(box(Point(x, _TOP), 130, 32))
        parts.append(text(Point(x, _TOP + 5), name, "name"))
    for index, message in enumerate(messages, 1):
        y = _TOP + 14 + _ROW * index
        start, end = columns[message.start], columns[message.end]
        if start == end:
            parts.append(text(Point(start, y + 4), message.words, "label"))
            continue
        side = 1 if end > start else -1
        parts.append(arrow(Point(start, y), None, Point(end - side, y)))
        parts.append(text(Point((start + end) / 2, y - 5), message.words, "label"))
    width = 2 * _MARGIN + _COLUMN * (len(parties) - 1)
    told = "; ".join(f"{m.start} to {m.end}: {m.words}" for m in messages)
    return picture(width, height, told, parts)
