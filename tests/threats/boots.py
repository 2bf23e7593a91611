# SPDX-License-Identifier: GPL-2.0-only
"""Threats 13 and 14: boots that were none, and boots that did not begin where they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from evidence_maker import SIZE, Rec, fields
from genuine import Edit, Pcrs, Twin, edited, event, first_sight, honest, with_list

from imakexec.attest import Flag, Reason, Verdict
from imakexec.evidence import BootKind, Evidence
from threats import Attack, Threat, attack, signed_attack

MAIN, RESET = "main-job", "cold-reset"
INVALID, OUT_OF_SYNC = Verdict.INVALID_EVIDENCE, Verdict.OUT_OF_SYNC
TAMPERED, IN_SYNC = Verdict.TAMPERED, Verdict.IN_SYNC


# 13: power cycles.


def old_list(evidence: Evidence) -> Evidence:
    log = evidence.snapshots[0].log
    assert log is not None
    return with_list(evidence, log)


def old_list_and_new(evidence: Evidence) -> Evidence:
    """As if the cold boot had been a kexec that carried everything."""
    old, new = (snapshot.log for snapshot in evidence.snapshots)
    assert old is not None
    assert new is not None
    return with_list(evidence, old + new)


def claimed(kind: BootKind, boot: int = 1) -> Attack:
    """The evidence with another account of how a kernel came to run."""

    def change(evidence: Evidence) -> Evidence:
        boots = list(evidence.boots)
        boots[boot] = replace(boots[boot], transition=kind)
        return replace(evidence, boots=tuple(boots))

    return change


def tpm_restart(twin: Twin) -> Twin:
    """A cold boot that resetCount does not tell, with a list that begins anew."""
    return twin.falsified(lambda a: replace(a, reset=a.reset - 1, restart=1, safe=1), at=-1)


def presented_as_kexec(twin: Twin) -> Evidence:
    return claimed(BootKind.KEXEC)(tpm_restart(twin).evidence)


def presented_as_kexec_with_the_old_list(twin: Twin) -> Evidence:
    return old_list_and_new(presented_as_kexec(twin))


def lived_again(twin: Twin) -> Twin:
    """After a cold boot, root extends the records of before it once more.

    It can: a machine measures the same first at every boot, so the PCR is where it was then.
    """
    return twin.falsified(lambda a: replace(a, restart=a.restart + 1), at=-1)


def lived_again_after_a_cold_boot(twin: Twin) -> Evidence:
    return claimed(BootKind.COLD)(lived_again(twin).evidence)


def extra_boot(evidence: Evidence) -> Evidence:
    """A kexec of which no list was handed in: the one before it would be judged."""
    boots = (*evidence.boots, replace(evidence.boots[-1], epoch=len(evidence.boots)))
    return replace(evidence, boots=boots)


def without_last_snapshot(evidence: Evidence) -> Evidence:
    return replace(evidence, snapshots=evidence.snapshots[:-1])


def clock(value: int, at: int) -> Callable[[Twin], Twin]:
    return lambda twin: twin.falsified(lambda a: replace(a, clock=value), at=at)


def reset_between_quotes(twin: Twin) -> Twin:
    return twin.last_falsified(lambda a: replace(a, restart=a.restart + 1))


def past_power_cycle_again(twin: Twin) -> Evidence:
    """A machine that was set back to a snapshot of before the reset."""
    first, last = twin.evidence.snapshots
    nonce = bytes(reversed(first.before.nonce))
    again = replace(twin, evidence=replace(twin.evidence, snapshots=(first,)))
    again = again.falsified(lambda a: replace(a, nonce=nonce, clock=a.clock + 5000))
    [snapshot] = again.evidence.snapshots
    snapshot = replace(snapshot, name="again", epoch=last.epoch)
    return replace(twin.evidence, snapshots=(first, last, snapshot))


POWER_CYCLES = (
    attack(
        13,
        "list of before the reset",
        RESET,
        old_list,
        TAMPERED,
        Reason.STALE_LIST,
    ),
    attack(
        13,
        "list of before the reset and the new one",
        RESET,
        old_list_and_new,
        TAMPERED,
        Reason.STALE_LIST,
        Flag.MARKER_ANOMALY,
    ),
    attack(
        13,
        "list of before the reset at first sight",
        RESET,
        lambda evidence: first_sight(old_list(evidence)),
        OUT_OF_SYNC,
        Reason.UNCOVERED_TAIL,
        Flag.PENDING_TAIL,
    ),
    attack(
        13,
        "cold boot presented as kexec",
        RESET,
        claimed(BootKind.KEXEC),
        IN_SYNC,
        Reason.MATCH,
        Flag.CLAIM_CONTRADICTED,
    ),
    signed_attack(
        13,
        "cold boot with the same resetCount presented as kexec",
        RESET,
        presented_as_kexec,
        IN_SYNC,
        Reason.MATCH,
        Flag.CLAIM_CONTRADICTED,
    ),
    signed_attack(
        13,
        "the same with the list of before it",
        RESET,
        presented_as_kexec_with_the_old_list,
        TAMPERED,
        Reason.STALE_LIST,
        Flag.CLAIM_CONTRADICTED,
        Flag.MARKER_ANOMALY,
    ),
    signed_attack(
        13,
        "list of before the cold boot extended again",
        MAIN,
        lived_again_after_a_cold_boot,
        TAMPERED,
        Reason.BOOT_AGGREGATE,
    ),
    signed_attack(
        13,
        "list of before the cold boot extended again and presented as kexec",
        MAIN,
        lived_again,
        TAMPERED,
        Reason.BOOT_AGGREGATE,
        Flag.CLAIM_CONTRADICTED,
    ),
    attack(
        13,
        "kexec presented as cold boot",
        MAIN,
        claimed(BootKind.COLD),
        IN_SYNC,
        Reason.MATCH,
        Flag.CLAIM_CONTRADICTED,
    ),
    attack(13, "kexec without a list", MAIN, extra_boot, INVALID, Reason.INCOMPLETE),
    attack(13, "last snapshot left out", MAIN, without_last_snapshot, INVALID, Reason.INCOMPLETE),
    attack(
        13,
        "run that was stopped",
        MAIN,
        lambda evidence: replace(evidence, complete=False),
        INVALID,
        Reason.INCOMPLETE,
    ),
    signed_attack(
        13,
        "clock went back between quotes",
        MAIN,
        lambda twin: twin.last_falsified(lambda a: replace(a, clock=1)),
        INVALID,
        Reason.COUNTERS,
        Flag.ROLLBACK,
    ),
    signed_attack(
        13,
        "clock went back between snapshots",
        MAIN,
        clock(1, at=-1),
        INVALID,
        Reason.COUNTERS,
        Flag.ROLLBACK,
    ),
    signed_attack(13, "reset between quotes", MAIN, reset_between_quotes, INVALID, Reason.COUNTERS),
    signed_attack(
        13,
        "counters that came back",
        RESET,
        past_power_cycle_again,
        INVALID,
        Reason.COUNTERS,
        Flag.ROLLBACK,
    ),
    signed_attack(
        13,
        "clock that is not safe",
        MAIN,
        lambda twin: twin.falsified(lambda a: replace(a, safe=0), at=-1),
        IN_SYNC,
        Reason.MATCH,
        Flag.CLOCK_UNSAFE,
    ),
)


# 14: boot_aggregate.


def other_firmware(index: int, at: int | None = None) -> Callable[[Twin], Twin]:
    """Another value in one of PCR 0 to 9, in every quote or in those of one snapshot."""

    def change(pcrs: Pcrs) -> Pcrs:
        return {
            bank: {**values, index: bytes([index]) * SIZE[bank]} for bank, values in pcrs.items()
        }

    return lambda twin: twin.with_pcrs(change, at)


def aggregate(digest: bytes) -> Edit:
    """Let every boot_aggregate hold this."""

    def change(records: list[Rec]) -> None:
        for at, record in enumerate(records):
            if event(record) == "boot_aggregate":
                records[at] = honest(replace(record, data=fields(digest, b"boot_aggregate\0")))

    return change


def repeated(twin: Twin) -> Twin:
    return twin.measured(twin.records[0])


def without_second(records: list[Rec]) -> None:
    """In a list that has one."""
    for at in [at for at, record in enumerate(records) if event(record) == "boot_aggregate"][1:]:
        del records[at]


ZERO = b"sha256:\0" + bytes(32)
OTHER = b"sha256:\0" + bytes(range(32))
UNQUOTED = b"sha512:\0" + bytes(range(64))

BOOT_AGGREGATES = (
    *(
        signed_attack(
            14,
            f"other PCR {index}",
            MAIN,
            other_firmware(index),
            TAMPERED,
            Reason.BOOT_AGGREGATE,
            Flag.BOOT_AGGREGATE_UNCHECKED,
        )
        for index in (0, 7, 9)
    ),
    signed_attack(
        14,
        "PCR 9 extended after the first quote",
        MAIN,
        other_firmware(9, at=-1),
        IN_SYNC,
        Reason.MATCH,
    ),
    attack(
        14,
        "boot_aggregate altered and SHA-1 fixed",
        MAIN,
        lambda evidence: edited(first_sight(evidence), aggregate(OTHER)),
        OUT_OF_SYNC,
        Reason.FOREIGN_EXTEND,
        Flag.BOOT_AGGREGATE_UNCHECKED,
    ),
    signed_attack(
        14,
        "boot_aggregate of other firmware",
        MAIN,
        lambda twin: twin.lived_from_the_start(aggregate(OTHER)),
        TAMPERED,
        Reason.BOOT_AGGREGATE,
        Flag.BOOT_AGGREGATE_UNCHECKED,
    ),
    signed_attack(
        14,
        "boot_aggregate of zeros",
        MAIN,
        lambda twin: twin.lived_from_the_start(aggregate(ZERO)),
        TAMPERED,
        Reason.BOOT_AGGREGATE,
        Flag.NO_HARDWARE_ROOT,
    ),
    attack(
        14,
        "boot_aggregate of zeros for want of a bank",
        "no-hardware-root",
        lambda evidence: evidence,
        IN_SYNC,
        Reason.MATCH,
        Flag.NO_HARDWARE_ROOT,
    ),
    signed_attack(
        14,
        "boot_aggregate of a bank that was not quoted",
        MAIN,
        lambda twin: twin.lived_from_the_start(aggregate(UNQUOTED)),
        IN_SYNC,
        Reason.MATCH,
        Flag.BOOT_AGGREGATE_UNCHECKED,
        Flag.MARKER_ANOMALY,
    ),
    signed_attack(
        14,
        "boot_aggregate without a boot",
        MAIN,
        repeated,
        TAMPERED,
        Reason.BOOT_AGGREGATE,
        Flag.MARKER_ANOMALY,
    ),
    signed_attack(
        14,
        "boot without a boot_aggregate",
        MAIN,
        lambda twin: twin.lived_from_the_start(without_second),
        TAMPERED,
        Reason.BOOT_AGGREGATE,
        Flag.MARKER_ANOMALY,
    ),
)

THREATS: tuple[Threat, ...] = (*POWER_CYCLES, *BOOT_AGGREGATES)
