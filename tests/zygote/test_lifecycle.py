"""Which hooks and signals of the app are called when, and what their failure does."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import typing as t
from asyncio import CancelledError
from collections.abc import Iterator

import pytest
from flask import current_app
from flask import Flask

from flask_prefork import current_worker
from flask_prefork import pool_resized
from flask_prefork import Prefork
from flask_prefork import reloaded
from flask_prefork import worker_exited
from flask_prefork import worker_exiting
from flask_prefork import worker_started
from flask_prefork.ipc.states import Reason
from flask_prefork.system.log import base as logger
from flask_prefork.worker import at_exit
from flask_prefork.zygote import fork_checks
from flask_prefork.zygote import hooks
from flask_prefork.zygote.fork_pipes import Own
from flask_prefork.zygote.lifecycle import Lifecycle


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is a worker for the length of a test at most."""
    monkeypatch.setattr(hooks, "_worker", None)


@pytest.fixture
def app() -> Flask:
    return Flask(__name__)


@pytest.fixture
def prefork(app: Flask) -> Prefork:
    return Prefork(app)


@pytest.fixture
def life(app: Flask, prefork: Prefork) -> Lifecycle:
    return Lifecycle(app, 3)


@pytest.fixture
def log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.LogCaptureFixture]:
    """The server's log, wherever it usually goes."""
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger.name):
        yield caplog
    logger.removeHandler(caplog.handler)


# The worker's side


def test_hooks_are_called_in_order_in_the_apps_context(
    app: Flask, prefork: Prefork, life: Lifecycle
) -> None:
    calls = []

    def note(name: str) -> t.Callable[[], None]:
        return lambda: calls.append((name, current_app.name, current_worker.slot))

    for hook in (prefork.after_fork, prefork.before_exit):
        hook(note("first"))
        hook(note("second"))
    assert life.begin(4, lambda: 0)
    life.end(4, os.getpid())
    names = [
        name for name, app_name, slot in calls if (app_name, slot) == (app.name, 4)
    ]
    assert names == ["first", "second", "second", "first"]


def test_signals_of_a_worker(app: Flask, life: Lifecycle) -> None:
    told = []

    def note(sender: Flask, **news: t.Any) -> None:
        told.append((sender, news))

    with worker_started.connected_to(note), worker_exiting.connected_to(note):
        life.begin(4, lambda: 0)
        life.end(4, os.getpid())
    assert told == [(app, {"slot": 4, "generation": 3})] * 2


