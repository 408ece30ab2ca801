"""What holds for the whole suite."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import typing as t
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import patience
import programs
import pytest
from hypothesis import settings

from flask_prefork.system import cgroup

if t.TYPE_CHECKING:
    from observe.browser import Browser
    from observe.shown import Shown

# How long an example takes says more of the machine than of the code.
settings.register_profile("flask_prefork", deadline=None)
settings.load_profile("flask_prefork")

#: Rooms of modules that take long. They come first: at the end, one of them would keep
#: a single process busy while the others have nothing left to do.
LONG = ("faults", "integration")
#: What is on the path of servers that pause.
PAUSES = Path(__file__).parent / "pauses"
#: How many times as long tests wait then.
PATIENCE = 4.0
#: Set where every dependency of the suite was installed on purpose.
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed",
        type=int,
        metavar="NUMBER",
        help="The tests' order: the one of an earlier run again; 0 is as written.",
    )
    parser.addoption(
        "--pauses",
        type=int,
        metavar="SEED",
        help="Let the servers of long tests pause where processes hand something over.",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # A script's background jobs ignore these, and so would all that tests start.
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGQUIT: signal.SIG_DFL}
    for number, handler in usual.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    if config.option.pauses is not None:
        patience.factor = PATIENCE
    if config.option.seed is None:
        # Those who share the tests among them have to agree on their order.
        told = getattr(config, "workerinput", {}).get("seed")
        config.option.seed = told or random.randrange(1, 1_000_000)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: t.Any) -> None:
    """Tell a process of pytest-xdist's, before it starts."""
    node.workerinput["seed"] = node.config.option.seed


def pytest_report_header(config: pytest.Config) -> list[str]:
    header = [f"order: --seed={config.option.seed}"]
    if config.option.pauses is not None:
        header.append(f"pauses: --pauses={config.option.pauses}")
    if lacking := programs.lacking():
        header.append("tests will be skipped: " + "; ".join(lacking))
    return header


def pytest_terminal_summary(terminalreporter: t.Any) -> None:
    """A line for each reason for which tests were skipped."""
    skips: dict[str, int] = defaultdict(int)
    for report in terminalreporter.stats.get("skipped", ()):
        skips[_reason(report)] += 1
    if skips:
        terminalreporter.section("skipped tests")
    for reason, count in sorted(skips.items(), key=lambda skip: (-skip[1], skip[0])):
        tests = "1 test" if count == 1 else f"{count} tests"
        terminalreporter.line(f"skipped {tests}: {reason}")


def _reason(report: t.Any) -> str:
    """Why a test, or a module, was skipped, in one line."""
    if not isinstance(report.longrepr, tuple):
        return "no reason given"
    reason = str(report.longrepr[2]).removeprefix("Skipped: ")
    return " ".join(reason.split())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Shuffle: first the modules, then the tests of each, which share servers.

    Long modules stay before the others.
    """
    if not config.option.seed:
        return
    # Not the module's own generator, which hypothesis and tests may seed.
    order = random.Random(config.option.seed)
    modules = defaultdict(list)
    for item in items:
        modules[item.path].append(item)
    shuffled = list(modules.values())
    order.shuffle(shuffled)
    shuffled.sort(key=lambda tests: tests[0].path.parent.name not in LONG)
    for tests in shuffled:
        order.shuffle(tests)
    items[:] = [item for tests in shuffled for item in tests]


# Most tests need none of these, and what they import.


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    from observe.browser import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture
def browser(chrome: Browser) -> Browser:
    """A browser as if it was just started."""
    chrome.reset()
    return chrome


@pytest.fixture
def shown() -> Iterator[Shown]:
    """The observer's site, without a server behind it."""
    from observe.shown import Shown

    with Shown() as shown:
        yield shown


def _no_skip(report: t.Any) -> None:
    """Make a skip a failure.

    :param report: A test's or a collector's report. An expected failure is
        reported as skipped too, and stays what it is.
    """
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome, reason = "failed", _reason(report)
        report.longrepr = f"Nothing may be skipped when CI is set. Skipped: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    if IN_CI:
        _no_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    report = yield
    if IN_CI:
        _no_skip(report)
    return report


@pytest.fixture(autouse=True, scope="module")
def unmeasured_servers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let coverage measure the servers of those modules only that are marked.

    A measured server takes almost twice the time to start and to end. The tests' own
    process isn't measured then either: only clients and the like run there.
    """
    with contextlib.ExitStack() as stack:
        room = request.path.parent.name
        if room in LONG and not request.node.get_closest_marker("measured"):
            _dont_measure(stack.enter_context(pytest.MonkeyPatch.context()))
            stack.enter_context(_not_measured())
        yield


@contextlib.contextmanager
def _not_measured() -> Iterator[None]:
    """Pause the measurement of this process, if there is one."""
    coverage = sys.modules.get("coverage")
    measurement = coverage and coverage.Coverage.current()
    if measurement is None:
        yield
        return
    measurement.stop()
    try:
        yield
    finally:
        measurement.start()


@pytest.fixture(autouse=True, scope="module")
def pausing_servers(request: pytest.FixtureRequest) -> Iterator[None]:
    """With ``--pauses``, let the servers of long tests pause, see :mod:`handovers`."""
    with pytest.MonkeyPatch.context() as patch:
        seed = request.config.option.pauses
        wanted = seed is not None and request.path.parent.name in LONG
        if wanted and not request.node.get_closest_marker("without_pauses"):
            let_servers_pause(patch, f"{seed} {request.path.stem}")
        yield


def let_servers_pause(patch: pytest.MonkeyPatch, seed: str) -> None:
    """Let servers that are started from now on pause at each hand-over."""
    patch.setenv("PYTHONPATH", str(PAUSES), prepend=os.pathsep)
    patch.setenv("PAUSES_SEED", seed)


@pytest.fixture(autouse=True)
def pauses_of_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give a test's servers pauses of their own, or none if it is so marked."""
    with pytest.MonkeyPatch.context() as patch:
        if "PAUSES_SEED" in os.environ:
            seed = f"{os.environ['PAUSES_SEED']} {request.node.name}"
            patch.setenv("PAUSES_SEED", seed)
            if request.node.get_closest_marker("without_pauses"):
                patch.delenv("PAUSES_SEED")
        yield


@pytest.fixture
def unmeasured_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let coverage not measure the test's servers.

    What it writes at a process's end takes a part of the time that there is for that.
    """
    _dont_measure(monkeypatch)


def _dont_measure(patch: pytest.MonkeyPatch) -> None:
    for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
        patch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def clean_environment() -> Iterator[None]:
    """Check that a test leaves the environment as it was, for all that come later."""
    before = _environment()
    yield
    after = _environment()
    if after != before:
        os.environ.clear()
        os.environ.update(before)
        names = {name for name, _ in before.items() ^ after.items()}
        pytest.fail(f"The test leaves other variables behind: {sorted(names)}")


@pytest.fixture(autouse=True)
def nothing_to_release() -> Iterator[None]:
    """Forget what a test's objects have asked for, when the app forks.

    Their descriptors' numbers are others' by then, such as those of the pipe by which
    a later test's child answers.
    """
    yield
    if forks := sys.modules.get("flask_prefork.system.forks"):
        forks._callbacks.clear()


def _environment() -> dict[str, str]:
    # Of this one, pytest takes care itself.
    return {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the OOM killer's counter says, in its only element."""
    counter = [7]
    monkeypatch.setattr(cgroup, "oom_kills", lambda: counter[0])
    return counter
