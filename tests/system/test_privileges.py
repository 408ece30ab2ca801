"""Looking users up, and becoming them."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
import typing as t
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_prefork.system.privileges import drop
from flask_prefork.system.privileges import Identity
from flask_prefork.system.privileges import look_up
from flask_prefork.system.privileges import may_signal

from .forked import in_child

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become somebody else"
)
#: Somebody, whom no list needs to know.
SOMEBODY = Identity(54321, 54322, (54322, 54323), "somebody", "/home/somebody")
#: A user that every system has, and who isn't root.
DAEMON = pwd.getpwnam("daemon")


def refusal(do: Callable[[], object], error: type[Exception]) -> str:
    with pytest.raises(error) as caught:
        do()
    return str(caught.value)


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getegid", lambda: 0)


@pytest.fixture
def as_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: DAEMON.pw_uid)
    monkeypatch.setattr(os, "getegid", lambda: DAEMON.pw_gid)


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's lists: a user ``web`` with two groups, and one named ``77``."""
    users = [
        pwd.struct_passwd(("web", "x", 70, 71, "", "/srv/web", "/bin/sh")),
        pwd.struct_passwd(("77", "x", 78, 79, "", "/srv/77", "/bin/sh")),
    ]
    groups = [
        grp.struct_group(("staff", "x", 72, ["web"])),
        grp.struct_group(("77", "x", 80, [])),
    ]

    def find(entries: list[t.Any], field: str) -> Callable[[object], object]:
        found = {getattr(entry, field): entry for entry in entries}
        return lambda key: found[key]

    def grouplist(user: str, gid: int) -> list[int]:
        return [gid, *(group.gr_gid for group in groups if user in group.gr_mem)]

    monkeypatch.setattr(pwd, "getpwnam", find(users, "pw_name"))
    monkeypatch.setattr(pwd, "getpwuid", find(users, "pw_uid"))
    monkeypatch.setattr(grp, "getgrnam", find(groups, "gr_name"))
    monkeypatch.setattr(os, "getgrouplist", grouplist)


# Looking up


@pytest.mark.parametrize("nothing", [None, ""])
def test_nobody_is_asked_for(nothing: str | None) -> None:
    assert look_up(nothing, nothing) is None


@pytest.mark.parametrize(
    ("user", "group", "identity"),
    [
        ("web", None, Identity(70, 71, (71, 72), "web", "/srv/web")),
        ("70", None, Identity(70, 71, (71, 72), "web", "/srv/web")),
        ("web", "staff", Identity(70, 72, (72, 72), "web", "/srv/web")),
        ("web", "90", Identity(70, 90, (90, 72), "web", "/srv/web")),
        ("91", "90", Identity(91, 90, (90,), None, "/")),
        ("4294967294", "0", Identity(2**32 - 2, 0, (0,), None, "/")),
        # A name comes before a number.
        ("77", "77", Identity(78, 80, (80,), "77", "/srv/77")),
        ("78", None, Identity(78, 79, (79,), "77", "/srv/77")),
    ],
)
@pytest.mark.usefixtures("as_root", "lists")
def test_look_up(user: str, group: str | None, identity: Identity) -> None:
    assert look_up(user, group) == identity


@pytest.mark.usefixtures("as_root", "lists")
def test_group_alone() -> None:
    # The present user is on no list here, and stays who it is.
    assert look_up(None, "staff") == Identity(0, 72, (72,), None, "/")


@pytest.mark.parametrize(
    ("user", "group", "told"),
    [
        ("nobody here", None, "There is no user 'nobody here'."),
        ("web", "nothing", "There is no group 'nothing'."),
        ("-1", None, "There is no user '-1'."),
        # -1 in 32 bits: it would leave all as it is.
        ("4294967295", "0", "There is no user '4294967295'."),
        ("web", "4294967295", "There is no group '4294967295'."),
        ("9" * 5000, None, f"There is no user '{'9' * 5000}'."),
        ("\u0663", None, "There is no user '\u0663'."),
        ("91", None, "User 91 is not in the system's list: give a group too."),
    ],
)
@pytest.mark.usefixtures("as_root", "lists")
def test_wrong_names(user: str, group: str | None, told: str) -> None:
    assert refusal(lambda: look_up(user, group), ValueError) == told


def test_name_that_no_list_can_have() -> None:
    assert refusal(lambda: look_up("a\0b", None), ValueError)


@pytest.mark.usefixtures("as_daemon")
def test_present_user_needs_no_root() -> None:
    assert look_up(DAEMON.pw_name, None) is None
    assert look_up(str(DAEMON.pw_uid), str(DAEMON.pw_gid)) is None
    assert look_up(None, str(DAEMON.pw_gid)) is None


@pytest.mark.usefixtures("as_daemon")
def test_others_need_root() -> None:
    assert refusal(lambda: look_up("root", None), ValueError) == (
        "Only root can change the user; start the server as root."
    )
    assert refusal(lambda: look_up(DAEMON.pw_name, "0"), ValueError) == (
        "Only root can change the group; start the server as root."
    )


@pytest.mark.usefixtures("as_root")
def test_real_user() -> None:
    identity = look_up(DAEMON.pw_name, None)
    assert identity is not None
    assert identity[:2] == (DAEMON.pw_uid, DAEMON.pw_gid)
    assert identity[3:] == (DAEMON.pw_name, DAEMON.pw_dir)
    assert DAEMON.pw_gid in identity.groups


# Becoming somebody


def may(do: Callable[[], object]) -> bool:
    try:
        do()
    except PermissionError:
        return False
    return True


