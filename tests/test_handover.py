# SPDX-License-Identifier: GPL-2.0-only
"""The hand-over buffer: its header, what it carries, and where it lies in a memory dump."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from mmap import mmap

import pytest
from list_writer import BUILT_IN, ORDERS, Order, entry, handover, pack

from imakexec.attest import Reason, Rejection, Verdict
from imakexec.attest.handover import HandoverBuffer, find_handover_buffers
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


@pytest.mark.parametrize("order", ORDERS)
def test_what_a_buffer_carries(order: Order) -> None:
    entries = [entry(template=name) for name in BUILT_IN if name != "ima"]
    buffer = HandoverBuffer.parse(handover(entries, order) + bytes(100))
    assert buffer.byteorder == order
    carried = buffer.carried()
    assert carried.cut == 0
    assert [record.template.name for record in carried.log] == [e.template for e in entries]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("missing", [1, 10, 88])
def test_a_last_record_that_had_no_room(order: Order, missing: int) -> None:
    """Kernels 6.12 to 7.3 count it: the header is written after the copy has run full."""
    whole = handover([entry("/a"), entry("/b")], order)
    data = handover([entry("/a"), entry("/b")], order, size=len(whole) - missing)
    carried = HandoverBuffer.parse(data).carried()
    assert [record.name for record in carried.log] == ["/a"]
    assert carried.cut == len(entry("/b").pack(order)) - missing


@pytest.mark.parametrize("count", [0, 1, 3, 2**40])
def test_a_header_that_counts_wrong(count: int) -> None:
    buffer = HandoverBuffer.parse(handover([entry("/a"), entry("/b")], count=count))
    with pytest.raises(Rejection, match=f"counts {count} records, 2 are in its") as caught:
        buffer.carried()
    assert caught.value.reason is Reason.HANDOVER_HEADER


def test_a_cut_record_that_is_not_counted() -> None:
    whole = handover([entry("/a"), entry("/b")])
    data = handover([entry("/a"), entry("/b")], size=len(whole) - 1, count=1)
    with pytest.raises(Rejection, match="counts 1 records, 2 are"):
        HandoverBuffer.parse(data).carried()


def test_a_header_in_one_order_and_records_in_the_other() -> None:
    """A big-endian kernel handed over to one with ima_canonical_fmt: the restore fails."""
    data = handover([entry()], "big")[:24] + pack([entry()], "little")
    with pytest.raises(Rejection, match="it would be a record in little-endian order"):
        HandoverBuffer.parse(data).carried()


def test_nothing_carried() -> None:
    with pytest.raises(Rejection) as caught:
        HandoverBuffer.parse(handover([])).carried()
    assert caught.value.reason is Reason.EMPTY_LIST


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("template", [name for name in BUILT_IN if name != "ima"])
@pytest.mark.parametrize("place", [0, 1, 4095, 8192])
def test_a_buffer_in_a_memory_dump(order: Order, template: str, place: int) -> None:
    noise = random.Random(place).randbytes(20000)
    buffer = handover([entry(template=template)], order)
    dump = noise[:place] + buffer + noise[place:] + handover([], order) + bytes(9000)
    assert list(find_handover_buffers(dump)) == [place]
    with mmap(-1, len(dump)) as memory:
        memory[:] = dump
        assert list(find_handover_buffers(memory)) == [place]


@pytest.mark.parametrize("order", ORDERS)
def test_a_buffer_in_a_memory_dump_with_a_newline_in_every_number(order: Order) -> None:
    records = [replace(entry("/a"), digest=b"\n" * 20)] * 10
    records.append(entry("/" + "x" * (0x0A0A - 24 - len(pack([*records, entry("/")])))))
    records += [records[0]] * (0x0A0A - len(records))
    buffer = handover(records, order, size=0x0A0A)
    assert list(find_handover_buffers(b"dump" + buffer)) == [4]


def test_a_dump_without_a_buffer() -> None:
    assert list(find_handover_buffers(random.Random(1).randbytes(10000) + bytes(10000))) == []
