# SPDX-License-Identifier: GPL-2.0-only
"""Power cycles, told by the TPM's clock and counters rather than by what anybody claims.

kexec is no event for the TPM: resetCount and restartCount stay and the clock goes on. A reset
changes the pair (resetCount, restartCount); one of the two alone can stay the same. So does a
resume from suspend to RAM, after which PCR 10 continues (TPM 2.0 part 1, section 36, and part 3,
TPM2_Startup).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from imakexec.attest.checkpoint import Anchor
from imakexec.attest.log import MeasurementLog
from imakexec.attest.quote import Quote
from imakexec.attest.reasons import Flag, Reason, Rejection
from imakexec.attest.replay import IMA_PCR, Replay
from imakexec.attest.structures import ClockInfo
from imakexec.evidence import Boot, BootKind


# Two snapshots are never the same one, however alike they are: both compare by identity.
@dataclass(frozen=True, eq=False)
class Observation:
    """A snapshot whose quotes hold.

    Args:
        name: of the snapshot.
        epoch: the boot epoch in which the harness says that it was taken.
        quotes: one or two, in the order in which they were taken.
    """

    name: str
    epoch: int
    quotes: tuple[Quote, ...]


@dataclass(frozen=True, eq=False)
class ListObservation(Observation):
    """A snapshot whose list is well formed, and replayed with an eye on all quotes there are.

    Args:
        log: the list.
        replay: its outcome.
        anchor: where it began; None at the first record.
    """

    log: MeasurementLog
    replay: Replay
    anchor: Anchor | None = None


def clock_of(quote: Quote) -> ClockInfo:
    """The state of the TPM's clock and counters at a quote; bare values have none."""
    assert quote.clock_info is not None, "bare values are part of no power cycle"
    return quote.clock_info


class TransitionKind(StrEnum):
    """What lies between two snapshots."""

    SAME_BOOT = "same_boot"
    KEXEC = "kexec"
    COLD = "cold"
    RESUME = "resume"


@dataclass(frozen=True)
class Transition:
    """What happened between two consecutive snapshots.

    Args:
        earlier: name of the snapshot before it.
        later: name of the snapshot after it.
        kind: by the TPM's counters; only a kexec is told from nothing by the boot epochs.
        kexecs: how many kexecs it stands for.
        contradicted: whether the harness claims something that the counters exclude.
    """

    earlier: str
    later: str
    kind: TransitionKind
    kexecs: int
    contradicted: bool


@dataclass(frozen=True)
class PowerCycle:
    """The snapshots of one power cycle, in which PCR 10 started from zero once.

    Args:
        observations: in order, at least one.
        first_epoch: the boot epoch in which it began; None if nobody knows.
        most_boots: how many boots it has had at most; None if nobody has counted them.
    """

    observations: tuple[Observation, ...]
    first_epoch: int | None
    most_boots: int | None = None


def split_power_cycles(
    observations: Sequence[Observation], boots: Sequence[Boot]
) -> tuple[tuple[PowerCycle, ...], tuple[Transition, ...]]:
    """Divide snapshots into power cycles, and name what lies between each two.

    Raises:
        Rejection: reason counters: the TPM was reset within a snapshot, or its clock or its
            counters went back, which no power cycle explains.
    """
    for observation in observations:
        _check_snapshot(observation)
    _check_order(observations)
    transitions = tuple(
        _transition(earlier, observations[number:], boots)
        for number, earlier in enumerate(observations[:-1], 1)
    )
    groups = [[observations[0]]]
    starts: list[int | None] = [_first_epoch(observations[0], 0, boots)]
    for observation, transition in zip(observations[1:], transitions, strict=True):
        if transition.kind is TransitionKind.COLD:
            starts.append(
                None
                if transition.contradicted
                else _first_epoch(observation, groups[-1][-1].epoch + 1, boots)
            )
            groups.append([])
        groups[-1].append(observation)
    # It began in the last epoch seen before it at the earliest, whatever is claimed of a reset.
    earliest = [0, *(group[-1].epoch for group in groups[:-1])]
    cycles = (
        PowerCycle(tuple(group), start, max(1, group[-1].epoch - before + (number == 0)))
        for number, (group, start, before) in enumerate(zip(groups, starts, earliest, strict=True))
    )
    return tuple(cycles), transitions


