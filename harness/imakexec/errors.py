# SPDX-License-Identifier: GPL-2.0-only
"""The exceptions that cross rooms, each with the exit code it ends the command with.

    ImaKexecError
    ├── UserError      2  the request cannot be carried out as it was made
    ├── InfraError     3  the host failed; nothing is said about the kernel under test
    └── GuestFailure   1  the kernel under test misbehaved

A message always says what happened, where, and what to do next.
"""

from __future__ import annotations

from typing import ClassVar


class ImaKexecError(Exception):
    """Base of every error that the command reports without a traceback.

    Args:
        what: one sentence: what was expected and what was seen instead.
        where: the file, field, command or device concerned; empty if `what` names it already.
        remedy: what the reader can do about it; empty only where nothing sensible is known.
        tail: the last lines of the output (console, build log) that explain the error.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", remedy: str = "", tail: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy
        self.tail = tail

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.remedy:
            lines.append(f"  to do: {self.remedy}")
        if self.tail:
            lines.append("  last lines:")
            lines.extend(f"    | {line}" for line in self.tail.rstrip().splitlines())
        return "\n".join(lines)


class UserError(ImaKexecError):
    """Bad input or an impossible request: nothing was run."""

    exit_code = 2


class InfraError(ImaKexecError):
    """The host, QEMU, swtpm or a tool failed: no verdict about the kernel."""

    exit_code = 3


class GuestFailure(ImaKexecError):
    """The kernel under test panicked, hung, reset or refused what it must do."""

    exit_code = 1
