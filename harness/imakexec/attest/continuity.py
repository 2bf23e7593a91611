# SPDX-License-Identifier: GPL-2.0-only
"""A judgement beside what an earlier one has left: does history go on, and may it begin anew?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from imakexec.attest.power import PowerCycle, clock_of
from imakexec.attest.quote import AttestationKey, Quote
from imakexec.attest.reasons import Flag, Reason, Rejection, Verdict
from imakexec.attest.replay import IMA_PCR, Replay, Start
from imakexec.attest.sync import Finding, judge_cycle
from imakexec.errors import UserError

_BETWEEN = "between the checkpoint and the evidence"

# Here the list and the quote are in step, but do not cover each other: another quote mends that.
_ASK_AGAIN = (Reason.UNCOVERED_TAIL, Reason.UNCOVERED_PCR)


class CannotAnchor(Exception):
    """There is no value from which replay could begin anew; says why."""


def require_successor(checkpoint: Checkpoint, key: AttestationKey, quotes: Sequence[Quote]) -> None:
    """Check that quotes can come after a checkpoint.

    resetCount and restartCount never go back, whatever a machine does, but by TPM2_Clear, which
    keeps PCR 10: so counters that went back say nothing good. To a key outside the endorsement
    hierarchy they are shown with an offset, which stays the same.

    Args:
        checkpoint: from an earlier judgement.
        key: that has signed the quotes.
        quotes: all of the new evidence.

    Raises:
        Rejection: reason ak: another TPM's; counters: they or the clock went back; missing_bank:
            fewer or other banks, though the TPM was not reset.
    """
    if key.fingerprint != checkpoint.key:
        raise Rejection(
            Reason.AK,
            f"the checkpoint is of the key {checkpoint.key.hex()}, this one is"
            f" {key.fingerprint.hex()}",
            where=_BETWEEN,
        )
    before = checkpoint.clock_info
    for quote in quotes:
        clock = clock_of(quote)
        if clock.pair < before.pair:
            raise Rejection(
                Reason.COUNTERS,
                f"resetCount, restartCount {clock.pair} stand before those of the checkpoint,"
                f" {before.pair}: the evidence is older, or the TPM was cleared",
                where=_BETWEEN,
                flags=frozenset({Flag.ROLLBACK}),
            )
        if clock.pair == before.pair and clock.clock < before.clock:
            raise Rejection(
                Reason.COUNTERS,
                f"the TPM's clock went back from {before.clock} to {clock.clock} ms without a"
                " reset, or this evidence is older than the checkpoint, or the one of which it was"
                " made",
                where=_BETWEEN,
                flags=frozenset({Flag.ROLLBACK}),
            )
        banks, quoted = sorted(checkpoint.pcrs), sorted(quote.pcrs)
        if clock.reset_count == before.reset_count and banks != quoted:
            raise Rejection(
                Reason.MISSING_BANK,
                f"banks {', '.join(quoted)} were quoted, {', '.join(banks)} at the checkpoint",
                where=_BETWEEN,
            )


def _anchor_of(checkpoint: Checkpoint | None, log: MeasurementLog, first: Quote) -> Anchor | None:
    """Where the replay of a list begins: at an anchor only if all before it is as it was then."""
    if checkpoint is None or checkpoint.anchor is None or not _same_reset(checkpoint, first):
        return None
    survives = checkpoint.survival(log).at_least >= checkpoint.anchor.records
    return checkpoint.anchor if survives else None


def replay_from(
    checkpoint: Checkpoint | None,
    log: MeasurementLog,
    quotes: Sequence[Quote],
    run: Callable[[Start | None], Replay],
) -> tuple[Replay, Anchor | None]:
    """Replay a list from where it may begin.

    If restartCount has changed, the machine has slept, or was reset and has a new list that begins
    like the old one: then the anchor counts only if a quote matches from there.

    Args:
        quotes: of the list.
        run: replays from a start.

    Returns:
        The outcome, and the anchor that it began at, if any.
    """
    anchor = _anchor_of(checkpoint, log, quotes[0])
    if checkpoint is None or anchor is None:
        return run(None), None
    outcome = run(Start(anchor.records, anchor.pcrs))
    if clock_of(quotes[0]).pair != checkpoint.clock_info.pair and all(
        outcome.matched(quote.pcr(IMA_PCR)) is None for quote in quotes
    ):
        return run(None), None
    return outcome, anchor


def go_on(
    finding: Finding, cycles: Sequence[PowerCycle], checkpoint: Checkpoint
) -> tuple[Finding, Continuity | None]:
    """What a checkpoint adds to a finding.

    Every list is held against it in whose power cycle PCR 10 has gone on from there: while the
    counters are the same, and after a suspend to RAM, which changes restartCount alone.

    Args:
        finding: on the list that decides.
        cycles: all power cycles of the evidence, none from before the checkpoint.
        checkpoint: the checkpoint.

    Returns:
        The finding, another one if the checkpoint contradicts a list, and how they relate.
    """
    own: Continuity | None = None
    for cycle in cycles:
        if not _same_reset(checkpoint, cycle.observations[0].quotes[0]):
            continue
        decides = finding.observation in cycle.observations
        subject = finding if decides else judge_cycle(cycle, ())
        if subject is None or not _went_on(subject, checkpoint):
            continue
        survival = checkpoint.survival(subject.observation.log)
        state = _state(subject, survival)
        if state is ContinuityState.LOSS and not _cut_by_kexec(subject, survival):
            # It begins like the old list, as every boot does, and is another one.
            survival = Survival(0, checkpoint.ladder[0].records)
        continuity = _continuity(state, checkpoint, survival, subject)
        if state is ContinuityState.CONTRADICTED:
            if subject.reason.verdict is Verdict.TAMPERED:
                return subject, continuity
            return _rewritten(subject, checkpoint, survival), continuity
        if decides:
            own = continuity
    return (finding, own) if own is not None else _after_reset(finding, checkpoint)


def next_checkpoint(judgement: Judgement, *, reanchor: bool = False) -> Checkpoint | None:
    """The checkpoint that a judgement leaves; None if it proves nothing new.

    Args:
        judgement: of a list.
        reanchor: after a loss, take the quoted value over as the one from which to replay.

    Raises:
        CannotAnchor: there is nothing to take over.
        UserError: nobody has signed the values.
    """
    basis = judgement.basis
    if basis is None:
        if reanchor:
            raise CannotAnchor("the evidence says nothing about a list")
        return None
    if basis.key is None:
        raise UserError(
            "bare PCR values leave no checkpoint: nobody has signed them",
            where="checkpoint",
            remedy="verify a quote, with its signature, key and nonce",
        )
    item = basis.item
    last = item.quotes[-1]
    if judgement.verdict is Verdict.IN_SYNC:
        return Checkpoint.of(item.log, last, key=basis.key, anchor=item.anchor)
    if not reanchor:
        return None
    if judgement.reason.verdict not in (Verdict.TRUNCATED, Verdict.OUT_OF_SYNC):
        raise CannotAnchor(f"the verdict is {judgement.verdict}")
    if not all(check.agrees for check in judgement.checks.values()):
        raise CannotAnchor("another list of the same records contradicts it")
    if judgement.reason in _ASK_AGAIN:
        raise CannotAnchor("the list and the quote do not cover each other")
    if any(quote.pcr(IMA_PCR) != last.pcr(IMA_PCR) for quote in item.quotes):
        raise CannotAnchor("PCR 10 went on while the list was read")
    anchor = Anchor(len(item.log), last.pcr(IMA_PCR), basis.proven)
    return Checkpoint.of(item.log, last, key=basis.key, anchor=anchor)


def _same_reset(checkpoint: Checkpoint, quote: Quote) -> bool:
    return checkpoint.clock_info.reset_count == clock_of(quote).reset_count


def _went_on(subject: Finding, checkpoint: Checkpoint) -> bool:
    """Whether PCR 10 still holds what it held at the checkpoint.

    With the same counters it does. With another restartCount the machine has slept, or was reset:
    then the replay tells, from an anchor too. At which record does not matter: a list may show
    again what the one of the checkpoint had lost.
    """
    item = subject.observation
    if clock_of(item.quotes[0]).pair == checkpoint.clock_info.pair:
        return True
    if item.anchor is not None:
        return subject.is_match
    return item.replay.matched(checkpoint.pcrs) is not None


def _state(subject: Finding, survival: Survival) -> ContinuityState:
    if survival.is_whole:
        return ContinuityState.CONTINUES
    if not subject.is_match and (_cut_by_kexec(subject, survival) or _lost_whole(subject)):
        return ContinuityState.LOSS
    return ContinuityState.CONTRADICTED


def _after_reset(finding: Finding, checkpoint: Checkpoint) -> tuple[Finding, Continuity]:
    item = finding.observation
    survival = checkpoint.survival(item.log)
    continuity = replace(
        _continuity(ContinuityState.NEW_POWER_CYCLE, checkpoint, survival, finding), proven=0
    )
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


def _cut_by_kexec(subject: Finding, survival: Survival) -> bool:
    return any(survival.can_end_at(gap.index) for gap in subject.timeline.handovers)


def _lost_whole(subject: Finding) -> bool:
    """Whether a kexec has handed nothing over: the list begins with the boot after it."""
    return any(gap.index == 0 for gap in subject.timeline.handovers)


def _rewritten(subject: Finding, checkpoint: Checkpoint, survival: Survival) -> Finding:
    layout = subject.observation.log.layout
    what = (
        f"The list does not begin with the {checkpoint.records} records that the checkpoint vouches"
        f" for, but with {survival.at_least} of them, though the TPM was not reset and no kexec has"
        " cut it there."
    )
    if layout != checkpoint.layout:
        what = f"The list is {layout}, the one of the checkpoint {checkpoint.layout}."
    return replace(
        subject,
        reason=Reason.HISTORY_REWRITTEN,
        what=what,
        first_divergence=survival.at_least,
    )


def _continuity(
    state: ContinuityState, checkpoint: Checkpoint, survival: Survival, finding: Finding
) -> Continuity:
    at_most = survival.at_least
    if checkpoint.anchor is not None:
        # Behind that nothing was proven when it was set, though the checkpoint has it.
        at_most = min(at_most, checkpoint.anchor.proven)
    return Continuity(
        state=state,
        checkpoint_records=checkpoint.records,
        surviving=survival.at_least,
        surviving_below=survival.below,
        proven=at_most,
        anchor=finding.observation.anchor,
    )
