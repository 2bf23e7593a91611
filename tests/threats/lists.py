# SPDX-License-Identifier: GPL-2.0-only
"""Threats 5 to 7 and 12: a list that lacks, moves, alters or adds something."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from evidence_maker import Rec, fields, ng, pack
from genuine import (
    Edit,
    Twin,
    edited,
    extended,
    field_values,
    find,
    first_sight,
    honest,
    records_of,
    with_list,
)

from imakexec.attest import Flag, Reason, Verdict
from imakexec.evidence import Evidence
from threats import Attack, Threat, attack, lived, signed_attack

MAIN = "main-job"
TRUNCATED, OUT_OF_SYNC = Verdict.TRUNCATED, Verdict.OUT_OF_SYNC
TAMPERED, MALFORMED, IN_SYNC = Verdict.TAMPERED, Verdict.MALFORMED, Verdict.IN_SYNC


def seen_or_not(
    number: int, name: str, vector: str, edit: Edit, seen: Reason, unseen: Reason, *flags: Flag
) -> Iterable[Threat]:
    """An edit of the last list: by one whose earlier lists are known, and by one who is new."""

    def with_history(evidence: Evidence) -> Evidence:
        return edited(evidence, edit)

    def without(evidence: Evidence) -> Evidence:
        return edited(first_sight(evidence), edit)

    yield attack(number, name, vector, with_history, VERDICTS[seen], seen, *flags)
    first = f"{name} at first sight"
    yield attack(number, first, vector, without, VERDICTS[unseen], unseen, *flags)


VERDICTS = {
    Reason.RECORDS_MISSING: TRUNCATED,
    Reason.SEGMENT_FULL: TRUNCATED,
    Reason.FOREIGN_EXTEND: OUT_OF_SYNC,
    Reason.NO_MARKERS: OUT_OF_SYNC,
    Reason.UNCOVERED_TAIL: OUT_OF_SYNC,
    Reason.HISTORY_REWRITTEN: TAMPERED,
    Reason.TEMPLATE_DIGEST: TAMPERED,
}


# 5: what is missing.


def drop(name: str, number: int = 0) -> Edit:
    return lambda records: records.pop(find(records, name, number))


def drop_last(records: list[Rec]) -> None:
    records.pop()


def drop_after_load(records: list[Rec]) -> None:
    """All that the copy at load would not have carried."""
    del records[find(records, "kexec_load") + 1 : find(records, "boot_aggregate", 1)]


def drop_after_second_load(records: list[Rec]) -> None:
    del records[find(records, "kexec_load", 1) + 1 : find(records, "boot_aggregate", 2)]


def drop_first_boot(records: list[Rec]) -> None:
    """All that was handed over."""
    del records[: find(records, "boot_aggregate", 1)]


def drop_from_load(records: list[Rec]) -> None:
    """The markers too."""
    del records[find(records, "kexec_load") : find(records, "boot_aggregate", 1)]


def until(name: str, number: int = 0) -> Edit:
    def cut(records: list[Rec]) -> None:
        del records[find(records, name, number) :]

    return cut


def cut_inside(behind: int) -> Attack:
    """Cut so many bytes behind the beginning of the last record."""

    def cut(evidence: Evidence) -> Evidence:
        *whole, last = records_of(evidence)
        return with_list(evidence, pack(whole) + last.pack()[:behind])

    return cut


def cut_in_every_list(evidence: Evidence) -> Evidence:
    """In the earlier lists as well, so that they do not contradict the last."""
    for at in range(len(evidence.snapshots)):
        evidence = edited(evidence, lambda records: records.pop(3), at)
    return evidence


MISSING = (
    *seen_or_not(5, "last record", MAIN, drop_last, Reason.FOREIGN_EXTEND, Reason.FOREIGN_EXTEND),
    *seen_or_not(
        5,
        "record of the first boot",
        MAIN,
        drop("/bin/busybox"),
        Reason.HISTORY_REWRITTEN,
        Reason.FOREIGN_EXTEND,
        Flag.MARKER_ANOMALY,
    ),
    *seen_or_not(
        5,
        "record of the second boot",
        MAIN,
        drop("/bin/busybox", 1),
        Reason.FOREIGN_EXTEND,
        Reason.FOREIGN_EXTEND,
    ),
    attack(5, "record in every list", MAIN, cut_in_every_list, OUT_OF_SYNC, Reason.FOREIGN_EXTEND),
    *seen_or_not(
        5,
        "kexec_load",
        MAIN,
        drop("kexec_load"),
        Reason.HISTORY_REWRITTEN,
        Reason.FOREIGN_EXTEND,
        Flag.MARKER_ANOMALY,
    ),
    *seen_or_not(
        5,
        "kexec_execute",
        MAIN,
        drop("kexec_execute"),
        Reason.RECORDS_MISSING,
        Reason.RECORDS_MISSING,
        Flag.MARKER_ANOMALY,
    ),
    *seen_or_not(
        5,
        "all from kexec_load to boot_aggregate",
        MAIN,
        drop_after_load,
        Reason.RECORDS_MISSING,
        Reason.RECORDS_MISSING,
        Flag.MARKER_ANOMALY,
    ),
    *seen_or_not(
        5,
        "all from the second kexec_load to boot_aggregate",
        "two-kexecs",
        drop_after_second_load,
        Reason.RECORDS_MISSING,
        Reason.RECORDS_MISSING,
        Flag.MARKER_ANOMALY,
    ),
    attack(
        5,
        "second boot_aggregate at first sight",
        MAIN,
        lambda evidence: edited(first_sight(evidence), drop("boot_aggregate", 1)),
        OUT_OF_SYNC,
        Reason.NO_MARKERS,
        Flag.MARKER_ANOMALY,
        Flag.NO_MARKERS,
    ),
    attack(
        5,
        "cut inside the header",
        MAIN,
        cut_inside(27),
        MALFORMED,
        Reason.TRAILING_BYTES,
    ),
    attack(5, "cut inside the name", MAIN, cut_inside(30), MALFORMED, Reason.SHORT_RECORD),
    attack(5, "cut inside the data", MAIN, cut_inside(60), MALFORMED, Reason.SHORT_RECORD),
    attack(5, "last byte", MAIN, cut_inside(-1), MALFORMED, Reason.SHORT_RECORD),
)

# Where the markers or the whole of what was handed over are gone, what was seen before tells that
# they were there; a verifier that meets the machine for the first time cannot know.
MARKERS_GONE = (
    attack(
        5,
        "all from before kexec_load to boot_aggregate",
        MAIN,
        lambda evidence: edited(evidence, drop_from_load),
        TRUNCATED,
        Reason.RECORDS_MISSING,
        Flag.MARKER_ANOMALY,
    ),
    attack(
        5,
        "all from before kexec_load to boot_aggregate at first sight",
        MAIN,
        lambda evidence: edited(first_sight(evidence), drop_from_load),
        OUT_OF_SYNC,
        Reason.NO_MARKERS,
        Flag.NO_MARKERS,
    ),
    attack(
        5,
        "all that was handed over",
        MAIN,
        lambda evidence: edited(evidence, drop_first_boot),
        TRUNCATED,
        Reason.RECORDS_MISSING,
        Flag.MARKER_ANOMALY,
    ),
    attack(
        5,
        "all that was handed over at first sight",
        MAIN,
        lambda evidence: edited(first_sight(evidence), drop_first_boot),
        OUT_OF_SYNC,
        Reason.NO_MARKERS,
        Flag.NO_MARKERS,
    ),
    attack(
        5,
        "genuine loss",
        "truncated",
        lambda evidence: evidence,
        TRUNCATED,
        Reason.SEGMENT_FULL,
        Flag.MARKER_ANOMALY,
    ),
    attack(
        5,
        "genuine loss at first sight",
        "truncated",
        first_sight,
        TRUNCATED,
        Reason.SEGMENT_FULL,
        Flag.MARKER_ANOMALY,
    ),
    attack(
        5,
        "genuine loss without markers",
        "plain-base",
        lambda evidence: evidence,
        OUT_OF_SYNC,
        Reason.NO_MARKERS,
        Flag.NO_MARKERS,
    ),
)


# 6: what has moved.


def swap(first: str, second: str, number: int = 0) -> Edit:
    def change(records: list[Rec]) -> None:
        one, other = find(records, first, number), find(records, second, number)
        records[one], records[other] = records[other], records[one]

    return change


def move(name: str, before: str, number: int) -> Edit:
    """Move the first record of a name to before the record of another."""

    def change(records: list[Rec]) -> None:
        record = records.pop(find(records, name))
        records.insert(find(records, before, number), record)

    return change


def execute_behind_boot(records: list[Rec]) -> None:
    at = find(records, "kexec_execute")
    records[at], records[at + 1] = records[at + 1], records[at]


def lived_case(number: int, name: str, vector: str, edit: Edit, *flags: Flag) -> Threat:
    """What no PCR contradicts; the flags alone tell that a marker was not accepted."""
    return signed_attack(number, name, vector, lived(edit), IN_SYNC, Reason.MATCH, *flags)


MOVED = (
    *seen_or_not(
        6,
        "two records of the first boot swapped",
        MAIN,
        swap("/init", "/bin/busybox"),
        Reason.HISTORY_REWRITTEN,
        Reason.FOREIGN_EXTEND,
    ),
    *seen_or_not(
        6,
        "two records of the second boot swapped",
        MAIN,
        swap("/init", "/bin/busybox", 1),
        Reason.FOREIGN_EXTEND,
        Reason.FOREIGN_EXTEND,
    ),
    *seen_or_not(
        6,
        "kexec_execute behind boot_aggregate",
        MAIN,
        execute_behind_boot,
        Reason.RECORDS_MISSING,
        Reason.RECORDS_MISSING,
        Flag.MARKER_ANOMALY,
    ),
    lived_case(
        6,
        "kexec_execute behind boot_aggregate and so extended",
        MAIN,
        execute_behind_boot,
        Flag.MARKER_ANOMALY,
    ),
    *seen_or_not(
        6,
        "kexec_load in the next boot",
        MAIN,
        move("kexec_load", "/init", 1),
        Reason.HISTORY_REWRITTEN,
        Reason.FOREIGN_EXTEND,
        Flag.MARKER_ANOMALY,
    ),
    *seen_or_not(
        6,
        "first kexec_load before the second",
        "two-kexecs",
        move("kexec_load", "kexec_load", 0),
        Reason.HISTORY_REWRITTEN,
        Reason.FOREIGN_EXTEND,
        Flag.MARKER_ANOMALY,
    ),
    lived_case(
        6,
        "kexec_load in the next boot and so extended",
        MAIN,
        move("kexec_load", "/init", 1),
        Flag.MARKER_ANOMALY,
    ),
)


# 7: what is altered.


def altered(name: str, number: int = 0, *, fixed: bool) -> Edit:
    """Change the last byte of a path or a marker, the NUL of a path aside."""

    def change(records: list[Rec]) -> None:
        at = find(records, name, number)
        data = bytearray(records[at].data)
        data[-2] ^= 1
        tampered = replace(records[at], data=bytes(data))
        records[at] = honest(tampered) if fixed else tampered

    return change


def other_digest(name: str, *, fixed: bool) -> Edit:
    """Change what d-ng says of a file or of a marker's content."""

    def change(records: list[Rec]) -> None:
        at = find(records, name)
        digest, *rest = field_values(records[at])
        digest = digest[:-1] + bytes([digest[-1] ^ 1])
        tampered = replace(records[at], data=fields(digest, *rest))
        records[at] = honest(tampered) if fixed else tampered

    return change


