# SPDX-License-Identifier: GPL-2.0-only
"""The bytes of a large file, read where they are asked for.

A list of millions of records is hundreds of megabytes, which need not be in memory at once. Nor is
the file mapped: where it is cut meanwhile, or its disk fails, a mapping kills the process with
SIGBUS, while a read gives an error. Reading costs a copy out of the page cache, next to nothing
beside the hashing.
"""

from __future__ import annotations

import os
import stat
import weakref
from io import BufferedReader
from pathlib import Path
from typing import Self

from imakexec.errors import UserError

_NEAR = 1 << 14  # bytes read at once where few are asked for: the next ones are likely to be near


class StoredBytes:
    """The bytes of a regular file as they were when it was opened: `log.Data`.

    It may be read in several processes and threads at once. A file that is written to meanwhile is
    found out by its size or its time of change, which file systems keep to some milliseconds.

    Args:
        path: of the file, for messages.
        descriptor: of the file, open for reading; it is duplicated.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = os.dup(descriptor)
        weakref.finalize(self, os.close, self._descriptor)
        self._state = _state(self._descriptor)
        self._near = (0, b"")  # where the bytes begin that were read last, and these

    @classmethod
    def of(cls, path: Path, file: BufferedReader, least: int) -> Self | None:
        """The bytes of an open file; None if there are fewer than `least`, or it is not regular.

        A file in securityfs is regular and has size 0 whatever is in it.
        """
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode) or state.st_size < least:
            return None
        return cls(path, file.fileno())

    def __len__(self) -> int:
        return self._state[0]

    def __getitem__(self, span: slice, /) -> bytes:
        """Read some of them.

        Raises:
            UserError: the file cannot be read, or is no longer what it was.
        """
        start, stop, _ = span.indices(len(self))
        stop = max(start, stop)
        if stop - start >= _NEAR:
            return self._read(start, stop)
        begin, near = self._near
        if not begin <= start <= stop <= begin + len(near):
            begin, near = start, self._read(start, min(start + _NEAR, len(self)))
            self._near = (begin, near)
        return near[start - begin : stop - begin]

    def _read(self, start: int, stop: int) -> bytes:
        parts = []
        try:
            while start < stop:
                part = os.pread(self._descriptor, stop - start, start)
                if not part:
                    break
                parts.append(part)
                start += len(part)
            changed = _state(self._descriptor) != self._state
        except OSError as error:
            raise UserError(
                f"the list cannot be read: {error.strerror}",
                where=f"{self._path}, offset {start}",
                remedy="copy it to another disk and name the copy",
            ) from error
        if start < stop or changed:
            raise UserError(
                f"the file was written to while it was read: of {len(self)} bytes it now has"
                f" {os.fstat(self._descriptor).st_size}",
                where=str(self._path),
                remedy="name a copy that nobody writes to",
            )
        return b"".join(parts)


def _state(descriptor: int) -> tuple[int, int]:
    """Size in bytes, and time of the last change in nanoseconds: the one that nobody can set."""
    state = os.fstat(descriptor)
    return state.st_size, state.st_ctime_ns
