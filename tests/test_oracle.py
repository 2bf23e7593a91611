# SPDX-License-Identifier: GPL-2.0-only
"""evmctl beside the verifier: where they agree, and each place where they do not, with its reason.

The tables are strict. A wrong-accept that evmctl no longer accepts, or a list that it has learned
to read, fails its test, so that a fix upstream is noticed and taken off the table.
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import list_writer
import pytest
from evidence_maker import (
    SIZE,
    Machine,
    Rec,
    fields,
    marker,
    ng,
    pack,
    patched_run,
    plain_run,
    violation,
)

from imakexec.attest import Judgement, MeasurementLog, Reason, Verdict, judge
from imakexec.attest import replay as replay_list
from imakexec.deadline import Deadline
from imakexec.errors import InfraError
from imakexec.evidence import Evidence
from imakexec.oracle import (
    BANKS,
    Answer,
    Opinion,
    ask_evmctl,
    evmctl_command,
    pcr_file,
    second_opinion,
    write_pcr_files,
)
from imakexec.oracle_check import WrongAccept, disagreements, unreadable

Pcrs = Mapping[str, Mapping[int, bytes]]


def soon() -> Deadline:
    return Deadline.after(30)


GOOD_DATA = ng("/good").data


@dataclass(frozen=True)
class Submission:
    """Evidence with one list in it, and what evmctl is told of the same TPM."""

    evidence: Evidence
    log: bytes
    pcrs: Pcrs

    @classmethod
    def of(cls, machine: Machine, log: bytes | None = None) -> Submission:
        log = pack(machine.records) if log is None else log
        pcrs = {bank: {10: value} for bank, value in machine.pcr10.items()}
        machine.snapshot("judged", log)
        return cls(machine.evidence(), log, pcrs)


def booted() -> Machine:
    machine = Machine()
    machine.boot()
    machine.files(8)
    return machine


def with_violation() -> Machine:
    machine = booted()
    machine.measure(violation("/tmp/written-while-read"))
    machine.files(2, "/tmp/later")
    return machine


def after(change: Callable[[list[Rec]], list[Rec]]) -> Submission:
    """A list that was changed after it was measured."""
    machine = booted()
    return Submission.of(machine, pack(change(list(machine.records))))


def swapped(records: list[Rec]) -> list[Rec]:
    records[4], records[5] = records[5], records[4]
    return records


def with_byte_changed(records: list[Rec], *, fixed: bool) -> list[Rec]:
    old = records[5]
    data = old.data[:-2] + b"X\0"
    assert data != old.data
    records[5] = replace(old, data=data, digest=None if fixed else hashlib.sha1(old.data).digest())
    return records


def with_column_changed(records: list[Rec]) -> list[Rec]:
    records[5] = replace(records[5], digest=b"\1" * 20)
    return records


def honest_with_violation() -> Submission:
    return Submission.of(with_violation())


def relabelled() -> Submission:
    """A violation that poses as the marker of a kexec."""
    machine = with_violation()
    [at] = [index for index, record in enumerate(machine.records) if record.violation]
    records = list(machine.records)
    records[at] = replace(marker("kexec_execute", records[:at], 4096), violation=True)
    return Submission.of(machine, pack(records))


def lossy_kexec() -> Submission:
    return Submission.of(plain_run())


def extended_behind(*banks: str) -> Submission:
    """Root has extended PCR 10 of these banks."""
    machine = booted()
    for bank in banks:
        machine.pcr10[bank] = ng("/behind").extend(bank, machine.pcr10[bank])
    return Submission.of(machine)


def with_garbage(garbage: bytes) -> Submission:
    machine = booted()
    return Submission.of(machine, pack(machine.records) + garbage)


def cut(size: int) -> Submission:
    machine = booted()
    return Submission.of(machine, pack(machine.records)[:-size])


def measured(data: bytes) -> Submission:
    """A kernel that has hashed template data which are not two fields."""
    machine = booted()
    machine.measure(Rec(b"ima-ng", data))
    machine.files(2, "/tmp/later")
    return Submission.of(machine)


def named_impossibly() -> Submission:
    machine = booted()
    machine.measure(Rec(b"ima\7ng", GOOD_DATA))
    machine.files(2, "/tmp/later")
    return Submission.of(machine)


def wrong_boot_aggregate() -> Submission:
    machine = Machine()
    machine.firmware["sha256"][3] = b"\x55" * 32
    machine.boot()
    machine.firmware["sha256"][3] = b"\x66" * 32
    return Submission.of(machine)


def stale_nonce() -> Submission:
    submission = Submission.of(booted())
    [snapshot] = submission.evidence.snapshots
    used = replace(snapshot, after=snapshot.before)
    return replace(submission, evidence=replace(submission.evidence, snapshots=(used,)))


def empty() -> Submission:
    return Submission.of(booted(), b"")


VIOLATIONS_AS_ZEROS = "without --ignore-violations it replays a violation with its digest of zeros"


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Args:
        make: the evidence.
        reason: what the verifier says of it.
        answer: what evmctl says of the list in it.
        known: why evmctl disagrees with the verifier, if it does.
        ignore_violations: how evmctl is called.
    """

    make: Callable[[], Submission]
    reason: Reason
    answer: Answer
    known: str | None = None
    ignore_violations: bool = False


