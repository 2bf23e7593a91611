# SPDX-License-Identifier: GPL-2.0-only
"""The list is read strictly, and every byte of it has exactly one meaning."""

from __future__ import annotations

import hashlib
import struct

import pytest
from evidence_maker import Rec, buf, fields, ng, pack, violation
from hypothesis import given
from hypothesis import strategies as st
from list_writer import BUILT_IN, Entry, entry
from list_writer import pack as pack_entries

from imakexec.attest.log import (
    DIGEST_SIZES,
    ByteOrder,
    Digest,
    Layout,
    MeasurementLog,
    detect_layout,
)
from imakexec.attest.reasons import Reason, Rejection
from imakexec.attest.replay import replay

# One ima-ng record as a little-endian guest writes it, byte by byte (ima_fs.c).
GOLDEN_DATA = b"".join(
    [
        bytes.fromhex("28000000"),  # length of d-ng: 7 + 1 + 32
        b"sha256:\0",
        bytes(range(32)),
        bytes.fromhex("0f000000"),  # length of n-ng, with its NUL
        b"boot_aggregate\0",
    ]
)
GOLDEN = b"".join(
    [
        bytes.fromhex("0a000000"),
        hashlib.sha1(GOLDEN_DATA).digest(),
        bytes.fromhex("06000000"),
        b"ima-ng",
        bytes.fromhex("3f000000"),
        GOLDEN_DATA,
    ]
)


def rejection(data: bytes, order: ByteOrder | None = ByteOrder.LITTLE) -> Rejection:
    with pytest.raises(Rejection) as caught:
        MeasurementLog.parse(data, order)
    return caught.value


def test_golden_record() -> None:
    (record,) = MeasurementLog.parse(GOLDEN)
    assert (record.index, record.offset, record.size) == (0, 0, len(GOLDEN))
    assert (record.pcr, record.template.name, record.name) == (10, "ima-ng", "boot_aggregate")
    assert record.file_digest == Digest("sha256", bytes(range(32)))
    assert record.data == GOLDEN_DATA
    assert record.digest == hashlib.sha1(GOLDEN_DATA).digest()
    assert not record.is_violation
    assert record.buf is None


def test_size_of_an_ima_ng_record() -> None:
    """87 bytes and the path, as the size arithmetic of the kernel has it."""
    (record,) = MeasurementLog.parse(ng("/usr/bin/true").pack())
    assert record.size == 87 + len("/usr/bin/true")


def test_ima_buf_carries_its_content() -> None:
    (record,) = MeasurementLog.parse(buf("kexec_load", b"payload").pack())
    assert (record.name, record.buf) == ("kexec_load", b"payload")


@pytest.mark.parametrize(
    ("name", "parts", "digest"),
    [
        ("ima-sig", (b"sha1:\0" + bytes(20), b"/a\0", b""), Digest("sha1", bytes(20))),
        ("ima-ngv2", (b"verity:sha256:\0" + bytes(32), b"/a\0"), Digest("sha256", bytes(32))),
        ("ima-sigv2", (b"ima:sha512:\0" + bytes(64), b"/a\0", b"s"), Digest("sha512", bytes(64))),
        ("ima-modsig", (b"sha1:\0" + bytes(20), b"/a\0", b"", b"", b""), Digest("sha1", bytes(20))),
        ("evm-sig", (b"sha1:\0" + bytes(20), b"/a\0", *[b""] * 7), Digest("sha1", bytes(20))),
        ("d-ng|n-ng|sig", (b"sha1:\0" + bytes(20), b"/a\0", b""), Digest("sha1", bytes(20))),
        ("n-ng|d-ng", (b"/a\0", b"sha1:\0" + bytes(20)), Digest("sha1", bytes(20))),
    ],
)
def test_templates(name: str, parts: tuple[bytes, ...], digest: Digest) -> None:
    (record,) = MeasurementLog.parse(Rec(name.encode(), fields(*parts)).pack())
    assert (record.name, record.file_digest) == ("/a", digest)


