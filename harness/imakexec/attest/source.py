# SPDX-License-Identifier: GPL-2.0-only
"""Lists as they lie in files: what kind of file it is, and what is wrong with it.

A list may be a file of its own, in parts where user space has saved records and had the kernel drop
them (Linux 7.2 and later), or in a hand-over buffer, alone or anywhere in a memory dump. One in a
large file of its own is left there, see `stored`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from io import BufferedReader
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import ClassVar

from imakexec.attest.crosscheck import CrossCheck, ascii_bank, check_ascii, check_binary
from imakexec.attest.handover import (
    HEADER_SIZE,
    HandoverBuffer,
    find_handover_buffers,
    is_handover_buffer,
)
from imakexec.attest.log import Data, MeasurementLog, detect_layout
from imakexec.attest.reasons import EXIT_CODES, Reason, Rejection, Verdict
from imakexec.attest.stored import StoredBytes
from imakexec.errors import ImaKexecError, UserError

_HEAD = 512
_MUCH = 1 << 22  # bytes of a list that are left in the file
# How many times over a dump is read at most, if all of it poses as hand-over buffers.
_MOST_READINGS = 16
_AGAIN = "read the list again; it is /sys/kernel/security/ima/binary_runtime_measurements"


class MalformedLog(ImaKexecError):
    """A file cannot be read as a list.

    Args:
        reason: of MALFORMED.
        what: one sentence.
        where: the file, and the place in it.
        remedy: what the reader can do.
    """

    exit_code: ClassVar[int] = EXIT_CODES[Verdict.MALFORMED]

    def __init__(self, reason: Reason, what: str, *, where: str, remedy: str) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.reason = reason


class SourceKind(StrEnum):
    """What a file is."""

    LIST = "list"
    HANDOVER = "handover"
    """A hand-over buffer from its first byte on."""
    DUMP = "dump"
    """A memory dump with a hand-over buffer in it."""


@dataclass(frozen=True)
class Buffer:
    """A hand-over buffer in a file.

    Args:
        offset: of its header in the file.
        count: of records, by its header.
        size: in bytes, header included, by its header.
        cut: bytes of a last record that had no room.
    """

    offset: int
    count: int
    size: int
    cut: int


@dataclass(frozen=True)
class Source:
    """One file and the list in it.

    Args:
        path: of the file.
        kind: what it is.
        log: its records.
        buffer: which carries them; None in a list.
        others: offsets of further buffers in a dump, which hold no more records.
    """

    path: Path
    kind: SourceKind
    log: MeasurementLog
    buffer: Buffer | None = None
    others: tuple[int, ...] = ()


@dataclass(frozen=True)
class WholeList:
    """A list from one file or several.

    Args:
        log: all records.
        sources: the files, in the order of their records.
    """

    log: MeasurementLog
    sources: tuple[Source, ...]

    @property
    def repeats_saved_records(self) -> bool:
        """Whether the last file begins with all records of the others: nothing was dropped."""
        saved = len(self.log) - len(self.sources[-1].log)
        return 0 < saved <= self.log.common_records(self.sources[-1].log)


def read_list(path: Path, prepend: Sequence[Path] = ()) -> WholeList:
    """Read a list.

    Args:
        path: a list, a hand-over buffer or a memory dump.
        prepend: what was saved of the list before, oldest first.

    Raises:
        UserError: a file cannot be read, or they are no parts of one list. The same comes of a use
            of the list if its file is written to, or its disk fails, meanwhile.
        MalformedLog: a file holds no list, or one that is damaged.
    """
    sources = tuple(read_source(item) for item in (*prepend, path))
    for source in sources:
        if source.log.layout != sources[-1].log.layout:
            raise UserError(
                f"the saved records are {source.log.layout}, the list is"
                f" {sources[-1].log.layout}: they are no parts of one list",
                where=str(source.path),
                remedy="name parts that the same kernel has written to the same kind of file",
            )
    try:
        return WholeList(MeasurementLog.join([source.log for source in sources]), sources)
    except Rejection as rejection:
        raise _malformed(path, rejection, "with what is prepended, ") from None


def read_source(path: Path) -> Source:
    """Read one file.

    Raises:
        UserError: it cannot be read.
        MalformedLog: it holds no list, or one that is damaged.
    """
    with _opened(path) as file:
        head = file.read(_HEAD)
        if is_handover_buffer(head):
            return _from_buffer(path, _whole(file, head))
        if not head or detect_layout(head) is not None:
            return Source(path, SourceKind.LIST, _parse(path, _data(path, file, head)))
        if ascii_bank(head) is not None:
            raise MalformedLog(
                Reason.NOT_A_LIST,
                "this is an ASCII list: it does not hold all that was hashed",
                where=str(path),
                remedy="name the binary list, and this one with --against",
            )
        if os.fstat(file.fileno()).st_size:
            with closing(mmap(file.fileno(), 0, access=ACCESS_READ)) as dump:
                return _from_dump(path, dump)
        return _from_dump(path, _whole(file, head))


def compare_with(
    log: MeasurementLog, path: Path, *, padded: Collection[str] = frozenset()
) -> CrossCheck:
    """Hold a list against the one in another file: in ASCII, or a binary one of any bank.

    Args:
        padded: banks whose digests are those of SHA-1, padded with zero bytes.

    Raises:
        UserError: the file cannot be read.
        MalformedLog: it holds no list, or one that is damaged.
    """
    with _opened(path) as file:
        head = file.read(_HEAD)
        if ascii_bank(head) is not None:
            return check_ascii(log, _whole(file, head), padded=padded)
        return check_binary(log, _parse(path, _data(path, file, head)), padded=padded)


def _parse(path: Path, content: Data) -> MeasurementLog:
    try:
        return MeasurementLog.parse(content)
    except Rejection as rejection:
        raise _malformed(path, rejection) from None


def _from_buffer(path: Path, content: bytes) -> Source:
    try:
        log, buffer = _carried(content, 0)
    except Rejection as rejection:
        raise _malformed(path, rejection, "hand-over buffer, ") from None
    return Source(path, SourceKind.HANDOVER, log, buffer)


def _from_dump(path: Path, dump: bytes | mmap) -> Source:
    """The buffer with the most records: after a kexec there may be older ones in memory."""
    best: tuple[MeasurementLog, Buffer] | None = None
    offsets: list[int] = []
    fault: MalformedLog | None = None
    left = _MOST_READINGS * len(dump)
    for offset in find_handover_buffers(dump):
        left -= min(_claimed_size(dump, offset), len(dump) - offset)
        if left < 0:
            raise MalformedLog(
                Reason.NOT_A_LIST,
                "too much of it looks like the beginning of a hand-over buffer and is none",
                where=f"{path}, offset {offset:#x}",
                remedy="cut the buffer out of the dump: name a file that begins with its header",
            )
        try:
            carried = _carried(dump, offset)
        except Rejection as rejection:
            place = f"hand-over buffer at offset {offset:#x}, "
            fault = fault or _malformed(path, rejection, place)
            continue
        offsets.append(offset)
        if best is None or len(carried[0]) > len(best[0]):
            best = carried
    if best is None:
        raise fault or MalformedLog(
            Reason.NOT_A_LIST,
            "neither a list nor a hand-over buffer is in it",
            where=f"{path}, offset 0",
            remedy=_AGAIN,
        )
    log, buffer = best
    others = tuple(offset for offset in offsets if offset != buffer.offset)
    return Source(path, SourceKind.DUMP, log, buffer, others)


def _carried(content: bytes | mmap, offset: int) -> tuple[MeasurementLog, Buffer]:
    size = _claimed_size(content, offset)
    header = HandoverBuffer.parse(content[offset : offset + max(size, HEADER_SIZE)])
    carried = header.carried()
    return carried.log, Buffer(offset, header.count, header.size, carried.cut)


def _claimed_size(content: bytes | mmap, offset: int) -> int:
    """What a header says of its buffer's size, in bytes."""
    head = content[offset : offset + HEADER_SIZE]
    return int.from_bytes(head[8:16], "big" if head[0] == 0 else "little")


def _data(path: Path, file: BufferedReader, head: bytes) -> Data:
    """All of it: read where it is asked for if that is much, and the file can be read so."""
    return StoredBytes.of(path, file, _MUCH) or _whole(file, head)


def _whole(file: BufferedReader, head: bytes) -> bytes:
    """All of it, `head` being read already; a pipe cannot be wound back."""
    if not file.seekable():
        return head + file.read()
    file.seek(0)
    return file.read()


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """The file, to be read once from its beginning: it may be a pipe."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        remedy = "name a list that this user may read"
        if path.is_dir():
            remedy = "name a list in it; `imakexec verify` judges an evidence folder"
        raise UserError(
            f"the list cannot be read: {error.strerror}", where=str(path), remedy=remedy
        ) from error


def _malformed(path: Path, rejection: Rejection, place: str = "") -> MalformedLog:
    where = f"{path}, {place}{rejection.where}".rstrip(", ")
    return MalformedLog(rejection.reason, rejection.what, where=where, remedy=_AGAIN)
