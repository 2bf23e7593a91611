# SPDX-License-Identifier: GPL-2.0-only
"""How much room a load has left in the segment for records that are measured after it."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from imakexec.attest.handover import HEADER_SIZE
from imakexec.errors import GuestFailure
from imakexec.scenario import MEASUREMENTS, Session, paths_of_records, read_list

_COUNT = "/sys/kernel/security/ima/runtime_measurements_count"
_VMALLOC = "/proc/vmallocinfo"
_AUXV = "/proc/self/auxv"

_AT_PAGESZ = 6  # include/uapi/linux/auxvec.h
_GUARD_PAGES = 1  # behind every area of vmalloc(), and counted in /proc/vmallocinfo

_MARKER = re.compile(rb"kexec_load\0.{4}kexec_segment_size=(\d+);", re.DOTALL)
_MAPPING = re.compile(r"^0x\S+\s+(\d+) kimage_map_segment", re.MULTILINE)

# A record of ima-buf with SHA-256, beside its payload: PCR, digest, template name, data length,
# d-ng, n-ng with "kexec_execute" and its NUL, the length of buf.
_EXECUTE_OVERHEAD = 4 + 20 + (4 + 7) + 4 + (4 + 8 + 32) + (4 + 14) + 4


@dataclass(frozen=True)
class Room:
    """What a load has left for records.

    Attributes:
        segment: bytes of the segment.
        used: bytes of the header and of the list, with the kexec_load that the load has added.
        records: in that list.
    """

    segment: int
    used: int
    records: int

    @property
    def free(self) -> int:
        """Bytes that further records can take, kexec_execute among them."""
        return self.segment - self.used

    def execute_size(self, measured: int, paths: int) -> int:
        """Bytes of kexec_execute after `measured` more bytes in `paths` more records."""
        payload = (
            f"kexec_segment_size={self.segment};ima_binary_runtime_size={self.used + measured};"
            f"ima_runtime_measurements_count={self.records + paths};"
        )
        return _EXECUTE_OVERHEAD + len(payload)

    def measured_for(self, total: int) -> int:
        """Bytes of files that take `total` bytes together with kexec_execute."""
        # Its size depends on the digits of two numbers, which hardly ever change with a byte.
        measured = total
        for _ in range(4):
            paths = len(paths_of_records(measured, folder="/b000000"))
            measured = total - self.execute_size(measured, paths)
        return measured


def room_after_load(session: Session, extra_memory: int) -> Room:
    """Find out how much room the last load has left; the guest must be at rest.

    The kernel says it in kexec_load if it measures that, and shows it as the size of the mapping
    if it maps the segment. One that does neither sizes it by the list that it has at the load.

    Args:
        extra_memory: bytes that the kernel adds to the list when it sizes the segment.

    Raises:
        GuestFailure: the segment is smaller than the list.
        InfraError: the host failed.
    """
    log = read_list(session)
    count = int(session.guest.read_file(_COUNT, session.budget()))
    used = HEADER_SIZE + len(log)
    segment = _marked(log) or _mapped(session) or _computed(session, used + extra_memory)
    if segment < used:
        raise GuestFailure(
            f"the segment of {segment} bytes cannot hold the list of its load, {used} bytes",
            where=MEASUREMENTS,
            remedy="see ima_add_kexec_buffer() of the kernel under test",
        )
    return Room(segment, used, count)


def _marked(log: bytes) -> int | None:
    found = _MARKER.findall(log)
    return int(found[-1]) if found else None


def _mapped(session: Session) -> int | None:
    text = session.guest.read_file(_VMALLOC, session.budget()).decode()
    found = _MAPPING.findall(text)
    return int(found[-1]) - _GUARD_PAGES * _page_size(session) if found else None


def _computed(session: Session, size: int) -> int:
    page = _page_size(session)
    return -(-size // page) * page


def _page_size(session: Session) -> int:
    auxv = session.guest.read_file(_AUXV, session.budget())
    values: dict[int, int] = dict(struct.iter_unpack("<QQ", auxv))
    return values[_AT_PAGESZ]
