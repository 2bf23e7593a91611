# SPDX-License-Identifier: GPL-2.0-only
"""Replay gives what the TPM would hold, in all banks, and finds where a quoted value was."""

from __future__ import annotations

import hashlib

import pytest
from evidence_maker import SIZE, Machine, Rec, buf, ng, pack, violation
from hypothesis import given
from hypothesis import strategies as st

from imakexec.attest import log
from imakexec.attest.log import MeasurementLog
from imakexec.attest.replay import Replay, Start, replay

BANKS = ("sha1", "sha256", "sha384", "sha512")


def naive(records: list[Rec], bank: str) -> bytes:
    value = bytes(SIZE[bank])
    for record in records:
        if record.pcr == 10:
            value = record.extend(bank, value)
    return value


def replayed(records: list[Rec], wanted: dict[str, list[bytes]] | None = None) -> Replay:
    parsed = MeasurementLog.parse(pack(records))
    return replay(parsed, BANKS, wanted or {bank: [] for bank in BANKS})


def test_golden_chain() -> None:
    """Two records, the second a violation, computed by hand."""
    first = ng("/a")
    for bank in BANKS:
        make = getattr(hashlib, bank)
        value = make(bytes(SIZE[bank]) + make(first.data).digest()).digest()
        value = make(value + b"\xff" * SIZE[bank]).digest()
        assert replayed([first, violation("/v")]).final[bank] == value


RECORDS = st.lists(
    st.one_of(
        st.builds(lambda n: ng(f"/{n}"), st.integers(0, 99)),
        st.builds(lambda n: violation(f"/{n}"), st.integers(0, 99)),
        st.builds(lambda n: buf("event", bytes([n])), st.integers(0, 99)),
        st.builds(lambda n: ng(f"/{n}", pcr=11), st.integers(0, 99)),
    ),
    min_size=1,
    max_size=20,
)


@given(RECORDS)
def test_against_naive_replay(records: list[Rec]) -> None:
    outcome = replayed(records)
    assert outcome.final == {bank: naive(records, bank) for bank in BANKS}
    assert list(outcome.violations) == [n for n, rec in enumerate(records) if rec.violation]
    others = [n for n, rec in enumerate(records) if rec.pcr != 10]
    assert outcome.uncovered == (others[0] if others else None)
    assert outcome.contradiction is None


@given(RECORDS.filter(lambda records: all(record.pcr == 10 for record in records)), st.data())
def test_every_prefix_is_found_at_its_record(records: list[Rec], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(records)))
    values = {bank: naive(records[:count], bank) for bank in BANKS}
    outcome = replayed(records, {bank: [value] for bank, value in values.items()})
    assert outcome.matched(values) == count


def test_banks_must_match_at_the_same_record() -> None:
    records = [ng("/a"), ng("/b")]
    values = {bank: naive(records, bank) for bank in BANKS}
    values["sha1"] = naive(records[:1], "sha1")
    outcome = replayed(records, {bank: [value] for bank, value in values.items()})
    assert outcome.records_at("sha1", values["sha1"]) == 1
    assert outcome.records_at("sha256", values["sha256"]) == 2
    assert outcome.matched(values) is None


def test_one_bank_that_never_matches() -> None:
    records = [ng("/a")]
    values = {bank: naive(records, bank) for bank in BANKS} | {"sha256": bytes(32)}
    outcome = replayed(records, {bank: [value] for bank, value in values.items()})
    assert outcome.matched(values) is None


def test_zero_is_not_a_match_of_nothing() -> None:
    values = {bank: bytes(SIZE[bank]) for bank in BANKS}
    outcome = replayed([ng("/a")], {bank: [value] for bank, value in values.items()})
    assert outcome.matched(values) is None


@pytest.mark.parametrize("index", [0, 1, 2])
def test_self_contradiction(index: int) -> None:
    records = [ng("/a"), ng("/b"), ng("/c")]
    records[index] = ng("/x", digest=bytes(19) + b"\1")
    assert replayed(records).contradiction == index


