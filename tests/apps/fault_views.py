"""Views that do to their worker what no view should."""

from __future__ import annotations

import collections
import ctypes
import itertools
import json
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
import typing as t
from collections.abc import Iterator

from flask import Flask
from flask import request

app = Flask(__name__)
#: Memory that views don't give back.
leaked: list[t.Any] = []
never = threading.Event()


def whoami() -> dict[str, t.Any]:
    return {
        "slot": request.environ["flask_prefork.slot"],
        "generation": request.environ["flask_prefork.generation"],
        "pid": os.getpid(),
    }


@app.get("/")
def index() -> dict[str, t.Any]:
    return whoami()


@app.get("/hold")
def hold() -> dict[str, t.Any]:
    """Announce itself at the test's gate, then wait until that is closed."""
    with socket.create_connection(("127.0.0.1", int(request.args["gate"]))) as gate:
        gate.sendall(json.dumps(whoami()).encode() + b"\n")
        gate.recv(1)
    return whoami()


# Ends of the process


@app.get("/os-exit")
def os_exit() -> t.NoReturn:
    os._exit(int(request.args["status"]))


@app.get("/sys-exit")
def sys_exit() -> t.NoReturn:
    sys.exit(int(request.args["status"]))


@app.get("/segfault")
def segfault() -> str:
    ctypes.string_at(0)
    return "survived"


@app.get("/abort")
def abort() -> t.NoReturn:
    os.abort()


# Loops


@app.get("/loop-in-python")
def loop_in_python() -> t.NoReturn:
    while True:
        pass


@app.get("/wait-in-python")
def wait_in_python() -> t.NoReturn:
    never.wait()
    raise AssertionError


@app.get("/loop-in-c")
def loop_in_c() -> t.NoReturn:
    """One call that neither returns nor looks at signals, and holds the GIL."""
    collections.deque(itertools.repeat(0), maxlen=0)
    raise AssertionError


@app.get("/stubborn")
def stubborn() -> t.NoReturn:
    """Goes on whatever is raised in it."""
    while True:
        try:
            never.wait()
        except BaseException:
            pass


@app.get("/stall-after-head")
def stall_after_head() -> Iterator[bytes]:
    def body() -> Iterator[bytes]:
        yield b"so far"
        never.wait()

    return body()


@app.get("/slowly")
def slowly() -> Iterator[bytes]:
    """So many pieces, with pauses."""
    pause = float(request.args["pause"])
    pieces = int(request.args["pieces"])

    def body() -> Iterator[bytes]:
        for _ in range(pieces):
            time.sleep(pause)
            yield b"x"

    return body()


@app.get("/sleep")
def sleep() -> dict[str, t.Any]:
    time.sleep(float(request.args["seconds"]))
    return whoami()


# What it does to its process


@app.get("/fork")
def fork() -> dict[str, t.Any]:
    """A child that believes it is the view too.

    It returns before its parent does; with a ``gate``, when that lets it go.
    """
    answer = whoami()
    pid = os.fork()
    if not pid:
        if "gate" in request.args:
            hold()
        return {**answer, "child": True}
    if "gate" not in request.args:
        os.waitpid(pid, 0)
    return {**answer, "child": False}


@app.get("/close-all")
def close_all() -> dict[str, t.Any]:
    answer = whoami()
    os.closerange(int(request.args["from"]), 4096)
    return answer


def sockets() -> Iterator[socket.socket]:
    """All that this process has, each by a descriptor that is closed afterwards."""
    for name in os.listdir("/proc/self/fd"):
        try:
            sock = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        with sock:
            yield sock


@app.get("/shut-listener")
def shut_listener() -> dict[str, t.Any]:
    """End the listening, for all who share the socket."""
    for sock in sockets():
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.shutdown(socket.SHUT_RDWR)
    return whoami()


@app.get("/lingering")
def lingering() -> bytes:
    """Let closes wait for clients, and send more than one takes that doesn't read."""
    for sock in sockets():
        if sock.family == socket.AF_INET:
            linger = struct.pack("ii", 1, 3600)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    return b"x" * 1_000_000


@app.get("/reset-signals")
def reset_signals() -> dict[str, t.Any]:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            pass  # the C library's own
    return whoami()


@app.get("/ignore-signals")
def ignore_signals() -> dict[str, t.Any]:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    never.wait(float(request.args.get("wait", 0)))
    return whoami()


@app.get("/leave-threads")
def leave_threads() -> dict[str, t.Any]:
    for _ in range(3):
        threading.Thread(target=never.wait, daemon=False).start()
    return {**whoami(), "threads": threading.active_count()}


@app.get("/use-up-descriptors")
def use_up_descriptors() -> dict[str, t.Any]:
    """As if all but those in use were leaked, also those that are closed later."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        os.open(os.devnull, os.O_RDONLY)
    except OSError as e:
        return {**whoami(), "errno": e.errno}
    raise AssertionError


@app.get("/use-up-address-space")
def use_up_address_space() -> dict[str, t.Any]:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 32, hard))
    leaked.append(bytearray(1 << 40))
    return whoami()


@app.get("/use-up-memory")
def use_up_memory() -> t.NoReturn:
    """Touches memory until somebody ends it."""
    while True:
        leaked.append(b"x" * (1 << 20))


# Responses


@app.get("/big")
def big() -> Iterator[bytes]:
    """So many bytes that they fit into no kernel's buffer."""
    return itertools.repeat(bytes(65536), int(request.args.get("chunks", 1024)))


@app.post("/form")
def form() -> dict[str, t.Any]:
    return {**whoami(), "fields": len(request.form)}


@app.post("/length")
def length() -> dict[str, t.Any]:
    return {**whoami(), "length": len(request.get_data())}
