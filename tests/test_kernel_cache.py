# SPDX-License-Identifier: GPL-2.0-only
"""The cache holds whole entries or none, whatever ends a run."""

from __future__ import annotations

import errno
import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imakexec.deadline import Deadline
from imakexec.errors import InfraError, UserError
from imakexec.kernel.cache import Cache, explained, writing
from imakexec.progress import SilentProgress, Step

# Holds what its first argument names, says so, and waits to be killed.
_HOLDER = """
import sys, time
from pathlib import Path
from imakexec.deadline import Deadline
from imakexec.kernel.cache import Cache
from imakexec.progress import SilentProgress
cache = Cache(Path(sys.argv[2]))
held = {
    "entry": lambda: cache.publish("kind", "key"),
    "lock": lambda: cache.lock("name", Deadline.after(9), SilentProgress()),
}[sys.argv[1]]
with held() as folder:
    if folder is not None:
        (folder / "half").write_text("written")
    print("held", flush=True)
    time.sleep(300)
"""


@contextmanager
def _holder(what: str, root: Path) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, what, str(root)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "held\n"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


class ToldProgress(SilentProgress):
    """Keeps all that is said of a step."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        self.told.append(title)
        yield self

    def update(self, detail: str, fraction: float | None = None) -> None:
        assert fraction is None
        self.told.append(detail)

    def done(self, result: str) -> None:
        self.told.append(result)


def _soon() -> Deadline:
    return Deadline.after(10)


def test_an_entry_appears_when_it_is_whole(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with cache.publish("kind", "a=1") as folder:
        (folder / "file").write_text("content")
        assert cache.lookup("kind", "a=1") is None
    entry = cache.lookup("kind", "a=1")
    assert entry is not None
    assert (entry / "file").read_text() == "content"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_failure_leaves_no_entry(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def fail() -> None:
        with cache.publish("kind", "key") as folder:
            (folder / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert cache.lookup("kind", "key") is None
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_first_of_two_publishers_wins(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with cache.publish("kind", "key") as late:
        (late / "who").write_text("late")
        with cache.publish("kind", "key") as early:
            (early / "who").write_text("early")
    entry = cache.lookup("kind", "key")
    assert entry is not None
    assert (entry / "who").read_text() == "early"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_a_key_cannot_leave_its_kind(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        Cache(tmp_path).lookup("kind", name)


def test_sigkill_while_publishing_leaves_no_entry(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with _holder("entry", tmp_path) as child:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    deadline = _soon()
    while list((tmp_path / "tmp").iterdir()) and not deadline.expired:
        time.sleep(0.01)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert cache.lookup("kind", "key") is None


def test_sweeping_takes_what_the_dead_left_and_nothing_else(tmp_path: Path) -> None:
    stale = tmp_path / "tmp" / "stale"
    stale.mkdir(parents=True)
    with _holder("entry", tmp_path), Cache(tmp_path).publish("kind", "other"):
        assert not stale.exists()
        halves = list((tmp_path / "tmp").glob("*/content/half"))
        assert len(halves) == 1


def test_a_lock_excludes_and_names_its_holder(tmp_path: Path) -> None:
    with _holder("lock", tmp_path) as child:
        waiting = Cache(tmp_path).lock("name", Deadline.after(0.3), SilentProgress())
        with pytest.raises(InfraError, match=f"process {child.pid} ") as caught, waiting:
            pytest.fail("two holders of one lock")
        assert caught.value.where == str(tmp_path / "locks" / "name")


def test_who_waits_for_a_lock_says_so_and_for_whom(tmp_path: Path) -> None:
    progress = ToldProgress()
    with _holder("lock", tmp_path) as child:
        killer = threading.Timer(0.3, child.kill)
        killer.start()
        with Cache(tmp_path).lock("name", _soon(), progress):
            killer.join()
    assert progress.told[0] == "wait for the cache lock name"
    assert set(progress.told[1:-1]) == {f"held by process {child.pid} (-c)"}
    assert progress.told[-1] == "free"


def test_a_killed_holder_gives_its_lock_back(tmp_path: Path) -> None:
    with _holder("lock", tmp_path) as child:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        with Cache(tmp_path).lock("name", _soon(), SilentProgress()):
            assert (tmp_path / "locks" / "name").read_text().startswith(f"{os.getpid()} ")


def test_a_full_disk_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="no space left") as caught, explained(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "file"))
    assert str(tmp_path) in caught.value.where
    assert "XDG_CACHE_HOME" in caught.value.remedy


def test_a_full_disk_is_recognised_in_what_a_program_says(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="no space left on the file system"), writing(tmp_path):
        raise InfraError("exit status 2: tar", tail="tar: x: Cannot write: No space left on device")


def test_a_read_only_cache_is_named(tmp_path: Path) -> None:
    # Not by chmod: root may write everywhere.
    (tmp_path / "tmp").touch()
    with pytest.raises(InfraError) as caught, Cache(tmp_path / "tmp").publish("kind", "key"):
        pytest.fail("published below a file")
    assert "cache cannot be written" in caught.value.what


def test_an_error_elsewhere_is_not_blamed_on_the_cache(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), explained(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere")


def test_the_default_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Cache().root == tmp_path / "imakexec"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert Cache().root == Path.home() / ".cache" / "imakexec"


@pytest.mark.parametrize("home", [None, ""])
def test_without_a_home_in_the_environment_it_is_the_account_s(
    monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    assert Cache().root == Path(pwd.getpwuid(os.getuid()).pw_dir) / ".cache" / "imakexec"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_account(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "")
    monkeypatch.setattr(pwd, "getpwuid", no_account)
    with pytest.raises(UserError) as caught:
        Cache()
    assert "XDG_CACHE_HOME" in caught.value.remedy
