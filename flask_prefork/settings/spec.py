"""The description of one setting: kind, default, bounds, help.

The table itself is in ``table.py``, which gives each of its rows one of these.
"""

from __future__ import annotations

import contextlib
import typing as t
from dataclasses import dataclass

Value = bool | int | float | str | None

#: Where ``--help`` and the manual have a setting, in their order.
Group = t.Literal[
    "Addresses",
    "Workers",
    "Time limits",
    "Clients and limits",
    "Queue",
    "TLS and proxies",
    "Logging",
    "Status",
    "Process",
    "The app",
    "Development",
    "Checks",
]
GROUPS: tuple[Group, ...] = t.get_args(Group)

#: The scoreboard's places for a generation; unused ones are holes in a sparse file.
MAX_SLOTS = 10_000
#: Units of numbers that may be written as a time, and of those that may be as a size.
SECONDS = "seconds"
BYTES = ("bytes", "bytes per second")


class SettingsError(ValueError):
    """Invalid settings, each in one sentence for the user.

    :ivar sentences: One for each.
    """

    def __init__(self, *sentences: str) -> None:
        super().__init__(" ".join(sentences))
        self.sentences = sentences


@contextlib.contextmanager
def collected(errors: list[SettingsError] | None) -> t.Iterator[None]:
    """Go on after an error, to find the others too.

    :param errors: Where it goes; ``None`` to raise it.
    :raises SettingsError: It isn't collected.
    """
    try:
        yield
    except SettingsError as e:
        if errors is None:
            raise
        errors.append(e)


@dataclass(frozen=True)
class SettingSpec:
    """What the table says of one setting.

    :param help: One or two sentences, shown by ``--help``.
    :param kind: ``bool``, ``int``, ``float`` or ``str``.
    :param default: The default, or ``None`` where it is derived from other
        settings or means "not set".
    :param group: Where ``--help`` and the docs have it. A test wants it; without one it
        comes last, below a heading of its own.
    :param metavar: What ``--help`` calls the value, if its kind and unit don't say it.
    :param default_text: How ``--help`` and the docs show the default.
    :param unit: What a number counts. Seconds may be given as a time such as 5m, see
        :func:`.duration.parse`, and bytes as a size such as 200M, see
        :func:`.size.parse_bytes`.
    :param least: The smallest allowed number.
    :param most: The largest allowed number.
    :param choices: The allowed words, for strings.
    :param fallback: An environment variable of other tools that is used
        where ours isn't set.
    :param early: It is needed before the app is loaded, so ``app.config`` can't
        have it.
    :param size: A string that is a size of memory, see :func:`.size.parse`.
    :param words: What it may be instead.
    :param secret: Its value is shown to nobody, in errors neither.
    """

    help: str
    kind: type
    default: Value = None
    group: Group | None = None
    metavar: str = ""
    default_text: str = ""
    unit: str = ""
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    fallback: str | None = None
    early: bool = False
    size: bool = False
    words: tuple[str, ...] = ()
    secret: bool = False

    @property
    def shown_default(self) -> str:
        """The default, for people."""
        if self.default_text:
            return self.default_text
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        if isinstance(self.default, str) or not self.default:
            return str(self.default) if self.default else "0"
        is_whole = isinstance(self.default, int)
        shown = str(self.default) if is_whole else f"{self.default:g}"
        if self.unit == SECONDS:
            return f"{shown} s"
        return f"{shown} {self.unit}" if self.unit in BYTES else shown

    def shown(self, value: Value) -> str:
        """A value, for people, in a form that the option takes.

        :param value: Converted already.
        """
        if value is None:
            return "none"
        if isinstance(value, bool):
            return "on" if value else "off"
        if self.unit == SECONDS:
            return f"{value:g}s" if value else "0"
        return f"{value:g}" if isinstance(value, float) else str(value)

    @property
    def shown_metavar(self) -> str:
        """What stands for the value, for people; empty if there is none."""
        if self.metavar or self.kind is bool:
            return self.metavar
        if self.choices:
            return "|".join(self.choices)
        if self.size or self.unit in BYTES:
            return "|".join(["SIZE", *self.words])
        if self.unit == SECONDS:
            return "SECONDS"
        return "TEXT" if self.kind is str else "N"

    def convert(self, value: object, name: str) -> Value:
        """Check one value.

        :param value: Anything a configuration file may hold; numbers may be
            given as strings.
        :param name: How the error names the setting.
        :raises SettingsError: If it is not of the row's kind or out of range.
        """
        try:
            return self.read(value)
        except ValueError as e:
            raise SettingsError(f"{name} {e}.") from None

    def read(self, value: object) -> Value:
        """Check one value; see :meth:`convert`.

        :raises ValueError: As there; the message begins with "must be".
        """
        if value is None:
            return None
        if self.kind is bool:
            if not isinstance(value, bool):
                raise ValueError(f"must be True or False, not {value!r}")
            return value
        if self.size:
            return self._size(value)
        if self.kind is str:
            if not isinstance(value, str):
                shown = type(value).__name__ if self.secret else repr(value)
                raise ValueError(f"must be a string, not {shown}")
            if self.choices and value not in self.choices:
                raise ValueError(
                    f"must be one of {', '.join(self.choices)}, not {value!r}"
                )
            return value
        return self._number(value)

    def _size(self, value: object) -> str:
        from .size import parse

        text = str(value) if type(value) is int else value
        if text in self.words:
            return str(text)
        try:
            if not isinstance(text, str):
                raise ValueError("must be a size such as 200M, or a number of bytes")
            parse(text)
        except ValueError as e:
            words = "".join(f", or {word!r}" for word in self.words)
            raise ValueError(f"{e}{words}, not {value!r}") from None
        return text

    def _number(self, value: object) -> Value:
        number: int | float
        try:
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise ValueError
            number = self.kind(self._in_unit(value))
            if number != number or (isinstance(value, float) and number != value):
                raise ValueError
        except (ValueError, OverflowError):
            raise ValueError(f"must be {self._what}, not {value!r}") from None
        if self.least is not None and number < self.least:
            raise ValueError(
                f"must be at least {self._bound(self.least)}, not {value!r}"
            )
        if self.most is not None and number > self.most:
            bound = self._bound(self.most)
            raise ValueError(f"must be at most {bound}, not {value!r}")
        return number

    def _in_unit(self, value: int | float | str) -> int | float | str:
        """A number, of what may have a unit."""
        if isinstance(value, str) and self.unit == SECONDS:
            from .duration import parse

            return parse(value)
        if isinstance(value, str) and self.unit in BYTES:
            from .size import parse_bytes

            # A rate may have a fraction.
            return parse_bytes(value) if self.kind is int else _rate(value)
        return value

    @property
    def _what(self) -> str:
        """What a number must be."""
        if self.unit == SECONDS:
            from .duration import FORMS

            return FORMS
        if self.unit in BYTES:
            return f"a number of {self.unit}, or a size such as 64K or 10M"
        return "a whole number" if self.kind is int else "a number"

    def _bound(self, bound: float) -> str:
        if self.unit == SECONDS:
            return f"{bound:g} s"
        return f"{bound:,.0f} bytes" if self.unit == "bytes" else f"{bound:g}"


def _rate(text: str) -> float:
    from .size import parse_bytes

    try:
        return float(text)
    except ValueError:
        return parse_bytes(text)