def other_column(records: list[Rec]) -> None:
    """The digest column alone."""
    records[3] = replace(records[3], digest=b"\1" * 20)


def alteration(name: str, edit: Edit, fixed: Edit, *flags: Flag) -> Iterable[Threat]:
    """Without and with fixing the logged SHA-1, which anybody can compute."""
    digest = Reason.TEMPLATE_DIGEST
    yield from seen_or_not(7, name, MAIN, edit, digest, digest, *flags)
    fixed_name = f"{name} and SHA-1 fixed"
    rewritten, foreign = Reason.HISTORY_REWRITTEN, Reason.FOREIGN_EXTEND
    yield from seen_or_not(7, fixed_name, MAIN, fixed, rewritten, foreign, *flags)


ALTERED = (
    *alteration("path", altered("/init", fixed=False), altered("/init", fixed=True)),
    *alteration(
        "file digest", other_digest("/init", fixed=False), other_digest("/init", fixed=True)
    ),
    *alteration(
        "kexec_load content",
        altered("kexec_load", fixed=False),
        altered("kexec_load", fixed=True),
        Flag.MARKER_ANOMALY,
    ),
    *alteration(
        "kexec_load digest",
        other_digest("kexec_load", fixed=False),
        other_digest("kexec_load", fixed=True),
        Flag.MARKER_ANOMALY,
    ),
    *seen_or_not(
        7,
        "digest column",
        MAIN,
        other_column,
        Reason.TEMPLATE_DIGEST,
        Reason.TEMPLATE_DIGEST,
    ),
    *seen_or_not(
        7,
        "path of the second boot and SHA-1 fixed",
        MAIN,
        altered("/init", 1, fixed=True),
        Reason.FOREIGN_EXTEND,
        Reason.FOREIGN_EXTEND,
    ),
    *(
        lived_case(
            7,
            f"{name} that is not the hash of its content and so extended",
            MAIN,
            other_digest(name, fixed=True),
            Flag.MARKER_ANOMALY,
        )
        for name in ("kexec_load", "kexec_execute")
    ),
)