CASES: Mapping[str, Case] = {
    "honest": Case(lambda: Submission.of(patched_run()), Reason.MATCH, Answer.ACCEPTED),
    "lossy kexec": Case(lossy_kexec, Reason.NO_MARKERS, Answer.REJECTED),
    "last record dropped": Case(
        lambda: after(lambda records: records[:-1]), Reason.FOREIGN_EXTEND, Answer.REJECTED
    ),
    "record dropped in the middle": Case(
        lambda: after(lambda records: records[:4] + records[5:]),
        Reason.FOREIGN_EXTEND,
        Answer.REJECTED,
    ),
    "two records swapped": Case(lambda: after(swapped), Reason.FOREIGN_EXTEND, Answer.REJECTED),
    "template byte changed": Case(
        lambda: after(lambda records: with_byte_changed(records, fixed=False)),
        Reason.TEMPLATE_DIGEST,
        Answer.REJECTED,
    ),
    "template byte changed, digest column fixed": Case(
        lambda: after(lambda records: with_byte_changed(records, fixed=True)),
        Reason.FOREIGN_EXTEND,
        Answer.REJECTED,
    ),
    "digest column changed": Case(
        lambda: after(with_column_changed), Reason.TEMPLATE_DIGEST, Answer.REJECTED
    ),
    "trailing record that was never extended": Case(
        lambda: after(lambda records: [*records, ng("/forged")]),
        Reason.UNCOVERED_TAIL,
        Answer.ACCEPTED,
        WrongAccept.READS_NO_FURTHER,
    ),
    "trailing record that contradicts itself": Case(
        lambda: after(lambda records: [*records, ng("/forged", digest=b"\1" * 20)]),
        Reason.TEMPLATE_DIGEST,
        Answer.ACCEPTED,
        WrongAccept.READS_NO_FURTHER,
    ),
    "trailing garbage": Case(
        lambda: with_garbage(b"garbage"),
        Reason.TRAILING_BYTES,
        Answer.ACCEPTED,
        WrongAccept.READS_NO_FURTHER,
    ),
    "trailing half of a record": Case(
        lambda: with_garbage(ng("/half").pack()[:-20]),
        Reason.SHORT_RECORD,
        Answer.ACCEPTED,
        WrongAccept.READS_NO_FURTHER,
    ),
    "trailing record in PCR 200": Case(
        lambda: with_garbage(ng("/nowhere", pcr=200).pack()),
        Reason.PCR_INDEX,
        Answer.ACCEPTED,
        WrongAccept.READS_NO_FURTHER,
    ),
    "cut in the last record": Case(lambda: cut(3), Reason.SHORT_RECORD, Answer.REFUSED),
    "cut in the header of the last record": Case(
        lambda: cut(len(ng("/tmp/new-0-7").pack()) - 20), Reason.TRAILING_BYTES, Answer.REJECTED
    ),
    "violation": Case(honest_with_violation, Reason.MATCH, Answer.REJECTED, VIOLATIONS_AS_ZEROS),
    "violation, to be ignored": Case(
        honest_with_violation, Reason.MATCH, Answer.ACCEPTED, ignore_violations=True
    ),
    "violation relabelled": Case(relabelled, Reason.MATCH, Answer.REJECTED, VIOLATIONS_AS_ZEROS),
    "violation relabelled, to be ignored": Case(
        relabelled,
        Reason.MATCH,
        Answer.ACCEPTED,
        ignore_violations=True,
    ),
    "sha1 extended behind the kernel": Case(
        lambda: extended_behind("sha1"),
        Reason.BANKS_DIVERGE,
        Answer.ACCEPTED,
        WrongAccept.LAST_BANK_DECIDES,
    ),
    "sha256 extended behind the kernel": Case(
        lambda: extended_behind("sha256"), Reason.BANKS_DIVERGE, Answer.REJECTED
    ),
    "both banks extended behind the kernel": Case(
        lambda: extended_behind(*BANKS), Reason.FOREIGN_EXTEND, Answer.REJECTED
    ),
    "bytes after the last field": Case(
        lambda: measured(GOOD_DATA + b"xyz"),
        Reason.FIELD_SUM,
        Answer.ACCEPTED,
        WrongAccept.FORM_NOT_CHECKED,
    ),
    "a field too many": Case(
        lambda: measured(GOOD_DATA + fields(b"more")),
        Reason.FIELD_SUM,
        Answer.ACCEPTED,
        WrongAccept.FORM_NOT_CHECKED,
    ),
    "last field cut": Case(
        lambda: measured(GOOD_DATA[:-2]),
        Reason.FIELD_SUM,
        Answer.ACCEPTED,
        WrongAccept.FORM_NOT_CHECKED,
    ),
    "a template name that is none": Case(
        named_impossibly, Reason.TEMPLATE_NAME, Answer.ACCEPTED, WrongAccept.FORM_NOT_CHECKED
    ),
    "boot_aggregate of other firmware": Case(
        wrong_boot_aggregate,
        Reason.BOOT_AGGREGATE,
        Answer.ACCEPTED,
        WrongAccept.NO_FIRMWARE_PCRS,
    ),
    "a quote used twice": Case(stale_nonce, Reason.NONCE, Answer.ACCEPTED, WrongAccept.NO_QUOTE),
    "empty": Case(empty, Reason.EMPTY_LIST, Answer.REJECTED),
}


