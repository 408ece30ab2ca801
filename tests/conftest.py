"""What holds for the whole suite."""

from __future__ import annotations

import os
import random
import signal
import typing as t
from collections import defaultdict
from collections.abc import Iterator

import pytest
from hypothesis import settings

if t.TYPE_CHECKING:
    from observe.browser import Browser
    from observe.shown import Shown

# How long an example takes says more of the machine than of the code.
settings.register_profile("flask_prefork", deadline=None)
settings.load_profile("flask_prefork")

#: Rooms of modules that take long. They come first: at the end, one of them would keep
#: a single process busy while the others have nothing left to do.
LONG = ("faults", "integration")
#: Set where every dependency of the suite was installed on purpose.
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed",
        type=int,
        metavar="NUMBER",
        help="The tests' order: the one of an earlier run again; 0 is as written.",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # A script's background jobs ignore these, and so would all that tests start.
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGQUIT: signal.SIG_DFL}
    for number, handler in usual.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    if config.option.seed is None:
        # Those who share the tests among them have to agree on their order.
        told = getattr(config, "workerinput", {}).get("seed")
        config.option.seed = told or random.randrange(1, 1_000_000)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: t.Any) -> None:
    """Tell a process of pytest-xdist's, before it starts."""
    node.workerinput["seed"] = node.config.option.seed


def pytest_report_header(config: pytest.Config) -> str:
    return f"order: --seed={config.option.seed}"


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
        reason = report.longrepr[2] if report.longrepr else "no reason given"
        report.outcome = "failed"
        report.longrepr = f"Nothing may be skipped when CI is set. {reason}"


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

    A measured server takes almost twice the time to start and to end.
    """
    with pytest.MonkeyPatch.context() as patch:
        room = request.path.parent.name
        if room in LONG and not request.node.get_closest_marker("measured"):
            _dont_measure(patch)
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


def _environment() -> dict[str, str]:
    # Of this one, pytest takes care itself.
    return {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
