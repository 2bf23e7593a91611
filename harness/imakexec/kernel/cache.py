# SPDX-License-Identifier: GPL-2.0-only
"""The user's cache: whole entries or none, however a run ends.

    <root>/<kind>/<key>/   complete entries, never changed after they were published
    <root>/tmp/            entries in the making, each locked by the process that makes it
    <root>/locks/          lock files, each holding who took it last

An entry is made in `tmp` and renamed into place, so it is either whole or absent. A killed run
leaves a folder in `tmp` at worst: the guardian (see `imakexec.process`) removes it, and should
that be killed too, the next run does. Whether a maker still lives is asked of the kernel by
flock, not by process id, so that containers with a shared cache do not sweep each other's work.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import InfraError, UserError
from imakexec.progress import Progress

# What the C library says for ENOSPC in the C locale, which all our children run in.
DISK_FULL_TEXT = "No space left on device"
_LOCK_POLL_S = 0.1


class Cache:
    """Content-keyed folders that outlive a run.

    Args:
        root: the cache's folder, created on first use; default `$XDG_CACHE_HOME/imakexec`, and
            `~/.cache/imakexec` without that variable.

    Raises:
        UserError: the user has neither.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root if root is not None else _user_cache()).absolute()

    def lookup(self, kind: str, key: str) -> Path | None:
        """The folder of a complete entry, or None."""
        entry = self._entry(kind, key)
        return entry if entry.is_dir() else None

    @contextmanager
    def publish(self, kind: str, key: str) -> Iterator[Path]:
        """An empty folder that becomes the entry when the block ends, and vanishes if it fails.

        If another process published the same key meanwhile, its entry stays: both have the same
        content by the meaning of the key.

        Raises:
            InfraError: the disk is full, or the cache cannot be written.
        """
        entry = self._entry(kind, key)
        with self.scratch() as folder:
            content = folder / "content"
            with explained(self.root):
                content.mkdir()
                yield content
                entry.parent.mkdir(parents=True, exist_ok=True)
                try:
                    content.rename(entry)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder on the cache's file system, removed when the block ends or we die.

        Raises:
            InfraError: the disk is full, or the cache cannot be written.
        """
        temporary = self.root / "tmp"
        with explained(self.root):
            temporary.mkdir(parents=True, exist_ok=True)
            # Between making a folder and locking it nobody may sweep.
            with _open_lock(self._lock_path("tmp")) as guard:
                fcntl.flock(guard, fcntl.LOCK_EX)
                _sweep(temporary)
                folder = Path(tempfile.mkdtemp(dir=temporary))
                owner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(owner, fcntl.LOCK_EX)
        try:
            process.remove_at_death(folder)
            yield folder
        finally:
            os.close(owner)
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def lock(self, name: str, deadline: Deadline, progress: Progress) -> Iterator[None]:
        """Hold the lock `name` against all other users of this cache.

        The kernel releases it when this process ends, however it ends.

        Raises:
            InfraError: the deadline passed while another process held it; names that process.
        """
        with explained(self.root):
            handle = _open_lock(self._lock_path(name))
        with handle:
            if not _try_lock(handle.fileno()):
                _wait_for_lock(handle.fileno(), self._lock_path(name), deadline, progress)
            holder = f"{os.getpid()} ({Path(sys.argv[0]).name})"
            with explained(self.root):
                handle.truncate(0)
                os.pwrite(handle.fileno(), holder.encode(), 0)
            yield

    def _entry(self, kind: str, key: str) -> Path:
        for part in (kind, key):
            if not part or "/" in part or part in (".", ".."):
                raise ValueError(f"not a name of a cache entry: {kind!r} {key!r}")
        return self.root / kind / key

    def _lock_path(self, name: str) -> Path:
        return self.root / "locks" / name


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: a relative path is to be ignored.
    if base.startswith("/"):
        return Path(base) / "imakexec"
    return _home() / ".cache" / "imakexec"


def _home() -> Path:
    """What HOME names, or else the account: an empty HOME is none, and must not mean "/"."""
    if home := os.environ.get("HOME"):
        return Path(home)
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError as error:
        raise UserError(
            "there is no home folder to keep kernels in",
            where="HOME",
            remedy="set XDG_CACHE_HOME to a folder that can be written, as an absolute path",
        ) from error


def _open_lock(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b", 0)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_lock(descriptor: int, path: Path, deadline: Deadline, progress: Progress) -> None:
    """Poll: flock has no time limit of its own."""
    with progress.step(f"wait for the cache lock {path.name}") as step:
        while not _try_lock(descriptor):
            holder = os.pread(descriptor, 100, 0).decode(errors="replace")
            step.update(f"held by process {holder}")
            if deadline.expired:
                raise InfraError(
                    f"process {holder} held the cache lock {path.name} for {deadline.budget:.0f} s",
                    where=str(path),
                    remedy="wait for that process or end it, then run again",
                )
            time.sleep(_LOCK_POLL_S)
        step.done("free")


def _sweep(temporary: Path) -> None:
    """Remove what dead processes left; a living maker holds the lock of its folder."""
    for folder in temporary.iterdir():
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # its maker has just removed it
        try:
            if _try_lock(descriptor):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def disk_full(folder: Path) -> InfraError:
    """The error that says that the file system of `folder` is full."""
    free = shutil.disk_usage(folder).free / 2**20
    return InfraError(
        f"no space left on the file system of the cache ({free:.0f} MiB free)",
        where=str(folder),
        remedy="a kernel needs about 2 GiB: free some space, or set XDG_CACHE_HOME to a folder "
        "on a larger file system; what is in the cache may be removed at any time",
    )


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn an error of writing into the cache into one that says what to do.

    Raises:
        InfraError: the disk is full, or `folder` cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(folder) from error
        within = str(error.filename or "").startswith(str(folder))
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR) and within:
            raise InfraError(
                f"the cache cannot be written: {error.strerror}",
                where=str(error.filename),
                remedy="make the folder writable, or set XDG_CACHE_HOME to one that is",
            ) from error
        raise


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Around `process.run` of a program that fills `folder`: names a full disk as the cause.

    Raises:
        InfraError: the program met a full disk; other errors pass unchanged.
    """
    try:
        yield
    except InfraError as error:
        if DISK_FULL_TEXT in error.tail:
            raise disk_full(folder) from error
        raise


def write_atomically(path: Path, text: str) -> None:
    """Replace a small file of the cache as a whole; a kill leaves the old one or the new one.

    The caller holds the lock that the file belongs to.

    Raises:
        InfraError: the disk is full, or the cache cannot be written.
    """
    scratch = path.with_name(path.name + ".new")
    with explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
