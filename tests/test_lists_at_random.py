# SPDX-License-Identifier: GPL-2.0-only
"""Any list that a kernel can write is read as it was meant, and replayed as a TPM would do it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from list_writer import (
    BANKS,
    ENTRIES,
    ORDERS,
    Entry,
    Order,
    naive_pcrs,
    naive_reading,
    pack,
)
from list_writer import entry as filled

from imakexec.attest import log as log_module
from imakexec.attest.log import STRIDE, ByteOrder, Layout, MeasurementLog
from imakexec.attest.reasons import Rejection
from imakexec.attest.replay import Start, replay

# The package has the function under the module's name.
replay_module = import_module("imakexec.attest.replay")

order_of = st.sampled_from(ORDERS)
bank_of = st.sampled_from(BANKS)


@given(ENTRIES, order_of, bank_of)
def test_what_was_written_is_what_is_read(entries: list[Entry], order: Order, bank: str) -> None:
    data = pack(entries, order, bank)
    log = MeasurementLog.parse(data)
    assert log.layout == Layout(ByteOrder(order), bank)
    assert len(log) == len(entries)
    at = 0
    for record, entry in zip(log, entries, strict=True):
        size = len(entry.pack(order, bank))
        assert (record.offset, record.size, record.pcr) == (at, size, entry.pcr)
        at += size
        assert record.template.name == entry.template
        assert record.template.fields == tuple(entry.fields)
        assert record.data == entry.data(order)
        assert record.is_violation == entry.violation
        assert record.digest == entry.column(order, bank)
        for field, part in zip(entry.fields, entry.parts(order), strict=True):
            expected = part[:-1] if entry.template == "ima" and field == "n" else part
            assert record.field(field) == (expected if entry.fields.count(field) == 1 else None)
    assert [size for _, size in log.sizes()] == [len(entry.pack(order)) for entry in entries]
    assert log.carried_size(len(log)) == len(pack(entries, order))


@given(ENTRIES, order_of, bank_of, st.lists(bank_of, unique=True))
def test_replay_against_a_naive_one(
    entries: list[Entry], order: Order, column: str, banks: list[str]
) -> None:
    outcome = replay(
        MeasurementLog.parse(pack(entries, order, column)), banks, {bank: [] for bank in banks}
    )
    for bank in banks:
        naive = naive_pcrs(entries, order, bank)
        zero = bytes(len(next(iter(naive.values()))))
        assert {pcr: values[bank] for pcr, values in outcome.pcrs.items()} == naive
        assert outcome.final[bank] == naive.get(10, zero)
    assert outcome.contradiction is None
    assert list(outcome.violations) == [n for n, entry in enumerate(entries) if entry.violation]


# Templates whose records a list has many of, with fields of several lengths.
SHAPED = st.lists(
    st.builds(
        Entry,
        st.just("ima-ng"),
        st.tuples(
            st.sampled_from([b"sha1:\0" + bytes(20), b"sha256:\0" + bytes(range(32)), b""]),
            st.sampled_from([b"/a\0", b"/bin/sh\0", b""]),
        ),
        violation=st.booleans(),
    )
    | st.builds(
        Entry,
        st.sampled_from(["ima-sig", "ima-buf", "d-ng|n-ng|sig"]),
        st.tuples(st.just(b"sha256:\0" + bytes(32)), st.just(b"/a\0"), st.binary(max_size=20)),
    )
    | st.sampled_from([filled(template="evm-sig"), filled(template="sig"), filled("/l" * 90)]),
    min_size=1,
    max_size=3 * STRIDE,
)
WINDOWS = st.sampled_from([1, 200, 1000, 1 << 17])


@given(SHAPED, order_of, bank_of, WINDOWS, st.data())
def test_any_change_of_a_list_is_read_as_by_a_naive_reader(
    entries: list[Entry], order: Order, bank: str, window: int, data: st.DataObject
) -> None:
    changed = bytearray(pack(entries, order, bank))
    # The first record says what kind of list it is; what is wrong with that is another question.
    first = len(entries[0].pack(order, bank))
    if first < len(changed) and data.draw(st.booleans()):
        at = data.draw(st.integers(first, len(changed) - 1))
        changed[at] = data.draw(st.sampled_from([0, 1, 4, 0x17, 0x18, 0xFF, changed[at] ^ 1]))
    cut = data.draw(st.one_of(st.none(), st.integers(first, len(changed))))
    content = bytes(changed[:cut])
    naive = naive_reading(content, order, bank)
    with patch.object(log_module, "_WINDOW", window):
        if naive.fault is not None:
            with pytest.raises(Rejection) as caught:
                MeasurementLog.parse(content)
            assert caught.value.reason == naive.fault
            begin = naive.ends[-1] if naive.ends else 0
            assert caught.value.where == f"record {len(naive.ends)} at offset {begin}"
            return
        log = MeasurementLog.parse(content)
        assert [log.offset(count) for count in range(len(log) + 1)] == [0, *naive.ends]
        assert [record.offset + record.size for record in log] == naive.ends
        ends = iter(naive.ends)
        for batch in log.batches():
            for hashed in batch.hashed:
                end = next(ends)
                assert content[end - len(hashed) : end] == hashed
        assert next(ends, None) is None


@given(SHAPED, WINDOWS, st.data())
def test_a_list_in_windows_is_the_list(
    entries: list[Entry], window: int, data: st.DataObject
) -> None:
    content = pack(entries)
    ends = [len(pack(entries[:count])) for count in range(len(entries) + 1)]
    needle = data.draw(st.sampled_from([b"/a\0", b"sha", b"/bin", b"\0\0\0\0\0", b"ima"]))
    first = data.draw(st.integers(0, len(entries)))
    with patch.object(log_module, "_WINDOW", window):
        log = MeasurementLog.parse(content)
        assert list(log.carrying(needle)) == [
            index for index, item in enumerate(entries) if needle in item.pack()
        ]
        sizes = [size for _, size in log.sizes(first)]
        assert sizes == [len(item.pack()) for item in entries[first:]]
        names = [template.name for template, _ in log.sizes(first)]
        assert names == [item.template for item in entries[first:]]
        other = data.draw(st.integers(0, len(content)))
        changed = bytearray(content)
        if other < len(content):
            changed[other] ^= 0x20
        try:
            twin = MeasurementLog.parse(bytes(changed), ByteOrder.LITTLE)
        except Rejection:
            return
        same = max(count for count, end in enumerate(ends) if end <= other)
        assert log.common_records(twin) == min(same, len(twin))
        assert twin.common_records(log) == min(same, len(twin))


@given(
    ENTRIES, order_of, bank_of, st.sets(bank_of, min_size=1), st.sets(bank_of), st.data(), WINDOWS
)
def test_replay_from_anywhere_in_padded_banks(
    entries: list[Entry],
    order: Order,
    column: str,
    banks: set[str],
    padded: set[str],
    data: st.DataObject,
    window: int,
) -> None:
    """From values of PCR 10 after some records; what is wanted is what it holds later, or then."""
    records = data.draw(st.integers(0, len(entries)))
    later = data.draw(st.integers(records, len(entries)))
    starts = {bank: bytes([7]) * len(naive_zero(bank)) for bank in banks}
    wanted: dict[str, bytes] = {}
    outcomes: dict[str, Mapping[int, bytes]] = {}
    for bank in banks:
        before = naive_pcrs(entries[:records], order, bank, padded=bank in padded)
        rest = {**before, 10: starts[bank]}
        for count, into in ((later, wanted), (len(entries), None)):
            pcrs = naive_pcrs(
                entries[records:count], order, bank, padded=bank in padded, begin=rest
            )
            if into is None:
                outcomes[bank] = pcrs
            else:
                into[bank] = pcrs[10]
    # The digest column is SHA-1, or of a bank that is not padded: here the writer knows no other.
    column = "sha1" if column in padded else column
    with patch.object(log_module, "_WINDOW", window):
        outcome = replay(
            MeasurementLog.parse(pack(entries, order, column)),
            sorted(banks),
            {bank: [value] for bank, value in wanted.items()},
            start=Start(records, starts),
            padded=padded,
        )
    tens = [n for n, item in enumerate(entries[:later], 1) if item.pcr == 10 and n > records]
    assert outcome.matched(wanted) == (tens[-1] if tens else records)
    for bank in banks:
        assert outcome.final[bank] == outcomes[bank][10]
        named = {item.pcr for item in entries}
        assert {pcr: values[bank] for pcr, values in outcome.pcrs.items()} == {
            pcr: outcomes[bank][pcr] for pcr in named
        }
    assert outcome.contradiction is None
    assert list(outcome.violations) == [n for n, item in enumerate(entries) if item.violation]


def naive_zero(bank: str) -> bytes:
    return naive_pcrs([Entry("ima-ng", (b"", b""))], "little", bank)[10]


@settings(max_examples=25)  # each of them makes processes
@given(ENTRIES, bank_of, st.permutations(BANKS), st.integers(2, 4))
def test_processes_find_what_one_finds(
    entries: list[Entry], column: str, banks: list[str], processes: int
) -> None:
    log = MeasurementLog.parse(pack(entries, bank=column))
    values = {bank: naive_pcrs(entries[:1], "little", bank).get(10, b"") for bank in banks}
    wanted = {bank: [value] for bank, value in values.items()}
    alone = replay(log, banks, wanted)
    with patch.object(replay_module, "_WORTH_A_PROCESS", 1):
        shared = replay(log, banks, wanted, processes=processes)
    assert shared == alone
    assert list(shared.final) == list(alone.final) == banks


@given(ENTRIES, order_of, st.data())
def test_every_prefix_of_a_replay_is_found_at_its_record(
    entries: list[Entry], order: Order, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(entries)))
    values = {bank: naive_pcrs(entries[:count], order, bank).get(10) for bank in BANKS}
    wanted = {bank: value for bank, value in values.items() if value is not None}
    log = MeasurementLog.parse(pack(entries, order))
    outcome = replay(log, BANKS, {bank: [wanted[bank]] if wanted else [] for bank in BANKS})
    # Records into other PCRs leave PCR 10 as it is: the first record that gave the value counts.
    tens = [n + 1 for n, entry in enumerate(entries[:count]) if entry.pcr == 10]
    assert outcome.matched(wanted) == (tens[-1] if tens else None)


@given(ENTRIES, order_of, bank_of, st.data())
def test_a_digest_that_is_not_its_record_s_is_found(
    entries: list[Entry], order: Order, bank: str, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(entries) - 1))
    original = entries[index]
    wrong = bytearray(original.column(order, bank))
    wrong[data.draw(st.integers(0, len(wrong) - 1))] ^= 1
    entries[index] = Entry(
        original.template, original.values, original.pcr, violation=False, digest=bytes(wrong)
    )
    outcome = replay(MeasurementLog.parse(pack(entries, order, bank)), (), {})
    assert outcome.contradiction == index


@given(st.lists(ENTRIES, min_size=1, max_size=4), order_of, bank_of)
def test_a_list_in_parts_is_the_list(parts: list[list[Entry]], order: Order, bank: str) -> None:
    whole = MeasurementLog.parse(b"".join(pack(part, order, bank) for part in parts))
    joined = MeasurementLog.join([MeasurementLog.parse(pack(part, order, bank)) for part in parts])
    assert list(joined) == list(whole)
    assert joined.data == whole.data


@given(ENTRIES, order_of, st.data())
def test_a_list_cut_anywhere_keeps_its_whole_records(
    entries: list[Entry], order: Order, data: st.DataObject
) -> None:
    ends = [len(pack(entries[:count], order)) for count in range(len(entries) + 1)]
    cut = data.draw(st.integers(ends[1], ends[-1]))
    log, rest = MeasurementLog.parse_whole_records(pack(entries, order)[:cut])
    whole = max(count for count, end in enumerate(ends) if end <= cut)
    assert (len(log), rest) == (whole, cut - ends[whole])
