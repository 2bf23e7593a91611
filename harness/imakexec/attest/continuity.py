# SPDX-License-Identifier: GPL-2.0-only
"""A judgement beside what an earlier one has left: does history go on, and may it begin anew?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from imakexec.attest.checkpoint import (
    Anchor,
    Checkpoint,
    Continuity,
    ContinuityState,
    Survival,
)
from imakexec.attest.judgement import Judgement
from imakexec.attest.log import MeasurementLog
from imakexec.attest.power import PowerCycle, check_clock, clock_of
from imakexec.attest.quote import AttestationKey, Quote
from imakexec.attest.reasons import Reason, Rejection, Verdict
from imakexec.attest.replay import IMA_PCR
from imakexec.attest.sync import Finding, judge_cycle
from imakexec.errors import UserError

# Here the list and the quote are in step, but do not cover each other: another quote mends that.
_ASK_AGAIN = (Reason.UNCOVERED_TAIL, Reason.UNCOVERED_PCR)


def require_successor(checkpoint: Checkpoint, key: AttestationKey, first: Quote) -> None:
    """Check that a quote can come after a checkpoint.

    Args:
        checkpoint: from an earlier judgement.
        key: that has signed the quote.
        first: the first quote of the new evidence.

    Raises:
        Rejection: reason ak: another TPM's; counters: the clock went back; missing_bank: fewer or
            other banks, though the TPM was not reset.
    """
    if key.fingerprint != checkpoint.key:
        raise Rejection(
            Reason.AK,
            f"the checkpoint is of the key {checkpoint.key.hex()}, this one is"
            f" {key.fingerprint.hex()}",
            where="--checkpoint",
        )
    if not _same_power_cycle(checkpoint, first):
        return
    check_clock(checkpoint.clock_info, clock_of(first), "between the checkpoint and the quote")
    banks, quoted = sorted(checkpoint.pcrs), sorted(first.pcrs)
    if banks != quoted:
        raise Rejection(
            Reason.MISSING_BANK,
            f"banks {', '.join(quoted)} were quoted, {', '.join(banks)} at the checkpoint",
            where="--checkpoint",
        )


def anchor_of(checkpoint: Checkpoint | None, log: MeasurementLog, first: Quote) -> Anchor | None:
    """Where the replay of a list begins: at an anchor only if all before it is as it was then."""
    if checkpoint is None or checkpoint.anchor is None or not _same_power_cycle(checkpoint, first):
        return None
    survives = checkpoint.survival(log).at_least >= checkpoint.anchor.records
    return checkpoint.anchor if survives else None


def go_on(
    finding: Finding, cycles: Sequence[PowerCycle], checkpoint: Checkpoint
) -> tuple[Finding, Continuity | None]:
    """What a checkpoint adds to a finding.

    Args:
        finding: on the list that decides.
        cycles: all power cycles of the evidence.
        checkpoint: from before the first of them.

    Returns:
        The finding, another one if the checkpoint contradicts the list, and how they relate; None
        if nothing can be compared.

    Raises:
        UserError: the list is of another layout than the checkpoint's.
    """
    first = cycles[0]
    if not _same_power_cycle(checkpoint, first.observations[0].quotes[0]):
        return _after_reset(finding, checkpoint)
    is_first = finding.observation in first.observations
    subject = finding if is_first else judge_cycle(first, ())
    if subject is None:
        return finding, None
    survival = checkpoint.survival(subject.observation.log)
    if survival.is_whole:
        return finding, _continuity(ContinuityState.CONTINUES, checkpoint, survival, subject)
    if not subject.is_match and _cut_by_kexec(subject, survival):
        return finding, _continuity(ContinuityState.LOSS, checkpoint, survival, subject)
    contradicted = _continuity(ContinuityState.CONTRADICTED, checkpoint, survival, subject)
    if subject.reason.verdict is Verdict.TAMPERED:
        return finding, contradicted
    return _rewritten(subject, checkpoint, survival), contradicted


def next_checkpoint(judgement: Judgement, *, reanchor: bool = False) -> Checkpoint | None:
    """The checkpoint that a judgement leaves; None if it proves nothing new.

    Args:
        judgement: of a list.
        reanchor: after a loss, take the quoted value over as the one from which to replay.

    Raises:
        UserError: there is nothing to take over, or nobody has signed it.
    """
    basis = judgement.basis
    if basis is None:
        if reanchor:
            raise _no_anchor("the evidence says nothing about a list")
        return None
    if basis.key is None:
        raise UserError(
            "bare PCR values leave no checkpoint: nobody has signed them",
            where="--checkpoint",
            remedy="verify a quote, with its signature, key and nonce",
        )
    item = basis.item
    last = item.quotes[-1]
    if judgement.verdict is Verdict.IN_SYNC:
        return Checkpoint.of(item.log, last, key=basis.key, anchor=item.anchor)
    if not reanchor:
        return None
    if judgement.reason.verdict not in (Verdict.TRUNCATED, Verdict.OUT_OF_SYNC):
        raise _no_anchor(f"the verdict is {judgement.verdict}")
    if judgement.reason in _ASK_AGAIN:
        raise _no_anchor("the list and the quote do not cover each other")
    if any(quote.pcr(IMA_PCR) != last.pcr(IMA_PCR) for quote in item.quotes):
        raise _no_anchor("PCR 10 went on while the list was read")
    anchor = Anchor(len(item.log), last.pcr(IMA_PCR), basis.proven)
    return Checkpoint.of(item.log, last, key=basis.key, anchor=anchor)


def _no_anchor(why: str) -> UserError:
    return UserError(
        f"nothing to re-anchor at: {why}",
        where="--reanchor",
        remedy="it is for a list that is out of step with its quote: see docs/verification.md",
    )


def _same_power_cycle(checkpoint: Checkpoint, quote: Quote) -> bool:
    return checkpoint.clock_info.pair == clock_of(quote).pair


def _after_reset(finding: Finding, checkpoint: Checkpoint) -> tuple[Finding, Continuity]:
    """The counters say that the TPM was reset, or that the machine has slept."""
    item = finding.observation
    survival = checkpoint.survival(item.log)
    has_slept = finding.is_match and survival.is_whole and _same_reset(finding, checkpoint)
    state = ContinuityState.CONTINUES if has_slept else ContinuityState.NEW_POWER_CYCLE
    continuity = _continuity(state, checkpoint, survival, finding)
    has_its_banks = checkpoint.pcrs.keys() <= item.replay.final.keys()
    past = item.replay.matched(checkpoint.pcrs) if has_its_banks else None
    if finding.is_match or past is None or past <= finding.proven:
        return finding, continuity
    stale = replace(
        finding,
        reason=Reason.STALE_LIST,
        what=f"The list is one from before a reset: its first {past} records replay to the"
        f" checkpoint, and only {finding.proven} of them to a quote after the reset.",
        first_divergence=finding.proven,
    )
    return stale, continuity


def _same_reset(finding: Finding, checkpoint: Checkpoint) -> bool:
    """A suspend to RAM changes only restartCount, and PCR 10 goes on."""
    now = clock_of(finding.observation.quotes[0])
    return now.reset_count == checkpoint.clock_info.reset_count


def _cut_by_kexec(subject: Finding, survival: Survival) -> bool:
    return any(survival.can_end_at(gap.index) for gap in subject.timeline.handovers)


def _rewritten(subject: Finding, checkpoint: Checkpoint, survival: Survival) -> Finding:
    return replace(
        subject,
        reason=Reason.HISTORY_REWRITTEN,
        what=f"The list does not begin with the {checkpoint.records} records that the checkpoint"
        f" vouches for, but with {survival.at_least} of them, though the TPM was not reset and no"
        " kexec has cut it there.",
        first_divergence=survival.at_least,
    )


def _continuity(
    state: ContinuityState, checkpoint: Checkpoint, survival: Survival, finding: Finding
) -> Continuity:
    return Continuity(
        state=state,
        checkpoint_records=checkpoint.records,
        surviving=survival.at_least,
        surviving_below=survival.below,
        anchor=finding.observation.anchor,
    )
