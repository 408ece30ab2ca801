"""What faulthandler writes, cut to what is of interest."""

from __future__ import annotations

import faulthandler
import os
import re
import tempfile
import threading
import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.ipc import tracebacks
from flask_prefork.ipc.tracebacks import summarize

#: Lines of a terminal, and those of the dump that aren't frames.
SCREEN = 24

CURRENT = "Current thread 0x00007f4a16de0b80 (most recent call first):"
OTHER = "Thread 0x00007f4a164c66c0 (most recent call first):"
PACKAGES = "/srv/shop/venv/lib/python3.12/site-packages"
OWN = f"{PACKAGES}/flask_prefork"
LIBRARY = "/usr/lib/python3.12"


def frame(path: str, function: str, line: int = 7) -> str:
    return f'  File "{path}", line {line} in {function}'


VIEW = [
    frame("/srv/shop/stock.py", "lock"),
    frame("/srv/shop/views.py", "basket"),
    frame(f"{PACKAGES}/flask/app.py", "wsgi_app"),
]
SERVER = [
    frame(f"{OWN}/http/handler.py", "run_wsgi"),
    frame(f"{OWN}/worker/worker.py", "run"),
    frame(f"{OWN}/zygote/process.py", "run"),
    frame(f"{OWN}/cli.py", "prefork_run"),
    frame(f"{PACKAGES}/click/core.py", "invoke"),
    frame(f"{PACKAGES}/click/core.py", "main"),
    frame(f"{PACKAGES}/flask/cli.py", "main"),
    frame("/srv/shop/venv/bin/flask", "<module>"),
]
THREAD = [
    frame(f"{LIBRARY}/threading.py", "run"),
    frame(f"{LIBRARY}/threading.py", "_bootstrap_inner"),
    frame(f"{LIBRARY}/threading.py", "_bootstrap"),
]


def dump(*sections: t.Sequence[str]) -> str:
    """A dump with these sections, each with its header."""
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def shown(*sections: t.Sequence[str]) -> list[str]:
    return summarize(dump(*sections)).splitlines()


def test_only_the_apps_frames_are_shown() -> None:
    assert shown([CURRENT, *VIEW, *SERVER]) == [
        "Main thread (most recent call first):",
        *VIEW,
        "  (8 frames of the server cut)",
    ]


def test_what_has_started_the_server_does_not_matter() -> None:
    """A script of the user's own."""
    started = [*SERVER[:-2], frame("/srv/shop/manage.py", "main")]
    assert shown([CURRENT, *VIEW, *started])[1:-1] == VIEW


@pytest.mark.parametrize(
    "frames",
    [
        [frame(f"{LIBRARY}/socketserver.py", "__init__"), *SERVER[1:]],
        [
            frame(f"{PACKAGES}/werkzeug/serving.py", "run_wsgi"),
            frame(f"{LIBRARY}/http/server.py", "handle"),
            frame(f"{LIBRARY}/socketserver.py", "__init__"),
            *SERVER[1:],
        ],
        [
            *SERVER[:4],
            frame(f"{PACKAGES}/flask/__main__.py", "<module>"),
            frame("<frozen runpy>", "_run_code"),
            frame("<frozen runpy>", "_run_module_as_main"),
        ],
        [*SERVER[:4], frame("/usr/lib/python3.10/runpy.py", "_run_code")],
        [frame(f"{tracebacks._HERE}http/handler.py", "run_wsgi")],
    ],
    ids=["socketserver", "werkzeug", "python -m", "runpy of 3.10", "a checkout"],
)
def test_whoever_calls_the_app_is_cut(frames: list[str]) -> None:
    assert shown([CURRENT, *VIEW, *frames])[1:] == [
        *VIEW,
        f"  ({len(frames)} frame{'s' * (len(frames) > 1)} of the server cut)",
    ]


def test_what_the_app_calls_in_the_server_is_shown() -> None:
    """It waits for the rest of a request's body."""
    called = [
        frame(f"{OWN}/http/wire.py", "receive"),
        frame(f"{OWN}/http/body.py", "r"),
    ]
    assert shown([CURRENT, *called, *VIEW, *SERVER])[1:-1] == [*called, *VIEW]


def test_an_app_of_such_a_name_is_shown() -> None:
    view = [
        frame("/home/me/flask_prefork/click/views.py", "basket"),
        frame("/home/me/flask_prefork/click/runpy.py", "run"),
    ]
    assert shown([CURRENT, *view, *SERVER])[1:-1] == view


def test_nothing_of_the_app_is_left() -> None:
    waits = frame(f"{LIBRARY}/selectors.py", "select", 415)
    assert shown([CURRENT, waits, *SERVER]) == [
        "Main thread (most recent call first):",
        f"  in the server:{SERVER[0][1:]}",
    ]
    assert shown([CURRENT, *SERVER])[1:] == [f"  in the server:{SERVER[0][1:]}"]