def test_unknown_template_is_read_but_means_nothing() -> None:
    (record,) = MeasurementLog.parse(Rec(b"d-ng|new", fields(b"sha1:\0" + bytes(20), b"x")).pack())
    assert record.template.fields is None
    assert (record.event, record.file_digest, record.buf) == (None, None, None)


def test_longest_format_that_a_kernel_takes() -> None:
    (record,) = MeasurementLog.parse(entry(template="|".join(["xattrlengths"] * 15)).pack())
    assert record.template.fields == ("xattrlengths",) * 15


def test_duplicate_field_means_nothing() -> None:
    (record,) = MeasurementLog.parse(Rec(b"n-ng|n-ng", fields(b"/a\0", b"/b\0")).pack())
    assert record.event is None


def test_event_needs_its_nul() -> None:
    data = fields(b"sha1:\0" + bytes(20), b"kexec_load")
    (record,) = MeasurementLog.parse(Rec(b"ima-ng", data).pack())
    assert record.event is None


def test_digest_without_algorithm() -> None:
    (record,) = MeasurementLog.parse(Rec(b"ima-ng", fields(bytes(20), b"/a\0")).pack())
    assert record.file_digest is None


def test_path_that_is_not_utf8() -> None:
    data = fields(b"sha1:\0" + bytes(20), b"/\xff\0")
    (record,) = MeasurementLog.parse(Rec(b"ima-ng", data).pack())
    assert (record.event, record.name) == (b"/\xff", "/\\xff")


def legacy(path: bytes, digest: bytes = bytes(range(20))) -> bytes:
    hashed = digest + path.ljust(256, b"\0")
    head = struct.pack("<I", 10) + hashlib.sha1(hashed).digest() + struct.pack("<I", 3) + b"ima"
    return head + digest + struct.pack("<I", len(path)) + path


def test_legacy_template_among_others() -> None:
    log = MeasurementLog.parse(GOLDEN + legacy(b"/bin/sh") + GOLDEN)
    record = log[1]
    assert (len(log), record.name) == (3, "/bin/sh")
    assert record.file_digest == Digest("sha1", bytes(range(20)))
    hashed = [entry[2] for entry in log.extends()]
    assert hashed[1] == bytes(range(20)) + b"/bin/sh".ljust(256, b"\0")
    assert hashlib.sha1(hashed[1]).digest() == record.digest
    assert hashed[0] == hashed[2] == GOLDEN_DATA


def test_legacy_digest_of_md5() -> None:
    """ima_hash=md5 is the other hash that goes with it; nothing in the record says which."""
    first, second = (Entry("ima", (bytes(range(size)), b"/b\0")).pack() for size in (16, 20))
    for data in (first, second, first + second, second + first):
        log = MeasurementLog.parse(data)
        assert [record.name for record in log] == ["/b"] * len(log)
        assert replay(log, (), {}).contradiction is None
    assert MeasurementLog.parse(first)[0].file_digest == Digest("md5", bytes(range(16)))


def test_legacy_violation_has_no_digest_of_md5() -> None:
    whole = Entry("ima", (bytes(20), b"/b\0"), violation=True).pack()
    assert len(MeasurementLog.parse(whole + GOLDEN)) == 2
    assert rejection(whole[:-1]).reason is Reason.SHORT_RECORD


def test_a_legacy_digest_is_not_taken_for_lengths() -> None:
    """Of template data of 18 bytes, and of two fields in them."""
    digest = struct.pack("<II8xI", 18, 8, 2)
    records = [Entry("ima", (digest, path)) for path in (b"/a\0", b"/bin/sh\0", b"/b\0")]
    log = MeasurementLog.parse(pack_entries(records))
    assert [record.name for record in log] == ["/a", "/bin/sh", "/b"]


@pytest.mark.parametrize("path", [b"/bin/sh\0", b"/b\1\1\1\0", b"/" + b"x" * 200 + b"\0"])
@pytest.mark.parametrize("size", [16, 20])
def test_a_list_may_be_cut_in_a_legacy_record(path: bytes, size: int) -> None:
    cut = Entry("ima", (bytes(range(size)), path)).pack()
    for length in range(1, len(cut)):
        log, rest = MeasurementLog.parse_whole_records(GOLDEN + cut[:length])
        assert (len(log), rest) == (1, length)
        where = f"record 1 at offset {len(GOLDEN)}"
        assert rejection(GOLDEN + cut[:length]).where == where