# 12: what was extended but not listed, or listed but not extended.

HIDDEN = ng("/tmp/hidden")


def extended_before_both(twin: Twin) -> Twin:
    return twin.with_pcrs(lambda pcrs: extended(pcrs, HIDDEN), at=-1)


def extended_between(twin: Twin) -> Twin:
    return twin.last_with_pcrs(lambda pcrs: extended(pcrs, HIDDEN))


def extended_in_the_first_boot(twin: Twin) -> Twin:
    """Before the kexec, where the snapshot that follows must find it."""
    return twin.with_pcrs(lambda pcrs: extended(pcrs, HIDDEN), at=1)


def appended(evidence: Evidence) -> Evidence:
    return edited(evidence, lambda records: records.append(HIDDEN))


def tail_that_quote_1_alone_misses(twin: Twin) -> Twin:
    """No attack: the list grew after the first quote."""
    grown = [*twin.records, HIDDEN]
    listed = replace(twin, evidence=with_list(twin.evidence, grown))
    return listed.last_with_pcrs(lambda pcrs: extended(pcrs, HIDDEN))


def in_another_pcr(twin: Twin) -> Twin:
    return twin.measured(replace(HIDDEN, pcr=11))


def zeroed(records: list[Rec]) -> None:
    """A record passed off as a violation, whose content nobody vouches for."""
    records[3] = replace(records[3], violation=True)