def test_the_load_of_an_app() -> None:
    """The interpreter's own frames of an import aren't shown between the app's."""
    imports = [
        frame("<frozen importlib._bootstrap>", "_call_with_frames_removed"),
        frame("<frozen importlib._bootstrap_external>", "exec_module"),
        frame("<frozen importlib._bootstrap>", "_find_and_load"),
    ]
    modules = [
        frame("/srv/shop/db.py", "<module>"),
        frame("/srv/shop/a.py", "<module>"),
    ]
    loads = [
        *imports,
        frame(f"{PACKAGES}/flask/cli.py", "locate_app"),
        frame(f"{OWN}/zygote/loading.py", "load"),
        *SERVER[3:],
    ]
    found = shown([CURRENT, modules[0], *imports, modules[1], *loads])
    assert found[1:] == [*modules, f"  ({len(loads) + 3} frames of the server cut)"]
    # At the top they tell that an import of another thread is waited for.
    found = shown([CURRENT, *imports, modules[0], *imports, modules[1], *loads])
    assert found[1:-1] == [*imports, *modules]


def test_many_frames_fit_a_screen() -> None:
    frames = [frame("/srv/shop/tree.py", f"level_{number}") for number in range(60)]
    found = shown([CURRENT, *frames, *SERVER])
    assert len(found) + 1 <= SCREEN
    # Where it is, and the view that has called that.
    assert found[1:15] == frames[:14]
    assert found[15] == "  … 40 more frames"
    assert found[16:22] == frames[-6:]


@pytest.mark.parametrize("mark", [["  ..."], []], ids=["told", "not told"])
def test_more_frames_than_are_written(mark: list[str]) -> None:
    """Then the server's aren't there, and nothing is taken for them."""
    inner = frame(f"{OWN}/http/body.py", "read")
    frames = [inner] + [frame("/srv/shop/tree.py", "grow")] * 99
    found = shown([CURRENT, *frames, *mark])
    assert found[1:3] == frames[:2]
    assert found[-1] == "  … more frames"
    assert "  … 80 more frames" in found


def test_other_threads_come_after_the_main_one() -> None:
    poll = frame("/srv/shop/mailer.py", "poll")
    sleep = frame(f"{LIBRARY}/concurrent/futures/thread.py", "_worker")
    assert shown(
        [OTHER, poll, *THREAD],
        ["Thread 0x00000001 [pool-0] (most recent call first):", sleep, *THREAD],
        [CURRENT, *VIEW, *SERVER],
    ) == [
        "Main thread (most recent call first):",
        *VIEW,
        "  (8 frames of the server cut)",
        OTHER,
        poll,
        "  (3 frames of the server cut)",
        "Thread 0x00000001 [pool-0] (most recent call first):",
        sleep,
        "  (3 frames of the server cut)",
    ]


def test_main_thread_is_the_last_one() -> None:
    """Another one handles the signal if the main one blocks it."""
    busy = frame("/srv/shop/mailer.py", "poll")
    found = shown(
        [CURRENT, busy, *THREAD],
        [OTHER, *VIEW, *SERVER],
    )
    assert found[1:4] == VIEW
    assert busy in found[5:]


def test_a_thread_of_the_app_in_code_of_the_server() -> None:
    """What it was started by is not the server's."""
    receive = frame(f"{OWN}/http/takeover.py", "recv")
    chat = frame("/srv/shop/chat.py", "listen")
    found = shown([OTHER, receive, chat, *THREAD], [CURRENT, *VIEW, *SERVER])
    assert found[6:8] == [receive, chat]


def test_many_threads_fit_two_screens() -> None:
    frames = [frame("/srv/shop/pool.py", f"wait_{number}") for number in range(30)]
    threads = [
        [f"Thread {number:#018x} (most recent call first):", *frames, *THREAD]
        for number in range(1, 41)
    ]
    found = shown(*threads, [CURRENT, *frames, *SERVER])
    assert len(found) <= 2 * SCREEN
    assert found[-1] == "… 38 more threads"
    # faulthandler writes a hundred, and not the main one then.
    found = summarize(dump(*threads) + "\n...\n").splitlines()
    assert found[-1] == "… at least 37 more threads"


def test_two_dumps_at_once() -> None:
    """A signal that comes twice: the first dump, and none of its frames twice."""
    one = dump([OTHER, *VIEW, *THREAD], [CURRENT, *VIEW, *SERVER])
    assert summarize(one + one) == summarize(one)
    # The end of an earlier one is there before.
    assert summarize("\n".join(SERVER) + "\n" + one) == summarize(one)


@pytest.mark.parametrize(
    "note", ["  <no Python frame>", "  <tstate is freed>", "  Garbage-collecting"]
)
def test_notes_are_kept(note: str) -> None:
    assert shown([CURRENT, note])[1:] == [note]
    assert shown([CURRENT, note, *VIEW, *SERVER])[1:5] == [note, *VIEW]


def test_frames_without_a_file() -> None:
    unknown = "  File ???, line ??? in ???"
    assert shown([CURRENT, unknown, *VIEW, *SERVER])[1:5] == [unknown, *VIEW]


def test_the_stack_below_the_interpreter() -> None:
    stack = [
        "Current thread's C stack trace (most recent call first):",
        '  Binary file "/usr/lib/libc.so.6", at +0x3bf90 [0x7f1e22a54c40]',
    ]
    assert shown([CURRENT, *VIEW, *SERVER], stack)[-2:] == stack