def test_name_of_a_custom_format_ends_with_nul_unlike_the_legacy_one() -> None:
    (record,) = MeasurementLog.parse(Entry("n|d", (b"/b\0", bytes(16))).pack())
    assert (record.event, record.file_digest) == (b"/b", Digest("md5", bytes(16)))


def test_violation() -> None:
    (record,) = MeasurementLog.parse(violation("/tmp/open").pack())
    assert record.is_violation


def test_big_endian() -> None:
    content = fields(b"sha1:\0" + bytes(20), b"/a\0", order=">")
    data = Rec(b"ima-ng", content).pack(">")
    for order in (ByteOrder.BIG, None):
        (record,) = MeasurementLog.parse(data, order)
        assert (record.pcr, record.name) == (10, "/a")
    error = rejection(data)
    assert error.reason is Reason.PCR_INDEX
    assert "it would be a record in big-endian order" in error.what


@pytest.mark.parametrize("order", ByteOrder)
@pytest.mark.parametrize("pcr", [0, 10, 23])
def test_byte_order_is_found_by_any_first_record(order: ByteOrder, pcr: int) -> None:
    for template in BUILT_IN:
        data = entry(template=template, pcr=pcr).pack(order.value)
        assert MeasurementLog.parse(data).layout == Layout(order, "sha1")
        assert detect_layout(data) == Layout(order, "sha1")
        other = next(item for item in ByteOrder if item is not order)
        assert detect_layout(data, other) is None


def test_byte_order_that_changes_is_named_where_it_does() -> None:
    error = rejection(GOLDEN + entry().pack("big"), None)
    assert error.where == f"record 1 at offset {len(GOLDEN)}"
    assert "it would be a record in big-endian order" in error.what


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"10 0123 ima-ng", bytes(100), b"\xff" * 100, entry(pcr=24).pack()],
)
def test_what_no_layout_begins(data: bytes) -> None:
    assert detect_layout(data) is None


@pytest.mark.parametrize("bank", DIGEST_SIZES)
def test_list_of_a_bank(bank: str) -> None:
    items = [entry(f"/{name}", template=name) for name in BUILT_IN]
    items.append(Entry("ima-ng", entry("/v").values, violation=True))
    log = MeasurementLog.parse(pack_entries(items, bank=bank))
    assert log.layout.bank == bank
    assert [record.name for record in log] == [f"/{name}" for name in (*BUILT_IN, "v")]
    assert [record.is_violation for record in log] == [False] * len(BUILT_IN) + [True]
    assert log.carried_size(len(log)) == len(pack_entries(items))
    assert [template.name for template in log.templates] == sorted(BUILT_IN)


def test_lists_that_do_not_go_together() -> None:
    little = MeasurementLog.parse(GOLDEN)
    for other in (entry().pack("big"), entry().pack(bank="sha256")):
        with pytest.raises(ValueError, match="one layout"):
            MeasurementLog.join([little, MeasurementLog.parse(other)])
    with pytest.raises(ValueError, match="one layout"):
        MeasurementLog.join([])


def test_whole_records_of_what_is_no_list() -> None:
    """Only the end may be missing."""
    for data, reason in (
        (b"", Reason.EMPTY_LIST),
        (GOLDEN[:-1], Reason.EMPTY_LIST),
        (GOLDEN + resized(0, 1), Reason.FIELD_SUM),
    ):
        with pytest.raises(Rejection) as caught:
            MeasurementLog.parse_whole_records(data)
        assert caught.value.reason is reason


def test_templates_of_whole_records_only() -> None:
    log, rest = MeasurementLog.parse_whole_records(GOLDEN + entry(template="ima-sig").pack()[:-1])
    assert [template.name for template in log.templates] == ["ima-ng"]
    assert rest == len(entry(template="ima-sig").pack()) - 1


