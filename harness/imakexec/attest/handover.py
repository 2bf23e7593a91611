# SPDX-License-Identifier: GPL-2.0-only
"""The buffer in which one kernel hands its measurement list to the next.

A header, little-endian or in the byte order of the guest, then the records of the binary list
(kernel: `struct ima_kexec_hdr` in security/integrity/ima/ima.h):

    u16 version = 1 | u16 reserved | u32 reserved | u64 buffer_size | u64 count

`buffer_size` counts the header. Whatever follows up to the end of the segment means nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from imakexec.attest.log import ByteOrder
from imakexec.attest.reasons import Reason, Rejection

HEADER_SIZE = 24
_VERSION = 1


@dataclass(frozen=True, slots=True)
class HandoverBuffer:
    """A hand-over buffer, as far as its header describes it.

    Attributes:
        count: number of records, by the header.
        size: bytes in use, header included, by the header.
        log: what the header calls records; parse it with `MeasurementLog.parse`.
        rest: what is behind them.
    """

    count: int
    size: int
    log: bytes
    rest: bytes

    @classmethod
    def parse(cls, data: bytes, byteorder: ByteOrder = ByteOrder.LITTLE) -> HandoverBuffer:
        """Read a segment.

        Args:
            data: the whole segment, from its first byte.

        Raises:
            Rejection: it has no header of version 1, or the header counts more than is there.
        """
        if len(data) < HEADER_SIZE:
            raise Rejection(
                Reason.HANDOVER_HEADER,
                f"the hand-over buffer has {len(data)} bytes, its header alone has {HEADER_SIZE}",
            )
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
        return cls(count, size, data[HEADER_SIZE:size], data[size:])
