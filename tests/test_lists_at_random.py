# SPDX-License-Identifier: GPL-2.0-only
"""Any list that a kernel can write is read as it was meant, and replayed as a TPM would do it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from list_writer import BANKS, ENTRIES, ORDERS, Entry, Order, naive_pcrs, pack

from imakexec.attest.log import ByteOrder, Layout, MeasurementLog
from imakexec.attest.replay import replay

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
