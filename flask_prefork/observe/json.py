"""The snapshot as JSON: what ``/status.json`` says.

The observer renders it for each request, ``prefork-status`` parses it. The keys are
the fields' names, and tuples are arrays; so the page, which has no Python, reads
:mod:`.snapshot` for what they mean.
"""

from __future__ import annotations

import functools
import json
import typing as t
from dataclasses import is_dataclass

from .snapshot import Snapshot


def render(snapshot: Snapshot) -> bytes:
    """Write the snapshot, in one line of ASCII."""
    text = json.dumps(snapshot, default=vars, allow_nan=False, separators=(",", ":"))
    return text.encode("ascii")


def parse(data: bytes) -> Snapshot:
    """Read what :func:`render` wrote, here or in another version.

    Fields that aren't known are ignored, and those with a default may be
    missing.

    :raises ValueError: If it is something else.
    """
    try:
        value = json.loads(data, parse_constant=_refuse)
        return t.cast(Snapshot, _read(Snapshot, value, "the status"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(constant: str) -> t.NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


#: The fields' types of a class. To find them costs more than to read an object.
_hints = functools.cache(t.get_type_hints)


def _read(kind: t.Any, value: t.Any, name: str) -> t.Any:
    """Make of a value of JSON what a field wants.

    :param kind: The field's type.
    :param name: How the error names the field.
    """
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        return _read_object(kind, value, name)
    origin, args = t.get_origin(kind), t.get_args(kind)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(args[0], item, name) for item in value)
    if origin is dict and isinstance(value, dict):
        return {key: _read(args[1], item, name) for key, item in value.items()}
    if origin is t.Literal and value in args:
        return value
    if type(None) in args:
        return None if value is None else _read(args[0], value, name)
    if type(value) is kind or (kind is float and type(value) is int):
        return value
    raise ValueError(f"{name} is wrong")


def _read_object(kind: type, value: dict[str, t.Any], name: str) -> t.Any:
    hints = _hints(kind)
    known = {key: _read(hints[key], value[key], key) for key in hints if key in value}
    try:
        return kind(**known)
    except TypeError:
        raise ValueError(f"{name} is incomplete") from None
