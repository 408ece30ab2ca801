"""The line for HAProxy, and who is told it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import typing as t
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.dispatcher import service
from flask_prefork.ipc.listener import BindError
from flask_prefork.observe.agent import Agent
from flask_prefork.observe.agent import idle_capacity
from flask_prefork.observe.agent import line
from flask_prefork.observe.snapshot import GenerationView
from flask_prefork.observe.snapshot import Snapshot
from flask_prefork.observe.snapshot import WorkerView
from flask_prefork.settings.addresses import Address
from flask_prefork.settings.table import resolve
from flask_prefork.settings.table import SettingsError
from flask_prefork.system.systemd import Notifier

from .snapshots import SAMPLE
from .snapshots import snapshots


def server(
    letters: str, max_workers: int = 8, retiring: str = "", **others: t.Any
) -> Snapshot:
    """A snapshot of a server with these workers."""
    views = []
    for number, role, states in ((2, "current", letters), (1, "retiring", retiring)):
        workers = tuple(
            WorkerView(slot, state, 1000 + slot, 1.0, 0, 0)
            for slot, state in enumerate(states)
            if state != "."
        )
        if workers:
            views.append(GenerationView(number, role, states, workers))
    return replace(
        SAMPLE,
        generations=tuple(views),
        max_workers=max_workers,
        **{"waiting": 0, "ready": True, **others},
    )


@pytest.mark.parametrize(
    ("letters", "retiring", "queue", "percent"),
    [
        pytest.param("IIII", "", 0, 100, id="wholly idle"),
        pytest.param("BII", "", 0, 87, id="rounded down"),
        pytest.param("BBBBII", "", 0, 50, id="half"),
        pytest.param("SS", "", 0, 100, id="about to be idle"),
        pytest.param("BBSS", "", 0, 75, id="grows"),
        pytest.param("B.I", "", 0, 87, id="an empty slot"),
        pytest.param("OII", "", 0, 87, id="ordered"),
        pytest.param("OII", "", 1, 87, id="ordered to who waits"),
        pytest.param("OII", "", 3, 62, id="more wait than are ordered"),
        pytest.param("BBIR", "", 0, 62, id="retires after its request"),
        pytest.param("BIK", "", 0, 75, id="killed and not dead yet"),
        pytest.param("II", "RRRR", 0, 50, id="old ones serve on"),
        pytest.param("IIBB", "II", 0, 75, id="old ones are idle"),
        pytest.param("BBBBBBB", "", 0, 12, id="the last place"),
        pytest.param("BBBBBBBB", "", 0, 1, id="saturated"),
        pytest.param("BBBBBBBB", "", 500, 1, id="saturated for long"),
        pytest.param("BBBBBB", "", 2, 1, id="the queue takes what is left"),
        pytest.param("BB", "RRRRRRRR", 0, 1, id="more than are allowed"),
    ],
)
def test_idle_capacity(letters: str, retiring: str, queue: int, percent: int) -> None:
    snapshot = server(letters, retiring=retiring, waiting=queue)
    assert idle_capacity(snapshot) == percent
    assert line(snapshot) == b"ready up %d%%\n" % percent


def test_who_is_saturated_for_long_stays_up() -> None:
    """It isn't ready, and says so elsewhere; somebody has to serve all the same."""
    assert line(server("BB", 2, ready=False)) == b"ready up 1%\n"
    assert line(server("OO", 2, ready=False)) == b"ready up 1%\n"


@pytest.mark.parametrize(
    ("snapshot", "said"),
    [
        (server("BII", phase="draining"), b"drain\n"),
        (server("BII", phase="draining", ready=False), b"drain\n"),
        (server("R", phase="closing"), b"stopped # the server is closing\n"),
        (server("", phase="leaving"), b"stopped # the server is leaving\n"),
        (server("II", phase="gone"), b"stopped # the server is gone\n"),
        (server("II", responsive=False), b"fail # the dispatcher doesn't answer\n"),
        (
            server("II", phase="draining", responsive=False),
            b"fail # the dispatcher doesn't answer\n",
        ),
        (server("", ready=False), b"down # no worker is there\n"),
        (server("", phase="loading", ready=False), b"down # no worker is there\n"),
        (server("SS", ready=False), b"down # no worker is there\n"),
        (server("K", retiring="R", ready=False), b"down # no worker is there\n"),
        # The only one is being replaced.
        (server("S", 1, ready=True), b"ready up 100%\n"),
    ],
)
def test_other_lines(snapshot: Snapshot, said: bytes) -> None:
    assert line(snapshot) == said


@given(snapshots)
def test_any_line_is_one(snapshot: Snapshot) -> None:
    said = line(snapshot)
    assert said.endswith(b"\n") and said.count(b"\n") == 1
    words = said.partition(b"#")[0].split()
    if words[0] == b"ready":
        assert words[1] == b"up" and 1 <= int(words[2].removesuffix(b"%")) <= 100
    else:
        assert words in ([b"drain"], [b"stopped"], [b"fail"], [b"down"])
        # Else HAProxy takes the sharp for a part of the word.
        assert b"#" not in said or b" # " in said