@pytest.mark.parametrize("name", CASES)
def test_evmctl_beside_the_verifier(name: str) -> None:
    case = CASES[name]
    submission = case.make()
    judgement = judge(submission.evidence)
    opinion = second_opinion(
        submission.log, submission.pcrs, soon(), ignore_violations=case.ignore_violations
    )

    assert judgement.reason is case.reason, judgement.sentence
    known = f"known: {case.known}; if that is mended, take it off the table" if case.known else ""
    assert opinion.answer is case.answer, f"{case.answer} expected ({known})\n{opinion}"
    agree = opinion.accepts is (judgement.verdict is Verdict.IN_SYNC)
    assert agree is (case.known is None), f"{judgement.verdict}; {opinion}"


def test_a_relabelled_violation_is_believed_nothing() -> None:
    """The PCR holds the same whatever a violation says, so that no replay can reject it."""
    timeline = judge(relabelled().evidence).timeline
    assert timeline is not None
    [forged] = timeline.markers
    assert not forged.accepted


def test_a_field_longer_than_the_record_makes_it_crash() -> None:
    submission = measured(struct.pack("<I", 0xFFFFFFFF) + GOOD_DATA[4:])
    opinion = second_opinion(submission.log, submission.pcrs, soon())

    assert judge(submission.evidence).reason is Reason.FIELD_SUM
    assert opinion.answer is Answer.REFUSED
    assert opinion.returncode < 0, f"it has learned to read such a list: {opinion}"


@pytest.mark.parametrize(("wrong", "asked", "accepted"), [
    ("sha1", "sha1", False),
    ("sha1", "sha256", True),
    ("sha256", "sha1", True),
    ("sha256", "sha256", False),
])  # fmt: skip
def test_one_bank_can_be_asked_for(wrong: str, asked: str, accepted: bool) -> None:
    submission = extended_behind(wrong)
    opinion = second_opinion(submission.log, submission.pcrs, soon(), verify_bank=asked)
    assert opinion.accepts is accepted, opinion


# Lists that are right, of every kind that a kernel writes.

Entries = list[list_writer.Entry]


def both(template: str) -> Entries:
    return [list_writer.entry(path, template=template) for path in ("/a", "/b")]


def replays(entries: Entries, order: list_writer.Order = "little", bank: str = "sha1") -> bool:
    """Whether the verifier replays the list to what a naive TPM holds."""
    log = MeasurementLog.parse(list_writer.pack(entries, order, bank))
    values = {bank: list_writer.naive_pcrs(entries, order, bank)[10] for bank in BANKS}
    outcome = replay_list(log, BANKS, {bank: {value} for bank, value in values.items()})
    return outcome.matched(values) == len(log) and outcome.contradiction is None


