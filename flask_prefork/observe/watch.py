"""Prints the status once, or again and again: ``prefork-status --watch``.

The live view is rich's where it is installed (the extra ``watch``). Else each look
is drawn over the one before; and where the output is no terminal, below it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
import typing as t
from collections.abc import Callable
from collections.abc import Iterator

import click

from .client import AskError
from .client import NobodyThere
from .snapshot import Snapshot
from .text import render

#: Where the output is no terminal nothing needs to be cut (columns and lines).
_UNBOUNDED = (400, sys.maxsize)
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"

Show = Callable[[str], None]


def draw(snapshot: Snapshot) -> str:
    """The text of a look, for what the standard output is."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return render(snapshot, shutil.get_terminal_size(_UNBOUNDED).columns, colour)


def watch(
    ask: Callable[[], Snapshot],
    interval: float,
    sleep: Callable[[float], None] = time.sleep,
) -> t.NoReturn:
    """Show look after look, until Ctrl-C or the server's end.

    :param ask: Gets a look.
    :param interval: The time between two, in seconds.
    :raises AskError: If the first look fails, or the server has ended.
    """
    text = draw(ask())
    with _display() as show:
        show(text)
        while True:
            sleep(interval)
            try:
                text = draw(ask())
            except NobodyThere:
                raise AskError("The server has ended.") from None
            except AskError as e:
                # It may come back: the observer is started anew if it dies.
                show(f"{e}\n\n{text}")
            else:
                show(text)


def _display() -> contextlib.AbstractContextManager[Show]:
    if not sys.stdout.isatty():
        return _one_below_the_other()
    try:
        import rich.live  # noqa: F401
    except ImportError:
        return _one_over_the_other()
    return _live()


@contextlib.contextmanager
def _one_below_the_other() -> Iterator[Show]:
    yield lambda text: click.echo(f"{text}\n")


@contextlib.contextmanager
def _one_over_the_other() -> Iterator[Show]:
    def show(text: str) -> None:
        # The last line would scroll the first one away.
        rows = shutil.get_terminal_size().lines - 1
        lines = text.split("\n")[:rows]
        drawn = "".join(f"{line}{_CLEAR_LINE}\n" for line in lines)
        # At once, lest it flickers.
        click.echo(f"{_HOME}{drawn}{_CLEAR_BELOW}", nl=False)

    click.clear()
    yield show


@contextlib.contextmanager
def _live() -> Iterator[Show]:
    from rich.live import Live
    from rich.text import Text

    with Live(screen=True, auto_refresh=False) as live:
        yield lambda text: live.update(Text.from_ansi(text, no_wrap=True), refresh=True)
