# SPDX-License-Identifier: GPL-2.0-only
"""The exceptions that cross rooms, each with the exit code it ends the command with.

    ImaKexecError
    ├── UserError      2  the request cannot be carried out as it was made
    ├── InfraError     3  the host failed; nothing is said about the kernel under test
    └── GuestFailure   1  the kernel under test misbehaved

A message always says what happened, where, and what to do next.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import ClassVar, Self

_ELSEWHERE = "--out for the evidence, XDG_CACHE_HOME for the cache, TMPDIR for the rest"
_ALLOW = (
    "let this user do that, or name a folder where it can be done "
    f"({_ELSEWHERE}); `imakexec doctor` says what else this host lacks"
)


class ImaKexecError(Exception):
    """Base of every error that the command reports without a traceback.

    Args:
        what: one sentence: what was expected and what was seen instead.
        where: the file, field, command or device concerned; empty if `what` names it already.
        remedy: what the reader can do about it; empty only where nothing sensible is known.
        tail: the last lines of the output (console, build log) that explain the error.

    Attributes:
        ending: how a machine ended, `machine.watch.Cause`; empty where none did.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", remedy: str = "", tail: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy
        self.tail = tail
        self.ending = ""

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.remedy:
            lines.append(f"  to do: {self.remedy}")
        if self.tail:
            lines.append("  last lines:")
            lines.extend(f"    | {line}" for line in self.tail.rstrip().splitlines())
        return "\n".join(printable(part) for line in lines for part in line.split("\n"))


def printable(text: str) -> str:
    """The same for a terminal: what others have named files and records must not steer it."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def counted(count: int, noun: str) -> str:
    """A number of things: "1 record", "2 records"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


class UserError(ImaKexecError):
    """Bad input or an impossible request: nothing was run."""

    exit_code = 2


class InfraError(ImaKexecError):
    """The host, QEMU, swtpm or a tool failed: no verdict about the kernel."""

    exit_code = 3

    @classmethod
    def refused(cls, what: str, error: OSError, path: Path | None = None) -> Self:
        """The error for what the host's kernel or file system refused.

        Args:
            what: what could not be done ("the console cannot be recorded").
            path: the file concerned, if `error` does not name it.
        """
        where = path if error.filename is None else Path(str(error.filename))
        reason = error.strerror or str(error)
        if where is None or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return cls(f"{what}: {reason}", where=str(where or ""), remedy=_ALLOW)
        return cls(
            f"{what}: {reason} ({free_mib(where):.0f} MiB free)",
            where=str(where),
            remedy=f"make room on that file system, or name a folder on another one: {_ELSEWHERE}",
        )


def free_mib(path: Path) -> float:
    """What is left of the file system that `path` is or would be on, in MiB."""
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(folder).free / 2**20


class GuestFailure(ImaKexecError):
    """The kernel under test panicked, hung, reset or refused what it must do."""

    exit_code = 1
