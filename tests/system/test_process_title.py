"""What ps shows of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flask_prefork.system import process_title


@pytest.fixture(autouse=True)
def app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_title, "_app", None)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("shop", "shop"),
        ("shop.wsgi:app", "shop.wsgi:app"),
        ("/srv/shop/wsgi.py", "wsgi"),
        ("/srv/shop/wsgi.py:app", "wsgi:app"),
        ("shop:create_app('s3cret/x')", "shop:create_app"),
        ("sh\x1bop\n\xe9 [", "sh?op???["),
        ("x" * 100, "x" * 32),
    ],
)
def test_app(path: str, name: str) -> None:
    process_title.set_app(path)
    assert process_title.app() == name
    # What is handed on stays.
    process_title.set_app(name)
    assert process_title.app() == name


@pytest.mark.parametrize(
    ("which", "title", "name"),
    [
        (
            ("dispatcher", None, 1),
            "flask_prefork: dispatcher [shop] generation 1",
            "flask-dispatch",
        ),
        (
            ("zygote", None, 2),
            "flask_prefork: zygote [shop] generation 2",
            "flask-zygote.g2",
        ),
        (
            ("zygote", None, 1234),
            "flask_prefork: zygote [shop] generation 1234",
            "flask-zyg.g1234",
        ),
        (
            ("worker", 3, 2),
            "flask_prefork: worker 3 [shop] generation 2",
            "flask-w3.g2",
        ),
        (
            ("worker", 123, 12345),
            "flask_prefork: worker 123 [shop] generation 12345",
            "flask123.g12345",
        ),
        (
            ("reloader", None, 2),
            "flask_prefork: reloader [shop] generation 2",
            "flask-reload.g2",
        ),
        (
            ("observer", None, None),
            "flask_prefork: observer [shop]",
            "flask-observer",
        ),
        (("sender", None, None), "flask_prefork: sender [shop]", "flask-sender"),
        (
            ("TLS proxy", None, None),
            "flask_prefork: TLS proxy [shop]",
            "flask-tlsproxy",
        ),
        (
            ("TLS proxy", 2, None),
            "flask_prefork: TLS proxy 2 [shop]",
            "flask-tlsproxy2",
        ),
    ],
)
def test_titles(
    which: tuple[str, int | None, int | None], title: str, name: str
) -> None:
    process_title.set_app("shop")
    assert process_title.make(*which) == title
    assert process_title.make_name(*which) == name
    assert process_title.is_one(title.encode())


#: Shows what it is, then what can be seen of it, and of a child.
_SHOWS = """
import os, sys
from flask_prefork.system import origin, process_title
origin.note()
def look():
    for name in "comm", "cmdline", "environ":
        text = open(f"/proc/self/{name}").read()
        print(repr(text.strip("\\0\\n").replace("\\0", " ")))
process_title.show("observer")
look()
process_title.set_app("shop")
process_title.show(*sys.argv[1].split(","))
look()
sys.stdout.flush()
if not os.fork():
    process_title.show("worker", 3, 2)
    look()
    sys.stdout.flush()
    os._exit(0)
os.wait()
print(repr(os.environ.get("SPT_NOENV")), origin.environment()["SHOP"])
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="by /proc")


def run(
    tmp_path: Path, *more: str, **env: str
) -> tuple[list[list[str]], list[str], list[str]]:
    """Run a process that shows what it is.

    :param more: More arguments of its command.
    :param env: More variables.
    :return: Its name, command line and environment, three times: before it has a title,
        with one, and its child's; its first command line; and what it tells last.
    """
    script = tmp_path / "shows.py"
    script.write_text(_SHOWS)
    command = [sys.executable, str(script), "dispatcher", *more]
    variables = {"SHOP": "open", "PATH": os.environ["PATH"], **env}
    ended = subprocess.run(
        command, env=variables, check=True, capture_output=True, text=True, timeout=60
    )
    *lines, last = ended.stdout.splitlines()
    told = [eval(line) for line in lines]
    return [told[at : at + 3] for at in (0, 3, 6)], command, last.split()


@pytest.fixture
def without(tmp_path: Path) -> dict[str, str]:
    """Variables of a process that doesn't find setproctitle."""
    (tmp_path / "setproctitle.py").write_text("raise ImportError('not here')\n")
    return {"PYTHONPATH": str(tmp_path)}


@linux
def test_with_setproctitle(tmp_path: Path) -> None:
    pytest.importorskip("setproctitle")
    (before, shown, child), command, last = run(tmp_path, "x" * 60)
    assert before[1] == " ".join(command), "no app, no title"
    assert shown[:2] == ["flask-dispatch", "flask_prefork: dispatcher [shop]"]
    assert child[:2] == ["flask-w3.g2", "flask_prefork: worker 3 [shop] generation 2"]
    # There was room, so what others see of the environment stays.
    assert "SHOP=open" in before[2] == shown[2] == child[2]
    assert last == ["None", "open"]


@linux
def test_a_title_that_is_longer_than_the_command(tmp_path: Path) -> None:
    """It is whole, and takes the memory of the environment."""
    pytest.importorskip("setproctitle")
    script = Path("s.py")
    (tmp_path / script).write_text(_SHOWS)
    # The interpreter is found by its full path.
    argv = ["p", str(script), "reloader,,1"]
    for keeps in ("", "1"):
        env = {"SHOP": "open", "PYTHONPATH": os.pathsep.join(sys.path)}
        env |= {"SPT_NOENV": keeps} if keeps else {}
        ended = subprocess.run(
            argv,
            executable=sys.executable,
            cwd=tmp_path,
            env=env,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        told = [eval(line) for line in ended.stdout.splitlines()[:6]]
        whole = "flask_prefork: reloader  [shop] generation 1"
        if keeps:
            assert whole.startswith(told[4])
            assert told[4] != whole
            assert "SHOP=open" in told[5]
        else:
            assert told[4] == whole
            assert "SHOP=open" not in told[5]
        assert ended.stdout.splitlines()[-1].endswith(" open")


@linux
def test_without_setproctitle(tmp_path: Path, without: dict[str, str]) -> None:
    (before, shown, child), command, _ = run(tmp_path, **without)
    assert before[1] == shown[1] == child[1] == " ".join(command)
    assert (shown[0], child[0]) == ("flask-dispatch", "flask-w3.g2")
    assert before[0] not in (shown[0], child[0])


@linux
def test_one_that_was_another_user(tmp_path: Path) -> None:
    """It may not write to what belongs to root now, such as ``/proc/self/comm``."""
    if os.geteuid():
        pytest.skip("needs root")
    code = (
        "import os\n"
        "from flask_prefork.system import process_title\n"
        "process_title.set_app('shop')\n"
        "process_title.show('zygote', None, 1)\n"
        "os.setresuid(65534, 65534, 65534)\n"
        "process_title.show('worker', 1, 1)\n"
        "print(open('/proc/self/comm').read())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "flask-w1.g1"
