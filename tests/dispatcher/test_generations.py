"""Generations that follow each other."""

from __future__ import annotations

import errno
import logging
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.ipc.stats import Part
from flask_prefork.system.log import base as logger

from .fake_generations import FakePool
from .fake_generations import FakeWorker
from .fake_generations import World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


# Reloads


def test_promotion(world: World) -> None:
    world.generations.reload()
    world.turn()
    assert world.numbers() == (1, 2, [])
    assert world.generations.parts() == [
        Part(1, "current", True),
        Part(2, "next", False),
    ]
    assert world[2].done == []
    world[2].loaded = True
    world.turn()
    assert world[2].done == ["open"]
    world.turn()
    assert world[2].done == ["open"], "only once"
    assert world.numbers() == (1, 2, []), "the old one serves until it's ready"
    world.serve(2)
    world.turn()
    assert world.numbers() == (2, None, [1])
    assert world.generations.reloads == 1
    assert world.generations.parts() == [
        Part(2, "current", True),
        Part(1, "retiring", True),
    ]
    assert world[2].done == ["open", "follows"]
    assert world[1].done == ["open", "retire"]
    assert world.service.said == ["reloading", "generation 2 serves"]


def test_an_app_that_can_not_be_loaded_is_not_said_to_serve(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With ``--reload`` its generation takes over, to show why."""
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO, logger.name)
    world.generations.reload()
    world[2].is_failure = True
    world.serve(2)
    world.turn()
    assert world.generations.current is world[2]
    assert world.service.said[-1] == "the app of generation 2 can't be loaded"
    (told,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert told.getMessage() == (
        "The app of generation 2 can't be loaded; its requests show the traceback until"
        " a file of the app is changed."
    )
    assert "Generation 2 serves" not in caplog.text
    world.end(1)
    caplog.clear()
    # It is mended.
    world.generations.reload()
    world.serve(3)
    world.turn()
    assert world.service.said[-1] == "generation 3 serves"
    assert "Generation 3 serves; the app can be loaded again." in caplog.messages


def test_who_leaves_is_let_go_when_all_is_done(world: World) -> None:
    world.generations.reload()
    world.serve(2)
    world.turn()
    world.turn()
    assert world[1].alive, "a worker of it is busy"
    world[1].pool = FakePool()
    world.turn()
    assert not world[1].alive
    assert world.numbers() == (2, None, [1]), "its zygote isn't gone yet"
    assert len(world.generations.parts()) == 1, "but there is nothing to see of it"
    world.end(1)
    assert world.numbers() == (2, None, [])
    assert world[1].done[-1] == "close"
    assert world.service.said[-1] == "generation 2 serves"


def test_places_on_the_scoreboard_are_never_shared(world: World) -> None:
    """Two generations of the same parity have the same places."""
    world.generations.reload()
    world.serve(2)
    world.turn()
    world.generations.reload()
    assert world.numbers() == (2, 3, [1])
    world[3].loaded = True
    world.turn()
    assert not world[3].opened, "a worker of generation 1 is busy"
    world[1].pool = FakePool()
    world.turn()
    assert not world[3].opened, "its zygote may still write"
    world.end(1)
    # At once, for nothing else may happen for long.
    assert world[3].opened


def test_a_reload_during_a_reload(world: World) -> None:
    world.generations.reload()
    world.generations.reload()
    # 3 would have the place of 1, which is the current one.
    assert world.numbers() == (1, 4, [2])
    assert world.killed == [1002]
    assert "give up" in world[2].done
    world[4].loaded = True
    world.turn()
    assert world.numbers() == (1, 4, []), "2 is gone"
    assert world[4].opened
    world.serve(4)
    world.turn()
    assert world.numbers() == (4, None, [1])
    assert world.service.said == ["reloading"] * 2 + ["generation 4 serves"]


@given(
    script=st.lists(st.sampled_from(["begin", "serve", "empty", "end"]), max_size=40)
)
def test_numbers_tell_generations_apart(script: list[str]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        world = World(monkeypatch)
        for step in script:
            line = world.generations
            if step == "begin":
                line.reload()
            elif step == "serve" and line.next is not None:
                world[line.next.number].loaded = True
                world.turn()
                if line.next.opened:
                    world.serve(line.next.number)
            elif step == "empty" and line.retiring:
                world[line.retiring[0].number].pool = FakePool()
            elif step == "end" and line.retiring and not line.retiring[0].alive:
                world.end(line.retiring[0].number)
            world.turn()
            numbers = [one.number for one in line.all()]
            assert len(numbers) == len(set(numbers))
            if line.next is not None:
                assert line.next.number == max(numbers)
                assert (line.next.number - line.current.number) % 2 == 1
            opened = [one.number % 2 for one in line.all() if one.opened]
            assert len(opened) == len(set(opened)), "they share places"


def test_an_app_that_can_not_be_loaded(world: World) -> None:
    world.generations.reload()
    world.end(2, 1 << 8)
    assert world.numbers() == (1, None, [])
    assert world.service.said == ["reloading", "generation 1 serves on"]
    assert world[1].done == ["open"], "it goes on"
    assert world.generations.deadline() is None, "nobody has asked for another try"
    world.generations.reload()
    assert world.numbers() == (1, 2, []), "nothing is left of the first 2"


def test_workers_that_never_become_idle(world: World) -> None:
    world.generations.reload()
    world[2].loaded = True
    world.turn()
    world[2].failed_to_start = True
    world.turn()
    assert world.generations.next is None
    assert world.killed == [1002]
    assert world.service.said == ["reloading", "generation 1 serves on"]
    world.turn()
    assert world.numbers() == (1, None, [])
    # Its zygote's end is no news any more.
    assert world.service.said[-1:] == ["generation 1 serves on"]


def test_a_changed_file(world: World) -> None:
    world[1].outdated = True
    world.turn()
    assert world.numbers() == (1, 2, [])
    world.turn()
    assert world.numbers() == (1, 2, []), "once is enough"


def test_no_process_can_be_started(world: World) -> None:
    """systemd hears of the end of a reload that never was."""
    world.refusal = OSError(errno.EAGAIN, "Resource temporarily unavailable")
    world.generations.reload()
    assert world.numbers() == (1, None, [])
    assert world.service.said == ["reloading", "generation 1 serves on"]
    assert world.generations.deadline() is None


# Promoted workers


def test_a_promoted_workers_generation_follows(world: World) -> None:
    world.generations.refork()
    assert world.numbers() == (1, None, []), "nobody has served enough"
    world[1].candidate = FakeWorker()
    world.generations.refork()
    assert world[1].done == ["open", "promote 3 for 2"]
    assert world.numbers() == (1, 2, [])
    assert world.generations.zygotes == {1001: world[1]}, "it isn't there yet"
    world[2].zygote.pid = 1002
    assert world.generations.zygotes == {1001: world[1], 1002: world[2]}
    world.serve(2)
    world.turn()
    assert world.numbers() == (2, None, [1])
    # For systemd, nothing is reloaded.
    assert world.service.said == ["generation 2 serves"]


def test_one_promotion_at_a_time(world: World) -> None:
    world[1].candidate = FakeWorker()
    world.generations.refork()
    world[1].candidate = FakeWorker()
    world.generations.refork()
    assert world.numbers() == (1, 2, [])
    assert world[1].done == ["open", "promote 3 for 2"]


def test_a_reload_goes_before_a_promotion(world: World) -> None:
    world[1].candidate = FakeWorker()
    world.generations.reload()
    world.generations.refork()
    assert world[1].done == ["open"]
    world.generations.abandon()
    world.generations.refork()
    assert world[1].done == ["open", "promote 3 for 4"], "2 has not gone yet"
    world.generations.reload()
    assert world.numbers()[1] == 6
    assert "give up" in world[4].done
    assert world.killed == [1002], "4 has no process yet"


def test_nobody_is_promoted_while_a_zygote_is_to_be_replaced(world: World) -> None:
    world[1].candidate = FakeWorker()
    world.generations.retry_at = 60.0
    world.generations.refork()
    assert world.numbers() == (1, None, [])


def test_a_promoted_worker_that_leaves_nothing_behind(world: World) -> None:
    world[1].candidate = FakeWorker()
    world.generations.refork()
    world[2].promotion_failed = True
    world.turn()
    assert world.numbers() == (1, None, [])
    assert world.killed == []
    assert world[2].done == ["give up", "close"]
    assert world[1].alive


def test_no_descriptors_for_a_promotion(world: World) -> None:
    world.refusal = OSError(errno.EMFILE, "Too many open files")
    world[1].candidate = FakeWorker()
    world.generations.refork()
    assert world.numbers() == (1, None, [])
    world.refusal = None
    world.generations.refork()
    assert world.numbers() == (1, None, []), "not in each turn"
    world.now += 1.0
    world.generations.refork()
    assert world.numbers() == (1, 2, []), "later"


# Dead zygotes


def test_a_dead_zygote_is_replaced_at_once(world: World) -> None:
    world.end(1, signal.SIGKILL)
    assert world.numbers() == (1, 2, [])
    assert not world[1].alive
    assert world[1].pool == ["idle"], "its workers go on"
    world.serve(2)
    world.turn()
    assert world.numbers() == (2, None, [1])
    world[1].pool = FakePool()
    world.turn()
    assert world.numbers() == (2, None, [])


def test_pauses_between_tries_double_up_to_a_limit(world: World) -> None:
    world.end(1, signal.SIGKILL)
    pauses = []
    for _ in range(10):
        following = world.generations.next
        assert following is not None
        world.end(following.number, 1 << 8)
        at = world.generations.deadline()
        assert at is not None
        pauses.append(at - world.now)
        world.now = at - 0.01
        world.turn()
        assert world.generations.next is None, "too early"
        world.now = at
        world.turn()
    assert pauses[:5] == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert set(pauses[5:]) == {30.0}


def test_a_success_ends_the_pauses(world: World) -> None:
    world.end(1, signal.SIGKILL)
    for _ in range(3):
        following = world.generations.next
        assert following is not None
        world.end(following.number, 1 << 8)
        world.now = world.generations.deadline() or 0.0
        world.turn()
    following = world.generations.next
    assert following is not None
    world.serve(following.number)
    world.turn()
    world.end(following.number, signal.SIGKILL)
    assert world.generations.next is not None, "at once again"


def test_somebody_asks_before_the_pause_is_over(world: World) -> None:
    world.end(1, signal.SIGKILL)
    world.end(2, 1 << 8)
    assert world.generations.deadline() is not None
    world.generations.reload()
    assert world.generations.next is not None
    assert world.generations.deadline() is None


def test_the_zygote_dies_while_the_next_one_loads(world: World) -> None:
    world.generations.reload()
    world.end(1, signal.SIGKILL)
    assert world.numbers() == (1, 2, []), "help is on its way"
    world.end(2, 1 << 8)
    world.turn()
    assert world.generations.next is not None, "nobody else would ask"


def test_a_process_that_can_not_be_started_is_tried_again(world: World) -> None:
    world.refusal = OSError(errno.ENOMEM, "Cannot allocate memory")
    world.end(1, signal.SIGKILL)
    assert world.generations.next is None
    at = world.generations.deadline()
    assert at is not None
    assert at > world.now
    world.refusal = None
    world.now = at
    world.turn()
    assert world.generations.next is not None


def test_when_the_server_goes_down_nothing_is_due(world: World) -> None:
    """Else the loop would turn for a try that is never made."""
    world.end(1, signal.SIGKILL)
    world.end(2, 1 << 8)
    assert world.generations.deadline() is not None
    world.generations.abandon()
    assert world.generations.deadline() is None


def test_going_down_during_a_reload(world: World) -> None:
    world.generations.reload()
    world.generations.abandon()
    assert world.numbers() == (1, None, [2])
    assert world.killed == [1002]
    world.generations.close()
    assert world[1].done[-1] == world[2].done[-1] == "close"


# What one is told of the others


def test_others_count_but_for_who_comes(world: World) -> None:
    world.generations.reload()
    world.serve(2)
    world.turn()
    world.turn()
    world.generations.reload()
    for number, size in enumerate((5, 3, 2), 1):
        world[number].pool = FakePool(["idle"] * size)
        world[number].memory = 10**number
        world[number].done.clear()
    assert world.numbers() == (2, 3, [1])
    world.generations.step(1.0, 7)
    assert world[1].done == ["0 wait, 5 others with 1100"]
    assert world[2].done == ["7 wait, 7 others with 1010"]
    assert world[3].done == ["0 wait, 0 others with 0"]


def test_who_serves_replaces_workers_if_there_are_any_to_replace(world: World) -> None:
    world.generations.reload()
    world[1].done.clear()
    world[2].pool = FakePool(["starting"] * 2)
    world[2].memory = 50
    world[2].pool.recycles = True
    world.generations.recycle(1.0)
    assert world[1].done == []
    world[1].pool.recycles = True
    world.generations.recycle(1.0)
    assert world[1].done == ["recycle, 2 others with 50"]
    assert world[2].done == []


# How many there may be


class Finishing(FakePool):
    """Of its workers two only finish."""

    @property
    def total(self) -> int:
        return len(self) - 2


def test_how_many_workers_there_may_be(world: World) -> None:
    settings = world[1].settings
    most = settings.max_workers
    assert most > 1
    assert world.generations.max_workers == most
    world[1].pool = Finishing(["idle", "finishing", "finishing"])
    assert world.generations.max_workers == most + 2, "they are in nobody's way"
    world.generations.reload()
    world.turn()
    most_of_both = 2 * most + 2
    assert world.generations.max_workers == most_of_both, "the next one has its own"
    world.serve(2)
    world[2].pool = FakePool(["idle"] * most)
    world[1].pool = Finishing(["busy"] * (most + 2))
    world.turn()
    assert world.numbers() == (2, None, [1])
    assert world.generations.max_workers == 2 * most + 2, "all are still there"
    world[1].pool = Finishing(["finishing"] * 2)
    world.turn()
    assert world.generations.max_workers == most + 2