def test_the_first_of_many_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though each record is a batch of its own."""
    monkeypatch.setattr(log, "_WINDOW", 1)
    wrong, other = ng("/x", digest=bytes(19) + b"\1"), ng("/y", pcr=11)
    outcome = replayed([ng("/a"), wrong, other, wrong, other, wrong])
    assert (outcome.contradiction, outcome.uncovered) == (1, 2)


def test_the_maker_and_its_machine_agree() -> None:
    machine = Machine(BANKS)
    machine.measure(ng("/a"), violation("/b"))
    assert machine.pcr10 == {bank: naive(machine.records, bank) for bank in BANKS}


@pytest.mark.parametrize("bank", BANKS)
def test_pcrs_of_a_dynamic_root_of_trust_begin_at_ones(bank: str) -> None:
    measured = getattr(hashlib, bank)(ng("/a").data).digest()
    for pcr in (0, 9, 10, 11, 16, 17, 22, 23):
        start = (b"\xff" if 17 <= pcr <= 22 else b"\0") * SIZE[bank]
        value = getattr(hashlib, bank)(start + measured).digest()
        outcome = replayed([ng("/a", pcr=pcr)])
        assert outcome.pcrs[pcr][bank] == value
        assert list(outcome.pcrs) == [pcr]


def from_there(records: list[Rec], start: Start, wanted: dict[str, bytes]) -> Replay:
    parsed = MeasurementLog.parse(pack(records))
    return replay(parsed, BANKS, {bank: [value] for bank, value in wanted.items()}, start=start)


SOME = {bank: b"\5" * SIZE[bank] for bank in BANKS}


@pytest.mark.parametrize("records", [0, 1, 3])
def test_the_start_itself_counts(records: int) -> None:
    outcome = from_there([ng("/a"), ng("/b"), ng("/c")], Start(records, SOME), SOME)
    assert outcome.matched(SOME) == records


def test_what_was_before_the_start_does_not_count() -> None:
    records = [ng("/a"), ng("/b")]
    values = {bank: naive(records[:1], bank) for bank in BANKS}
    assert from_there(records, Start(1, SOME), values).matched(values) is None


def test_records_before_the_start_are_held_against_their_digests() -> None:
    records = [ng("/a"), ng("/b", digest=bytes(19) + b"\1"), ng("/c")]
    assert from_there(records, Start(3, SOME), SOME).contradiction == 1
    assert from_there([*records[:2], violation("/v")], Start(3, SOME), SOME).violations[0] == 2


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (Start(-1, SOME), "after -1 of 1"),
        (Start(2, SOME), "after 2 of 1"),
        (Start(0, {}), "20 bytes for sha1"),
        (Start(0, {**SOME, "sha384": bytes(20)}), "48 bytes for sha384"),
    ],
)
def test_what_is_no_start(start: Start, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        from_there([ng("/a")], start, SOME)


def test_padded_banks_by_hand() -> None:
    """As kernels before 5.8 extend all banks, and later ones those whose hash they lack."""
    first = ng("/a")
    parsed = MeasurementLog.parse(pack([first, violation("/v")]))
    outcome = replay(parsed, BANKS, dict.fromkeys(BANKS, ()), padded=BANKS)
    for bank in BANKS:
        make, zeros = getattr(hashlib, bank), bytes(SIZE[bank] - 20)
        value = make(bytes(SIZE[bank]) + hashlib.sha1(first.data).digest() + zeros).digest()
        assert outcome.final[bank] == make(value + b"\xff" * 20 + zeros).digest()


def test_the_digest_column_of_a_padded_bank_is_padded() -> None:
    first = ng("/a")
    column = hashlib.sha1(first.data).digest() + bytes(12)
    name_at = 4 + 20
    packed = first.pack()
    parsed = MeasurementLog.parse(packed[:4] + column + packed[name_at:])
    wanted: dict[str, list[bytes]] = {"sha256": []}
    assert replay(parsed, ["sha256"], wanted, padded={"sha256"}).contradiction is None
    assert replay(parsed, ["sha256"], wanted).contradiction == 0