def _check_snapshot(observation: Observation) -> None:
    for earlier, later in pairwise(observation.quotes):
        if clock_of(later).pair != clock_of(earlier).pair:
            raise Rejection(
                Reason.COUNTERS,
                "the TPM was reset between the two quotes: resetCount, restartCount"
                f" {clock_of(earlier).pair} became {clock_of(later).pair}",
                where=f"snapshot {observation.name}",
            )
        _check_clock(earlier, later, f"snapshot {observation.name}")


def _transition(
    earlier: Observation, following: Sequence[Observation], boots: Sequence[Boot]
) -> Transition:
    """What lies between an observation and the first of those that follow it."""
    later = following[0]
    last, first = earlier.quotes[-1], later.quotes[0]
    hops = later.epoch - earlier.epoch
    claimed_cold = any(
        boot.transition is BootKind.COLD
        for boot in boots
        if earlier.epoch < boot.epoch <= later.epoch
    )
    if clock_of(first).pair == clock_of(last).pair:
        _check_clock(last, first, f"between snapshots {earlier.name} and {later.name}")
        kind = TransitionKind.KEXEC if hops else TransitionKind.SAME_BOOT
        return Transition(earlier.name, later.name, kind, hops, contradicted=claimed_cold)
    # With a kexec as well it cannot be told from a reset after which root has extended all anew.
    if not hops and _resumed(last, following):
        kind = TransitionKind.RESUME
        return Transition(earlier.name, later.name, kind, 0, contradicted=False)
    kind = TransitionKind.COLD
    return Transition(earlier.name, later.name, kind, 0, contradicted=not claimed_cold)


def _resumed(last: Quote, following: Sequence[Observation]) -> bool:
    """Whether PCR 10 goes on where it was, by the next list: a cold boot has it start from zero."""
    first = following[0].quotes[0]
    if clock_of(first).reset_count != clock_of(last).reset_count:
        return False
    if first.pcr(IMA_PCR) == last.pcr(IMA_PCR):
        return True
    for item in following:
        if clock_of(item.quotes[0]).pair != clock_of(first).pair:
            break
        if isinstance(item, ListObservation):
            return item.replay.matched(last.pcr(IMA_PCR)) is not None
    return False


def _check_clock(earlier: Quote, later: Quote, where: str) -> None:
    """Within one power cycle the clock never goes back, unless the machine's state did."""
    before, after = clock_of(earlier).clock, clock_of(later).clock
    if after < before:
        raise Rejection(
            Reason.COUNTERS,
            f"the TPM's clock went back from {before} to {after} ms without a reset",
            where=where,
            flags=frozenset({Flag.ROLLBACK}),
        )


def _check_order(observations: Sequence[Observation]) -> None:
    """A reset or a sleep makes (resetCount, restartCount) greater, and nothing makes it less."""
    firsts = [(item.name, clock_of(item.quotes[0]).pair) for item in observations]
    for (_, earlier), (name, later) in pairwise(firsts):
        if later < earlier:
            raise Rejection(
                Reason.COUNTERS,
                f"resetCount, restartCount {later} came after {earlier}: the order is not the one"
                " of the quotes, or the TPM was set back or cleared",
                where=f"snapshot {name}",
                flags=frozenset({Flag.ROLLBACK}),
            )


def _first_epoch(first: Observation, lowest: int, boots: Sequence[Boot]) -> int:
    """The epoch of the cold boot that `first` goes back to, by the harness' account."""
    cold = [
        boot.epoch
        for boot in boots
        if boot.transition is BootKind.COLD and lowest <= boot.epoch <= first.epoch
    ]
    return max(cold, default=min(lowest, first.epoch))