def opinion_on(
    entries: Entries, order: list_writer.Order = "little", bank: str = "sha1"
) -> Opinion:
    pcrs = {bank: {10: list_writer.naive_pcrs(entries, order, bank)[10]} for bank in BANKS}
    return second_opinion(list_writer.pack(entries, order, bank), pcrs, soon())


LONG = (list_writer.Entry("ima-buf", (b"sha256:\0" + bytes(32), b"long\0", bytes(70_000))),)

READABLE: Mapping[str, Entries] = {
    **{template: both(template) for template in list_writer.BUILT_IN},
    "a format": both("n-ng|d-ng|sig"),
    "template data of 70 kB": [*both("ima-ng"), *LONG, *both("ima-ng")],
    "a path of 4 kB": [list_writer.entry("/" + "a" * 4000)],
}


@pytest.mark.parametrize("name", READABLE)
def test_a_good_list_is_accepted_by_both(name: str) -> None:
    entries = READABLE[name]
    assert replays(entries)
    assert unreadable(MeasurementLog.parse(list_writer.pack(entries))) == ""
    opinion = opinion_on(entries)
    assert opinion.accepts, opinion


@dataclass(frozen=True)
class Form:
    """How a list is written that evmctl cannot read."""

    entries: Entries
    order: list_writer.Order = "little"
    bank: str = "sha1"