@pytest.mark.parametrize("text", ["", "threads", "  File", "no\nthreads\nhere"])
def test_what_is_none_is_shown_as_it_is(text: str) -> None:
    assert summarize(text) == text


@given(st.text(st.sampled_from('CThread 0x1f()[]":.,\n…'), max_size=200))
def test_any_text(text: str) -> None:
    summarize(text)
    summarize(f"{CURRENT}\n{text}")


#: What the interpreters wrote, of the same program: a thread that waits, and the main
#: one, by ``python -m``.
SAMPLES = {
    "3.10": """\
Thread 0x00007f4a164c66c0 (most recent call first):
  File "/srv/sample.py", line 4 in wait
  File "/usr/lib/python3.10/threading.py", line 953 in run
  File "/usr/lib/python3.10/threading.py", line 1016 in _bootstrap_inner
  File "/usr/lib/python3.10/threading.py", line 973 in _bootstrap

Current thread 0x00007f4a16de0b80 (most recent call first):
  File "/srv/sample.py", line 8 in deep
  File "/srv/sample.py", line 6 in deep
  File "/srv/sample.py", line 11 in <module>
  File "/usr/lib/python3.10/runpy.py", line 86 in _run_code
  File "/usr/lib/python3.10/runpy.py", line 196 in _run_module_as_main
""",
    "3.11": """\
Thread 0x00007f637c2766c0 (most recent call first):
  File "/srv/sample.py", line 4 in wait
  File "/usr/lib/python3.11/threading.py", line 982 in run
  File "/usr/lib/python3.11/threading.py", line 1045 in _bootstrap_inner
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

Current thread 0x00007f637cfd8b80 (most recent call first):
  File "/srv/sample.py", line 8 in deep
  File "/srv/sample.py", line 6 in deep
  File "/srv/sample.py", line 11 in <module>
  File "<frozen runpy>", line 88 in _run_code
  File "<frozen runpy>", line 198 in _run_module_as_main
""",
    "3.12": """\
Thread 0x00007ff7c7cdb6c0 (most recent call first):
  File "/srv/sample.py", line 4 in wait
  File "/usr/lib/python3.12/threading.py", line 1010 in run
  File "/usr/lib/python3.12/threading.py", line 1073 in _bootstrap_inner
  File "/usr/lib/python3.12/threading.py", line 1030 in _bootstrap

Current thread 0x00007ff7c8918b80 (most recent call first):
  File "/srv/sample.py", line 8 in deep
  File "/srv/sample.py", line 6 in deep
  File "/srv/sample.py", line 11 in <module>
  File "<frozen runpy>", line 88 in _run_code
  File "<frozen runpy>", line 198 in _run_module_as_main
""",
    "3.13": """\
Thread 0x00007f1e21ddb6c0 (most recent call first):
  File "/srv/sample.py", line 4 in wait
  File "/usr/lib/python3.13/threading.py", line 992 in run
  File "/usr/lib/python3.13/threading.py", line 1041 in _bootstrap_inner
  File "/usr/lib/python3.13/threading.py", line 1012 in _bootstrap

Current thread 0x00007f1e22a54c40 (most recent call first):
  File "/srv/sample.py", line 8 in deep
  File "/srv/sample.py", line 6 in deep
  File "/srv/sample.py", line 11 in <module>
  File "<frozen runpy>", line 88 in _run_code
  File "<frozen runpy>", line 198 in _run_module_as_main
""",
}


@pytest.mark.parametrize("version", SAMPLES)
def test_each_version(version: str) -> None:
    sample = SAMPLES[version]
    assert summarize(sample).splitlines() == [
        "Main thread (most recent call first):",
        frame("/srv/sample.py", "deep", 8),
        frame("/srv/sample.py", "deep", 6),
        frame("/srv/sample.py", "<module>", 11),
        "  (2 frames of the server cut)",
        sample.splitlines()[0],
        frame("/srv/sample.py", "wait", 4),
        "  (3 frames of the server cut)",
    ]


def test_this_interpreter() -> None:
    """What it writes of its threads is understood, whichever it is."""
    ready, done = threading.Event(), threading.Event()

    def poll() -> None:
        ready.set()
        done.wait()

    thread = threading.Thread(target=poll)
    thread.start()
    ready.wait()
    try:
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file)
            file.seek(0)
            text = file.read().decode()
    finally:
        done.set()
        thread.join()
    lines = summarize(text).splitlines()
    assert lines[0] == "Main thread (most recent call first):"
    assert re.fullmatch(r'  File ".*", line \d+ in test_this_interpreter', lines[1])
    named = [line for line in lines if line.endswith(" in poll")]
    assert len(named) == 1
    assert named[0].startswith(f'  File "{os.path.dirname(__file__)}')
    # It has a frame of this test alone, and of the wait.
    assert not any("_bootstrap" in line for line in lines)


def test_a_path_that_is_not_ascii() -> None:
    """As faulthandler escapes it."""
    assert tracebacks._as_written("/srv/caf\xe9/\u0142") == "/srv/caf\\xe9/\\u0142"
