# SPDX-License-Identifier: GPL-2.0-only
"""Two lists of the same records agree, or the first record and field that differ are named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from list_writer import (
    BANKS,
    BUILT_IN,
    ENTRIES,
    ORDERS,
    Entry,
    Order,
    ascii_list,
    entry,
    pack,
)

from imakexec.attest.crosscheck import CrossCheck, ListForm, ascii_bank, check_ascii, check_binary
from imakexec.attest.log import MeasurementLog

# What every kernel without a TPM prints first, with ima_hash=sha1.
PRINTED = (
    b"10 1d8d532d463c9f8c205d0df7787669a85f93e260 ima-ng sha1:"
    b"0000000000000000000000000000000000000000 boot_aggregate\n"
)

order_of = st.sampled_from(ORDERS)
bank_of = st.sampled_from(BANKS)


def log_of(entries: list[Entry], order: Order = "little", bank: str = "sha1") -> MeasurementLog:
    return MeasurementLog.parse(pack(entries, order, bank))


def of_ascii(entries: list[Entry], text: bytes) -> CrossCheck:
    return check_ascii(log_of(entries), text)


def test_line_that_a_kernel_has_printed() -> None:
    aggregate = Entry("ima-ng", (b"sha1:\0" + bytes(20), b"boot_aggregate\0"))
    assert aggregate.line() == PRINTED
    assert of_ascii([aggregate], PRINTED).compared == 1


@given(ENTRIES, order_of, bank_of, bank_of)
def test_ascii_lists_of_every_form(
    entries: list[Entry], order: Order, bank: str, ascii_bank: str
) -> None:
    outcome = check_ascii(log_of(entries, order, bank), ascii_list(entries, order, ascii_bank))
    expected = CrossCheck(ListForm.ASCII, ascii_bank, len(entries), "", "", 0, 0)
    assert (outcome, outcome.agrees) == (expected, True)


@given(ENTRIES, order_of, bank_of, bank_of)
def test_binary_lists_of_every_bank(
    entries: list[Entry], order: Order, bank: str, other: str
) -> None:
    outcome = check_binary(log_of(entries, order, bank), log_of(entries, order, other))
    assert outcome == CrossCheck(ListForm.BINARY, other, len(entries), "", "", 0, 0)


@given(ENTRIES, order_of, bank_of, st.data())
def test_no_changed_byte_of_an_ascii_list_is_overlooked(
    entries: list[Entry], order: Order, bank: str, data: st.DataObject
) -> None:
    entries = [entry(), *entries]  # the first line must stay: it says what list this is
    text = bytearray(ascii_list(entries, order, bank))
    ends = [len(ascii_list(entries[:count], order, bank)) for count in range(len(entries) + 1)]
    at = data.draw(st.integers(ends[1], len(text) - 1))
    text[at] ^= 1
    outcome = check_ascii(log_of(entries, order), bytes(text))
    assert not outcome.agrees
    assert outcome.compared == max(n for n, end in enumerate(ends) if end <= at)


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("pcr", entry("/b", pcr=11)),
        ("digest", replace(entry("/b"), digest=bytes(range(20)))),
        ("template", Entry("d-ng|n-ng", entry("/b").values)),
        ("d-ng", Entry("ima-ng", (b"sha1:\0" + bytes(range(20)), b"/b\0"))),
        ("n-ng", entry("/B")),
    ],
)
def test_what_differs_is_named(field: str, changed: Entry) -> None:
    # The same digest, so that nothing differs before the field.
    changed = replace(changed, digest=changed.digest or entry("/b").column("little", "sha1"))
    entries, others = [entry("/a"), entry("/b"), entry("/c")], [entry("/a"), changed, entry("/c")]
    outcome = of_ascii(entries, ascii_list(others))
    assert (outcome.agrees, outcome.compared, outcome.field) == (False, 1, field)
    outcome = check_binary(log_of(entries), log_of(others))
    assert (outcome.agrees, outcome.compared) == (False, 1)
    assert outcome.field == (field if field in ("pcr", "digest", "template") else "data")


def test_a_difference_shows_both_values_where_they_part() -> None:
    long = "/usr/lib/" + "x" * 100
    outcome = of_ascii([entry(long + "/a" * 99)], ascii_list([entry(long + "/b" * 99)]))
    assert outcome.field == "digest"
    changed = replace(entry(long + "/b"), digest=entry(long + "/a").column("little", "sha1"))
    outcome = of_ascii([entry(long + "/a")], ascii_list([changed]))
    assert outcome.difference == (
        f"'{'x' * 23}/a\\n' in the binary list, '{'x' * 23}/b\\n' in this one"
    )


def test_digests_of_a_violation_must_be_zero_in_both() -> None:
    violation = replace(entry("/b"), violation=True)
    for bank in BANKS:
        listed = log_of([entry("/a"), entry("/b")], bank=bank)
        outcome = check_binary(log_of([entry("/a"), violation]), listed)
        assert (outcome.compared, outcome.field) == (1, "digest")


def test_byte_orders_that_differ() -> None:
    outcome = check_binary(log_of([entry()]), log_of([entry()], "big"))
    assert (outcome.compared, outcome.field) == (0, "byte order")


def test_either_list_may_have_gone_on() -> None:
    entries = [entry(f"/{n}") for n in range(5)]
    whole, part = log_of(entries), log_of(entries[:3])
    for shorter in (check_ascii(whole, ascii_list(entries[:3])), check_binary(whole, part)):
        assert (shorter.agrees, shorter.compared) == (True, 3)
        assert (shorter.missing, shorter.further) == (2, 0)
    for longer in (check_ascii(part, ascii_list(entries)), check_binary(part, whole)):
        assert (longer.agrees, longer.compared) == (True, 3)
        assert (longer.missing, longer.further) == (0, 2)


def test_an_ascii_list_cut_in_a_line() -> None:
    text = ascii_list([entry("/a"), entry("/b")])
    outcome = of_ascii([entry("/a"), entry("/b")], text[:-2])
    assert (outcome.compared, outcome.field) == (1, "n-ng")


def test_a_path_with_a_newline() -> None:
    entries = [entry("/a\n10 b"), entry("/c")]
    assert of_ascii(entries, ascii_list(entries)).compared == 2


@pytest.mark.parametrize("template", ["d-ng|future", "future"])
def test_of_an_unknown_template_only_the_head_is_compared(template: str) -> None:
    entries = [entry(template=template), entry("/b")]
    text = ascii_list(entries)
    assert of_ascii(entries, text).agrees
    assert of_ascii(entries, text.replace(b"future", b"FUTURE")).field == "template"
    assert of_ascii(entries, text.replace(b"10 ", b"11 ", 1)).field == "pcr"


def test_a_digest_without_algorithm_has_no_text() -> None:
    entries = [Entry("ima-ng", (bytes(20), b"/a\0")), entry("/b")]
    line = entries[0].line()
    assert of_ascii(entries, line + entries[1].line()).compared == 2


@pytest.mark.parametrize("bank", BANKS)
@pytest.mark.parametrize("template", BUILT_IN)
def test_ascii_list_is_known_by_its_first_line(bank: str, template: str) -> None:
    assert ascii_bank(entry(template=template, pcr=9).line(bank=bank)) == bank


@pytest.mark.parametrize("text", [b"", b"10 00 ima-ng x\n", b"10 " + b"0" * 42 + b" ima-ng x\n"])
def test_what_is_no_ascii_list(text: bytes) -> None:
    assert ascii_bank(text) is None
    with pytest.raises(ValueError, match="no ASCII list"):
        of_ascii([entry()], text)
