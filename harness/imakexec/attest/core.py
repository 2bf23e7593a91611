# SPDX-License-Identifier: GPL-2.0-only
"""The memory of a machine as an ELF core file, such as QEMU's `dump-guest-memory` writes.

Its PT_LOAD headers say which physical addresses lie where in the file (ELF-64 object file format;
QEMU dump/dump.c). The file is mapped and never read as a whole.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_MAGIC = b"\x7fELF"
_CLASS_64 = 2
_ORDERS = {1: "<", 2: ">"}
_TYPE_CORE = 4
_LOAD = 1
_MOST_HEADERS = 4096
_HEADER = 64


class MalformedDump(Exception):
    """A file is no memory dump, or what lies in the memory is not what it should be."""


@dataclass(frozen=True)
class Region:
    """A piece of physical memory that is in the file.

    Attributes:
        start: its physical address.
        size: bytes.
        offset: where it begins in the file.
    """

    start: int
    size: int
    offset: int


@dataclass(frozen=True)
class CoreDump:
    """A memory dump.

    Attributes:
        data: the whole file.
        regions: what it holds, in the order of the file.
        order: "<" or ">": the machine's byte order, for `struct`.
    """

    data: mmap.mmap
    regions: tuple[Region, ...]
    order: str

    @classmethod
    def parse(cls, data: mmap.mmap) -> CoreDump:
        """Read the headers.

        Raises:
            MalformedDump: it is no 64-bit ELF core file, or its headers lead out of it.
        """
        head = bytes(data[:_HEADER])
        if len(head) < _HEADER or head[:4] != _MAGIC or head[4] != _CLASS_64:
            raise MalformedDump("it is no 64-bit ELF file")
        order = _ORDERS.get(head[5])
        if order is None:
            raise MalformedDump(f"its byte order is {head[5]}, which is none")
        kind, table, entry, count = (
            struct.unpack_from(f"{order}H", head, 16)[0],
            struct.unpack_from(f"{order}Q", head, 32)[0],
            *struct.unpack_from(f"{order}HH", head, 54),
        )
        if kind != _TYPE_CORE:
            raise MalformedDump(
                f"it is an ELF file of type {kind}, and no core file ({_TYPE_CORE})"
            )
        if entry < 56 or count > _MOST_HEADERS or table + entry * count > len(data):
            raise MalformedDump("its program headers lie outside of the file")
        regions = []
        for number in range(count):
            place = table + number * entry
            (segment,) = struct.unpack_from(f"{order}I", data, place)
            offset, _, start, size = struct.unpack_from(f"{order}QQQQ", data, place + 8)
            if segment != _LOAD or not size:
                continue
            if offset + size > len(data):
                raise MalformedDump(
                    f"memory at {start:#x} should have {size} bytes at {offset:#x} of the file, "
                    f"which ends at {len(data):#x}"
                )
            regions.append(Region(start, size, offset))
        if not regions:
            raise MalformedDump("it holds no memory")
        return cls(data, tuple(regions), order)

    @property
    def size(self) -> int:
        """Bytes of memory that it holds."""
        return sum(region.size for region in self.regions)

    def read(self, address: int, size: int) -> bytes | None:
        """Bytes at a physical address; None if they are not all in one piece of the dump."""
        for region in self.regions:
            if region.start <= address and address + size <= region.start + region.size:
                place = region.offset + address - region.start
                return bytes(self.data[place : place + size])
        return None

    def number(self, address: int) -> int | None:
        """A 64-bit number at a physical address; None if there is no such memory."""
        raw = self.read(address, 8)
        return None if raw is None else int(struct.unpack(f"{self.order}Q", raw)[0])

    def address_of(self, place: int) -> int | None:
        """The physical address of a byte of the file; None if it is no memory."""
        for region in self.regions:
            if region.offset <= place < region.offset + region.size:
                return region.start + place - region.offset
        return None


@contextmanager
def open_core(path: Path) -> Iterator[CoreDump]:
    """Map a dump for as long as the context lasts.

    Raises:
        OSError: it cannot be read.
        MalformedDump: it is none.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise MalformedDump("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield CoreDump.parse(data)