@given(st.text("SIOBRK.", max_size=12), st.integers(0, 20), st.integers(1, 12))
def test_more_work_is_never_more_capacity(letters: str, queue: int, most: int) -> None:
    before = idle_capacity(server(letters, most, waiting=queue))
    assert idle_capacity(server(f"{letters}B", most, waiting=queue)) <= before
    assert idle_capacity(server(letters, most, waiting=queue + 1)) <= before


# Who is told


class Ended(Exception):
    """Of a thread that has none."""


class Looks:
    """Takes the snapshots, and ends the agent when it is told to.

    :ivar fail: The next look is the last one.
    """

    fail = False

    def __call__(self) -> Snapshot:
        if self.fail:
            raise Ended
        return SAMPLE


SAID = line(SAMPLE)


@pytest.fixture
def agent() -> Iterator[tuple[str, int]]:
    """The address of one that runs."""
    looks = Looks()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        answering = Agent(looks, listener)

        def run() -> None:
            with contextlib.suppress(Ended):
                answering.run()

        thread = threading.Thread(target=run)
        thread.start()
        yield address
        looks.fail = True
        socket.create_connection(address).close()
        thread.join()


def read(sock: socket.socket) -> bytes:
    with sock:
        sock.settimeout(20)
        return b"".join(iter(lambda: sock.recv(100), b""))


def test_everybody_is_told_once(agent: tuple[str, int]) -> None:
    for _ in range(3):
        assert read(socket.create_connection(agent)) == SAID


def test_who_never_reads_holds_nobody(agent: tuple[str, int]) -> None:
    threads = threading.active_count()
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(agent)) for _ in range(100)
        ]
        assert read(socket.create_connection(agent)) == SAID
        assert threading.active_count() == threads
        # They were told, too, before the one behind them.
        for sock in silent:
            sock.setblocking(False)
            assert sock.recv(100) == SAID
            assert sock.recv(100) == b""


@pytest.mark.parametrize("said", [b"web1\n", b"\0\xff" * 1000, b"x" * 60_000])
def test_what_clients_say_is_no_matter(agent: tuple[str, int], said: bytes) -> None:
    sock = socket.create_connection(agent)
    sock.settimeout(20)
    with contextlib.suppress(ConnectionError):
        sock.sendall(said)
    # After a reset the kernel keeps what had come before it.
    assert sock.recv(100) == SAID
    sock.close()
    assert read(socket.create_connection(agent)) == SAID


def test_who_talks_for_ever_holds_nobody(agent: tuple[str, int]) -> None:
    with socket.create_connection(agent) as talker:
        talker.settimeout(20)
        with pytest.raises(ConnectionError):
            while True:
                talker.sendall(b"x" * 65536)
    assert read(socket.create_connection(agent)) == SAID


def test_who_leaves_at_once_is_no_matter(agent: tuple[str, int]) -> None:
    for _ in range(20):
        sock = socket.create_connection(agent)
        linger = struct.pack("ii", 1, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        sock.close()
    assert read(socket.create_connection(agent)) == SAID


# Where


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"agent_check": "here"},
            "--agent-check: 'here' is not an address; give",
        ),
        ({"agent_check": "65536"}, "--agent-check: 65536 is not a port;"),
        ({"agent_check": "unix:/run/x"}, "--agent-check must be PORT or HOST:PORT,"),
        (
            {"admin": "9000", "agent_check": "127.0.0.1:9000"},
            "--agent-check must have another port than --admin.",
        ),
        (
            {"admin": "0.0.0.0:9000", "agent_check": "9000"},
            "--agent-check must have another port than --admin.",
        ),
        ({"agent_check": "1", "admin_token": "x"}, "--admin-token has no effect"),
    ],
)
def test_impossible_settings(settings: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve(settings)
    assert str(caught.value).startswith(said)


def test_possible_settings() -> None:
    assert resolve({"agent_check": "9001"}).admin is None
    assert resolve({"admin": "0", "agent_check": "0"}).agent_check == "0"
    assert resolve({"admin": "unix:/run/x", "agent_check": "0"}).admin


def listen(port: int, agent: str) -> service.ServiceHost:
    around = service.StartOptions([Address("127.0.0.1", port)], (), (), Notifier({}))
    made = service.ServiceHost(around, lambda: 0.0)
    for listener in made.listen(16, None, agent):
        listener.close()
    return made


def test_clients_that_say_nothing_are_let_in_at_once() -> None:
    """HAProxy doesn't: it waits for us."""
    made = listen(0, "0")
    (listener,) = made.admin_listeners().values()
    if hasattr(socket, "TCP_DEFER_ACCEPT"):
        level, name = socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT
        assert listener.sock.getsockopt(level, name) == 0
    assert str(made.agent_address) == f"127.0.0.1:{listener.port}"
    made.close()
    assert made.admin_listeners() == {}


def test_addresses_that_are_somebody_elses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match="Can't bind the agent check's address"):
            listen(0, str(port))
    with pytest.raises(BindError, match="give the agent check's address another port"):
        listen(port, str(port))