@pytest.mark.parametrize(
    "error",
    [LookupError("lost"), SystemExit(3), KeyboardInterrupt(), CancelledError()],
)
def test_a_failed_hook(
    prefork: Prefork,
    life: Lifecycle,
    log: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    calls = []

    @prefork.after_fork
    def connect() -> None:
        raise error

    prefork.after_fork(lambda: calls.append("later"))
    with worker_started.connected_to(lambda sender, **_: calls.append("started")):
        assert not life.begin(0, lambda: 0)
    assert not calls
    (record,) = log.records
    assert "The hook after_fork" in record.getMessage()
    assert connect.__qualname__ in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_a_hook_without_a_name(
    prefork: Prefork, life: Lifecycle, log: pytest.LogCaptureFixture
) -> None:
    class Hook:
        def __call__(self) -> None:
            raise LookupError

        def __repr__(self) -> str:
            return "<my hook>"

    prefork.after_fork(Hook())
    assert not life.begin(0, lambda: 0)
    assert "<my hook>" in log.text


@pytest.fixture
def run_coroutines(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the app run coroutines without Flask's extra for it."""

    def run(function: t.Any) -> t.Any:
        return lambda *args, **news: asyncio.run(function(*args, **news))

    monkeypatch.setattr(app, "async_to_sync", run)


@pytest.mark.usefixtures("run_coroutines")
def test_coroutines(app: Flask, prefork: Prefork, life: Lifecycle) -> None:
    """The app runs them, as it does views."""
    calls = []

    @prefork.after_fork
    async def connect() -> None:
        calls.append(current_app.name)

    async def hear(sender: Flask, **news: t.Any) -> None:
        calls.append("heard")

    with worker_started.connected_to(hear):
        assert life.begin(0, lambda: 0)
    assert calls == [app.name, "heard"]


@pytest.mark.usefixtures("run_coroutines")
def test_a_failed_coroutine(
    prefork: Prefork, life: Lifecycle, log: pytest.LogCaptureFixture
) -> None:
    @prefork.after_fork
    async def connect() -> None:
        raise LookupError("lost")

    assert not life.begin(0, lambda: 0)
    assert connect.__qualname__ in log.text


def test_a_failed_receiver(life: Lifecycle, log: pytest.LogCaptureFixture) -> None:
    def fail(sender: Flask, **news: t.Any) -> None:
        raise LookupError("lost")

    with worker_started.connected_to(fail):
        assert not life.begin(0, lambda: 0)
    assert "A receiver of worker-started failed" in log.text
    assert "LookupError: lost" in log.text


def test_every_hook_is_called_at_the_end(
    prefork: Prefork, life: Lifecycle, log: pytest.LogCaptureFixture
) -> None:
    calls = []
    prefork.before_exit(lambda: calls.append("last"))

    @prefork.before_exit
    def flush() -> None:
        raise LookupError("lost")

    life.end(0, os.getpid())
    assert calls == ["last"]
    assert "flush" in log.text


def test_a_child_of_the_app_has_no_end(prefork: Prefork, life: Lifecycle) -> None:
    calls = []
    prefork.before_exit(lambda: calls.append("end"))
    life.end(0, -1)
    assert not calls


# The zygote's side


def test_before_fork(
    prefork: Prefork, life: Lifecycle, log: pytest.LogCaptureFixture
) -> None:
    calls = []
    prefork.before_fork(lambda: calls.append(bool(current_worker)))
    assert life.before_fork()
    assert calls == [False]
    prefork.before_fork(lambda: sys.exit(1))
    assert not life.before_fork()
    assert "The hook before_fork" in log.text


@pytest.mark.parametrize("follows", [True, False])
def test_ready(app: Flask, prefork: Prefork, life: Lifecycle, follows: bool) -> None:
    calls: list[t.Any] = []
    prefork.when_ready(lambda: calls.append("ready"))

    def note(sender: Flask, **news: t.Any) -> None:
        calls.append((sender, news))

    with reloaded.connected_to(note):
        life.ready(follows)
    assert calls == ["ready", *([(app, {"generation": 3})] if follows else [])]


def test_resized(app: Flask, life: Lifecycle) -> None:
    calls = []

    def note(sender: Flask, workers: int) -> None:
        calls.append((sender, workers))

    with pool_resized.connected_to(note, sender=app):
        life.resized(7)
    assert calls == [(app, 7)]


def test_an_exit(app: Flask, life: Lifecycle) -> None:
    calls = []

    def note(sender: Flask, **news: t.Any) -> None:
        calls.append((sender, news))

    with worker_exited.connected_to(note, sender=app):
        life.worker_exited(2, 42, Reason.TIMEOUT, -9)
    news = {"slot": 2, "pid": 42, "generation": 3, "reason": "timeout", "status": -9}
    assert calls == [(app, news)]


def test_the_end_of_a_generation(
    prefork: Prefork, life: Lifecycle, log: pytest.LogCaptureFixture
) -> None:
    calls = []
    prefork.when_ended(lambda: calls.append(current_app.name))

    @prefork.when_ended
    def close() -> None:
        calls.append("first")
        raise LookupError("lost")

    life.ended()
    assert not calls, "it has never served"
    life.ready(follows=False)
    following = life.of(4)
    following.ended()
    assert not calls, "nor has this one"
    life.ended()
    assert calls == ["first", life.app.name]  # type: ignore[union-attr]
    assert "The hook when_ended" in log.text


def test_receivers_of_another_app_are_not_called(life: Lifecycle) -> None:
    calls = []
    with pool_resized.connected_to(lambda *_: calls.append(1), sender=Flask("other")):
        life.resized(7)
    assert not calls


def test_without_an_app(log: pytest.LogCaptureFixture) -> None:
    calls = []

    def note(*args: t.Any, **news: t.Any) -> None:
        calls.append(news)

    life = Lifecycle(lambda environ, start_response: [], 1)
    with worker_started.connected_to(note), pool_resized.connected_to(note):
        assert life.before_fork()
        life.prepare([], Own())
        assert life.begin(0, lambda: 0)
        life.ready(True)
        life.resized(1)
        life.end(0, os.getpid())
    assert not calls
    assert not log.records


def test_a_failed_check_before_the_fork(
    life: Lifecycle, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The zygote forks all the same."""

    def fail(*args: t.Any) -> t.Any:
        raise LookupError("lost")

    monkeypatch.setattr(fork_checks, "check", fail)
    life.prepare([], Own())
    assert "LookupError: lost" in log.text


def test_a_worker_that_can_not_be_repaired_does_not_serve(
    prefork: Prefork,
    life: Lifecycle,
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(app: Flask) -> None:
        raise LookupError("lost")

    calls = []
    prefork.after_fork(lambda: calls.append("after_fork"))
    monkeypatch.setattr(fork_checks, "renew", fail)
    assert not life.begin(0, lambda: 0)
    assert not calls
    assert "LookupError: lost" in log.text


# Promotion


def test_another_generation_has_the_same_hooks(
    prefork: Prefork, life: Lifecycle
) -> None:
    calls = []
    prefork.when_ready(lambda: calls.append("ready"))
    following = life.of(4)
    following.ready(follows=False)
    assert (life.generation, following.generation) == (3, 4)
    assert calls == ["ready"]


def test_a_worker_without_threads_may_be_promoted(life: Lifecycle) -> None:
    assert life.prepare_promotion(0, time.monotonic() + 10)


def test_a_worker_with_a_thread_may_not_be_promoted(
    life: Lifecycle, log: pytest.LogCaptureFixture
) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="collector", daemon=True)
    thread.start()
    assert not life.prepare_promotion(2, time.monotonic() + 10)
    end.set()
    thread.join()
    assert f"Worker 2 (pid {os.getpid()}) can't become the zygote" in log.text
    assert "'collector'" in log.text


def test_a_worker_with_a_process_may_not_be_promoted(
    life: Lifecycle, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_exit, "processes", lambda: ["'pool' (pid 7)"])
    assert not life.prepare_promotion(2, time.monotonic() + 10)
    assert "processes that the app has started: 'pool' (pid 7)." in log.text


def test_a_worker_whose_connections_can_not_be_closed_may_not_be_promoted(
    life: Lifecycle, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(app: Flask) -> None:
        raise LookupError("lost")

    monkeypatch.setattr(fork_checks, "close_connections", fail)
    assert not life.prepare_promotion(2, time.monotonic() + 10)
    assert "LookupError: lost" in log.text
