"""The description of one setting: kind, default, bounds, help.

The table itself is in ``table.py``, which gives each of its rows one of these.
"""

from __future__ import annotations

from dataclasses import dataclass

Value = bool | int | float | str | None


class SettingsError(ValueError):
    """An invalid setting, in one sentence for the user."""


@dataclass(frozen=True)
class SettingSpec:
    """What the table says of one setting.

    :param help: One or two sentences, shown by ``--help``.
    :param kind: ``bool``, ``int``, ``float`` or ``str``.
    :param default: The default, or ``None`` where it is derived from other
        settings or means "not set".
    :param default_text: How ``--help`` and the docs show the default.
    :param unit: What a number counts, for the docs.
    :param least: The smallest allowed number.
    :param most: The largest allowed number.
    :param choices: The allowed words, for strings.
    :param fallback: An environment variable of other tools that is used
        where ours isn't set.
    :param early: It is needed before the app is loaded, so ``app.config`` can't
        have it.
    :param size: A string that is a size of memory, see :func:`.size.parse`.
    :param words: What it may be instead.
    """

    help: str
    kind: type
    default: Value = None
    default_text: str = ""
    unit: str = ""
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    fallback: str | None = None
    early: bool = False
    size: bool = False
    words: tuple[str, ...] = ()

    @property
    def shown_default(self) -> str:
        """The default, for people."""
        if self.default_text:
            return self.default_text
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        if isinstance(self.default, float):
            return f"{self.default:g}"
        return str(self.default)

    def convert(self, value: object, name: str) -> Value:
        """Check one value from ``app.config``.

        :param value: Anything a configuration file may hold; numbers may be
            given as strings.
        :param name: How the error names the setting.
        :raises SettingsError: If it is not of the row's kind or out of range.
        """
        if value is None:
            return None
        if self.kind is bool:
            if not isinstance(value, bool):
                raise SettingsError(f"{name} must be True or False, not {value!r}.")
            return value
        if self.size:
            return self._size(value, name)
        if self.kind is str:
            if not isinstance(value, str):
                raise SettingsError(f"{name} must be a string, not {value!r}.")
            if self.choices and value not in self.choices:
                raise SettingsError(
                    f"{name} must be one of {', '.join(self.choices)}, not {value!r}."
                )
            return value
        return self._number(value, name)

    def _size(self, value: object, name: str) -> str:
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
            raise SettingsError(f"{name} {e}{words}, not {value!r}.") from None
        return text

    def _number(self, value: object, name: str) -> Value:
        what = "a whole number" if self.kind is int else "a number"
        number: int | float
        try:
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise ValueError
            number = self.kind(value)
            if number != number or (isinstance(value, float) and number != value):
                raise ValueError
        except (ValueError, OverflowError):
            raise SettingsError(f"{name} must be {what}, not {value!r}.") from None
        if self.least is not None and number < self.least:
            raise SettingsError(
                f"{name} must be at least {self.least:g}, not {value!r}."
            )
        if self.most is not None and number > self.most:
            raise SettingsError(f"{name} must be at most {self.most:g}, not {value!r}.")
        return number
