"""Settings that can't be together or not on this system, and defaults that adapt.

``table.py`` calls :func:`check` and :func:`derive`, in this order, once each value is
right for itself.
"""

from __future__ import annotations

import typing as t
from collections.abc import Iterator
from collections.abc import Mapping

from ..system import pidfd
from . import addresses
from . import size
from .keys import option_name
from .spec import SettingsError

#: Pairs of which the first can't be above the second.
_ORDER = (
    ("min_idle", "max_idle"),
    ("min_idle", "max_workers"),
    ("min_workers", "max_workers"),
)
#: What ``buffer_total`` bounds.
_BUFFERS = ("buffer_body", "buffer_response")

Values = Mapping[str, t.Any]
#: How to speak of the settings that aren't defaults, by their names.
Given = Mapping[str, str]


def check(values: Values, given: Given, errors: list[SettingsError]) -> None:
    """Find what can't be together.

    Only given values can contradict each other: a default adapts.

    :param values: The settings by name.
    :param given: The names of those that aren't defaults.
    :param errors: Where what is wrong is added, in a sentence each.
    """
    for find in _ALL:
        errors += map(SettingsError, find(values, given))


def check_addresses(values: Values, given: Given) -> None:
    """Check the addresses other than the app's.

    :raises SettingsError: If one of them is invalid.
    """
    for sentence in _addresses(values, given):
        raise SettingsError(sentence)


def _order(values: Values, given: Given) -> Iterator[str]:
    for low, high in _ORDER:
        if low in given and high in given and values[low] > values[high]:
            yield (
                f"{given[low]} ({values[low]}) is above {given[high]} ({values[high]});"
                f" give a {given[low]} of {values[high]} or less,"
                f" or a {given[high]} of {values[low]} or more."
            )


def _jitter(values: Values, given: Given) -> Iterator[str]:
    if given.get("max_requests_jitter") and not values["max_requests"]:
        yield (
            f"{given['max_requests_jitter']} has no effect without a"
            f" {option_name('max_requests')} above 0."
        )


def _memory(values: Values, given: Given) -> Iterator[str]:
    for name in ("max_worker_memory", "memory_budget"):
        if name in given and values[name] != "0":
            from ..system import smaps

            if smaps.read() is None:
                yield (
                    f"{given[name]} needs /proc/self/smaps_rollup, which this system"
                    " doesn't have; Linux does since 4.14."
                )


def _buffers(values: Values, given: Given) -> Iterator[str]:
    total = values["buffer_total"]
    if "buffer_total" not in given or not size.parse(total):
        return
    for name in _BUFFERS:
        if name in given and size.parse(values[name]) > size.parse(total):
            yield (
                f"{given[name]} ({values[name]}) is above {given['buffer_total']}"
                f" ({total}), which all buffers share; give a {given[name]} of {total}"
                f" or less, or a {given['buffer_total']} of {values[name]} or more."
            )


def _refork(values: Values, given: Given) -> Iterator[str]:
    after, most = values["refork_after"], values["max_requests"]
    if after and not pidfd.are_available():
        yield (
            f"{given['refork_after']} needs pidfd_open(2), which this system doesn't"
            " have or doesn't allow; Linux has it since 5.3."
        )
    if after and most and after >= most:
        yield (
            f"{given['refork_after']} ({after}) has no effect, because workers are"
            f" replaced by {given['max_requests']} ({most}) before; give a smaller one."
        )


def _log(values: Values, given: Given) -> Iterator[str]:
    for name in ("log_level", "error_logfile"):
        if name in given and "log_config" in given:
            yield (
                f"{given[name]} has no effect with {given['log_config']}, which says"
                " what is logged and where; give only one of them."
            )


def _addresses(values: Values, given: Given) -> Iterator[str]:
    found = {}
    for name in ("admin", "agent_check"):
        if values[name] is not None:
            try:
                found[name] = addresses.parse(values[name])
            except ValueError as e:
                yield f"{given[name]}: {e}."
    agent = found.get("agent_check")
    if agent is None:
        return
    if agent.path:
        yield (
            f"{given['agent_check']} must be PORT or HOST:PORT, because HAProxy"
            " connects to its agents by TCP."
        )
    elif "admin" in found and found["admin"].clashes(agent):
        yield f"{given['agent_check']} must have another port than {given['admin']}."


def _token(values: Values, given: Given) -> Iterator[str]:
    token = values["admin_token"]
    if token is None:
        return
    # What a header can carry as it is.
    if not (token and token.isascii() and token.isprintable() and " " not in token):
        yield (
            f"{given['admin_token']} must be of printable ASCII characters without"
            " spaces."
        )
    if values["admin"] is None:
        yield f"{given['admin_token']} has no effect without {option_name('admin')}."


def derive(values: dict[str, t.Any], given: Given) -> None:
    """Let defaults adapt to the other settings.

    :param values: The settings by name, which are changed.
    :param given: The names of those that aren't defaults.
    """
    if "min_idle" not in given:
        bounds = [values[k] for k in ("max_workers", "max_idle") if k in given]
        values["min_idle"] = min([values["min_idle"], *bounds])
    if values["max_workers"] is None:
        needed = max(values["min_idle"], values["min_workers"] or 0)
        values["max_workers"] = max(40, needed)
    if values["max_idle"] is None:
        most = max(values["max_workers"], values["min_idle"])
        values["max_idle"] = min(2 * values["min_idle"], most)
    if values["min_workers"] is None:
        values["min_workers"] = values["min_idle"]
    total = values["buffer_total"]
    if "buffer_total" not in given:
        buffers = (values[name] for name in _BUFFERS)
        values["buffer_total"] = max(total, *buffers, key=size.parse)
    elif size.parse(total):
        for name in _BUFFERS:
            values[name] = min(values[name], total, key=size.parse)
    if values["backlog"] is None:
        values["backlog"] = _longest_accept_queue()


def _longest_accept_queue() -> int:
    """How many connections the kernel lets wait at most (``listen(2)``)."""
    try:
        with open("/proc/sys/net/core/somaxconn", encoding="utf-8") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 2**31 - 1  # it lowers what it is given


_ALL = (_order, _jitter, _memory, _buffers, _refork, _log, _addresses, _token)
