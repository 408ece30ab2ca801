"""Whose handlers run where: what needs no server, on each interpreter's own insides."""

from __future__ import annotations

import atexit
import concurrent.futures.process
import concurrent.futures.thread
import logging
import multiprocessing.util
import threading
import weakref

from system.forked import in_child

from flask_prefork.worker import at_exit


class Holder:
    """What a finalizer waits for."""


def registered() -> None:
    """A handler of the app's."""


def finalized(cache: list[int]) -> None:
    cache.append(1)


def test_registered_handlers_are_found() -> None:
    def look() -> list[int]:
        atexit._clear()
        for handler in (logging.shutdown, registered, registered):
            atexit.register(handler)
        found = at_exit._registered()
        expected = [logging.shutdown, registered, registered]
        return [found == expected, atexit._ncallbacks()]

    assert in_child(look) == [True, 3]


def test_those_for_each_process() -> None:
    for handler in (
        logging.shutdown,
        multiprocessing.util._exit_function,  # type: ignore[attr-defined]
        weakref.finalize._exitfunc,  # type: ignore[attr-defined]
        concurrent.futures.thread._python_exit,
        concurrent.futures.process._python_exit,
    ):
        assert at_exit._is_of_each(handler)
    assert not at_exit._is_of_each(registered)
    assert not at_exit._is_of_each(Holder())


def test_callbacks_of_threading() -> None:
    def look() -> list[bool]:
        every = threading._threading_atexits  # type: ignore[attr-defined]
        before = list(every)
        threading._register_atexit(registered)  # type: ignore[attr-defined]
        (mine,) = every[len(before) :]
        taken = at_exit._take_callbacks()
        kept = [at_exit._function(one).__module__ for one in every]
        return [
            mine in taken,
            "concurrent.futures.thread" in kept,
            "concurrent.futures.process" in kept,
        ]

    assert in_child(look) == [True, True, True]


def test_finalizers_of_inherited_objects() -> None:
    """Not when these have gone, but when they are called; or when they are memory's."""

    def look() -> list[int]:
        called: list[int] = []
        gone, kept, cached = Holder(), Holder(), Holder()
        weakref.finalize(gone, finalized, called)
        finalizer = weakref.finalize(kept, finalized, called)
        weakref.finalize(cached, called.append, 2)
        at_exit.begin()
        del gone, cached
        counts = [*called, len(called)]
        finalizer()
        return [*counts, len(called), int(finalizer.alive)]

    assert in_child(look) == [2, 1, 2, 0]


def test_a_zygote_that_was_a_worker_has_them_again() -> None:
    def look() -> list[bool]:
        called: list[int] = []
        gone, kept = Holder(), Holder()
        finalizers = [weakref.finalize(one, finalized, called) for one in (gone, kept)]
        at_exit.begin()
        del gone
        at_exit.take_over()
        stopped = at_exit._stop in at_exit._registered()
        states = [finalizer.atexit for finalizer in finalizers]
        del kept
        return [stopped, *states, len(called) == 1]

    assert in_child(look) == [False, True, True, True]


def test_records_that_a_handler_keeps() -> None:
    from logging.handlers import MemoryHandler

    handler = MemoryHandler(9)
    try:
        handler.buffer.append(logging.makeLogRecord({}))

        def look() -> int:
            at_exit.begin_in_libraries()
            return len(handler.buffer)

        assert in_child(look) == 0
    finally:
        handler.close()


def test_processes_of_multiprocessing_are_the_zygotes() -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=registered, name="reader")
    process.start()
    try:

        def look() -> list[object]:
            at_exit.begin_in_libraries()
            (told,) = at_exit.processes()
            return [multiprocessing.active_children(), told]

        assert in_child(look) == [[], f"'reader' (pid {process.pid})"]
    finally:
        process.join()