# A template "ima" beside ima-buf is what ima_template=ima gives with the markers of a kexec.
UNREADABLE: Mapping[str, Form] = {
    "big-endian": Form(both("ima-ng"), order="big"),
    **{f"list of {bank}": Form(both("ima-ng"), bank=bank) for bank in list_writer.BANKS[1:]},
    "ima beside others": Form([*both("ima"), *both("ima-buf")]),
    "others before ima": Form([*both("ima-buf"), *both("ima")]),
    "a PCR that is not given": Form([list_writer.entry(pcr=11), *both("ima-ng")]),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_good_list_that_it_cannot_read(name: str) -> None:
    form = UNREADABLE[name]
    assert replays(form.entries, form.order, form.bank)
    log = MeasurementLog.parse(list_writer.pack(form.entries, form.order, form.bank))
    assert unreadable(log)
    opinion = opinion_on(form.entries, form.order, form.bank)
    assert not opinion.accepts, f"it can read it now: take it off the table\n{opinion}"


def test_a_bank_that_the_kernel_pads_is_no_match() -> None:
    """Before 5.8 every bank was extended with SHA-1 and zeros, which it also looks for."""
    machine = booted()
    pcrs = {}
    for bank in BANKS:
        value = bytes(SIZE[bank])
        for record in machine.records:
            padded = hashlib.sha1(record.data).digest().ljust(SIZE[bank], b"\0")
            value = hashlib.new(bank, value + padded).digest()
        pcrs[bank] = {10: value}
    opinion = second_opinion(pack(machine.records), pcrs, soon())
    assert (opinion.answer, opinion.returncode) == (Answer.REFUSED, 0), opinion


# Asking.


def test_the_pcr_file_has_all_pcrs() -> None:
    lines = pcr_file("sha1", {10: bytes(range(20)), 23: b"\xff" * 20}).splitlines()
    assert len(lines) == 24
    assert lines[0] == "PCR-00:" + " 00" * 20
    assert lines[10] == "PCR-10: 00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13"
    assert lines[23] == "PCR-23:" + " FF" * 20


@pytest.mark.parametrize(
    ("bank", "values"),
    [("sha384", {10: bytes(48)}), ("sha1", {24: bytes(20)}), ("sha256", {10: bytes(20)})],
)
def test_pcr_values_that_it_would_misread_are_refused(
    bank: str, values: Mapping[int, bytes]
) -> None:
    with pytest.raises(ValueError, match=bank):
        pcr_file(bank, values)


def test_the_command_names_a_bank_in_one_word(tmp_path: Path) -> None:
    pcrs = {"sha1": {10: bytes(20)}, "sha256": {10: bytes(32)}, "sha384": {10: bytes(48)}}
    files = write_pcr_files(tmp_path, pcrs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sha1.pcrs", "sha256.pcrs"]
    command = evmctl_command(Path("/list"), files, verify_bank="sha256", ignore_violations=True)
    assert command == (
        *("evmctl", "ima_measurement"),
        *("--pcrs", f"sha1,{tmp_path}/sha1.pcrs", "--pcrs", f"sha256,{tmp_path}/sha256.pcrs"),
        *("--verify-bank=sha256", "--ignore-violations", "/list"),
    )


def test_nothing_to_compare_with_is_no_question() -> None:
    with pytest.raises(ValueError, match="sha1 or sha256"):
        second_opinion(pack(booted().records), {"sha384": {10: bytes(48)}}, soon())


def test_exit_status_0_alone_is_no_acceptance(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(pack(booted().records))
    opinion = ask_evmctl(("evmctl", "ima_measurement", str(path)), soon())
    assert (opinion.answer, opinion.returncode) == (Answer.REFUSED, 0), opinion


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts an evmctl of one's own in front of the real one."""

    def put(script: str) -> None:
        program = tmp_path / "evmctl"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return put


def test_a_missing_program_is_the_hosts_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(InfraError, match="evmctl") as error:
        second_opinion(b"", {"sha1": {10: bytes(20)}}, soon())
    assert "apt-get install ima-evm-utils" in error.value.remedy
    assert error.value.where == "/nonexistent"


def test_it_is_not_waited_for_without_end(fake: Callable[[str], None]) -> None:
    fake("exec sleep 60")
    started = time.monotonic()
    with pytest.raises(InfraError, match="no end after"):
        second_opinion(b"", {"sha1": {10: bytes(20)}}, Deadline.after(0.3))
    assert time.monotonic() - started < 10


# What the tests that boot compare.

ACCEPTS = "echo 'Matched per TPM bank calculated digest(s).' >&2"
REJECTS = "echo 'Failed to match per TPM bank or SHA1 padded TPM digest(s).' >&2; exit 1"


def found(evidence: Evidence, judgement: Judgement | None = None) -> list[str]:
    return list(disagreements(evidence, judgement or judge(evidence), soon()))


@pytest.mark.parametrize("name", CASES)
def test_what_is_known_is_no_disagreement(name: str) -> None:
    assert found(CASES[name].make().evidence) == []


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_it_cannot_read_is_no_disagreement(name: str) -> None:
    form = UNREADABLE[name]
    machine = booted()
    for bank in BANKS:
        machine.pcr10[bank] = list_writer.naive_pcrs(form.entries, form.order, bank)[10]
    log = list_writer.pack(form.entries, form.order, form.bank)
    assert found(Submission.of(machine, log).evidence) == []


def test_an_oracle_that_accepts_everything_is_noticed(fake: Callable[[str], None]) -> None:
    fake(ACCEPTS)
    replayed, of_verdict = found(lossy_kexec().evidence)[-2:]
    assert "snapshot judged: sha256 must not be accepted" in replayed
    assert "the verdict is OUT_OF_SYNC (no_markers), evmctl accepts its list" in of_verdict
    for form in UNREADABLE.values():
        log = list_writer.pack(form.entries, form.order, form.bank)
        assert found(Submission.of(booted(), log).evidence), "it was said not to read that"


def test_an_oracle_that_rejects_everything_is_noticed(fake: Callable[[str], None]) -> None:
    fake(REJECTS)
    *replayed, of_verdict = found(Submission.of(booted()).evidence)
    assert ["must be accepted" in line for line in replayed] == [True] * 4, "2 quotes, 2 banks"
    assert "the verdict is IN_SYNC (match), evmctl accepts its list with no quote" in of_verdict


@pytest.mark.parametrize("reason", [Reason.NO_MARKERS, Reason.FOREIGN_EXTEND, Reason.SEGMENT_FULL])
def test_a_verdict_against_a_good_list_is_noticed(reason: Reason) -> None:
    evidence = Submission.of(booted()).evidence
    wrong = replace(judge(evidence), verdict=reason.verdict, reason=reason)
    [only] = found(evidence, wrong)
    assert f"({reason}), evmctl accepts its list" in only


def test_a_verdict_for_a_bad_list_is_noticed() -> None:
    evidence = after(lambda records: records[:-1]).evidence
    wrong = replace(judge(evidence), verdict=Verdict.IN_SYNC, reason=Reason.MATCH)
    [only] = found(evidence, wrong)
    assert "(match), evmctl accepts its list with no quote" in only


def test_banks_that_it_does_not_replay_are_not_asked_for() -> None:
    machine = Machine(("sha384", "sha512"))
    machine.measure(ng("/only"))
    assert found(Submission.of(machine).evidence) == []
