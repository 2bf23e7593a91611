# SPDX-License-Identifier: GPL-2.0-only
"""Threats 8 to 11: records that pose as what they are not, markers above all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

from evidence_maker import HEADER, Rec, buf, marker, ng, pack, payload
from genuine import (
    Edit,
    Twin,
    edited,
    extended,
    field_values,
    find,
    first_sight,
    genuine,
    records_of,
)

from imakexec.attest import Flag, Reason, Verdict
from imakexec.evidence import Evidence
from threats import Attack, Threat, attack, lived, measured, signed_attack

TRUNCATED, OUT_OF_SYNC = Verdict.TRUNCATED, Verdict.OUT_OF_SYNC
TAMPERED, IN_SYNC = Verdict.TAMPERED, Verdict.IN_SYNC
MAIN, TWO, VIOLATIONS = "main-job", "two-kexecs", "violations"
PLAIN, CUT = "plain-base", "truncated"
SEGMENT = 45056

Made = Callable[[list[Rec]], Rec]
"""Makes a record that is to stand behind others."""


# 8: a violation whose content was replaced. The PCR is the same whatever it says.


def relabelled(made: Made) -> Edit:
    """Let the first violation say something else."""

    def change(records: list[Rec]) -> None:
        at = next(at for at, record in enumerate(records) if record.violation)
        records[at] = replace(made(records[:at]), violation=True)

    return change


def in_every_list(edit: Edit) -> Attack:
    def change(evidence: Evidence) -> Evidence:
        for at in range(len(evidence.snapshots)):
            evidence = edited(evidence, edit, at)
        return evidence

    return change


def poses(name: str, made: Made, *flags: Flag) -> Iterable[Threat]:
    edit = relabelled(made)
    told = (Flag.VIOLATIONS, *flags)
    yield attack(
        8,
        name,
        VIOLATIONS,
        lambda evidence: edited(evidence, edit),
        TAMPERED,
        Reason.HISTORY_REWRITTEN,
        *told,
    )
    yield attack(
        8, f"{name} in every list", VIOLATIONS, in_every_list(edit), IN_SYNC, Reason.MATCH, *told
    )
    yield attack(
        8,
        f"{name} at first sight",
        VIOLATIONS,
        lambda evidence: edited(first_sight(evidence), edit),
        IN_SYNC,
        Reason.MATCH,
        *told,
    )


def perfect(name: str) -> Made:
    return lambda before: marker(name, before, SEGMENT)


def violation_for_the_lost_execute(evidence: Evidence) -> Evidence:
    """It would make a truncated list a complete one."""

    def change(records: list[Rec]) -> None:
        at = find(records, "boot_aggregate", 1)
        records.insert(at, replace(marker("kexec_execute", records[:at], 8192), violation=True))

    return edited(first_sight(evidence), change)


POSING = (
    *poses("violation as kexec_load", perfect("kexec_load"), Flag.MARKER_ANOMALY),
    *poses("violation as kexec_execute", perfect("kexec_execute"), Flag.MARKER_ANOMALY),
    *poses("violation as boot_aggregate", lambda before: before[0], Flag.MARKER_ANOMALY),
    *poses("violation as good file", lambda _: ng("/bin/good")),
    attack(
        8,
        "violation as the lost kexec_execute",
        CUT,
        violation_for_the_lost_execute,
        TRUNCATED,
        Reason.RECORDS_MISSING,
        Flag.MARKER_ANOMALY,
        Flag.VIOLATIONS,
    ),
)


# 9: what anybody can have measured, with the name or the content of a marker.

BEFORE = records_of(genuine(MAIN))
PAYLOAD = payload(SEGMENT, HEADER + len(pack(BEFORE)), len(BEFORE))
"""What a genuine marker says there: in each of these but one thing is wrong."""

COUNT = b"=%d;" % len(BEFORE)
DER = bytes.fromhex("308201a3308201490203010203")

FORGED: dict[str, tuple[Rec, bool]] = {
    "file kexec_execute": (ng("kexec_execute"), True),
    "file kexec_execute with its path": (ng("/t/kexec_execute"), False),
    "keyring kexec_load": (buf("kexec_load", DER), True),
    "keyring kexec_execute": (buf("kexec_execute", DER), True),
    "device-mapper table": (buf("dm_table_load", PAYLOAD), False),
    "SELinux state": (buf("selinux-state-1732453200", PAYLOAD), False),
    "init_module": (buf("init_module", PAYLOAD), False),
    "kexec command line": (buf("kexec-cmdline", PAYLOAD), False),
    "content with more before it": (buf("kexec_load", b" " + PAYLOAD), True),
    "content with more behind it": (buf("kexec_load", PAYLOAD + b"\n"), True),
    "content with a NUL": (buf("kexec_load", PAYLOAD + b"\0"), True),
    "content with a sign": (buf("kexec_load", PAYLOAD.replace(COUNT, b"=+" + COUNT[1:])), True),
    "content with other digits": (
        buf("kexec_load", PAYLOAD.replace(COUNT, "=٢٨;".encode())),
        True,
    ),
    "name with two NULs": (buf("kexec_load\0", PAYLOAD), False),
    "other template with a buf": (
        replace(buf("kexec_load", PAYLOAD), template=b"d-ng|n-ng|buf"),
        True,
    ),
}
"""The record, and whether it poses as a marker at all."""


def before_the_boundary(record: Rec) -> Attack:
    """Where it would explain what a kexec has lost."""

    def change(evidence: Evidence) -> Evidence:
        return edited(
            first_sight(evidence),
            lambda records: records.insert(find(records, "boot_aggregate", 1), record),
        )

    return change


def measurable(name: str, record: Rec, *, is_anomaly: bool) -> Iterable[Threat]:
    anomaly = (Flag.MARKER_ANOMALY,) if is_anomaly else ()
    mixed = () if record.template in (b"ima-ng", b"ima-buf") else (Flag.MIXED_TEMPLATES,)
    yield signed_attack(9, name, MAIN, measured(record), IN_SYNC, Reason.MATCH, *anomaly, *mixed)
    # Records that pose as markers are no proof that the kernel writes none.
    yield attack(
        9,
        f"{name} before a loss without markers",
        PLAIN,
        before_the_boundary(record),
        OUT_OF_SYNC,
        Reason.FOREIGN_EXTEND if is_anomaly else Reason.NO_MARKERS,
        *(anomaly or (Flag.NO_MARKERS,)),
        *mixed,
    )
    yield attack(
        9,
        f"{name} before a loss with markers",
        CUT,
        before_the_boundary(record),
        TRUNCATED,
        Reason.RECORDS_MISSING,
        Flag.MARKER_ANOMALY,
        *mixed,
    )


MEASURED = tuple(
    threat
    for name, (record, is_anomaly) in FORGED.items()
    for threat in measurable(name, record, is_anomaly=is_anomaly)
)


# 10: the marker of an earlier kexec.


def earlier_execute(records: list[Rec]) -> None:
    """The first kexec_execute covers what the second kexec has lost."""
    old = records[find(records, "kexec_execute")]
    end = find(records, "boot_aggregate", 2)
    records[find(records, "kexec_load", 1) + 1 : end] = [old]


def execute_alone(records: list[Rec]) -> None:
    """All is right with it but that nothing was loaded in its boot."""
    start = find(records, "kexec_load", 1)
    end = find(records, "kexec_execute", 1)
    records[start : end + 1] = [marker("kexec_execute", records[:start], SEGMENT)]


def with_earlier(number: int) -> Edit:
    """The second kexec_execute with one of the numbers of the first: 1 the size, 2 the count."""

    def change(records: list[Rec]) -> None:
        values = [
            field_values(records[find(records, "kexec_execute", number)])[2].split(b";")
            for number in (0, 1)
        ]
        stale = [*values[1]]
        stale[number] = values[0][number]
        records[find(records, "kexec_execute", 1)] = buf("kexec_execute", b";".join(stale))

    return change


REUSED = (
    attack(
        10,
        "earlier kexec_execute",
        TWO,
        lambda evidence: edited(evidence, earlier_execute),
        TAMPERED,
        Reason.HISTORY_REWRITTEN,
        Flag.MARKER_ANOMALY,
    ),
    attack(
        10,
        "earlier kexec_execute at first sight",
        TWO,
        lambda evidence: edited(first_sight(evidence), earlier_execute),
        TRUNCATED,
        Reason.RECORDS_MISSING,
        Flag.MARKER_ANOMALY,
    ),
    *(
        signed_attack(
            10,
            f"{name} and so extended",
            TWO,
            lived(edit),
            IN_SYNC,
            Reason.MATCH,
            Flag.MARKER_ANOMALY,
        )
        for name, edit in {
            "earlier kexec_execute": earlier_execute,
            "kexec_execute of a boot without a kexec_load": execute_alone,
            "kexec_execute with an earlier count": with_earlier(2),
            "kexec_execute with an earlier size": with_earlier(1),
        }.items()
    ),
)


# 11: a perfect marker that root has extended. It cannot be told from a genuine one.


Place = Callable[[Twin, Made], Twin]


def at_the_end(twin: Twin, made: Made) -> Twin:
    return twin.measured(made(twin.records))


def before_execute(twin: Twin, made: Made) -> Twin:
    """The kernel does not know of it, so its own kexec_execute counts one record less."""
    records = twin.records
    at = find(records, "kexec_execute")
    records.insert(at, made(records[:at]))
    return twin.first_sight().lived(records)


def forged_load(place: Place) -> Callable[[Twin], Twin]:
    return lambda twin: place(twin, perfect("kexec_load"))


PLACES: Mapping[str, Place] = {
    "after the kexec": at_the_end,
    "before the kexec": before_execute,
}


def forged_execute(records: list[Rec]) -> None:
    """What a lossy kexec lacks, inserted into the list."""
    at = find(records, "boot_aggregate", 1)
    records.insert(at, marker("kexec_execute", records[:at], 8192))


def forged_pair(records: list[Rec]) -> None:
    for name in ("kexec_load", "kexec_execute"):
        at = find(records, "boot_aggregate", 1)
        records.insert(at, marker(name, records[:at], 8192))


def with_own_extends(forge: Edit) -> Callable[[Twin], Twin]:
    """Root extends what it adds to the list, after all that was extended before."""

    def change(twin: Twin) -> Twin:
        listed = twin.records
        forged = edited(first_sight(twin.evidence), forge)
        added = [record for record in records_of(forged) if record not in listed]
        twin = replace(twin, evidence=forged)
        for record in added:
            twin = twin.with_pcrs(partial(extended, record=record))
        return twin

    return change


FORGED_BY_ROOT = (
    *(
        signed_attack(
            11,
            f"kexec_load {name}",
            MAIN,
            forged_load(place),
            IN_SYNC,
            Reason.MATCH,
        )
        for name, place in PLACES.items()
    ),
    signed_attack(
        11,
        "kexec_execute for a truncated list",
        CUT,
        with_own_extends(forged_execute),
        OUT_OF_SYNC,
        Reason.FOREIGN_EXTEND,
    ),
    signed_attack(
        11,
        "both markers for a list that lost records",
        PLAIN,
        with_own_extends(forged_pair),
        OUT_OF_SYNC,
        Reason.FOREIGN_EXTEND,
    ),
)

THREATS: tuple[Threat, ...] = (*POSING, *MEASURED, *REUSED, *FORGED_BY_ROOT)