def test_sequence() -> None:
    log = MeasurementLog.parse(pack([ng("/a"), ng("/bb"), ng("/ccc")]))
    assert [record.name for record in log] == ["/a", "/bb", "/ccc"]
    assert log[-1].name == "/ccc"
    assert [record.name for record in log[1:]] == ["/bb", "/ccc"]
    with pytest.raises(IndexError):
        log[3]
    with pytest.raises(IndexError):
        log[-4]


def test_offsets() -> None:
    log = MeasurementLog.parse(pack([ng("/a"), ng("/bb")]))
    assert [log.offset(count) for count in range(3)] == [0, 89, 179]


def test_carrying() -> None:
    log = MeasurementLog.parse(pack([ng("/a"), ng("/x/x/x"), ng("/b"), ng("/x")]))
    assert list(log.carrying(b"/x")) == [1, 3]
    # The end of one record and the start of the next are not one text.
    assert list(log.carrying(b"/b\0\x0a")) == []


def test_carrying_goes_on_after_a_text_across_two_records() -> None:
    """The end of the first and the beginning of the second are not what the third one holds."""
    first = Rec(b"ima-ng", fields(b"sha1:\0" + bytes(20), b"/aa"))
    second = ng("/x", pcr=int.from_bytes(b"\x17", "little"))
    log = MeasurementLog.parse(pack([first, second, ng("/aa\x17")]))
    assert list(log.carrying(b"aa\x17")) == [2]


class Asked:
    """Bytes that are counted when they are asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.most = 0

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, span: slice) -> bytes:
        part = self._data[span]
        self.most = max(self.most, len(part))
        return part


def test_little_of_a_long_list_is_asked_for_at_once() -> None:
    data = pack([ng(f"/usr/bin/{number}") for number in range(20_000)])
    asked = Asked(data)
    log, whole = MeasurementLog.parse(asked), MeasurementLog.parse(data)
    replay(log, (), {})
    assert list(log.sizes()) == list(whole.sizes())
    assert list(log.carrying(b"/usr/bin/19999")) == [19_999]
    assert log[17_003] == whole[17_003]
    assert log.common_records(whole) == 20_000
    assert asked.most < len(data) / 10


def test_parts_that_are_asked_for_are_joined_without_a_copy() -> None:
    one, two = pack([ng("/a"), ng("/b")]), pack([ng("/c")])
    log = MeasurementLog.join([MeasurementLog.parse(Asked(one)), MeasurementLog.parse(two)])
    assert log.data[:] == one + two
    assert [record.name for record in log] == ["/a", "/b", "/c"]
    alone = MeasurementLog.parse(one)
    assert MeasurementLog.join([alone]) is alone


def test_a_legacy_record_that_ends_a_part_may_be_read_otherwise_with_the_next() -> None:
    """One of MD5, whose path and what follows it make up the longer digest of SHA-1."""
    first = Entry("ima", (bytes(16), b"/\0")).pack()
    second = entry(pcr=0).pack()
    parts = [MeasurementLog.parse(part) for part in (first, second)]
    with pytest.raises(Rejection):
        MeasurementLog.join(parts)


def test_common_records() -> None:
    records = [ng(f"/{n}") for n in range(9)]
    whole = MeasurementLog.parse(pack(records))
    for count in range(1, 9):
        assert MeasurementLog.parse(pack(records[:count])).common_records(whole) == count
        other = MeasurementLog.parse(pack([*records[:count], ng("/other"), *records[count + 1 :]]))
        assert whole.common_records(other) == other.common_records(whole) == count
    assert whole.common_records(MeasurementLog.parse(pack([ng("/x")]))) == 0


def test_empty_list() -> None:
    assert rejection(b"").reason is Reason.EMPTY_LIST


@pytest.mark.parametrize("cut", range(1, len(GOLDEN)))
def test_every_cut_is_found_and_placed(cut: int) -> None:
    error = rejection(GOLDEN + GOLDEN[:cut])
    assert error.reason is (Reason.TRAILING_BYTES if cut < 28 else Reason.SHORT_RECORD)
    assert error.where == f"record 1 at offset {len(GOLDEN)}"


def test_trailing_bytes() -> None:
    assert rejection(GOLDEN + b"\0").reason is Reason.TRAILING_BYTES


def resized(field: int, delta: int) -> bytes:
    """The golden record with one field's length wrong."""
    data = bytearray(GOLDEN)
    at = 38 if field == 0 else 38 + 4 + 40
    struct.pack_into("<I", data, at, struct.unpack_from("<I", data, at)[0] + delta)
    return bytes(data)


