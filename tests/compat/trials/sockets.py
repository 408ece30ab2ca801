"""Extensions that speak WebSocket."""

from __future__ import annotations

import json

from integration.server import APPS
from integration.server import wait_for
from integration.websockets import SOCKET_IO
from integration.websockets import SocketIO
from integration.websockets import websocket

from .base import ordeal
from .base import SERVER
from .base import Trial
from .base import warnings
from .base import World
from .services import open_redis
from .services import subscribers


def flask_sock(world: World) -> None:
    """Messages in both directions; the end of a connection when the app is reloaded."""
    server = world.serve(str(APPS / "sockets.py"))
    assert not warnings(server), warnings(server)
    with websocket(server, "/echo") as client:
        for message in ("ä" * 100_000, b"\x00" * 70_000, ""):
            client.send(message)
            assert client.receive() == message
        client.close()
    with websocket(server, "/echo") as client:
        client.send("before")
        assert client.receive() == "before"
        ordeal(server)
        # By the reload.
        assert client.receive_end()[0] == 1006


def flask_socketio(world: World) -> None:
    """Events, acknowledgements, and broadcasts to clients of all workers."""
    redis = open_redis(world)
    server = world.serve(
        "socketio_app", env={"MESSAGE_QUEUE": redis} if redis else None
    )
    assert not warnings(server), warnings(server)
    with websocket(server, SOCKET_IO) as one, websocket(server, SOCKET_IO) as other:
        first, second = SocketIO(one), SocketIO(other)
        pids = [_ask(first, "who", "1"), _ask(second, "who", "2")]
        # Each occupies a worker.
        assert pids[0] != pids[1]
        if redis:
            # Each worker does by a thread, and misses what was said before.
            wait_for(lambda: subscribers(redis, "flask-socketio") == 2)
        first.say("say", "hello", number="3")
        heard = {first.receive(), first.receive()}
        said = f'42["said",{{"text":"hello","pid":{pids[0]}}}]'
        assert heard == {said, '433["ok"]'}
        if redis:
            assert second.receive() == said
        else:
            # What reaches it is what its own worker says.
            second.say("say", "here", number="4")
            assert "here" in second.receive()
        ordeal(server)


def _ask(client: SocketIO, event: str, number: str) -> int:
    client.say(event, number=number)
    answer = client.receive()
    assert answer.startswith(f"43{number}"), answer
    (pid,) = json.loads(answer.removeprefix(f"43{number}"))
    return int(pid)


TRIALS = [
    Trial(
        "flask-sock",
        "Flask-Sock",
        ("flask-sock",),
        flask_sock,
        [SERVER],
        advice="Nothing. Each open WebSocket occupies a worker.",
    ),
    Trial(
        "flask-socketio",
        "Flask-SocketIO",
        ("flask-socketio", "redis", "simple-websocket"),
        flask_socketio,
        [SERVER],
        "Works with WebSockets.",
        "Let clients begin with a WebSocket. Broadcasts need a message queue.",
    ),
]