UNMATCHED = (
    signed_attack(
        12,
        "extend without a record",
        MAIN,
        extended_before_both,
        OUT_OF_SYNC,
        Reason.FOREIGN_EXTEND,
    ),
    signed_attack(
        12,
        "extend without a record between the quotes",
        MAIN,
        extended_between,
        OUT_OF_SYNC,
        Reason.FOREIGN_EXTEND,
    ),
    signed_attack(
        12,
        "extend without a record before the kexec",
        MAIN,
        extended_in_the_first_boot,
        OUT_OF_SYNC,
        Reason.FOREIGN_EXTEND,
    ),
    attack(
        12,
        "record that was never extended",
        MAIN,
        appended,
        OUT_OF_SYNC,
        Reason.UNCOVERED_TAIL,
        Flag.PENDING_TAIL,
    ),
    attack(
        12,
        "record that was never extended at first sight",
        MAIN,
        lambda evidence: appended(first_sight(evidence)),
        OUT_OF_SYNC,
        Reason.UNCOVERED_TAIL,
        Flag.PENDING_TAIL,
    ),
    signed_attack(
        12,
        "record that quote 2 covers",
        MAIN,
        tail_that_quote_1_alone_misses,
        IN_SYNC,
        Reason.MATCH,
    ),
    signed_attack(
        12,
        "record in another PCR",
        MAIN,
        in_another_pcr,
        OUT_OF_SYNC,
        Reason.UNCOVERED_PCR,
    ),
    *seen_or_not(
        12,
        "record passed off as a violation",
        MAIN,
        zeroed,
        Reason.HISTORY_REWRITTEN,
        Reason.FOREIGN_EXTEND,
        Flag.VIOLATIONS,
    ),
)

THREATS: tuple[Threat, ...] = (*MISSING, *MARKERS_GONE, *MOVED, *ALTERED, *UNMATCHED)