@pytest.mark.parametrize(
    ("field", "delta"), [(0, 1), (0, -1), (0, 19), (0, 20), (1, 1), (1, -1), (1, 2**31)]
)
def test_fields_must_fill_the_data(field: int, delta: int) -> None:
    error = rejection(resized(field, delta))
    assert error.reason is Reason.FIELD_SUM
    assert error.where == "record 0 at offset 0"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_fields_must_be_as_many_as_the_template_has(count: int) -> None:
    data = fields(*[b"sha1:\0" + bytes(20)] * count)
    assert rejection(Rec(b"ima-ng", data).pack()).reason is Reason.FIELD_SUM


@pytest.mark.parametrize("name", [b"", b"ima\0ng", b"ima-\xff", b"x" * 196, b"ima ng"])
def test_impossible_template_name(name: bytes) -> None:
    assert rejection(Rec(name, fields(b"x")).pack()).reason is Reason.TEMPLATE_NAME


def test_huge_template_name() -> None:
    data = bytearray(GOLDEN)
    struct.pack_into("<I", data, 24, 2**32 - 1)
    assert rejection(bytes(data)).reason is Reason.SHORT_RECORD


def test_impossible_pcr() -> None:
    assert rejection(ng("/a", pcr=24).pack()).reason is Reason.PCR_INDEX


@pytest.mark.parametrize("index", [1, 2, 31, 32, 33, 70])
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (ng("/a", pcr=24).pack(), Reason.PCR_INDEX),
        (ng("/a", pcr=1 << 31).pack(), Reason.PCR_INDEX),
        (Rec(b"ima-ng", ng("/a").data + bytes(1)).pack(), Reason.FIELD_SUM),
        (Rec(b"ima-ng", ng("/a").data[:-1]).pack(), Reason.FIELD_SUM),
        (Rec(b"ima-ng", ng("/a").data + bytes(4)).pack(), Reason.FIELD_SUM),
        (Rec(b"ima-sig", ng("/a").data).pack(), Reason.FIELD_SUM),
        (Rec(b"ima-ng", bytes(4) + ng("/a").data[4:]).pack(), Reason.FIELD_SUM),
    ],
    ids=["PCR 24", "PCR 2^31", *("a byte more", "less"), *("a field more", "less"), "first field"],
)
def test_a_flaw_after_many_records_of_its_shape(index: int, wrong: bytes, reason: Reason) -> None:
    shaped = [ng("/a").pack(), Rec(b"ima-sig", ng("/a").data + bytes(4)).pack()] * 40
    before = b"".join(shaped[:index])
    error = rejection(before + wrong + b"".join(shaped))
    assert error.reason is reason
    assert error.where == f"record {index} at offset {len(before)}"


@pytest.mark.parametrize("cut", [1, 7, 8, 30])
def test_cut_legacy_record(cut: int) -> None:
    assert rejection(legacy(b"/bin/sh")[:-cut]).reason is Reason.SHORT_RECORD


def test_legacy_path_too_long() -> None:
    assert rejection(legacy(b"/" * 256)).reason is Reason.FIELD_SUM


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_rejected(data: bytes) -> None:
    try:
        log = MeasurementLog.parse(data)
    except Rejection:
        return
    assert log.offset(len(log)) == len(data)


@given(st.lists(st.sampled_from([ng("/a"), buf("b", b"c"), violation("/v")]), min_size=1))
def test_what_was_written_is_what_is_read(records: list[Rec]) -> None:
    log = MeasurementLog.parse(pack(records))
    assert [record.data for record in log] == [record.data for record in records]
    assert [record.is_violation for record in log] == [record.violation for record in records]
