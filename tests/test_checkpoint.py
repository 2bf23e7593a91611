# SPDX-License-Identifier: GPL-2.0-only
"""A checkpoint proves that history goes on, says what a loss has left, and carries an anchor."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Run
from evidence_maker import Key, Machine, Rec, marker, ng, pack, patched_run, violation, written

from imakexec.attest import (
    Anchor,
    Checkpoint,
    Flag,
    Judgement,
    MeasurementLog,
    QuoteFiles,
    Reason,
    Selection,
    Verdict,
    Vouchers,
    judge,
    judge_list,
    next_checkpoint,
)
from imakexec.attest.checkpoint import ContinuityState, Survival
from imakexec.attest.continuity import CannotAnchor
from imakexec.errors import UserError
from imakexec.evidence import BootKind, Snapshot


def now(machine: Machine, checkpoint: Checkpoint | None = None) -> Judgement:
    """The machine is asked again: nothing but a snapshot of now."""
    machine.snapshots = []
    machine.snapshot("now")
    boots = tuple(machine.boots)
    return judge(replace(machine.evidence(), boots=boots), checkpoint=checkpoint)


def kept(judgement: Judgement, *, reanchor: bool = False) -> Checkpoint:
    checkpoint = next_checkpoint(judgement, reanchor=reanchor)
    assert checkpoint is not None
    return checkpoint


def outcome(judgement: Judgement) -> tuple[Verdict, Reason, ContinuityState | None]:
    state = None if judgement.continuity is None else judgement.continuity.state
    return judgement.verdict, judgement.reason, state


@pytest.fixture
def machine() -> Machine:
    machine = Machine()
    machine.boot()
    machine.files(5)
    return machine


GOES_ON = (Verdict.IN_SYNC, Reason.MATCH, ContinuityState.CONTINUES)


def test_history_goes_on(machine: Machine) -> None:
    checkpoint = kept(now(machine))
    assert checkpoint.records == 7
    assert outcome(now(machine, checkpoint)) == GOES_ON
    machine.files(3)
    later = now(machine, checkpoint)
    assert outcome(later) == GOES_ON
    assert later.continuity is not None
    assert (later.continuity.surviving, later.continuity.surviving_below) == (7, None)
    assert kept(later).records == 10
    machine.execute(machine.load(16384))
    assert outcome(now(machine, kept(later))) == GOES_ON


def test_without_a_checkpoint_nothing_is_said(machine: Machine) -> None:
    assert now(machine).continuity is None


# What cannot come after a checkpoint.


def test_another_tpm(machine: Machine) -> None:
    checkpoint = kept(now(machine))
    machine.key = Key()
    assert now(machine, checkpoint).reason is Reason.AK


def test_clock_that_went_back(machine: Machine) -> None:
    checkpoint = kept(now(machine))
    machine.clock = 5
    judgement = now(machine, checkpoint)
    assert judgement.reason is Reason.COUNTERS
    assert Flag.ROLLBACK in judgement.flags


def test_fewer_banks_than_before(machine: Machine) -> None:
    checkpoint = kept(now(machine))
    machine.banks = ("sha256",)
    del machine.pcr10["sha1"]
    assert now(machine).verdict is Verdict.IN_SYNC
    assert now(machine, checkpoint).reason is Reason.MISSING_BANK


def test_list_that_replays_but_is_not_the_same(machine: Machine) -> None:
    """What a violation says is in no PCR: only the checkpoint has seen it."""
    machine.measure(violation("/good"))
    checkpoint = kept(now(machine))
    machine.records[-1] = violation("/evil")
    assert now(machine).verdict is Verdict.IN_SYNC
    judgement = now(machine, checkpoint)
    assert outcome(judgement) == (
        Verdict.TAMPERED,
        Reason.HISTORY_REWRITTEN,
        ContinuityState.CONTRADICTED,
    )
    assert judgement.first_divergence == 7
    assert next_checkpoint(judgement) is None


def test_list_that_lost_a_record_without_a_kexec(machine: Machine) -> None:
    checkpoint = kept(now(machine))
    del machine.records[3]
    judgement = now(machine, checkpoint)
    assert now(machine).reason is Reason.FOREIGN_EXTEND
    assert outcome(judgement) == (
        Verdict.TAMPERED,
        Reason.HISTORY_REWRITTEN,
        ContinuityState.CONTRADICTED,
    )
    assert judgement.first_divergence == 3


def test_what_is_tampered_with_already_keeps_its_reason(machine: Machine) -> None:
    checkpoint = kept(now(machine))
    machine.records[3] = replace(machine.records[3], digest=b"x" * 20)
    judgement = now(machine, checkpoint)
    assert outcome(judgement) == (
        Verdict.TAMPERED,
        Reason.TEMPLATE_DIGEST,
        ContinuityState.CONTRADICTED,
    )


# Resets.


def test_cold_boot_begins_another_list(machine: Machine) -> None:
    checkpoint = kept(now(machine))
    machine.cold_reset()
    judgement = now(machine, checkpoint)
    assert outcome(judgement) == (
        Verdict.IN_SYNC,
        Reason.MATCH,
        ContinuityState.NEW_POWER_CYCLE,
    )
    assert kept(judgement).records == 2


def test_list_from_before_a_cold_boot(machine: Machine) -> None:
    checkpoint = kept(now(machine))
    before = list(machine.records)
    machine.cold_reset()
    machine.records = before
    assert outcome(now(machine, checkpoint)) == (
        Verdict.TAMPERED,
        Reason.STALE_LIST,
        ContinuityState.NEW_POWER_CYCLE,
    )


def test_machine_that_measures_the_same_at_every_boot() -> None:
    """Its new list begins like the old one, which makes it none from before the reset."""
    machine = Machine()
    machine.boot()
    checkpoint = kept(now(machine))
    machine.cold_reset()
    assert outcome(now(machine, checkpoint)) == (
        Verdict.IN_SYNC,
        Reason.MATCH,
        ContinuityState.NEW_POWER_CYCLE,
    )
    machine.records.append(ng("/late"))
    assert outcome(now(machine, checkpoint)) == (
        Verdict.OUT_OF_SYNC,
        Reason.UNCOVERED_TAIL,
        ContinuityState.NEW_POWER_CYCLE,
    )


def test_suspend_to_ram_keeps_pcr_10(machine: Machine) -> None:
    checkpoint = kept(now(machine))
    machine.restart += 1
    assert outcome(now(machine, checkpoint)) == GOES_ON


def test_cold_boot_within_the_evidence(machine: Machine) -> None:
    checkpoint = kept(now(machine))
    machine.snapshots = []
    machine.snapshot("before")
    machine.cold_reset()
    machine.snapshot("after")
    judgement = judge(machine.evidence(), checkpoint=checkpoint)
    assert judgement.verdict is Verdict.IN_SYNC
    assert judgement.snapshot == "after"
    # The list before the reset is held against the checkpoint, too.
    first = machine.snapshots[0]
    forged = replace(first, log=pack([ng("/evil"), *patched_run(0).records]))
    machine.snapshots[0] = forged
    assert judge(machine.evidence(), checkpoint=checkpoint).verdict is Verdict.TAMPERED


@pytest.mark.parametrize("further", [0, 1, 2])
def test_kexec_near_by_explains_no_change_of_a_list_that_replays(further: int) -> None:
    """The rungs of a long list are too far apart to tell a violation from the boot behind it."""
    machine = Machine(("sha256",))
    machine.boot()
    machine.files(2060)
    size = machine.load(1 << 20)
    machine.measure(violation("/good"))
    changed = len(machine.records) - 1
    machine.execute(size)
    machine.files(further)
    checkpoint = kept(now(machine))
    machine.records[changed] = violation("/evil")
    assert now(machine).verdict is Verdict.IN_SYNC
    assert now(machine, checkpoint).reason is Reason.HISTORY_REWRITTEN


# What an attacker puts around the list that the checkpoint is about.


def polled(machine: Machine, *names: str) -> list[Snapshot]:
    machine.snapshots = []
    for name in names:
        machine.snapshot(name)
    return machine.snapshots


def test_old_snapshot_in_front_hides_nothing() -> None:
    machine = Machine()
    machine.boot()
    old = polled(machine, "old")
    machine.cold_reset()
    machine.measure(violation("/good"))
    checkpoint = kept(now(machine))
    machine.records[-1] = violation("/evil")
    assert now(machine, checkpoint).reason is Reason.HISTORY_REWRITTEN
    evidence = replace(machine.evidence(), snapshots=(*old, *polled(machine, "now")))
    judgement = judge(evidence, checkpoint=checkpoint)
    assert judgement.reason is Reason.COUNTERS
    assert Flag.ROLLBACK in judgement.flags


def test_evidence_of_before_the_checkpoint_comes_too_late() -> None:
    machine = Machine()
    machine.boot()
    machine.snapshot("old")
    old = machine.evidence()
    machine.cold_reset()
    checkpoint = kept(now(machine))
    assert judge(old).verdict is Verdict.IN_SYNC
    assert judge(old, checkpoint=checkpoint).reason is Reason.COUNTERS


def test_cleared_tpm_shows_lower_counters(machine: Machine) -> None:
    """TPM2_Clear sets them and the clock back, and leaves PCR 10 and the primary key alone."""
    machine.measure(violation("/good"))
    checkpoint = kept(now(machine))
    machine.records[-1] = violation("/evil")
    machine.reset, machine.restart, machine.clock = 0, 0, 30
    assert now(machine, checkpoint).reason is Reason.COUNTERS


@pytest.mark.parametrize("later_epoch", [False, True])
def test_sleep_hides_no_change(machine: Machine, later_epoch: bool) -> None:
    machine.measure(violation("/good"))
    checkpoint = kept(now(machine))
    first = replace(polled(machine, "first")[0], log=None)
    machine.restart += 1
    assert now(machine, checkpoint).verdict is Verdict.IN_SYNC
    machine.records[-1] = violation("/evil")
    assert now(machine, checkpoint).reason is Reason.HISTORY_REWRITTEN
    # Nor if the list of before is withheld, and the sleep called a kexec.
    [second] = polled(machine, "second")
    if later_epoch:
        machine.boots.append(replace(machine.boots[-1], epoch=1, transition=BootKind.KEXEC))
        second = replace(second, epoch=1)
    evidence = replace(machine.evidence(), snapshots=(first, second))
    assert judge(evidence, checkpoint=checkpoint).verdict is Verdict.TAMPERED


def test_cold_boot_that_resetcount_does_not_tell(machine: Machine) -> None:
    checkpoint = kept(now(machine))
    machine.cold_reset(tpm_restart=True)
    assert outcome(now(machine, checkpoint)) == (
        Verdict.IN_SYNC,
        Reason.MATCH,
        ContinuityState.NEW_POWER_CYCLE,
    )


def test_cold_boot_hides_no_change_before_it(machine: Machine) -> None:
    machine.measure(violation("/good"))
    checkpoint = kept(now(machine))
    machine.records[-1] = violation("/evil")
    [before] = polled(machine, "before")
    machine.cold_reset()
    evidence = replace(machine.evidence(), snapshots=(before, *polled(machine, "after")))
    assert judge(evidence).verdict is Verdict.IN_SYNC
    judgement = judge(evidence, checkpoint=checkpoint)
    assert judgement.reason is Reason.HISTORY_REWRITTEN
    assert judgement.snapshot == "before"


def test_sleep_drops_no_bank(machine: Machine) -> None:
    checkpoint = kept(now(machine))
    machine.restart += 1
    machine.banks = ("sha256",)
    del machine.pcr10["sha1"]
    assert now(machine, checkpoint).reason is Reason.MISSING_BANK


def test_counters_that_go_back_within_the_evidence(machine: Machine) -> None:
    machine.reset = 3
    new = polled(machine, "new")
    machine.reset = 2
    evidence = replace(machine.evidence(), snapshots=(*new, *polled(machine, "old")))
    assert judge(evidence).reason is Reason.COUNTERS


# Losses.


def lossy() -> tuple[Machine, int]:
    """A machine whose next kexec will carry less than it has measured."""
    machine = Machine()
    machine.boot()
    machine.files(5)
    return machine, machine.load(0)


def test_loss_within_what_was_proven() -> None:
    machine, size = lossy()
    machine.files(40)
    checkpoint = kept(now(machine))
    machine.execute(size)
    judgement = now(machine, checkpoint)
    assert outcome(judgement) == (
        Verdict.TRUNCATED,
        Reason.SEGMENT_FULL,
        ContinuityState.LOSS,
    )
    assert judgement.continuity is not None
    assert judgement.timeline is not None
    assert judgement.continuity.surviving == judgement.timeline.boots[1].index
    assert judgement.continuity.surviving_below == judgement.continuity.surviving + 1
    assert judgement.basis is not None
    assert judgement.basis.proven == judgement.continuity.surviving


def test_loss_behind_what_was_proven() -> None:
    machine, size = lossy()
    checkpoint = kept(now(machine))
    machine.files(40)
    machine.execute(size)
    judgement = now(machine, checkpoint)
    assert outcome(judgement) == (
        Verdict.TRUNCATED,
        Reason.SEGMENT_FULL,
        ContinuityState.CONTINUES,
    )
    assert judgement.basis is not None
    assert judgement.basis.proven == checkpoint.records


def test_loss_leaves_no_checkpoint_unasked() -> None:
    machine, size = lossy()
    machine.files(40)
    machine.execute(size)
    assert next_checkpoint(now(machine)) is None


def test_long_lists_keep_a_ladder_of_bounded_length() -> None:
    log = MeasurementLog.parse(pack([ng(f"/{n}") for n in range(5000)]))
    machine = Machine()
    machine.boot()
    quote = kept(now(machine))
    [judged] = [now(machine).basis]
    assert judged is not None
    checkpoint = Checkpoint.of(log, judged.item.quotes[-1], key=quote.key, anchor=None)
    assert len(checkpoint.ladder) <= 1024
    assert checkpoint.records == 5000
    other = MeasurementLog.parse(pack([ng(f"/{n}") for n in range(2718)] + [ng("/other")] * 5000))
    survival = checkpoint.survival(other)
    assert survival.below is not None
    assert survival.at_least <= 2718 < survival.below <= survival.at_least + 5
    assert survival.can_end_at(2718)
    short = MeasurementLog.parse(pack([ng(f"/{n}") for n in range(2718)]))
    assert checkpoint.survival(short) == survival
    assert checkpoint.survival(log) == Survival(5000, None)
    anchor = Anchor(2718, checkpoint.pcrs, 0)
    anchored = Checkpoint.of(log, judged.item.quotes[-1], key=quote.key, anchor=anchor)
    assert 2718 in [rung.records for rung in anchored.ladder]


# Re-anchoring.


def anchored() -> tuple[Machine, Checkpoint]:
    machine, size = lossy()
    checkpoint = kept(now(machine))
    machine.files(40)
    machine.execute(size)
    return machine, kept(now(machine, checkpoint), reanchor=True)


def test_anchor_stands_where_the_quote_was() -> None:
    machine, checkpoint = anchored()
    assert checkpoint.anchor is not None
    assert checkpoint.anchor.records == len(machine.records) == checkpoint.records
    assert checkpoint.anchor.pcrs == machine.pcr10
    assert checkpoint.anchor.proven == 8


def test_new_records_replay_from_the_anchor() -> None:
    machine, checkpoint = anchored()
    assert checkpoint.anchor is not None
    for count in (0, 3):
        machine.files(count)
        judgement = now(machine, checkpoint)
        assert outcome(judgement) == (
            Verdict.IN_SYNC,
            Reason.REANCHORED,
            ContinuityState.CONTINUES,
        )
        assert Flag.DEGRADED in judgement.flags
        assert f"record {checkpoint.anchor.records}" in judgement.sentence
        assert "unproven" in judgement.sentence
        assert "cold" in judgement.action
        assert now(machine).verdict is Verdict.TRUNCATED
        checkpoint = kept(judgement)
        assert checkpoint.anchor is not None
        assert checkpoint.anchor.proven == 8


def test_kexecs_after_the_anchor() -> None:
    machine, checkpoint = anchored()
    machine.execute(machine.load(16384))
    assert now(machine, checkpoint).reason is Reason.REANCHORED
    size = machine.load(0)
    machine.files(40)
    machine.execute(size)
    judgement = now(machine, checkpoint)
    assert judgement.verdict is Verdict.TRUNCATED
    assert judgement.timeline is not None
    # It is the new loss that is named, not the one that was taken over.
    assert judgement.first_divergence == judgement.timeline.boots[3].index
    again = kept(judgement, reanchor=True)
    assert again.anchor is not None
    assert again.anchor.proven == 8
    assert now(machine, again).reason is Reason.REANCHORED


def test_loss_of_records_before_the_anchor() -> None:
    """The kernel that is to cut the list was loaded before the anchor was set."""
    machine, size = lossy()
    machine.files(40)
    machine.execute(size)
    size = machine.load(0)
    machine.files(60)
    checkpoint = kept(now(machine), reanchor=True)
    assert checkpoint.anchor is not None
    machine.execute(size)
    machine.files(100)
    judgement = now(machine, checkpoint)
    assert judgement.timeline is not None
    lost_at = judgement.timeline.boots[2].index
    assert lost_at < checkpoint.anchor.records < len(machine.records)
    assert (judgement.verdict, judgement.continuity and judgement.continuity.state) == (
        Verdict.TRUNCATED,
        ContinuityState.LOSS,
    )


def test_second_anchor_proves_no_more_than_the_first() -> None:
    """The kernel that cuts the list was loaded before the first anchor was set."""
    machine, size = lossy()
    checkpoint = kept(now(machine))
    machine.files(40)
    machine.execute(size)
    size = machine.load(0)
    machine.files(60)
    first = kept(now(machine, checkpoint), reanchor=True)
    machine.execute(size)
    lost = now(machine, first)
    assert lost.verdict is Verdict.TRUNCATED
    second = kept(lost, reanchor=True)
    assert first.anchor is not None
    assert second.anchor is not None
    assert second.anchor.proven == first.anchor.proven == 8


def test_anchor_after_a_cold_boot_takes_no_proof_from_before_it() -> None:
    machine = Machine()
    machine.boot()
    machine.files(50)
    checkpoint = kept(now(machine))
    [before] = polled(machine, "before")
    machine.cold_reset()
    size = machine.load(0)
    machine.files(80)
    machine.execute(size)
    evidence = replace(machine.evidence(), snapshots=(before, *polled(machine, "after")))
    judgement = judge(evidence, checkpoint=checkpoint)
    assert judgement.verdict is Verdict.TRUNCATED
    anchor = kept(judgement, reanchor=True).anchor
    assert anchor is not None
    assert anchor.proven == 0


def test_sleep_keeps_the_anchor() -> None:
    machine, checkpoint = anchored()
    machine.restart += 1
    assert outcome(now(machine, checkpoint)) == (
        Verdict.IN_SYNC,
        Reason.REANCHORED,
        ContinuityState.CONTINUES,
    )


def test_banks_of_the_anchor_stay() -> None:
    machine, checkpoint = anchored()
    machine.banks = ("sha1", "sha256", "sha384")
    machine.firmware["sha384"] = [bytes(48)] * 10
    machine.pcr10["sha384"] = bytes(48)
    assert now(machine, checkpoint).reason is Reason.MISSING_BANK


def test_list_that_another_one_contradicts_is_not_anchored(tmp_path: Path) -> None:
    machine, size = lossy()
    machine.files(40)
    machine.execute(size)
    other = tmp_path / "other"
    other.write_bytes(pack([*machine.records[:3], ng("/evil"), *machine.records[4:]]))
    judgement = detached(machine, tmp_path, against=[other])
    assert judgement.verdict is Verdict.TRUNCATED
    with pytest.raises(CannotAnchor, match="contradicts it"):
        next_checkpoint(judgement, reanchor=True)


@pytest.mark.parametrize("index", [0, 5, 20, -4, -1])
def test_nothing_may_change_around_the_anchor(index: int) -> None:
    machine, checkpoint = anchored()
    machine.files(3)
    machine.records[index] = ng("/evil")
    assert now(machine, checkpoint).verdict not in (Verdict.IN_SYNC, Verdict.TRUNCATED) or index < 0
    assert now(machine, checkpoint).verdict is not Verdict.IN_SYNC


def test_cold_boot_ends_the_anchor() -> None:
    machine, checkpoint = anchored()
    machine.cold_reset()
    judgement = now(machine, checkpoint)
    assert outcome(judgement) == (
        Verdict.IN_SYNC,
        Reason.MATCH,
        ContinuityState.NEW_POWER_CYCLE,
    )
    assert kept(judgement).anchor is None


def test_value_of_the_anchor_counts() -> None:
    machine, checkpoint = anchored()
    assert checkpoint.anchor is not None
    pcrs = {bank: bytes(len(value)) for bank, value in checkpoint.anchor.pcrs.items()}
    forged = replace(checkpoint, anchor=replace(checkpoint.anchor, pcrs=pcrs))
    assert now(machine, forged).verdict is not Verdict.IN_SYNC


def test_what_cannot_be_anchored(machine: Machine) -> None:
    with pytest.raises(CannotAnchor, match="says nothing about a list"):
        next_checkpoint(judge(replace(machine.evidence(), snapshots=())), reanchor=True)
    machine.records.append(ng("/late"))
    with pytest.raises(CannotAnchor, match="do not cover each other"):
        next_checkpoint(now(machine), reanchor=True)
    machine.records[-1] = replace(machine.records[-1], digest=b"x" * 20)
    with pytest.raises(CannotAnchor, match="TAMPERED"):
        next_checkpoint(now(machine), reanchor=True)


def test_no_anchor_while_the_list_grows() -> None:
    machine, size = lossy()
    machine.files(40)
    machine.execute(size)
    machine.snapshots = []
    before = machine.quote()
    machine.files(1)
    machine.snapshot("now")
    machine.snapshots[0] = replace(machine.snapshots[0], before=before)
    with pytest.raises(CannotAnchor, match="went on while the list was read"):
        next_checkpoint(judge(machine.evidence()), reanchor=True)


def test_list_in_sync_needs_no_anchor(machine: Machine) -> None:
    assert kept(now(machine), reanchor=True).anchor is None


# Detached lists.


def detached(
    machine: Machine,
    folder: Path,
    checkpoint: Checkpoint | None = None,
    against: Sequence[Path] = (),
) -> Judgement:
    log = folder / "log"
    log.write_bytes(pack(machine.records))
    record = machine.quote()
    files = QuoteFiles(record.attest, record.signature, record.nonce, record.pcrs, "quote")
    vouchers = Vouchers(machine.key.public, "key", (files,), Selection.of_banks(machine.banks))
    return judge_list(log, vouchers, checkpoint=checkpoint, against=against)


def test_detached_lists_go_on_as_well(machine: Machine, tmp_path: Path) -> None:
    checkpoint = kept(detached(machine, tmp_path))
    machine.files(2)
    assert outcome(detached(machine, tmp_path, checkpoint)) == GOES_ON
    # One checkpoint serves both.
    assert outcome(now(machine, checkpoint)) == GOES_ON
    machine.key = Key()
    assert detached(machine, tmp_path, checkpoint).reason is Reason.AK


def test_bare_values_have_no_history(machine: Machine, tmp_path: Path) -> None:
    checkpoint = kept(now(machine))
    log = tmp_path / "log"
    log.write_bytes(pack(machine.records))
    pcrs = {bank: {10: value} for bank, value in machine.pcr10.items()}
    with pytest.raises(UserError, match="nobody has signed"):
        judge_list(log, pcrs, checkpoint=checkpoint)
    with pytest.raises(UserError, match="nobody has signed"):
        next_checkpoint(judge_list(log, pcrs))


def test_list_of_another_bank(machine: Machine) -> None:
    checkpoint = kept(now(machine))
    other = replace(checkpoint, layout=replace(checkpoint.layout, bank="sha256"))
    judgement = now(machine, other)
    assert outcome(judgement) == (
        Verdict.TAMPERED,
        Reason.HISTORY_REWRITTEN,
        ContinuityState.CONTRADICTED,
    )
    assert "digests of sha256" in judgement.sentence
    machine.cold_reset()
    assert outcome(now(machine, other)) == (
        Verdict.IN_SYNC,
        Reason.MATCH,
        ContinuityState.NEW_POWER_CYCLE,
    )


# The file.


def test_file_says_it_all(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    assert Checkpoint.load(path) is None
    for checkpoint in (kept(now(machine)), anchored()[1]):
        checkpoint.save(path)
        loaded = Checkpoint.load(path)
        assert loaded == replace(checkpoint, clock_info=replace(checkpoint.clock_info, safe=True))
        assert [item.name for item in tmp_path.iterdir()] == ["checkpoint"]


def test_file_that_cannot_be_replaced(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        kept(now(machine)).save(tmp_path / "folder")
    assert [item.name for item in tmp_path.iterdir()] == ["folder"]


def test_file_behind_a_link_is_the_one_that_is_written(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there" / "state")
    checkpoint = kept(now(machine))
    checkpoint.save(link)
    assert link.is_symlink()
    assert Checkpoint.load(tmp_path / "there" / "state") is not None


def test_file_that_a_link_lies_in_wait_for(machine: Machine, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (f".state.{os.getpid()}", ".state.tmp", ".state.new"):
        (tmp_path / name).symlink_to(victim)
    kept(now(machine)).save(tmp_path / "state")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "state").is_symlink()
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0


def spoiled(**members: object) -> Callable[[dict[str, object]], object]:
    return lambda document: {**document, **members}


HEX = "00" * 32


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda _: [], ""),
        (spoiled(schema="imakexec-checkpoint/2"), "schema"),
        (spoiled(key="00"), "key"),
        (spoiled(reset_count=-1), "reset_count"),
        (spoiled(clock_ms=True), "clock_ms"),
        (spoiled(byteorder="middle"), "byteorder"),
        (spoiled(bank="md5"), "bank"),
        (spoiled(pcrs={}), "pcrs"),
        (spoiled(pcrs={"sha1": "00"}), "pcrs.sha1"),
        (spoiled(pcrs={"md5": "00" * 16}), "pcrs.md5"),
        (spoiled(ladder=[]), "ladder"),
        (spoiled(ladder=[{"records": 0, "sha256": HEX}]), "ladder"),
        (spoiled(ladder=[{"records": 2, "sha256": HEX}, {"records": 1, "sha256": HEX}]), "ladder"),
        (spoiled(ladder=[{"records": 1, "sha256": "zz"}]), "ladder[0].sha256"),
        (spoiled(anchor={"records": 1, "pcrs": {"sha1": "00" * 20}, "proven": 0}), "anchor"),
        (spoiled(anchor={"records": 99, "pcrs": {}, "proven": 0}), "anchor.pcrs"),
        (spoiled(further=1), "further"),
    ],
)
def test_file_that_is_no_checkpoint(
    machine: Machine, tmp_path: Path, spoil: Callable[[object], object], field: str
) -> None:
    path = tmp_path / "checkpoint"
    path.write_text(json.dumps(spoil(kept(now(machine)).to_json())))
    with pytest.raises(UserError, match="no checkpoint") as caught:
        Checkpoint.load(path)
    assert caught.value.where == (f"{path}, field {field}" if field else str(path))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b" " * ((1 << 20) + 1)])
def test_file_that_is_no_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(content)
    with pytest.raises(UserError, match="no checkpoint"):
        Checkpoint.load(path)


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        Checkpoint.load(tmp_path)


# The command.


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


def folder_of(machine: Machine, folder: Path) -> Path:
    machine.snapshots = []
    machine.snapshot("now")
    return written(machine.evidence(), folder)


def test_command_from_the_first_list_over_a_loss_to_a_cold_boot(run: Run, tmp_path: Path) -> None:
    machine, size = lossy()
    file = tmp_path / "state"

    def verify(name: str, *options: str) -> tuple[object, str]:
        folder = folder_of(machine, tmp_path / name)
        ended = run("verify", folder, "--checkpoint", file, *options)
        assert not ended.err
        return ended.code, ended.out

    assert verify("first")[0] == 0
    first = file.read_bytes()
    machine.files(40)
    assert "goes on from the checkpoint, whose 8 records" in verify("second")[1]
    assert file.read_bytes() != first
    machine.execute(size)
    lost = file.read_bytes()
    code, out = verify("third")
    assert code == 10
    said = re.search(
        r"of the checkpoint's 48 records a kexec has left the first (\d+): (\d+) are lost at least",
        " ".join(out.split()),
    )
    assert said is not None
    assert int(said[1]) + int(said[2]) == 48
    assert file.read_bytes() == lost
    assert verify("fourth", "--reanchor")[0] == 10
    assert file.read_bytes() != lost
    machine.files(2)
    code, out = verify("fifth")
    assert code == 0
    assert "IN_SYNC (reanchored)" in out
    assert "degraded" in out
    machine.cold_reset()
    code, out = verify("sixth")
    assert code == 0
    assert "IN_SYNC (match)" in out
    assert "the TPM was reset since the checkpoint" in out


def test_command_that_cannot_keep_its_checkpoint(run: Run, tmp_path: Path) -> None:
    machine = patched_run()
    folder = folder_of(machine, tmp_path / "evidence")
    ended = run("verify", folder, "--checkpoint", tmp_path / "nowhere" / "file")
    assert ended.code == 2
    assert "checkpoint cannot be written" in ended.err
    ended = run("verify", folder, "--checkpoint", folder / "state")
    assert ended.code == 2
    assert "would lie in the evidence folder" in ended.err
    assert not (folder / "state").exists()


def test_command_keeps_no_result_in_its_checkpoint(run: Run, tmp_path: Path) -> None:
    folder = folder_of(patched_run(), tmp_path / "evidence")
    file = tmp_path / "state"
    assert run("verify", folder, "--checkpoint", file).code == 0
    content = file.read_bytes()
    ended = run("verify", folder, "--checkpoint", file, "--json", file)
    assert ended.code == 2
    assert file.read_bytes() == content
    new = tmp_path / "new"
    assert run("verify", folder, "--checkpoint", new, "--json", tmp_path / "." / "new").code == 2
    assert not new.exists()


def test_command_that_has_nothing_to_re_anchor_keeps_its_verdict(run: Run, tmp_path: Path) -> None:
    machine = patched_run()
    folder = folder_of(machine, tmp_path / "evidence")
    (folder / "ak.pem").write_text("damaged")
    ended = run("verify", folder, "--checkpoint", tmp_path / "state", "--reanchor")
    assert ended.code == 13
    assert "not re-anchored" in ended.out
    assert not (tmp_path / "state").exists()


def test_a_machine_that_claims_a_cold_boot_by_kexec_fools_nobody(machine: Machine) -> None:
    checkpoint = kept(now(machine))
    machine.records = list[Rec]()
    machine.boot(BootKind.COLD)
    judgement = now(machine, checkpoint)
    assert judgement.verdict is not Verdict.IN_SYNC
    assert judgement.continuity is not None
    assert judgement.continuity.state is not ContinuityState.NEW_POWER_CYCLE


# What the second attempt to break it has opened.


def test_full_list_after_a_re_anchoring_and_a_sleep_is_not_another_list() -> None:
    """Root has kept what the kexec lost, and shows it again with another text of a violation."""
    machine, size = lossy()
    machine.measure(violation("/good"))
    machine.files(40)
    whole = list(machine.records)
    checkpoint = kept(now(machine))
    machine.execute(size)
    lost = len(machine.records)
    anchored = kept(now(machine, checkpoint), reanchor=True)
    assert anchored.anchor is not None
    # After what is left of the old list, the new kernel's own records.
    boot = next(n for n in range(1, lost) if machine.records[n] == machine.boot_aggregate())
    marker_of_execute = marker("kexec_execute", whole, size)  # was measured, and lost
    machine.records = [*whole, marker_of_execute, *machine.records[boot:]]
    machine.records[8] = violation("/evil")
    machine.restart += 1
    assert now(machine).verdict is Verdict.IN_SYNC
    assert now(machine, anchored).reason is Reason.HISTORY_REWRITTEN


def test_quote_alone_after_a_sleep_hides_no_change(machine: Machine) -> None:
    machine.measure(violation("/good"))
    first, *_ = polled(machine, "a")
    machine.restart += 1
    alone, last = polled(machine, "b", "c")
    evidence = replace(machine.evidence(), snapshots=(first, replace(alone, log=None), last))
    assert judge(evidence).verdict is Verdict.IN_SYNC
    machine.records[-1] = violation("/evil")
    machine.snapshots = []
    machine.snapshot("d")
    evidence = replace(
        machine.evidence(), snapshots=(first, replace(alone, log=None), machine.snapshots[0])
    )
    assert judge(evidence).reason is Reason.HISTORY_REWRITTEN


def test_restart_with_the_same_first_records_ends_the_anchor() -> None:
    """All was lost, so the anchored list is what every boot begins with."""
    machine = Machine()
    machine.boot()
    machine.files(5)
    machine.records = []
    machine.boot(BootKind.KEXEC)
    anchored = kept(now(machine), reanchor=True)
    machine.epoch, machine.boots = -1, []
    machine.cold_reset(tpm_restart=True)
    judgement = now(machine, anchored)
    assert (judgement.verdict, judgement.reason) == (Verdict.IN_SYNC, Reason.MATCH)


def test_anchor_after_a_loss_of_whole_boots() -> None:
    machine = Machine()
    machine.boot()
    machine.files(5)
    machine.records = []
    machine.boot(BootKind.KEXEC)
    machine.files(1)
    anchored = kept(now(machine), reanchor=True)
    machine.files(2)
    assert now(machine, anchored).reason is Reason.REANCHORED


def test_quote_of_a_boot_that_was_lost_proves_nothing() -> None:
    """It matches the beginning of the next boot, which measures the same first."""
    machine = Machine()
    machine.boot()
    machine.measure(ng("/init"))
    machine.snapshot("boot")
    machine.files(5)
    machine.records = []
    machine.boot(BootKind.KEXEC)
    machine.measure(ng("/init"))
    machine.snapshot("after")
    anchor = kept(judge(machine.evidence()), reanchor=True).anchor
    assert anchor is not None
    assert anchor.proven == 0


def test_kernel_that_carries_nothing_is_a_loss_and_no_tampering(machine: Machine) -> None:
    checkpoint = kept(now(machine))
    machine.records = []
    machine.boot(BootKind.KEXEC)
    machine.files(1)
    machine.snapshots = []
    first = machine.boots[0]
    machine.boots = [first, machine.boots[1]]
    machine.snapshot("after")
    judgement = judge(machine.evidence(), checkpoint=checkpoint)
    assert outcome(judgement) == (
        Verdict.OUT_OF_SYNC,
        Reason.NO_MARKERS,
        ContinuityState.LOSS,
    )
    assert judgement.continuity is not None
    assert (judgement.continuity.surviving, judgement.continuity.proven) == (0, 0)


def test_restart_count_that_goes_back(machine: Machine) -> None:
    machine.restart = 1
    first = polled(machine, "a")
    machine.restart, machine.clock = 0, 5
    evidence = replace(machine.evidence(), snapshots=(*first, *polled(machine, "b")))
    assert judge(evidence).reason is Reason.COUNTERS


def test_checkpoint_finds_no_way_into_the_evidence(run: Run, tmp_path: Path) -> None:
    folder = folder_of(patched_run(), tmp_path / "evidence")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "file").symlink_to(folder / "state")
    for evidence, place in (
        (tmp_path / "link", tmp_path / "link" / "state"),
        (folder, tmp_path / "." / "evidence" / ".." / "evidence" / "state"),
        (folder, tmp_path / "file"),
    ):
        assert run("verify", evidence, "--checkpoint", place).code == 2
        assert not (folder / "state").exists()


def test_checkpoint_keeps_its_mode_and_may_have_a_long_name(
    machine: Machine, tmp_path: Path
) -> None:
    path = tmp_path / ("x" * 250)
    checkpoint = kept(now(machine))
    checkpoint.save(path)
    path.chmod(0o664)
    checkpoint.save(path)
    assert path.stat().st_mode & 0o777 == 0o664


@pytest.mark.parametrize("sleeps", [1, 2])
def test_quotes_alone_between_two_lists_hide_no_change(machine: Machine, sleeps: int) -> None:
    """After one sleep PCR 10 has moved on already, after two it has not."""
    machine.measure(violation("/good"))
    first = polled(machine, "a")[0]
    place = len(machine.records) - 1
    machine.restart += 1
    if sleeps == 1:
        machine.files(1)
    alone = replace(polled(machine, "b")[0], log=None)
    machine.restart += sleeps - 1
    machine.files(1)
    machine.records[place] = violation("/evil")
    evidence = replace(machine.evidence(), snapshots=(first, alone, *polled(machine, "c")))
    assert judge(evidence).reason is Reason.HISTORY_REWRITTEN
