"""The scoreboard: who writes what, and that nobody writes into another's."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.ipc import scoreboard
from flask_prefork.ipc.records import Record
from flask_prefork.ipc.scoreboard import Bank
from flask_prefork.ipc.scoreboard import SIZE
from flask_prefork.ipc.states import State
from flask_prefork.observe.reading import Board
from flask_prefork.settings.table import MAX_SLOTS

slots = st.integers(0, MAX_SLOTS - 1)


@pytest.fixture(scope="module")
def fd() -> Iterator[int]:
    """A file for all tests: what they rely on they clear."""
    fd = scoreboard.create()
    yield fd
    os.close(fd)


@pytest.fixture(scope="module")
def banks(fd: int) -> Iterator[tuple[Bank, Bank]]:
    """Both halves."""
    banks = Bank(fd, 1), Bank(fd, 2)
    yield banks
    for bank in banks:
        bank.close()


@pytest.fixture
def bank(banks: tuple[Bank, Bank]) -> Bank:
    """A half with eight clean slots."""
    bank = banks[0]
    for slot in range(8):
        bank.clear(slot)
    return bank


def test_unused_slots_take_no_memory() -> None:
    fd = scoreboard.create()
    bank = Bank(fd, 1)
    for slot in range(8):
        bank.clear(slot)
        entry = bank.entry(slot)
        entry.enter(1, 1, 5.0)
        entry.begin(6.0, "GET", "/")
        entry.end(7.0, 200, 1)
        entry.release()
        bank.set_state(slot, "B")
        assert sum(bank.durations(slot).latencies) == 1
    # To look at a page is enough to have it.
    board = Board(fd)
    assert sum(board.look().durations.latencies) == 8
    status = os.fstat(fd)
    for mapping in (bank, board):
        mapping.close()
    os.close(fd)
    assert status.st_size == scoreboard.SIZE
    # In units of 512 bytes, see stat(2): the header, the columns and eight records.
    assert status.st_blocks * 512 < scoreboard.HEADER_SIZE + 8 * 8192 + 2**17


def test_file_has_no_name_and_isnt_inherited() -> None:
    fd = scoreboard.create()
    status, inheritable = os.fstat(fd), os.get_inheritable(fd)
    os.close(fd)
    assert status.st_nlink == 0
    assert not inheritable


@pytest.mark.parametrize("how", ["missing", "forbidden"])
def test_file_without_memfd(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    def refuse(name: str, flags: int) -> int:
        raise PermissionError

    if how == "missing":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    else:
        monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    test_file_has_no_name_and_isnt_inherited()
    test_unused_slots_take_no_memory()


def test_states(bank: Bank) -> None:
    bank.set_state(0, "B")
    bank.set_state(1, "I")
    bank.set_state(3, "S")
    assert bank.states(4) == "BI.S"


def test_lower_is_idle(bank: Bank) -> None:
    for slot in range(5):
        bank.set_state(slot, "B")
    assert not bank.lower_is_idle(5)
    bank.set_state(2, "I")
    assert [bank.lower_is_idle(slot) for slot in range(6)] == [
        False, False, False, True, True, True,
    ]  # fmt: skip


@given(slot=st.integers(0, MAX_SLOTS - 1), other=st.integers(0, MAX_SLOTS - 1))
def test_lower_is_lower(banks: tuple[Bank, Bank], slot: int, other: int) -> None:
    bank = banks[1]
    bank.set_state(other, "I")
    try:
        assert bank.lower_is_idle(slot) == (other < slot)
        # The other generation's workers are not meant.
        assert not banks[0].lower_is_idle(0)
    finally:
        bank.set_state(other, ".")


def test_stop(bank: Bank) -> None:
    bank.set_stop(3)
    assert [bank.is_stopped(slot) for slot in range(5)] == [
        False, False, False, True, False,
    ]  # fmt: skip
    bank.clear(3)
    assert not bank.is_stopped(3)


def test_who_retires_is_told(bank: Bank) -> None:
    """By its state; who is only to take no more isn't."""
    bank.clear(3)
    for letter in (state.value for state in State):
        bank.set_state(3, letter)
        assert bank.is_retiring(3) == (letter == "R")
    bank.clear(3)
    bank.set_stop(3)
    assert not bank.is_retiring(3)


def test_who_is_about_to_accept(bank: Bank) -> None:
    entries = [bank.entry(slot) for slot in range(3)]
    entries[0].set_about_to_accept()
    for _ in range(255):
        entries[2].set_about_to_accept()
    assert bank.about_to_accept(3) == b"\1\0\xff"
    assert bank.about_to_accept(0) == b""
    # Another number, and never that of who isn't about to accept.
    entries[2].set_about_to_accept()
    assert bank.about_to_accept(3) == b"\1\0\1"
    entries[0].clear_about_to_accept()
    entries[2].begin(1.0, "GET", "/")
    assert bank.about_to_accept(3) == bytes(3)
    entries[2].set_about_to_accept()
    bank.clear(2)
    assert bank.about_to_accept(3) == bytes(3)
    for entry in entries:
        entry.release()


def test_flags_of_a_bank(banks: tuple[Bank, Bank], fd: int) -> None:
    one, other = banks
    assert not one.others_wait()
    one.set_others_wait(True)
    assert one.others_wait() and not other.others_wait()
    one.set_others_wait(False)
    assert not one.others_wait()
    assert not one.is_draining()
    one.set_draining()
    assert one.is_draining() and not other.is_draining()
    # The next generation of the same parity isn't bound by it.
    one.reset()
    assert not one.is_draining()


def test_last_slot_is_inside_of_its_bank(banks: tuple[Bank, Bank]) -> None:
    last = MAX_SLOTS - 1
    for number, bank in enumerate(banks):
        entry = bank.entry(last)
        entry.enter(number + 1, bank.generation, 0.0)
        entry.begin(1.0, "GET", "t" * 300)
        entry.set_about_to_accept()
        entry.release()
        bank.set_state(last, "B")
        bank.set_stop(last)
    for number, bank in enumerate(banks):
        expected = Record(number + 1, bank.generation, began=1.0, method="GET")
        assert bank.read(last)._replace(target="") == expected
        assert bank.states(MAX_SLOTS)[-1] == "B"
        assert bank.about_to_accept(MAX_SLOTS)[-1] == 1
        bank.clear(last)
        assert bank.states(MAX_SLOTS)[-1] == "."
        assert not bank.is_stopped(last)
        assert bank.read(last) == Record()


def test_all_processes_see_it(bank: Bank, fd: int) -> None:
    pid = os.fork()
    if not pid:
        # The mapping that was inherited, and one by descriptor.
        bank.entry(6).begin(3.0, "POST", "/upload")
        Bank(fd, 1).set_state(6, "B")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert bank.read(6) == Record(began=3.0, method="POST", target="/upload")
    assert bank.states(7)[6] == "B"


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create(2)")
@pytest.mark.parametrize("size", [0, SIZE - 1, SIZE + 1])
def test_nobody_changes_its_size(fd: int, size: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(fd, size)
