"""Prometheus's multiprocess mode, with a file for each slot instead of each pid.

With ``PROMETHEUS_MULTIPROC_DIR`` set, ``prometheus_client`` keeps metrics in
files that are named after the process that writes them, a set for each pid that
there ever was. Workers come and go here, so the files are named after the
worker's place: its generation's parity and its slot, which no two processes have
at once. The next worker in a place goes on with the counters it finds. There
are at most twice max-workers files of a kind.

Servers that don't set the variable don't pay for the library.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import typing as t
from pathlib import Path

from ..system.log import logger

P = t.ParamSpec("P")

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

#: The process whose files are named after a place, and their name.
_named: tuple[int, str] = (0, "")
#: Beginnings of the names of files that the app has made while it was loaded, and
#: how long they were.
_kinds: dict[str, int] = {}
#: The library's class of values that asks :func:`_identify`.
_value_class: type | None = None


def place(generation: int, slot: int) -> str:
    """What a worker's files are named after; the library wants no ``_`` in it."""
    return f"{generation % 2}-{slot}"


def _identify() -> str | int:
    """Name this process's files (``process_identifier`` of MultiProcessValue)."""
    pid, name = _named
    # A process that the app forks is nobody of ours.
    return name if pid == os.getpid() else os.getpid()


def _rename(name: str) -> None:
    global _named
    _named = (os.getpid(), name)


def _install() -> None:
    """Let the library name the files of the app's metrics by :func:`_identify`."""
    global _value_class
    if os.environ.get(VARIABLE):
        # The app may import it later, in a worker.
        with contextlib.suppress(ImportError):
            values: t.Any = importlib.import_module("prometheus_client.values")
            values.ValueClass = _value_class = values.MultiProcessValue(_identify)


def _is_installed() -> bool:
    values: t.Any = sys.modules["prometheus_client.values"]
    return values.ValueClass is _value_class


def _directory() -> Path | None:
    """Where the files are, if the app has such metrics."""
    path = os.environ.get(VARIABLE)
    if not path or sys.modules.get("prometheus_client.values") is None:
        return None
    return Path(path)


def _or_warn(function: t.Callable[P, None]) -> t.Callable[P, None]:
    """Go on without what can't be written: a full disk is no reason not to serve."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except OSError as e:
            logger.warning("Prometheus's metrics will be incomplete: %s.", e)

    return call


@_or_warn
def prepare(generation: int) -> None:
    """In the zygote, before the first fork: no worker of its parity lives.

    What the app has counted while it was loaded becomes the first worker's, and
    live gauges of workers that died with an earlier server go.
    """
    directory = _directory()
    if directory is None:
        return
    if not _is_installed():
        logger.warning(
            "Prometheus's metrics will be incomplete: %s must be set before"
            " prometheus_client is imported.",
            VARIABLE,
        )
        return
    # Where this process was promoted, the worker's files are the next worker's.
    former = os.getpid()
    _rename(f"zygote-{generation % 2}")
    parities = (0, 1) if generation == 1 else (generation % 2,)
    for parity in parities:
        _remove(directory, f"gauge_live*_{parity}-*.db")
        _remove_empty(directory, f"*_{parity}-*.db")
    for path in sorted(directory.glob(f"*_{former}.db")):
        kind = path.name.removesuffix(f"_{former}.db")
        _kinds[kind] = path.stat().st_size
        if not kind.startswith("gauge_live"):
            _add(path, directory / f"{kind}_{place(generation, 0)}.db")
        path.unlink()


@contextlib.contextmanager
def loading(is_kept: bool = True) -> t.Iterator[None]:
    """In the zygote, while the app is loaded.

    The library makes values of the class ``values.ValueClass``, so that is replaced
    before the app makes metrics. If the app can't be loaded, what it has counted is
    removed: each attempt would leave files of its own.

    :param is_kept: Keep what the app has counted; else nothing is to be served.
    """
    _install()
    try:
        yield
        if not is_kept:
            _discard()
    except BaseException:
        _discard()
        raise


def _discard() -> None:
    """Remove what this process has counted."""
    directory = _directory()
    if directory is not None:
        with contextlib.suppress(OSError):
            _remove(directory, f"*_{os.getpid()}.db")


@_or_warn
def enter(generation: int, slot: int) -> None:
    """In a worker, before it counts anything."""
    directory = _directory()
    if directory is not None:
        name = place(generation, slot)
        _rename(name)
        remove_dead(generation, slot)
        for kind, size in _kinds.items():
            _make(directory / f"{kind}_{name}.db", size)


@_or_warn
def remove_dead(generation: int, slot: int) -> None:
    """Take the live gauges of a worker that is dead out of the metrics.

    As ``prometheus_client.multiprocess.mark_process_dead`` does for a pid. A file that
    it has left empty goes, too: who shows the metrics can't read one.
    """
    directory = _directory()
    if directory is not None:
        name = place(generation, slot)
        _remove(directory, f"gauge_live*_{name}.db")
        _remove_empty(directory, f"*_{name}.db")


def _remove(directory: Path, pattern: str) -> None:
    for path in directory.glob(pattern):
        path.unlink(missing_ok=True)


def _remove_empty(directory: Path, pattern: str) -> None:
    """Remove files whose writer has died while it made them."""
    for path in directory.glob(pattern):
        if not path.stat().st_size:
            path.unlink()


def _make(path: Path, size: int) -> None:
    """Make a file without values, unless it is there.

    The library's own way leaves it empty for a moment, in which a scrape fails; so
    it gets its name when it is whole.
    """
    if path.exists():
        return
    draft = path.with_suffix(".new")
    with draft.open("wb") as file:
        file.truncate(size)
    draft.rename(path)


def _add(source: Path, target: Path) -> None:
    """Add a file's counters to another's, and copy its gauges.

    Neither file is written by a process now.
    """
    files: t.Any = sys.modules["prometheus_client.mmap_dict"].MmapedDict
    gauges = source.name.startswith("gauge_")
    sums = files(str(target))
    try:
        for key, value, stamp, _ in files.read_all_values_from_file(str(source)):
            before, _ = sums.read_value(key)
            if gauges and value:
                sums.write_value(key, value, stamp)
            elif not gauges:
                sums.write_value(key, before + value, stamp)
    finally:
        sums.close()
