"""Times as text, such as 500ms, 30s, 5m or 1h. Pure.

The settings that are times are read by it, and those that the command line and the
configuration give for single routes.
"""

from __future__ import annotations

import re

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: As ``float()`` has it, but nothing that isn't a number.
_TIME = re.compile(
    r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?) ?([a-z]*)\s*",
    re.IGNORECASE | re.ASCII,
)
#: What is told whoever wrote no time.
FORMS = "a number of seconds, or a time such as 500ms, 30s, 5m or 1h"


def parse(text: str) -> float:
    """Read a time.

    :param text: A number of seconds; or one of ``ms``, ``s``, ``m``, ``h`` or ``d``,
        milliseconds to days of 24 hours.
    :return: Seconds.
    :raises ValueError: It is no time.
    """
    found = _TIME.fullmatch(text)
    unit = found and _UNITS.get(found[2].lower())
    if found is None or unit is None:
        raise ValueError(f"must be {FORMS}")
    return float(found[1]) * unit
