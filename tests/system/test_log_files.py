"""Files of logs that are moved away."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from logging.handlers import RotatingFileHandler
from logging.handlers import WatchedFileHandler
from pathlib import Path

import pytest

from flask_prefork.system import log
from flask_prefork.system import log_files
from flask_prefork.system.log import NonBlockingHandler
from flask_prefork.system.log import OutputHandler
from flask_prefork.system.privileges import Identity

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become somebody else"
)


def emit(handler: logging.Handler, text: str) -> None:
    handler.handle(logging.LogRecord("x", 20, __file__, 1, text, (), None))


@pytest.mark.parametrize("kind", [OutputHandler, NonBlockingHandler])
def test_the_next_record_opens_it(tmp_path: Path, kind: type[OutputHandler]) -> None:
    path, old = tmp_path / "log", tmp_path / "old"
    handler = kind(path=str(path))
    emit(handler, "one")
    path.rename(old)
    emit(handler, "two")
    emit(handler, "three")
    assert (old.read_text(), path.read_text()) == ("one\n", "two\nthree\n")
    # Another may have made it.
    path.unlink()
    path.write_text("")
    emit(handler, "four")
    assert path.read_text() == "four\n"
    os.close(handler.output.fd)


def test_what_can_not_be_opened_again_goes_to_the_old_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    handler = OutputHandler(path=str(folder / "log"))
    folder.rename(tmp_path / "other")
    emit(handler, "one")
    assert (tmp_path / "other" / "log").read_text() == "one\n"
    folder.mkdir()
    emit(handler, "two")
    assert (folder / "log").read_text() == "two\n"
    os.close(handler.output.fd)


@pytest.mark.parametrize(
    "kind", [logging.FileHandler, WatchedFileHandler, RotatingFileHandler]
)
def test_all_handlers_of_logging(
    tmp_path: Path, kind: type[logging.FileHandler]
) -> None:
    path = tmp_path / "log"
    handler = kind(str(path))
    emit(handler, "one")
    path.rename(tmp_path / "old")
    log_files.reopen_handlers()
    assert path.read_text() == ""
    emit(handler, "two")
    assert path.read_text() == "two\n"
    assert (tmp_path / "old").read_text() == "one\n"
    handler.close()


def test_handlers_that_another_configuration_has_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logger = logging.getLogger("test_forgotten")
    handler = logging.FileHandler(str(path))
    logger.addHandler(handler)
    listed = logging._handlerList[:]  # type: ignore[attr-defined]
    try:
        # As dictConfig() does.
        del logging._handlerList[:]  # type: ignore[attr-defined]
        path.rename(tmp_path / "old")
        log_files.reopen_handlers()
        assert path.read_text() == ""
    finally:
        logging._handlerList[:] = listed  # type: ignore[attr-defined]
        logger.removeHandler(handler)
        handler.close()


def test_a_handler_that_is_amid_a_record_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "log"
    handler = logging.FileHandler(str(path))
    with handler.lock:  # type: ignore[union-attr]
        handler.stream.write("half")
        log_files.reopen_handlers()
    handler.close()
    assert path.read_text() == "half"


def test_the_servers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    handler = OutputHandler(path=str(path))
    monkeypatch.setattr(log.base, "handlers", [handler])
    path.unlink()
    log.reopen()
    assert path.exists()
    emit(handler, "one")
    assert path.read_text() == "one\n"
    os.close(handler.output.fd)


def test_a_named_pipe_needs_no_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.close(log_files.open_to_append(str(tmp_path / "pipe")))


# Root opens files as the user of --user


@pytest.fixture
def user() -> Iterator[Identity]:
    """The user as whom files are opened."""
    nobody = pwd.getpwnam("nobody")
    user = Identity(nobody.pw_uid, nobody.pw_gid, (nobody.pw_gid,), "nobody", "/")
    log_files.open_as(user)
    yield user
    log_files.open_as(None)


@pytest.fixture
def users(user: Identity) -> Iterator[Path]:
    """A directory of the user's."""
    folder = Path(tempfile.mkdtemp(prefix="flask-prefork-", dir="/tmp"))
    os.chown(folder, user.uid, user.gid)
    yield folder
    shutil.rmtree(folder)


def owner(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid


def ids() -> tuple[object, ...]:
    return os.getresuid(), os.getresgid(), os.getgroups()


@needs_root
def test_the_user_makes_it(users: Path, user: Identity) -> None:
    before = ids()
    os.close(log_files.open_to_append(f"{users}/log"))
    assert owner(users / "log") == (user.uid, user.gid)
    assert ids() == before


@needs_root
def test_a_link_of_the_users_leads_root_nowhere(users: Path, tmp_path: Path) -> None:
    """Neither is anything made there, nor given away."""
    secret = tmp_path / "secret"
    secret.write_text("root's")
    (users / "log").symlink_to(secret)
    (users / "new").symlink_to(tmp_path / "new")
    before = ids()
    for name in ("log", "new"):
        with pytest.raises(PermissionError):
            log_files.open_to_append(f"{users}/{name}")
    assert (owner(secret), (tmp_path / "new").exists()) == ((0, 0), False)
    assert ids() == before


@needs_root
def test_a_file_that_root_has_made_is_not_given_away(users: Path) -> None:
    (users / "log").write_text("")
    with pytest.raises(PermissionError):
        log_files.open_to_append(f"{users}/log")
    assert owner(users / "log") == (0, 0)


@needs_root
def test_in_a_directory_of_roots_it_is_given_to_the_user(
    tmp_path: Path, user: Identity
) -> None:
    for _ in range(2):
        os.close(log_files.open_to_append(f"{tmp_path}/log"))
        assert owner(tmp_path / "log") == (user.uid, user.gid)


@needs_root
def test_another_thread_does_not_take_the_rights_of_this_one(
    users: Path, user: Identity
) -> None:
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(log_files.open_to_append, f"{users}/log").exception()
    assert isinstance(found, PermissionError)
    assert not (users / "log").exists()
