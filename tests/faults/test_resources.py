"""No descriptors, no memory, and logs that can't be written."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.conftest import Serve
from integration.gate import Gate
from integration.server import assert_group_ends
from integration.server import command
from integration.server import environment
from integration.server import running
from integration.server import Server
from integration.server import wait_for
from xprocess import XProcess

from .load import Client
from .load import Load
from .rows import get
from .rows import load

FIXED = ("--min-idle", "3", "--max-idle", "3", "--max-workers", "3")


def test_worker_has_no_descriptors_left(serve: Serve) -> None:
    """The app leaks descriptors until its worker has none left to accept with.

    That worker exits, and the log says why. No connection waits for it.
    """
    server = serve("fault_views", *FIXED)
    server.wait_for_state("III")
    with load(server):
        answer = get(server, "/use-up-descriptors").json
        assert answer["errno"] == errno.EMFILE
        server.wait_for_log(
            rf"^Worker {answer['slot']} \(pid {answer['pid']}\) died: exit status 1"
        )
    assert "Too many open files" in server.log()
    server.wait_for_state("III")
    # Alone, too: there is nobody else to be ordered instead.
    get(server, "/use-up-descriptors")
    assert get(server, "/").status == 200


def test_worker_has_no_memory_left(serve: Serve) -> None:
    """The app allocates more memory than its process may have.

    That raises a MemoryError: the client gets a 500, and the worker keeps serving.
    """
    server = serve("fault_views", *FIXED)
    server.wait_for_state("III")
    workers = server.workers()
    with load(server):
        assert get(server, "/use-up-address-space").status == 500
        server.wait_for_log("^MemoryError")
    assert server.workers() == workers
    assert {"died:", "killed:"}.isdisjoint(server.log().split())


@contextlib.contextmanager
def limited(
    xprocess: XProcess, tmp_path: Path, descriptors: int, *args: str
) -> Iterator[Server]:
    """A server of which no process may have more descriptors than this."""
    line = command("fault_views", "--port", "0", "--no-access-log", *args)
    shell = ["/bin/sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *line]
    with running(xprocess, "limited", shell, tmp_path) as server:
        yield server


def test_dispatcher_has_few_descriptors_for_connections(
    xprocess: XProcess, tmp_path: Path
) -> None:
    """More connections are idle than the dispatcher may have descriptors.

    Those that are idle for the longest time are closed, and the log says so. All others
    are served.
    """
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(limited(xprocess, tmp_path, 128, *FIXED))
        server.wait_for_state("III")
        with load(server):
            clients = [Client(server.url, keep_alive=True) for _ in range(150)]
            for client in clients:
                stack.callback(client.close)
                assert client.ask().status == 200
            server.wait_for_log("^No descriptors are left .* is 128; closing the conn")
            # The last one is still there.
            assert clients[-1].ask().status == 200


def test_dispatcher_has_few_descriptors_for_workers(
    xprocess: XProcess, tmp_path: Path
) -> None:
    """More workers are needed than the dispatcher has descriptors for.

    The server runs with as many as possible, and the log says that it needs more.
    """
    limits = ("--min-idle", "2", "--max-workers", "60")
    gate = Gate()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(limited(xprocess, tmp_path, 64, *limits))
        stack.callback(gate.close)
        requests = [server.send(gate.path) for _ in range(60)]
        server.wait_for_log("^Can't start worker .*: Too many open files")
        for number in range(len(requests)):
            if len(gate.held) <= number:
                gate.wait_for_one()
            gate.held[number].release()
        assert {request.answer().status for request in requests} == {200}
        assert get(server, "/").status == 200
        with load(server):
            pass


# The log


@contextlib.contextmanager
def logging_to(
    where: int | None, tmp_path: Path, *args: str, close: str = ""
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server with its standard output and error somewhere.

    :param where: The descriptor.
    :param close: Redirections of the shell instead.
    :return: The dispatcher, and the server's URL.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        line = command("fault_views", "--host", f"fd://{fd}", *FIXED, *args)
        shell = ["/bin/sh", "-c", f'exec "$@" {close}', "sh", *line]
        process = subprocess.Popen(
            shell,
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=where,
            stderr=where,
            pass_fds=[fd],
            start_new_session=True,
        )
        port = listener.getsockname()[1]
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        assert_group_ends(process.pid)


def _stops(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


@pytest.mark.parametrize("access_log", ["--access-log", "--no-access-log"])
def test_standard_output_and_error_are_closed(tmp_path: Path, access_log: str) -> None:
    """The server is started with its standard output and error closed.

    It serves, and stops normally.
    """
    closed = logging_to(None, tmp_path, access_log, close=">&- 2>&-")
    with closed as (process, url):
        with Load(url, 2) as running:
            running.wait_for_more(100)
            running.stop().assert_all_served()
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGUSR2)
        assert Client(url).ask("/use-up-descriptors").status == 200
        assert Client(url).ask().status == 200
        _stops(process)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_log_goes_to_a_full_disk(tmp_path: Path) -> None:
    """The log can't be written: the disk is full.

    The server serves, also requests with errors, and stops normally.
    """
    with (
        open("/dev/full", "wb") as full,
        logging_to(full.fileno(), tmp_path, "--access-log") as (process, url),
    ):
        with Load(url, 2) as running:
            running.wait_for_more(100)
            running.stop().assert_all_served()
        process.send_signal(signal.SIGUSR1)
        assert Client(url).ask("/use-up-address-space").status == 500
        assert Client(url).ask().status == 200
        _stops(process)


def test_reader_of_the_log_ends(tmp_path: Path) -> None:
    """The log goes to a pipe, and its reader has exited.

    The server serves, and stops normally.
    """
    reader, writer = os.pipe()
    with logging_to(writer, tmp_path, "--access-log") as (process, url):
        os.close(writer)
        os.close(reader)
        with Load(url, 2) as running:
            running.wait_for_more(100)
            process.send_signal(signal.SIGUSR1)
            running.wait_for_more(100)
            running.stop().assert_all_served()
        assert Client(url).ask("/use-up-address-space").status == 500
        _stops(process)


class Pipe:
    """A pipe for a log, of which nobody reads until told to."""

    def __init__(self) -> None:
        reader, self.writer = os.pipe()
        self._reader = os.fdopen(reader, "rb")
        self._thread = threading.Thread(target=self._read)
        self.read = b""

    def is_full(self) -> bool:
        return not select.select([], [self.writer], [], 0)[1]

    def fill(self) -> None:
        """Leave no room for another byte."""
        os.set_blocking(self.writer, False)
        for size in (65536, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(self.writer, bytes(size))
        os.set_blocking(self.writer, True)

    def _read(self) -> None:
        self.read = self._reader.read()

    def read_on(self) -> None:
        """Read from now on, to the end."""
        self._thread.start()

    def finish(self) -> bytes:
        """Wait until nobody can write any more, and tell what was read."""
        self.close()
        return self.read

    def close(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1
            if self._thread.ident is not None:
                self._thread.join()
            self._reader.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def test_nobody_reads_the_log(tmp_path: Path, pipe: Pipe) -> None:
    """The log is a pipe that is full and that no process reads.

    The dispatcher doesn't wait for it. The server serves, and stops normally.
    """
    with logging_to(pipe.writer, tmp_path, "--no-access-log") as (process, url):
        assert Client(url).ask().status == 200
        pipe.fill()
        with Load(url, 2) as running:
            for _ in range(20):
                process.send_signal(signal.SIGUSR1)
                running.wait_for_more()
            running.stop().assert_all_served()
        _stops(process)


def test_nobody_reads_the_access_log(tmp_path: Path, pipe: Pipe) -> None:
    """The access log is a pipe, and its reader pauses until it is full.

    Workers wait until they can write their lines, the dispatcher doesn't. When the pipe
    is read again, all continue. No request and no line is lost.
    """
    with logging_to(pipe.writer, tmp_path, "--access-log") as (process, url):
        with Load(url, 4) as running:
            wait_for(pipe.is_full)
            process.send_signal(signal.SIGUSR1)
            pipe.read_on()
            running.wait_for_more(100)
            report = running.stop()
        report.assert_all_served()
        process.send_signal(signal.SIGUSR1)
        assert Client(url).ask("/").status == 200
        _stops(process)
    log = pipe.finish()
    assert log.count(b'"GET / HTTP/1.1" 200') == len(report.answered) + 1
    assert b"workers: " in log


def test_nobody_ever_reads_the_access_log(tmp_path: Path, pipe: Pipe) -> None:
    """The access log is a pipe that is full and is never read.

    A worker waits for it once, for ten seconds. Then it serves without a log. When
    there is a reader again, a line says how many lines were lost.
    """
    alone = ("--min-idle", "1", "--max-idle", "1", "--max-workers", "1")
    with logging_to(pipe.writer, tmp_path, "--access-log", *alone) as (process, url):
        client = Client(url)
        assert client.ask().status == 200
        pipe.fill()
        assert client.ask().status == 200
        # It has waited by then.
        for _ in range(20):
            assert client.ask().status == 200
        pipe.read_on()
        wait_for(lambda: not pipe.is_full())
        assert client.ask().status == 200
        _stops(process)
    log = pipe.finish()
    found = re.search(rb"\((\d+) lines of the log were lost\)\n.*\n", log)
    assert found is not None
    lines = log.count(b'"GET / HTTP/1.1" 200')
    assert int(found[1]) + lines == 23


def test_server_stops_though_nobody_reads_its_log(tmp_path: Path, pipe: Pipe) -> None:
    """INT while all workers wait for the reader of the log.

    It stops at once.
    """
    with logging_to(pipe.writer, tmp_path, "--access-log") as (process, url):
        with Load(url, 4) as running:
            wait_for(pipe.is_full)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
            report = running.stop()
        assert report.answered
        # Those that workers held or that waited for one.
        assert all(isinstance(error, ConnectionError) for error in report.lost)
