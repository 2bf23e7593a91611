# SPDX-License-Identifier: GPL-2.0-only
"""The buffer in which one kernel hands its measurement list to the next.

A header, little-endian or in the byte order of the guest, then the records of the binary list
(kernel: `struct ima_kexec_hdr` in security/integrity/ima/ima.h):

    u16 version = 1 | u16 reserved | u32 reserved | u64 buffer_size | u64 count

`buffer_size` counts the header. Whatever follows up to the end of the segment means nothing.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap

from imakexec.attest.log import ByteOrder, MeasurementLog
from imakexec.attest.reasons import Reason, Rejection

HEADER_SIZE = 24
_VERSION = 1

# The header of a list of at most 4 GiB, and the first record up to the first letter of its
# template: pcr, digest, name_len.
_FORMS = (
    (
        ByteOrder.LITTLE,
        re.compile(
            rb"\x01\0{7}.{4}\0{4}.{4}\0{4}[\0-\x17]\0{3}.{20}[\x01-\xc3]\0{3}[!-~]", re.DOTALL
        ),
    ),
    (
        ByteOrder.BIG,
        re.compile(
            rb"\0\x01\0{6}\0{4}.{4}\0{4}.{4}\0{3}[\0-\x17].{20}\0{3}[\x01-\xc3][!-~]", re.DOTALL
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class CarriedList:
    """What a hand-over buffer carries.

    Attributes:
        log: the records that are whole.
        cut: bytes of one more record, which had no room; the next kernel drops it.
    """

    log: MeasurementLog
    cut: int


@dataclass(frozen=True, slots=True)
class HandoverBuffer:
    """A hand-over buffer, as far as its header describes it.

    Attributes:
        count: number of records, by the header.
        size: bytes in use, header included, by the header.
        byteorder: of the header.
        log: what the header calls records; read it with `carried`.
        rest: what is behind them.
    """

    count: int
    size: int
    byteorder: ByteOrder
    log: bytes
    rest: bytes

    @classmethod
    def parse(cls, data: bytes, byteorder: ByteOrder | None = None) -> HandoverBuffer:
        """Read a segment.

        Args:
            data: the whole segment, from its first byte.
            byteorder: None for the one in which the version is one that there is.

        Raises:
            Rejection: it has no header of version 1, or the header counts more than is there.
        """
        if len(data) < HEADER_SIZE:
            raise Rejection(
                Reason.HANDOVER_HEADER,
                f"the hand-over buffer has {len(data)} bytes, its header alone has {HEADER_SIZE}",
            )
        if byteorder is None:
            big = data[:2] == _VERSION.to_bytes(2, "big")
            byteorder = ByteOrder.BIG if big else ByteOrder.LITTLE
        prefix = ">" if byteorder is ByteOrder.BIG else "<"
        version, size, count = struct.unpack_from(f"{prefix}H6xQQ", data)
        if version != _VERSION:
            raise Rejection(
                Reason.HANDOVER_HEADER,
                f"the hand-over buffer has version {version}, not {_VERSION}",
            )
        if not HEADER_SIZE <= size <= len(data):
            raise Rejection(
                Reason.HANDOVER_HEADER,
                f"the hand-over buffer claims {size} of its {len(data)} bytes",
            )
        return cls(count, size, byteorder, data[HEADER_SIZE:size], data[size:])

    def carried(self) -> CarriedList:
        """Read the records. A kernel whose copy ran full inside a record has counted it as well.

        Raises:
            Rejection: a record is none, there is none, or there are not as many as counted.
        """
        log, cut = MeasurementLog.parse_whole_records(self.log, self.byteorder)
        found = len(log) + (cut > 0)
        if found != self.count:
            raise Rejection(
                Reason.HANDOVER_HEADER,
                f"the hand-over buffer counts {self.count} records, {found} are in its"
                f" {self.size} bytes",
            )
        return CarriedList(log, cut)


def is_handover_buffer(head: bytes) -> bool:
    """Whether bytes begin with the header of a hand-over buffer, for all that they say.

    A list does not: it may begin with a violation in PCR 1, but then the size would be 0.
    """
    if len(head) < HEADER_SIZE:
        return False
    return any(
        head[:8] == _VERSION.to_bytes(2, order.value) + bytes(6)
        and int.from_bytes(head[8:16], order.value) >= HEADER_SIZE
        for order in ByteOrder
    )


def find_handover_buffers(dump: bytes | mmap) -> Iterator[int]:
    """Where in a memory dump a hand-over buffer may begin, ascending; `parse` tells for sure.

    A dump need not keep the alignment that memory has, so every byte is looked at. The buffer must
    lie in one piece, as it does where the next kernel finds it.
    """
    offsets = [match.start() for _, form in _FORMS for match in form.finditer(dump)]
    yield from sorted(offsets)
