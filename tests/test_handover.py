# SPDX-License-Identifier: GPL-2.0-only
"""The header of a hand-over buffer."""

from __future__ import annotations

import struct

import pytest

from imakexec.attest import Reason, Rejection, Verdict
from imakexec.attest.handover import HandoverBuffer
from imakexec.attest.log import ByteOrder


def segment(
    *, size: int = 30, count: int = 1, version: int = 1, order: str = "<", room: int = 40
) -> bytes:
    header = struct.pack(f"{order}HHIQQ", version, 0, 0, size, count)
    return (header + b"record").ljust(room, b"\0")


@pytest.mark.parametrize(("order", "byteorder"), [("<", ByteOrder.LITTLE), (">", ByteOrder.BIG)])
def test_what_the_header_says(order: str, byteorder: ByteOrder) -> None:
    buffer = HandoverBuffer.parse(segment(order=order), byteorder)
    assert (buffer.count, buffer.size) == (1, 30)
    assert buffer.log == b"record"
    assert buffer.rest == bytes(10)


def test_a_full_and_an_empty_buffer() -> None:
    assert HandoverBuffer.parse(segment(room=30)).rest == b""
    empty = HandoverBuffer.parse(segment(size=24, count=0))
    assert (empty.log, empty.count) == (b"", 0)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "has 0 bytes"),
        (segment()[:23], "has 23 bytes"),
        (bytes(4096), "has version 0, not 1"),
        (segment(version=2), "has version 2, not 1"),
        (segment(size=41), "claims 41 of its 40 bytes"),
        (segment(size=23), "claims 23 of its 40 bytes"),
        (segment(size=2**64 - 1), "claims 18446744073709551615 of its 40 bytes"),
    ],
)
def test_what_is_no_hand_over_buffer(data: bytes, what: str) -> None:
    with pytest.raises(Rejection, match=what) as caught:
        HandoverBuffer.parse(data)
    assert caught.value.reason is Reason.HANDOVER_HEADER
    assert caught.value.reason.verdict is Verdict.MALFORMED