@needs_root
def test_drop() -> None:
    def do() -> object:
        environ = {"HOME": "/root", "USER": "root", "LOGNAME": "root", "TERM": "x"}
        drop(SOMEBODY, environ)
        return [
            [os.getuid(), os.geteuid(), os.getgid(), os.getegid()],
            sorted(os.getgroups()),
            environ,
            may(lambda: os.setuid(0)),
            may(lambda: os.setgid(0)),
            may(lambda: os.setgroups([0])),
        ]

    assert in_child(do) == [
        [54321, 54321, 54322, 54322],
        [54322, 54323],
        {
            "HOME": "/home/somebody",
            "USER": "somebody",
            "LOGNAME": "somebody",
            "TERM": "x",
        },
        False,
        False,
        False,
    ]


@needs_root
def test_what_is_roots_is_closed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("")
    secret.chmod(0o600)

    def do() -> object:
        # The way there is root's alone too.
        os.chdir(tmp_path)
        os.chmod(".", 0o755)
        before = may(lambda: os.close(os.open("secret", os.O_RDONLY)))
        drop(SOMEBODY, {})
        return [before, may(lambda: os.open("secret", os.O_RDONLY))]

    assert in_child(do) == [True, False]


@needs_root
def test_drop_to_a_user_without_a_name() -> None:
    def do() -> object:
        environ = {"HOME": "/root", "USER": "root", "LOGNAME": "root"}
        drop(Identity(54321, 54322, (54322,), None, "/"), environ)
        return [environ, os.getuid()]

    assert in_child(do) == [{"HOME": "/"}, 54321]


@needs_root
def test_drop_of_the_group_alone() -> None:
    def do() -> object:
        environ = {"HOME": "/elsewhere", "USER": "admin"}
        drop(Identity(0, 54322, (54322,), "root", "/root"), environ)
        return [environ, os.getuid(), os.getgid(), os.getgroups()]

    # Who it is hasn't changed, so neither has what the user has set.
    environ = {"HOME": "/elsewhere", "USER": "admin"}
    assert in_child(do) == [environ, 0, 54322, [54322]]


@needs_root
def test_programs_get_the_new_environment() -> None:
    def do() -> object:
        drop(SOMEBODY)
        return [os.path.expanduser("~"), os.environ["USER"]]

    assert in_child(do) == ["/home/somebody", "somebody"]


#: What needs codecs, where no more modules can be found.
_OUT_OF_REACH = """
import os, socket, sys
from flask_prefork.system.privileges import Identity, drop
drop(Identity(os.getuid(), os.getgid(), tuple(os.getgroups()), None, "/"))
sys.meta_path.clear()
socket.getfqdn("127.0.0.1")
socket.getaddrinfo("127.0.0.1", 80)
print("b\\u00fccher.example".encode("idna"), "\\n".encode("unicode_escape"))
print("\\xe9".encode("latin1"), "a".encode("us-ascii"))
"""


@needs_root
def test_host_names_are_known_where_the_interpreters_files_are_out_of_reach() -> None:
    line = [sys.executable, "-S", "-c", _OUT_OF_REACH]
    root = Path(__file__).parents[2]
    env = {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "xn--bcher-kva.example" in done.stdout


@needs_root
@pytest.mark.parametrize("call", ["setgroups", "setgid", "setuid"])
def test_call_without_effect_is_seen(call: str) -> None:
    def do() -> object:
        os.setgroups([0])
        setattr(os, call, lambda _: None)
        return refusal(lambda: drop(SOMEBODY, {}), RuntimeError)

    assert in_child(do) == "The user or the group was not changed in full."


@needs_root
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has capabilities")
def test_way_back_is_seen() -> None:
    def do() -> object:
        import ctypes

        # PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP: capabilities stay.
        assert ctypes.CDLL(None).prctl(28, 4, 0, 0, 0) == 0
        return refusal(lambda: drop(SOMEBODY, {}), RuntimeError)

    assert in_child(do) == "The process can become root again."


@needs_root
def test_who_is_not_root_can_not_drop() -> None:
    def do() -> object:
        drop(SOMEBODY, {})
        return refusal(lambda: drop(SOMEBODY, {}), PermissionError)

    assert in_child(do)


@pytest.fixture
def sleepers() -> t.Iterator[tuple[int, int]]:
    """A process of root's, and one of somebody's."""
    line = ["cat"]
    with (
        subprocess.Popen(line, stdin=subprocess.PIPE) as ours,
        subprocess.Popen(
            line, stdin=subprocess.PIPE, user=SOMEBODY.uid, group=SOMEBODY.gid
        ) as theirs,
    ):
        yield ours.pid, theirs.pid


@needs_root
def test_who_acts_as_a_user_signals_the_users_processes_only(
    sleepers: tuple[int, int],
) -> None:
    ours, theirs = sleepers

    def act() -> list[bool]:
        assert may_signal(ours), "nobody else yet"
        fds = [os.pidfd_open(pid) for pid in sleepers]
        os.seteuid(SOMEBODY.uid)
        return [
            may_signal(theirs),
            may_signal(theirs, fds[1]),
            may_signal(ours),
            # What is signalled is the descriptor's process.
            may_signal(theirs, fds[0]),
        ]

    assert in_child(act) == [True, True, False, False]


@needs_root
def test_who_is_gone_is_no_danger() -> None:
    def act() -> bool:
        gone = os.fork() or os._exit(0)
        os.waitpid(gone, 0)
        os.seteuid(SOMEBODY.uid)
        return may_signal(gone)

    assert in_child(act) is True
