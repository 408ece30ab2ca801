"""Work that is done elsewhere: by another worker, or at its time."""

from __future__ import annotations

from integration.server import wait_for

from .base import app_path
from .base import APPS
from .base import kill_worker
from .base import ordeal
from .base import RECYCLED
from .base import SERVER
from .base import Trial
from .base import warnings
from .base import World
from .services import open_redis


def celery(world: World) -> None:
    """Tasks that views send are all done, once, and their results are seen."""
    for folder in ("queue", "queue-control", "results"):
        (world.folder / folder).mkdir()
    brokers = {"filesystem": "filesystem://"}
    redis = open_redis(world)
    if redis is not None:
        brokers["redis"] = redis
    for name, broker in brokers.items():
        _tasks(world, name, broker)


def _tasks(world: World, name: str, broker: str) -> None:
    done = world.folder / f"done-{name}"
    done.touch()
    env = {
        "BROKER": broker,
        "RESULTS": broker if name == "redis" else f"file://{world.folder}/results",
        "FOLDER": str(world.folder / "queue"),
        "DONE": str(done),
        "PYTHONPATH": str(APPS),
    }
    options = ["--concurrency", "1", "--pool", "solo", "--loglevel", "warning"]
    line = ["celery", "--app", "celery_app:tasks", "worker", *options]
    worker = world.beside(*line, env=env, log=f"celery-{name}.log")
    server = world.serve("celery_app", *RECYCLED, env=env)
    assert not warnings(server), warnings(server)
    task = server.get("/").json["task"]
    assert server.get(f"/result/{task}").json == {"result": 5}
    # Slowly: each task is a file, with a lock, for a broker that is a directory.
    seen = ordeal(server, gap=0.05).seen("id")
    wait_for(lambda: set(seen) <= set(done.read_text().split()))
    numbers = done.read_text().split()
    assert len(numbers) == len(set(numbers)), "tasks were done twice"
    worker.terminate()
    worker.wait()


def apscheduler(world: World) -> None:
    """Jobs run once each time, whatever becomes of the server."""
    early = world.serve("apscheduler_app", env={"IN_APP": "1"})
    assert any("an APScheduler runs" in one for one in warnings(early))
    early.stop()
    (world.folder / "jobs.db").unlink(missing_ok=True)
    line = ["flask", "--app", app_path("apscheduler_app"), "schedule"]
    scheduler = world.beside(*line)
    server = world.serve("apscheduler_app")
    assert not warnings(server), warnings(server)
    wait_for(lambda: len(server.get("/").json["numbers"]) > 2)
    before = len(server.get("/").json["numbers"])
    kill_worker(server)
    wait_for(lambda: len(server.get("/").json["numbers"]) > before + 2)
    seen = ordeal(server).report.answered[-1].told
    assert seen["pids"] == [scheduler.pid]
    assert seen["numbers"] == list(range(len(seen["numbers"])))


TRIALS = [
    Trial(
        "celery",
        "Celery",
        ("celery[redis]",),
        celery,
        [SERVER, "celery --app shop worker"],
    ),
    Trial(
        "apscheduler",
        "APScheduler",
        ("apscheduler<4",),
        apscheduler,
        [SERVER, "flask --app shop schedule"],
        "Works with a process of its own.",
        "Start the scheduler in a command of the app, not while the app is loaded.",
    ),
]
