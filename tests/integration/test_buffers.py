"""What the options for buffers do, with a single worker, which can be waited for."""

from __future__ import annotations

from .admin import Admin
from .conftest import Serve
from .slow_client import SlowClient

MIB = 1 << 20
#: More than the kernel takes for a client that reads nothing.
KERNEL = 8 * MIB
ONE = ("--min-idle", "1", "--max-workers", "1", "--admin", "0")


def test_a_body_is_collected_up_to_a_size(serve: Serve) -> None:
    server = serve("fronted", *ONE, "--buffer-body", "2M", "--min-data-rate", "0")
    admin = Admin(server)
    with SlowClient(server) as client:
        client.begin_body("/digest", 3 * MIB)
        client.send(2 * MIB - 1)
        admin.wait_until(lambda s: s["parked_by_state"]["body"])
        server.wait_for_state("I")
        assert server.get().status == 200
        # With the next one the app is called, and reads the others as they come.
        client.send(1)
        server.wait_for_state("B")
        client.send(MIB)
        assert client.was_read()


def test_no_body_is_collected(serve: Serve) -> None:
    server = serve("fronted", *ONE, "--buffer-body", "0", "--min-data-rate", "0")
    with SlowClient(server) as client:
        client.begin_body("/digest", 2000)
        client.send(1000)
        server.wait_for_state("B")
        client.send(1000)
        assert client.was_read()


def test_a_response_is_buffered_up_to_a_size(serve: Serve) -> None:
    size = 2 * KERNEL
    large = serve("fronted", *ONE, "--buffer-response", "64M")
    admin = Admin(large)
    with SlowClient(large) as client:
        client.ask(f"/whole/{size}")
        admin.wait_until(lambda s: s["delivering"])
        large.wait_for_state("I")
        assert large.get().status == 200
        assert client.read() == (200, bytes(size))
    admin.wait_until(lambda s: s["totals"]["deliveries"]["complete"] == 1)


def test_a_response_is_longer_than_what_is_buffered(serve: Serve) -> None:
    size = 2 * KERNEL
    server = serve("fronted", *ONE, "--buffer-response", "1M", "--min-data-rate", "0")
    with SlowClient(server) as client:
        client.ask(f"/zeros/{size}")
        server.wait_for_state("B")
        assert client.read() == (200, bytes(size))


def test_no_response_is_buffered(serve: Serve) -> None:
    server = serve("fronted", *ONE, "--buffer-response", "0", "--min-data-rate", "0")
    with SlowClient(server) as client:
        client.ask(f"/zeros/{2 * KERNEL}")
        server.wait_for_state("B")
        assert client.read() == (200, bytes(2 * KERNEL))
    assert not sum(Admin(server).status()["totals"]["deliveries"].values())


def test_all_buffers_have_a_size_together(serve: Serve) -> None:
    server = serve("fronted", *ONE, "--buffer-total", "1M", "--min-data-rate", "0")
    admin = Admin(server)
    with SlowClient(server) as first, SlowClient(server) as second:
        first.begin_body("/digest", MIB)
        first.send(MIB - 100_000)
        admin.wait_until(lambda s: s["spooled"] >= MIB - 100_000)
        server.wait_for_state("I")
        # Nobody waits for a worker, so that the app is called and nothing is lost.
        second.begin_body("/digest", MIB)
        second.send(MIB - 100_000)
        server.wait_for_state("B")
        second.send(100_000)
        assert second.was_read()
        first.send(100_000)
        assert first.was_read()
    admin.wait_until(lambda s: s["spooled"] == 0)
