# SPDX-License-Identifier: GPL-2.0-only
"""Each kind of evidence gets its verdict, for its own reason and no other."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from evidence_maker import (
    Attestation,
    Key,
    Machine,
    Rec,
    buf,
    fields,
    marker,
    ng,
    pack,
    patched_run,
    plain_run,
    violation,
    written,
)

from imakexec.attest import EXIT_CODES, Flag, Judgement, Reason, Verdict, judge, judge_folder
from imakexec.attest.judgement import JSON_SCHEMA
from imakexec.attest.power import TransitionKind
from imakexec.attest.timeline import Timeline
from imakexec.attest.verdict import action_for
from imakexec.errors import UserError
from imakexec.evidence import BootKind, Evidence, Snapshot


def outcome(machine: Machine) -> tuple[Verdict, Reason]:
    judgement = judge(machine.evidence())
    return judgement.verdict, judgement.reason


def with_last_log(machine: Machine, records: list[Rec] | bytes) -> Judgement:
    """Judge the run with another list in its last snapshot, quotes and all else genuine."""
    log = records if isinstance(records, bytes) else pack(records)
    last = replace(machine.snapshots[-1], log=log)
    return judge(replace(machine.evidence(), snapshots=(*machine.snapshots[:-1], last)))


def only_last(machine: Machine) -> Machine:
    """Forget all snapshots but the last: a verifier that sees the machine for the first time."""
    machine.snapshots = machine.snapshots[-1:]
    return machine


# The cases of the main job.


@pytest.mark.parametrize("count", [1, 25, 200])
def test_patched_kernel(count: int) -> None:
    judgement = judge(patched_run(count, extra=65536).evidence())
    assert (judgement.verdict, judgement.reason) == (Verdict.IN_SYNC, Reason.MATCH)
    assert judgement.flags == ()
    assert (judgement.kexecs, judgement.cold_boots) == (1, 0)
    assert judgement.first_divergence is None
    assert judgement.records == count + 14
    for bank in judgement.banks:
        assert bank.expected == bank.quoted
        assert bank.matched_records == judgement.records
    assert [item.kind for item in judgement.transitions] == [
        TransitionKind.SAME_BOOT,
        TransitionKind.KEXEC,
    ]
    assert [(item.records, item.missing) for item in judgement.snapshots] == [
        (7, 0),
        (count + 8, 0),
        (count + 14, 0),
    ]


@pytest.mark.parametrize("banks", [("sha256",), ("sha1", "sha256", "sha384", "sha512")])
def test_other_banks(banks: tuple[str, ...]) -> None:
    machine = patched_run(banks=banks)
    assert outcome(machine) == (Verdict.IN_SYNC, Reason.MATCH)


def big_endian(record: Rec) -> Rec:
    """The same record with the lengths in its data as a big-endian kernel has them."""
    data, at = bytearray(record.data), 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        data[at : at + 4] = size.to_bytes(4, "big")
        at += 4 + size
    return replace(record, data=bytes(data))


def test_big_endian_machine() -> None:
    machine = Machine()
    machine.epoch = 0
    records = [machine.boot_aggregate(), ng("/a"), violation("/b")]
    machine.measure(*map(big_endian, records))
    machine.snapshot("boot", b"".join(record.pack(">") for record in machine.records))
    assert outcome(machine) == (Verdict.IN_SYNC, Reason.MATCH)
    # The lengths are hashed: the same records in the other order are another list.
    assert with_last_log(machine, records).reason is Reason.FOREIGN_EXTEND


def test_list_of_another_bank_serves_as_well() -> None:
    machine = only_last(patched_run(3))
    digests = [
        (hashlib.sha1(r.data).digest(), hashlib.sha256(r.data).digest()) for r in machine.records
    ]
    packed = (
        record.pack().replace(*pair, 1)
        for record, pair in zip(machine.records, digests, strict=True)
    )
    judgement, usual = with_last_log(machine, b"".join(packed)), judge(machine.evidence())
    assert (judgement.verdict, judgement.reason) == (Verdict.IN_SYNC, Reason.MATCH)
    assert judgement.timeline is not None
    assert usual.timeline is not None
    assert judgement.timeline.handovers == usual.timeline.handovers


def test_list_complete_but_no_markers() -> None:
    judgement = judge(plain_run(carry_all=True).evidence())
    assert (judgement.verdict, judgement.flags) == (Verdict.IN_SYNC, (Flag.NO_MARKERS,))


def test_plain_base_loses_records() -> None:
    judgement = judge(plain_run(20).evidence())
    assert (judgement.verdict, judgement.reason) == (Verdict.OUT_OF_SYNC, Reason.NO_MARKERS)
    assert judgement.flags == (Flag.NO_MARKERS,)
    assert judgement.first_divergence == 7
    assert "at least 20 records known to be lost" in judgement.sentence
    assert [bank.matched_records for bank in judgement.banks] == [None, None]
    assert [(item.records, item.missing) for item in judgement.snapshots] == [
        (7, 0),
        (27, 20),
        (12, 0),
    ]


def test_plain_base_seen_for_the_first_time() -> None:
    judgement = judge(only_last(plain_run(20)).evidence())
    assert judgement.reason is Reason.NO_MARKERS
    assert "cannot be known" in judgement.sentence


def test_nothing_was_carried() -> None:
    machine = plain_run(20)
    machine.snapshots.pop()
    machine.records = machine.records[7:]
    machine.snapshot("after-kexec")
    judgement = judge(machine.evidence())
    assert judgement.reason is Reason.NO_MARKERS
    assert "at least 27 records known to be lost" in judgement.sentence


def test_segment_too_small() -> None:
    judgement = judge(patched_run(200, extra=2048).evidence())
    assert (judgement.verdict, judgement.reason) == (Verdict.TRUNCATED, Reason.SEGMENT_FULL)
    assert judgement.exit_code == 10
    assert judgement.first_divergence == judgement.timeline.boots[1].index  # type: ignore[union-attr]


def test_segment_too_small_seen_for_the_first_time() -> None:
    assert outcome(only_last(patched_run(200, extra=2048))) == (
        Verdict.TRUNCATED,
        Reason.SEGMENT_FULL,
    )


def test_records_vanished_though_there_was_room() -> None:
    machine = patched_run(25)
    start = 34
    judgement = with_last_log(machine, machine.records[:20] + machine.records[start:])
    assert (judgement.verdict, judgement.reason) == (Verdict.TRUNCATED, Reason.RECORDS_MISSING)
    assert judgement.first_divergence == 20
    assert "at least 13 records known to be lost" in judgement.sentence


def test_even_kexec_load_was_lost() -> None:
    """An earlier snapshot shows that markers were to be expected."""
    machine = patched_run(25)
    judgement = with_last_log(machine, machine.records[:6] + machine.records[34:])
    assert (judgement.verdict, judgement.reason) == (Verdict.TRUNCATED, Reason.RECORDS_MISSING)


def test_cold_reset_in_place_of_kexec() -> None:
    machine = Machine()
    machine.boot()
    size = machine.load()
    machine.files(20)
    machine.snapshot("before-execute")
    assert size
    machine.cold_reset(BootKind.KEXEC)
    machine.snapshot("after")
    judgement = judge(machine.evidence())
    assert (judgement.verdict, judgement.reason) == (Verdict.IN_SYNC, Reason.MATCH)
    assert (judgement.kexecs, judgement.cold_boots) == (0, 1)
    assert judgement.transitions[0].kind is TransitionKind.COLD
    assert judgement.transitions[0].contradicted
    assert judgement.flags == (Flag.CLAIM_CONTRADICTED,)


@pytest.mark.parametrize("tpm_restart", [False, True])
def test_honest_cold_reset(tpm_restart: bool) -> None:
    machine = patched_run(5)
    machine.cold_reset(tpm_restart=tpm_restart)
    machine.snapshot("after-reset")
    judgement = judge(machine.evidence())
    assert (judgement.verdict, judgement.flags) == (Verdict.IN_SYNC, ())
    assert (judgement.kexecs, judgement.cold_boots) == (1, 1)


def test_a_cold_reset_does_not_make_good_what_was_before() -> None:
    machine = patched_run(5)
    machine.extend(ng("/no-record"))
    machine.snapshot("bad")
    machine.cold_reset()
    machine.snapshot("after-reset")
    judgement = judge(machine.evidence())
    assert (judgement.reason, judgement.snapshot) == (Reason.FOREIGN_EXTEND, "bad")


def test_kexec_after_a_cold_reset() -> None:
    machine = patched_run(5)
    machine.cold_reset()
    machine.snapshot("after-reset")
    size = machine.load()
    machine.execute(size)
    machine.snapshot("after-second-kexec")
    judgement = judge(machine.evidence())
    assert (judgement.verdict, judgement.flags) == (Verdict.IN_SYNC, ())
    assert (judgement.kexecs, judgement.cold_boots) == (2, 1)


def test_two_kexecs_between_two_snapshots() -> None:
    machine = patched_run(5)
    for _ in range(2):
        machine.execute(machine.load())
    machine.snapshot("later")
    judgement = judge(machine.evidence())
    assert (judgement.verdict, judgement.kexecs) == (Verdict.IN_SYNC, 3)


def test_resume_from_suspend() -> None:
    machine = patched_run(5)
    machine.restart += 1
    machine.files(2)
    machine.snapshot("resumed")
    judgement = judge(machine.evidence())
    assert judgement.verdict is Verdict.IN_SYNC
    assert judgement.transitions[-1].kind is TransitionKind.RESUME
    assert judgement.cold_boots == 0


def test_reset_within_an_epoch_is_no_resume() -> None:
    machine = patched_run(5)
    machine.restart += 1
    machine.records.clear()
    machine.pcr10 = {bank: bytes(len(value)) for bank, value in machine.pcr10.items()}
    machine.measure(machine.boot_aggregate())
    machine.snapshot("after")
    judgement = judge(machine.evidence())
    assert judgement.transitions[-1].kind is TransitionKind.COLD
    assert Flag.CLAIM_CONTRADICTED in judgement.flags


def test_a_tpm_reset_is_no_resume_though_the_list_goes_on() -> None:
    machine = patched_run(5)
    machine.reset += 1
    machine.files(2)
    machine.snapshot("after")
    assert judge(machine.evidence()).transitions[-1].kind is TransitionKind.COLD


def test_claimed_cold_boot_that_was_none() -> None:
    machine = patched_run(5)
    machine.execute(machine.load())
    machine.boots[-1] = replace(machine.boots[-1], transition=BootKind.COLD)
    machine.snapshot("later")
    judgement = judge(machine.evidence())
    assert (judgement.kexecs, judgement.cold_boots) == (2, 0)
    assert judgement.flags == (Flag.CLAIM_CONTRADICTED,)


def test_clock_lost_at_a_disorderly_reset() -> None:
    machine = patched_run(5)
    machine.cold_reset()
    machine.safe, machine.clock = 0, 10
    machine.snapshot("after-reset")
    judgement = judge(machine.evidence())
    assert (judgement.verdict, judgement.flags) == (Verdict.IN_SYNC, (Flag.CLOCK_UNSAFE,))


def test_list_that_grew_between_the_quotes() -> None:
    machine = Machine()
    machine.boot()
    before = machine.quote()
    machine.files(3)
    machine.snapshots.append(Snapshot("boot", 0, before, pack(machine.records), machine.quote()))
    judgement = judge(machine.evidence())
    assert judgement.verdict is Verdict.IN_SYNC
    assert judgement.snapshots[0].matched_records == (2, 5)


def test_earlier_list_that_grew_after_it_was_read() -> None:
    """A later list of the same boot covers what the second quote of an earlier one was ahead."""
    machine = Machine()
    machine.boot()
    before = machine.quote()
    log = pack(machine.records)
    machine.files(3)
    machine.snapshots.append(Snapshot("boot", 0, before, log, machine.quote()))
    assert outcome(machine) == (Verdict.OUT_OF_SYNC, Reason.FOREIGN_EXTEND)
    machine.snapshot("later")
    assert outcome(machine) == (Verdict.IN_SYNC, Reason.MATCH)


def test_one_quote_is_enough_if_it_covers_all() -> None:
    machine = patched_run(5)
    machine.snapshots[-1] = replace(machine.snapshots[-1], after=None)
    assert outcome(machine) == (Verdict.IN_SYNC, Reason.MATCH)


def test_quote_without_a_list_in_between() -> None:
    machine = Machine()
    machine.boot()
    machine.snapshots.append(Snapshot("quote", 0, machine.quote(), None, None))
    machine.files(3)
    machine.snapshot("later")
    assert outcome(machine) == (Verdict.IN_SYNC, Reason.MATCH)


def test_violations_do_not_disturb() -> None:
    machine = Machine()
    machine.boot()
    machine.measure(violation("/a"), ng("/b"))
    machine.snapshot("boot")
    judgement = judge(machine.evidence())
    assert (judgement.verdict, judgement.flags) == (Verdict.IN_SYNC, (Flag.VIOLATIONS,))
    assert judgement.violations == (2,)


# Mutations of a good run. Seen for the first time there is no history to contradict.

Mutation = Callable[[list[Rec]], object]


def drop(index: int) -> Mutation:
    return lambda records: records.pop(index)


def duplicate(index: int) -> Mutation:
    return lambda records: records.insert(index, records[index])


def swap(index: int) -> Mutation:
    def mutate(records: list[Rec]) -> None:
        records[index], records[index + 1] = records[index + 1], records[index]

    return mutate


def alter(index: int) -> Mutation:
    """Change a path; the record is consistent in itself."""
    return lambda records: records.__setitem__(index, ng("/altered"))


def zero_digest(index: int) -> Mutation:
    return lambda records: records.__setitem__(index, replace(records[index], violation=True))


def move_execute_behind_boot(records: list[Rec]) -> None:
    records[33], records[34] = records[34], records[33]


def append(records: list[Rec]) -> None:
    records.append(ng("/never-extended"))


# Records of patched_run(25): 0 boot_aggregate, 1 kernel_version, 2-6 files, 7 kexec_load, 8-32
# files, 33 kexec_execute, 34 boot_aggregate, 35 kernel_version, 36-38 files.
MUTATIONS: list[tuple[str, Mutation, Reason, Reason]] = [
    ("drop in the first boot", drop(3), Reason.HISTORY_REWRITTEN, Reason.FOREIGN_EXTEND),
    ("drop between markers", drop(15), Reason.HISTORY_REWRITTEN, Reason.RECORDS_MISSING),
    ("drop kexec_load", drop(7), Reason.HISTORY_REWRITTEN, Reason.FOREIGN_EXTEND),
    ("drop kexec_execute", drop(33), Reason.RECORDS_MISSING, Reason.RECORDS_MISSING),
    ("drop in the last boot", drop(37), Reason.FOREIGN_EXTEND, Reason.FOREIGN_EXTEND),
    ("drop the last record", drop(38), Reason.FOREIGN_EXTEND, Reason.FOREIGN_EXTEND),
    ("duplicate", duplicate(15), Reason.HISTORY_REWRITTEN, Reason.RECORDS_MISSING),
    ("duplicate the last", duplicate(38), Reason.UNCOVERED_TAIL, Reason.UNCOVERED_TAIL),
    ("swap", swap(10), Reason.HISTORY_REWRITTEN, Reason.FOREIGN_EXTEND),
    ("swap in the last boot", swap(36), Reason.FOREIGN_EXTEND, Reason.FOREIGN_EXTEND),
    ("alter", alter(5), Reason.HISTORY_REWRITTEN, Reason.FOREIGN_EXTEND),
    ("alter the last", alter(38), Reason.FOREIGN_EXTEND, Reason.FOREIGN_EXTEND),
    ("zero a digest", zero_digest(10), Reason.HISTORY_REWRITTEN, Reason.FOREIGN_EXTEND),
    ("zero the last digest", zero_digest(38), Reason.FOREIGN_EXTEND, Reason.FOREIGN_EXTEND),
    ("append un-extended", append, Reason.UNCOVERED_TAIL, Reason.UNCOVERED_TAIL),
    (
        "execute behind boot",
        move_execute_behind_boot,
        Reason.RECORDS_MISSING,
        Reason.RECORDS_MISSING,
    ),
]


@pytest.mark.parametrize(
    ("mutate", "with_history", "without"),
    [entry[1:] for entry in MUTATIONS],
    ids=[entry[0] for entry in MUTATIONS],
)
def test_mutation(mutate: Mutation, with_history: Reason, without: Reason) -> None:
    machine = patched_run(25)
    records = list(machine.records)
    mutate(records)
    assert with_last_log(machine, records).reason is with_history
    assert with_last_log(only_last(machine), records).reason is without


def test_every_bit_of_the_list_counts() -> None:
    """All but those of the template names: the kernel hashes them into nothing."""
    machine = only_last(patched_run(1))
    log = pack(machine.records)
    names: set[int] = set()
    start = 0
    for record in machine.records:
        names.update(range(start + 28, start + 28 + len(record.template)))
        start += len(record.pack())
    for offset in range(len(log)):
        flipped = bytearray(log)
        flipped[offset] ^= 1
        judgement = with_last_log(machine, bytes(flipped))
        if offset in names:
            assert Flag.UNKNOWN_TEMPLATE in judgement.flags
        else:
            assert judgement.verdict not in (Verdict.IN_SYNC, Verdict.INVALID_EVIDENCE), offset


@pytest.mark.parametrize("cut", [1, 27, 60])
def test_cut_inside_a_record(cut: int) -> None:
    machine = patched_run(5)
    judgement = with_last_log(machine, pack(machine.records)[:-cut])
    assert (judgement.verdict, judgement.reason) == (Verdict.MALFORMED, Reason.SHORT_RECORD)
    assert judgement.where.startswith("snapshot after-kexec, record 18 at offset ")


def test_trailing_garbage() -> None:
    machine = patched_run(5)
    judgement = with_last_log(machine, pack(machine.records) + b"garbage")
    assert (judgement.verdict, judgement.reason) == (Verdict.MALFORMED, Reason.TRAILING_BYTES)


def test_empty_list_is_never_in_sync() -> None:
    machine = Machine()
    machine.epoch = 0
    machine.snapshot("boot")
    assert outcome(machine) == (Verdict.MALFORMED, Reason.EMPTY_LIST)


def test_records_with_nothing_extended() -> None:
    machine = Machine()
    machine.epoch = 0
    machine.records = [machine.boot_aggregate()]
    machine.snapshot("boot")
    assert outcome(machine) == (Verdict.OUT_OF_SYNC, Reason.FOREIGN_EXTEND)


def test_record_that_contradicts_itself() -> None:
    machine = patched_run(5)
    machine.records[3] = replace(machine.records[3], digest=b"\1" * 20)
    judgement = with_last_log(machine, machine.records)
    assert (judgement.verdict, judgement.reason) == (Verdict.TAMPERED, Reason.TEMPLATE_DIGEST)
    assert judgement.first_divergence == 3


def test_record_of_another_pcr_is_covered_by_nothing() -> None:
    machine = Machine()
    machine.boot()
    machine.measure(ng("/hidden", pcr=11), ng("/covered"))
    machine.snapshot("boot")
    judgement = judge(machine.evidence())
    assert (judgement.verdict, judgement.reason) == (Verdict.OUT_OF_SYNC, Reason.UNCOVERED_PCR)
    assert judgement.first_divergence == 2


def test_extend_without_a_record() -> None:
    machine = patched_run(5)
    machine.extend(ng("/no-record"))
    machine.snapshot("later")
    judgement = judge(machine.evidence())
    assert (judgement.verdict, judgement.reason) == (Verdict.OUT_OF_SYNC, Reason.FOREIGN_EXTEND)
    assert judgement.first_divergence == 19


def test_extend_of_one_bank_only() -> None:
    machine = patched_run(5)
    machine.pcr10["sha256"] = ng("/x").extend("sha256", machine.pcr10["sha256"])
    machine.snapshot("later")
    judgement = judge(machine.evidence())
    assert (judgement.verdict, judgement.reason) == (Verdict.OUT_OF_SYNC, Reason.BANKS_DIVERGE)
    assert [bank.matched_records for bank in judgement.banks] == [19, None]


def test_foreign_extend_before_the_kexec_is_found_there() -> None:
    """The first list that fails decides, not a later one that has other faults as well."""
    machine = Machine()
    machine.boot()
    machine.extend(ng("/no-record"))
    machine.snapshot("before")
    machine.boot(BootKind.KEXEC)
    machine.snapshot("after")
    judgement = judge(machine.evidence())
    assert (judgement.reason, judgement.snapshot) == (Reason.FOREIGN_EXTEND, "before")


def test_a_kexec_that_a_quote_covers_is_not_to_blame() -> None:
    machine = plain_run(carry_all=True)
    machine.extend(ng("/no-record"))
    machine.snapshot("later")
    assert outcome(machine) == (Verdict.OUT_OF_SYNC, Reason.FOREIGN_EXTEND)


def test_markers_of_one_kernel_are_not_expected_of_the_next() -> None:
    machine = patched_run(5)
    carried = list(machine.records)
    machine.files(3)
    machine.snapshot("before-second-execute")
    machine.records = carried
    machine.boot(BootKind.KEXEC)
    machine.snapshot("after-second-kexec")
    assert outcome(machine) == (Verdict.OUT_OF_SYNC, Reason.NO_MARKERS)


def test_altered_list_is_no_prefix_of_what_was_seen() -> None:
    machine = patched_run(25)
    machine.records[15] = ng("/altered")
    timeline = with_last_log(machine, machine.records).timeline
    assert timeline is not None
    assert (timeline.handovers[0].whole_prefix, timeline.handovers[0].lost) == (False, None)


def test_complete_markers_and_a_foreign_extend_after_them() -> None:
    machine = patched_run(5)
    machine.extend(ng("/no-record"))
    machine.snapshots.pop()
    machine.snapshot("after-kexec")
    assert outcome(machine) == (Verdict.OUT_OF_SYNC, Reason.FOREIGN_EXTEND)


def test_quote_of_a_prefix() -> None:
    machine = patched_run(5)
    whole = machine.pcr10
    machine.pcr10 = {bank: bytes(len(value)) for bank, value in whole.items()}
    for record in machine.records[:-1]:
        machine.extend(record)
    machine.snapshots.pop()
    machine.snapshot("after-kexec")
    judgement = judge(machine.evidence())
    assert (judgement.verdict, judgement.reason) == (Verdict.OUT_OF_SYNC, Reason.UNCOVERED_TAIL)
    assert Flag.PENDING_TAIL in judgement.flags
    assert judgement.first_divergence == len(machine.records) - 1


def test_quote_that_goes_back() -> None:
    machine = patched_run(5)
    last = machine.snapshots[-1]
    machine.pcr10 = {bank: bytes(len(value)) for bank, value in machine.pcr10.items()}
    for record in machine.records[:-1]:
        machine.extend(record)
    machine.snapshots[-1] = replace(last, after=machine.quote())
    assert outcome(machine) == (Verdict.TAMPERED, Reason.HISTORY_REWRITTEN)


@pytest.mark.parametrize("tail", [0, 1])
def test_first_quote_that_matches_nothing(tail: int) -> None:
    machine = Machine()
    machine.boot()
    right = machine.pcr10
    machine.pcr10 = {bank: bytes(len(value)) for bank, value in right.items()}
    before = machine.quote()
    machine.pcr10 = right
    after = machine.quote()
    log = pack([*machine.records, *[ng("/never-extended")] * tail])
    machine.snapshots.append(Snapshot("boot", 0, before, log, after))
    assert outcome(machine) == (Verdict.TAMPERED, Reason.HISTORY_REWRITTEN)


def test_earlier_list_that_the_later_one_contradicts() -> None:
    machine = patched_run(5)
    other = [*machine.records[:3], ng("/other"), *machine.records[4:13]]
    fake = Machine(key=machine.key)
    fake.clock, fake.nonces, fake.epoch = 115, 100, 0
    fake.measure(*other)
    fake.snapshot("fake")
    machine.snapshots[1] = fake.snapshots[0]
    judgement = judge(machine.evidence())
    assert (judgement.verdict, judgement.reason) == (Verdict.TAMPERED, Reason.HISTORY_REWRITTEN)
    assert judgement.first_divergence == 3


def test_earlier_quote_that_the_list_contradicts() -> None:
    machine = Machine()
    machine.boot()
    right = machine.pcr10
    machine.extend(ng("/other"))
    machine.snapshots.append(Snapshot("quote", 0, machine.quote(), None, None))
    machine.pcr10 = right
    machine.snapshot("boot")
    assert outcome(machine) == (Verdict.TAMPERED, Reason.HISTORY_REWRITTEN)


def test_old_list_after_a_cold_boot() -> None:
    machine = patched_run(5)
    old = list(machine.records)
    machine.cold_reset()
    machine.files(2)
    machine.snapshot("after-reset")
    judgement = with_last_log(machine, old)
    assert (judgement.verdict, judgement.reason) == (Verdict.TAMPERED, Reason.STALE_LIST)
    judgement = with_last_log(machine, [*old, *machine.records])
    assert (judgement.verdict, judgement.reason) == (Verdict.TAMPERED, Reason.STALE_LIST)


def test_old_list_that_begins_like_the_new_one() -> None:
    """A machine measures the same first at every boot, so the head of the old list matches too."""
    machine = Machine()
    machine.boot()
    machine.files(3)
    machine.snapshot("before-reset")
    old = list(machine.records)
    machine.cold_reset()
    same = len(machine.records)
    assert machine.records == old[:same]
    machine.snapshot("after-reset")
    judgement = with_last_log(machine, old)
    assert (judgement.verdict, judgement.reason) == (Verdict.TAMPERED, Reason.STALE_LIST)
    assert judgement.first_divergence == same


def test_lossy_kexec_after_a_cold_boot_is_no_stale_list() -> None:
    """Two cold boots may begin with the same records: that alone is no sign of an old list."""
    machine = Machine()
    machine.boot()
    machine.snapshot("first")
    machine.cold_reset()
    machine.snapshot("second")
    carried = list(machine.records)
    machine.files(3)
    machine.snapshot("before-execute")
    machine.records = carried
    machine.boot(BootKind.KEXEC)
    machine.snapshot("after-kexec")
    assert outcome(machine) == (Verdict.OUT_OF_SYNC, Reason.NO_MARKERS)


def test_boot_aggregate_of_other_firmware() -> None:
    machine = Machine()
    machine.boot()
    machine.firmware["sha256"][7] = bytes(32)
    machine.snapshot("boot")
    judgement = judge(machine.evidence())
    assert (judgement.verdict, judgement.reason) == (Verdict.TAMPERED, Reason.BOOT_AGGREGATE)


def test_boot_aggregate_of_zeros_though_there_was_a_bank() -> None:
    machine = Machine()
    machine.epoch = 0
    machine.measure(machine.boot_aggregate(value=bytes(32)))
    machine.snapshot("boot")
    assert outcome(machine) == (Verdict.TAMPERED, Reason.BOOT_AGGREGATE)


def test_boot_aggregate_of_zeros_for_want_of_a_bank() -> None:
    machine = Machine(("sha384", "sha512"))
    machine.epoch = 0
    zeros = b"sha256:\0" + bytes(32)
    machine.measure(Rec(b"ima-ng", fields(zeros, b"boot_aggregate\0")))
    machine.snapshot("boot")
    judgement = judge(machine.evidence())
    assert (judgement.verdict, judgement.flags) == (Verdict.IN_SYNC, (Flag.NO_HARDWARE_ROOT,))


def test_boot_aggregate_in_a_bank_that_was_not_quoted() -> None:
    machine = Machine(("sha256",))
    machine.epoch = 0
    machine.measure(Rec(b"ima-ng", fields(b"sha512:\0" + bytes(63) + b"1", b"boot_aggregate\0")))
    machine.snapshot("boot")
    assert judge(machine.evidence()).flags == (Flag.BOOT_AGGREGATE_UNCHECKED,)


def test_boot_aggregate_without_a_boot() -> None:
    machine = patched_run(5)
    machine.measure(machine.boot_aggregate())
    machine.snapshot("later")
    judgement = judge(machine.evidence())
    assert (judgement.verdict, judgement.reason) == (Verdict.TAMPERED, Reason.BOOT_AGGREGATE)
    assert "3 boot_aggregate records for 2 boots" in judgement.sentence


def test_boot_without_a_boot_aggregate() -> None:
    machine = patched_run(5)
    machine.boots.append(replace(machine.boots[-1], epoch=2))
    machine.epoch = 2
    machine.files(1)
    machine.snapshot("later")
    assert outcome(machine) == (Verdict.TAMPERED, Reason.BOOT_AGGREGATE)


def test_list_without_any_boot_aggregate() -> None:
    machine = Machine()
    machine.epoch = 0
    machine.files(2)
    machine.snapshot("boot")
    assert outcome(machine) == (Verdict.TAMPERED, Reason.BOOT_AGGREGATE)


def test_violation_relabelled_as_marker() -> None:
    """The PCR is the same whatever a violation says, so it must not say anything."""
    machine = patched_run(5)
    machine.measure(violation("/tmp/open"))
    machine.snapshot("later")
    fake = replace(marker("kexec_load", machine.records[:-1], 4096), violation=True)
    judgement = with_last_log(machine, [*machine.records[:-1], fake])
    assert judgement.verdict is Verdict.IN_SYNC
    assert judgement.flags == (Flag.MARKER_ANOMALY, Flag.VIOLATIONS)
    assert judgement.timeline is not None
    assert not judgement.timeline.markers[-1].accepted
    fake = replace(machine.boot_aggregate(), violation=True)
    judgement = with_last_log(machine, [*machine.records[:-1], fake])
    assert judgement.timeline is not None
    assert len(judgement.timeline.boots) == 2


def test_markers_never_add_trust() -> None:
    """A perfect marker pair forged into a lossy list changes nothing about the mismatch."""
    machine = plain_run(20)
    records = machine.records[:7]
    records.append(marker("kexec_load", records, 4096))
    records.append(marker("kexec_execute", records, 4096))
    judgement = with_last_log(only_last(machine), records + machine.records[7:])
    assert judgement.verdict is Verdict.OUT_OF_SYNC
    assert judgement.reason is Reason.FOREIGN_EXTEND


def test_keyring_named_like_a_marker() -> None:
    machine = Machine()
    machine.boot()
    machine.measure(buf("kexec_execute", b"\x30\x82DER"))
    machine.snapshot("boot")
    judgement = judge(machine.evidence())
    assert (judgement.verdict, judgement.flags) == (Verdict.IN_SYNC, (Flag.MARKER_ANOMALY,))


def test_load_without_execute_in_a_list_that_matches() -> None:
    machine = Machine()
    machine.boot()
    machine.load()
    machine.boot(BootKind.KEXEC)
    machine.snapshot("after")
    judgement = judge(machine.evidence())
    assert (judgement.verdict, judgement.flags) == (Verdict.IN_SYNC, (Flag.MARKER_ANOMALY,))


# Evidence about which nothing can be said.


def rejected(evidence: Evidence) -> Reason:
    judgement = judge(evidence)
    assert judgement.verdict is Verdict.INVALID_EVIDENCE
    assert judgement.timeline is None
    return judgement.reason


def with_quote(
    machine: Machine, falsify: Callable[[Attestation], Attestation], key: Key | None = None
) -> Evidence:
    last = machine.snapshots[-1]
    machine.snapshots[-1] = replace(last, after=machine.quote(falsify, key=key))
    return machine.evidence()


def test_incomplete_evidence() -> None:
    evidence = patched_run(1).evidence()
    assert rejected(replace(evidence, complete=False)) is Reason.INCOMPLETE
    assert rejected(replace(evidence, ak_public=None)) is Reason.INCOMPLETE
    assert rejected(replace(evidence, ak_pem=None)) is Reason.INCOMPLETE
    assert rejected(replace(evidence, snapshots=())) is Reason.INCOMPLETE
    assert rejected(replace(evidence, required_banks=())) is Reason.INCOMPLETE
    bare = tuple(replace(snapshot, log=None) for snapshot in evidence.snapshots)
    assert rejected(replace(evidence, snapshots=bare)) is Reason.INCOMPLETE


def test_no_list_in_the_last_power_cycle() -> None:
    machine = patched_run(1)
    machine.cold_reset()
    machine.snapshot("after-reset")
    machine.snapshots[-1] = replace(machine.snapshots[-1], log=None)
    assert rejected(machine.evidence()) is Reason.INCOMPLETE


def test_no_snapshot_of_the_last_boot() -> None:
    """The list of the boot before it matches, and says nothing about the last one."""
    evidence = patched_run(1).evidence()
    shortened = replace(evidence, snapshots=evidence.snapshots[:-1])
    assert rejected(shortened) is Reason.INCOMPLETE
    assert judge(replace(shortened, boots=evidence.boots[:-1])).verdict is Verdict.IN_SYNC


def test_quote_without_a_list_at_the_end() -> None:
    machine = patched_run(1)
    machine.snapshots.append(Snapshot("quote", 1, machine.quote(), None, None))
    judgement = judge(machine.evidence())
    assert (judgement.reason, judgement.where) == (Reason.INCOMPLETE, "snapshot quote")


def test_evidence_does_not_choose_its_banks() -> None:
    evidence = patched_run(1).evidence()
    banks = ("sha1", "sha256", "sha384")
    assert rejected(replace(evidence, required_banks=banks)) is Reason.MISSING_BANK
    assert rejected(replace(evidence, required_banks=("sha256",))) is Reason.SELECTION
    assert rejected(replace(evidence, required_banks=("sha256", "sm3"))) is Reason.MISSING_BANK
    banks = ("sha1", "sha256", "sha256")
    assert rejected(replace(evidence, required_banks=banks)) is Reason.MISSING_BANK


def test_another_key() -> None:
    machine = patched_run(1)
    assert rejected(with_quote(machine, lambda attest: attest, Key())) is Reason.SIGNATURE
    other = Key()
    evidence = replace(patched_run(1).evidence(), ak_public=other.public, ak_pem=other.pem)
    assert rejected(evidence) is Reason.SIGNATURE


def test_unrestricted_key() -> None:
    machine = Machine(key=Key(attributes=0x2 | 0x10 | 0x20 | 0x40 | 0x40000))
    machine.boot()
    machine.snapshot("boot")
    assert rejected(machine.evidence()) is Reason.AK


def test_replayed_quote() -> None:
    machine = patched_run(1)
    first, last = machine.snapshots[0], machine.snapshots[-1]
    machine.snapshots[-1] = replace(last, after=first.after)
    assert rejected(machine.evidence()) is Reason.NONCE


def test_rejection_names_its_quote() -> None:
    machine = patched_run(1)
    judgement = judge(with_quote(machine, lambda attest: replace(attest, magic=0)))
    assert judgement.reason is Reason.MAGIC_TYPE
    assert judgement.where == "snapshot after-kexec, quote after"


def test_quotes_come_before_lists() -> None:
    """A list that is none is not worth a word if the quotes do not hold."""
    machine = patched_run(1)
    evidence = with_quote(machine, lambda attest: replace(attest, trailing=b"\0"))
    last = replace(evidence.snapshots[-1], log=b"")
    evidence = replace(evidence, snapshots=(*evidence.snapshots[:-1], last))
    assert rejected(evidence) is Reason.ATTEST


def test_reset_within_a_snapshot() -> None:
    machine = patched_run(1)
    evidence = with_quote(machine, lambda attest: replace(attest, reset=attest.reset + 1))
    assert rejected(evidence) is Reason.COUNTERS


def test_clock_that_goes_back_within_a_snapshot() -> None:
    judgement = judge(with_quote(patched_run(1), lambda attest: replace(attest, clock=1)))
    assert (judgement.reason, judgement.flags) == (Reason.COUNTERS, (Flag.ROLLBACK,))


def test_clock_that_goes_back_between_snapshots() -> None:
    machine = patched_run(1)
    machine.clock = 0
    machine.snapshot("later")
    judgement = judge(machine.evidence())
    assert (judgement.reason, judgement.flags) == (Reason.COUNTERS, (Flag.ROLLBACK,))


def test_counters_that_come_back() -> None:
    machine = patched_run(1)
    machine.cold_reset()
    machine.snapshot("after-reset")
    machine.reset -= 2
    machine.cold_reset()
    machine.snapshot("rolled-back")
    judgement = judge(machine.evidence())
    assert (judgement.reason, judgement.flags) == (Reason.COUNTERS, (Flag.ROLLBACK,))


# What comes out.


def test_exit_codes() -> None:
    assert dict(EXIT_CODES) == {
        Verdict.IN_SYNC: 0,
        Verdict.TRUNCATED: 10,
        Verdict.OUT_OF_SYNC: 11,
        Verdict.TAMPERED: 12,
        Verdict.INVALID_EVIDENCE: 13,
        Verdict.MALFORMED: 14,
    }


def test_each_reason_has_a_verdict() -> None:
    assert {reason.verdict for reason in Reason} == set(Verdict)


@pytest.mark.parametrize("machine", [patched_run(2), plain_run(2)], ids=["patched", "plain"])
def test_json(machine: Machine) -> None:
    judgement = judge(machine.evidence())
    text = judgement.to_json()
    assert json.loads(json.dumps(text)) == text
    assert text["schema"] == JSON_SCHEMA
    assert text["verdict"] == judgement.verdict.value
    assert text["exit_code"] == judgement.exit_code
    assert type(text["verdict"]) is str


def test_json_of_a_rejection() -> None:
    text = judge(replace(patched_run(1).evidence(), snapshots=())).to_json()
    assert (text["reason"], text["exit_code"], text["timeline"]) == ("incomplete", 13, None)


def save(machine: Machine, folder: Path) -> Path:
    return written(machine.evidence(), folder)


def test_folder_is_judged_like_what_it_holds(tmp_path: Path) -> None:
    machine = patched_run(200, extra=2048)
    assert judge_folder(save(machine, tmp_path / "evidence")) == judge(machine.evidence())


def test_damaged_folder(tmp_path: Path) -> None:
    folder = save(patched_run(1), tmp_path / "evidence")
    (folder / "ak.pem").write_text("")
    judgement = judge_folder(folder)
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID_EVIDENCE, Reason.DAMAGED_FILE)
    assert judgement.where == "ak.pem"


def test_manifest_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    judgement = judge_folder(tmp_path)
    assert (judgement.verdict, judgement.reason) == (Verdict.MALFORMED, Reason.MANIFEST)


def test_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        judge_folder(tmp_path)


def test_segment_that_cannot_have_held_what_it_is_said_to_have_carried() -> None:
    machine = patched_run(200, extra=2048)
    [handover] = timeline_of_last(machine).handovers
    assert handover.segment_size is not None
    records = list(machine.records)
    records[handover.index : handover.index] = [ng("/put/in/" + "x" * 200)] * 9
    judgement = with_last_log(only_last(machine), records)
    assert judgement.reason is Reason.RECORDS_MISSING
    assert "more than it holds" in judgement.sentence


def timeline_of_last(machine: Machine) -> Timeline:
    timeline = judge(machine.evidence()).timeline
    assert timeline is not None
    return timeline


def test_actions_are_those_of_the_documentation() -> None:
    """Every reason stands in the table of docs/verification.md, with what to do."""
    text = (Path(__file__).parent.parent / "docs" / "verification.md").read_text()
    told: dict[str, str] = {}
    for line in text.partition("## What comes out")[2].partition("Flags stand")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5:
            told |= dict.fromkeys(re.findall(r"`([a-z_]+)`", cells[2]), cells[4])
    assert set(told) == set(Reason)
    words = {
        "nothing": "Nothing",
        "boot cold": "cold",
        "investigate": "nvestigate",
        "again": "again",
        "more room": "more room",
        "other means": "other means",
    }
    for name, action in told.items():
        for said, meant in words.items():
            assert (said in action) == (meant in action_for(Reason(name))), (name, action)
