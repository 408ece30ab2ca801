"""The shapes of the manual's diagrams, as SVG."""

from __future__ import annotations

import math
import typing as t
from collections.abc import Iterable
from html import escape


class Point(t.NamedTuple):
    """A place in a picture."""

    x: float
    y: float


def text(at: Point, words: str, kind: str, anchor: str = "middle") -> str:
    """A line of text.

    :param kind: Its class in the style sheet.
    """
    return (
        f'<text class="{kind}" x="{at.x:g}" y="{at.y:g}" text-anchor="{anchor}">'
        f"{escape(words)}</text>"
    )


def box(center: Point, width: float, height: float, kind: str = "box") -> str:
    """A rectangle with round corners."""
    x, y = center.x - width / 2, center.y - height / 2
    return (
        f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}"'
        f' height="{height:g}" rx="7"/>'
    )


def arrow(start: Point, bend: Point | None, end: Point) -> str:
    """A line with a head at its end, straight or bent towards a point."""
    middle = f"Q{bend.x:g} {bend.y:g} " if bend is not None else "L"
    path = f"M{start.x:g} {start.y:g} {middle}{end.x:g} {end.y:g}"
    origin = bend if bend is not None else start
    angle = math.degrees(math.atan2(end.y - origin.y, end.x - origin.x))
    turn = f"translate({end.x:g} {end.y:g}) rotate({angle:.1f})"
    return (
        f'<path class="line" d="{path}"/>'
        f'<path class="head" d="M0 0L-9 -4L-9 4Z" transform="{turn}"/>'
    )


def picture(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """A whole picture, to be put into a page.

    :param title: What it shows, for who can't see it.
    """
    return (
        f'<div class="picture"><svg viewBox="0 0 {width:g} {height:g}" role="img">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg></div>"
    )
