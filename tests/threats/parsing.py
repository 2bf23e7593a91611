# SPDX-License-Identifier: GPL-2.0-only
"""Threat 15: what is meant to break a parser, or to be read by it as something else."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from evidence_maker import Rec, buf, fields, ng, pack
from genuine import Twin, genuine, honest, records_of, with_list
from list_writer import Entry

from imakexec.attest import Flag, Reason, Verdict
from imakexec.evidence import Evidence
from threats import Threat, attack, measured, signed_attack

MAIN = "main-job"
MALFORMED, TAMPERED, IN_SYNC = Verdict.MALFORMED, Verdict.TAMPERED, Verdict.IN_SYNC
OUT_OF_SYNC, INVALID = Verdict.OUT_OF_SYNC, Verdict.INVALID_EVIDENCE
HUGE = (0x7FFFFFFF, 0x80000000, 0xFFFFFFE0, 0xFFFFFFFF)


@dataclass(frozen=True)
class Abuse:
    """A list that is none.

    Args:
        content: its bytes.
        reason: why it is none.
    """

    content: bytes
    reason: Reason


def genuine_list() -> bytes:
    log = genuine(MAIN).snapshots[-1].log
    assert log is not None
    return log


def overwritten(at: int, value: int) -> bytes:
    """The genuine list with another u32 at an offset."""
    log = bytearray(genuine_list())
    log[at : at + 4] = struct.pack("<I", value)
    return bytes(log)


def appended(record: bytes) -> bytes:
    return genuine_list() + record


def record(data: bytes, name: bytes = b"ima-ng") -> bytes:
    return Rec(name, data).pack()


def big_endian(rec: Rec) -> Rec:
    """The same record with the lengths in its data as a big-endian kernel has them."""
    data, at = bytearray(rec.data), 0
    while at < len(data):
        [size] = struct.unpack_from("<I", data, at)
        data[at : at + 4] = struct.pack(">I", size)
        at += 4 + size
    return replace(rec, data=bytes(data))


def big_endian_list() -> bytes:
    return b"".join(honest(big_endian(rec)).pack(">") for rec in records_of(genuine(MAIN)))


def handover_buffer(
    *, version: int = 1, size: int = 0, count: int = 0, room: int = 4096, cut: int | None = None
) -> bytes:
    """The genuine list as one kernel hands it to the next.

    Args:
        size: what the header says beyond the truth, in bytes.
        count: likewise, in records.
        room: of the segment behind the list, in bytes.
        cut: the segment's size in bytes, if it ends early.
    """
    log = genuine_list()
    records = len(records_of(genuine(MAIN)))
    sizes = (24 + len(log) + size, records + count)
    header = struct.pack("<HHIQQ", version, 0, 0, *(value % 2**64 for value in sizes))
    return (header + log + bytes(room))[:cut]


# The first record of the genuine list: 28 bytes of header, 6 of "ima-ng", data_len, two fields.
NAME_LEN, PCR, DATA_LEN, FIRST_FIELD = 24, 0, 34, 38
SECOND_FIELD = FIRST_FIELD + 4 + 40

ABUSES: Mapping[str, Abuse] = {
    "empty list": Abuse(b"", Reason.EMPTY_LIST),
    "one byte": Abuse(b"\n", Reason.TRAILING_BYTES),
    **{
        f"name_len {value:#x}": Abuse(overwritten(NAME_LEN, value), Reason.SHORT_RECORD)
        for value in HUGE
    },
    **{
        f"data_len {value:#x}": Abuse(overwritten(DATA_LEN, value), Reason.SHORT_RECORD)
        for value in HUGE
    },
    **{
        f"{name} field_len {value:#x}": Abuse(overwritten(at, value), Reason.FIELD_SUM)
        for name, at in {"first": FIRST_FIELD, "second": SECOND_FIELD}.items()
        for value in HUGE
    },
    "name_len 0": Abuse(overwritten(NAME_LEN, 0), Reason.TEMPLATE_NAME),
    "data_len 0": Abuse(overwritten(DATA_LEN, 0), Reason.FIELD_SUM),
    "field one byte short": Abuse(overwritten(SECOND_FIELD, 14), Reason.FIELD_SUM),
    "field one byte long": Abuse(overwritten(SECOND_FIELD, 16), Reason.FIELD_SUM),
    "a field too few": Abuse(appended(record(fields(b"sha256:\0"))), Reason.FIELD_SUM),
    "a field too many": Abuse(
        appended(record(fields(b"sha256:\0", b"/a\0", b""))), Reason.FIELD_SUM
    ),
    "no field": Abuse(appended(record(b"")), Reason.FIELD_SUM),
    "no field of an unknown template": Abuse(appended(record(b"", b"x")), Reason.FIELD_SUM),
    "name that is none": Abuse(appended(record(fields(b""), b"ima\0ng")), Reason.TEMPLATE_NAME),
    "name longer than any format": Abuse(
        appended(record(fields(b""), b"x" * 196)), Reason.TEMPLATE_NAME
    ),
    "PCR 24": Abuse(overwritten(PCR, 24), Reason.PCR_INDEX),
    "PCR 0xffffffff": Abuse(overwritten(PCR, 0xFFFFFFFF), Reason.PCR_INDEX),
    "legacy path longer than the kernel's": Abuse(
        appended(Rec(b"ima", b"").pack()[:-4] + bytes(20) + struct.pack("<I", 256) + b"x" * 256),
        Reason.FIELD_SUM,
    ),
    "legacy record cut": Abuse(
        appended(Rec(b"ima", b"").pack()[:-4] + bytes(20) + struct.pack("<I", 9) + b"x" * 8),
        Reason.SHORT_RECORD,
    ),
    "big-endian record in a little-endian list": Abuse(
        appended(big_endian(ng("/b")).pack(">")), Reason.PCR_INDEX
    ),
    "20000 empty fields": Abuse(appended(record(fields(*[b""] * 20000))), Reason.FIELD_SUM),
    "garbage": Abuse(appended(b"garbage"), Reason.TRAILING_BYTES),
    "ASCII list": Abuse(
        b"10 3f8c0d6a3ad4b2f7 ima-ng sha256:00 boot_aggregate\n" * 2, Reason.PCR_INDEX
    ),
    "hand-over buffer": Abuse(handover_buffer(), Reason.TEMPLATE_NAME),
}


def in_the_evidence(abuse: Abuse) -> Callable[[Evidence], Evidence]:
    return lambda evidence: with_list(evidence, abuse.content)


BROKEN = tuple(
    attack(15, name, MAIN, in_the_evidence(abuse), MALFORMED, abuse.reason)
    for name, abuse in ABUSES.items()
)


# What is a list, though an odd one: measured, it is in sync, and has no meaning that it should not.

PARTS = (b"sha256:\0" + bytes(31) + b"1", b"boot_aggregate\0", b"/other\0")

ODD: Mapping[str, tuple[Rec, tuple[Flag, ...]]] = {
    "path that is not UTF-8": (Rec(b"ima-ng", fields(PARTS[0], b"/\xff\xfe\0")), ()),
    "path of control characters": (ng("/\x1b[2J\r\n"), ()),
    "buf of 4096 bytes": (buf("kexec-cmdline", b"x" * 4096), ()),
    "buf of 4097 bytes": (buf("kexec-cmdline", b"x" * 4097), ()),
    "buf of 1 MiB": (buf("kexec-cmdline", b"x" * (1 << 20)), ()),
    "empty buf": (buf("kexec_load", b""), (Flag.MARKER_ANOMALY,)),
    "format with a field twice": (
        Rec(b"d-ng|n-ng|n-ng", fields(*PARTS)),
        (Flag.MIXED_TEMPLATES,),
    ),
    "unknown template": (
        Rec(b"ima-ng3", fields(*PARTS)),
        (Flag.UNKNOWN_TEMPLATE,),
    ),
    "digest of no algorithm": (Rec(b"ima-ng", fields(b"\0" * 40, b"/a\0")), ()),
    "path without NUL": (Rec(b"ima-ng", fields(PARTS[0], b"/a")), ()),
    "empty fields": (Rec(b"ima-ng", fields(b"", b"")), ()),
}

MEASURED = tuple(
    signed_attack(15, name, MAIN, measured(odd), IN_SYNC, Reason.MATCH, *flags)
    for name, (odd, flags) in ODD.items()
)


def with_legacy_record(twin: Twin) -> Twin:
    """One record of the template "ima" among those of the others."""
    legacy = Entry("ima", (bytes(range(20)), b"/legacy"))
    grown = pack(twin.records) + legacy.pack()
    listed = replace(twin, evidence=with_list(twin.evidence, grown))
    hashed = legacy.hashed("little")
    return listed.with_pcrs(
        lambda pcrs: {
            bank: {**values, 10: Rec(b"ima", hashed).extend(bank, values[10])}
            for bank, values in pcrs.items()
        },
        at=-1,
    )


def nothing_measured(twin: Twin) -> Twin:
    """An empty list under a PCR 10 of zeros, which replays to it."""
    return twin.first_sight().lived([])


OTHERS = (
    signed_attack(
        15,
        "legacy record among others",
        MAIN,
        with_legacy_record,
        IN_SYNC,
        Reason.MATCH,
        Flag.MIXED_TEMPLATES,
    ),
    signed_attack(
        15, "empty list and PCR 10 of zeros", MAIN, nothing_measured, MALFORMED, Reason.EMPTY_LIST
    ),
    attack(
        15,
        "big-endian header over little-endian data",
        MAIN,
        lambda evidence: with_list(
            evidence, b"".join(rec.pack(">") for rec in records_of(evidence))
        ),
        MALFORMED,
        Reason.FIELD_SUM,
    ),
    attack(
        15,
        "list turned big-endian",
        MAIN,
        lambda evidence: with_list(evidence, big_endian_list()),
        TAMPERED,
        Reason.HISTORY_REWRITTEN,
    ),
    attack(
        15,
        "list turned big-endian at first sight",
        MAIN,
        lambda evidence: with_list(
            replace(evidence, snapshots=evidence.snapshots[-1:]), big_endian_list()
        ),
        OUT_OF_SYNC,
        Reason.FOREIGN_EXTEND,
    ),
)

# A hand-over buffer whose header lies.

LAST_RECORD = len(records_of(genuine(MAIN))[-1].pack())

LYING_HEADERS: Mapping[str, Abuse] = {
    "version 0": Abuse(handover_buffer(version=0), Reason.HANDOVER_HEADER),
    "version 2": Abuse(handover_buffer(version=2), Reason.HANDOVER_HEADER),
    "no room for a header": Abuse(handover_buffer(cut=23), Reason.HANDOVER_HEADER),
    "size beyond the segment": Abuse(handover_buffer(size=4097), Reason.HANDOVER_HEADER),
    "size of 2**64 - 1": Abuse(
        handover_buffer(size=-25 - len(genuine_list())), Reason.HANDOVER_HEADER
    ),
    "size less than the header": Abuse(
        handover_buffer(size=-len(genuine_list()) - 1), Reason.HANDOVER_HEADER
    ),
    "size of the header alone": Abuse(
        handover_buffer(size=-len(genuine_list())), Reason.EMPTY_LIST
    ),
    "size without the last record": Abuse(
        handover_buffer(size=-LAST_RECORD), Reason.HANDOVER_HEADER
    ),
    "size into what is behind": Abuse(handover_buffer(size=64), Reason.TEMPLATE_NAME),
    "a record too many": Abuse(handover_buffer(count=1), Reason.HANDOVER_HEADER),
    "a record too few": Abuse(handover_buffer(count=-1), Reason.HANDOVER_HEADER),
    "count of 2**64 - 1": Abuse(
        handover_buffer(count=-1 - len(records_of(genuine(MAIN)))), Reason.HANDOVER_HEADER
    ),
}


# An evidence folder whose files are not what they should be.

LIST = "snapshots/02-after/binary_runtime_measurements"
MANIFEST = "manifest.json"

Damage = Callable[[Path], object]


def in_manifest(old: str, new: str) -> Damage:
    def change(folder: Path) -> None:
        path = folder / MANIFEST
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def manifest(content: str) -> Damage:
    return lambda folder: (folder / MANIFEST).write_text(content)


def list_changed(folder: Path) -> None:
    path = folder / LIST
    path.write_bytes(path.read_bytes()[:-1] + b"\1")


def list_linked(folder: Path) -> None:
    """To the very list, elsewhere."""
    elsewhere = folder.parent / "elsewhere"
    (folder / LIST).rename(elsewhere)
    (folder / LIST).symlink_to(elsewhere)


def list_outside(name: str) -> Damage:
    """The very list, named where it was moved to."""

    def change(folder: Path) -> None:
        (folder / LIST).rename(folder.parent / "elsewhere")
        path = folder / MANIFEST
        named = name.format(folder=folder.parent)
        path.write_text(path.read_text().replace(f'"{LIST}"', f'"{named}"'))

    return change


def list_is_a_pipe(folder: Path) -> None:
    """Which nobody writes to: a reader must not wait for it."""
    (folder / LIST).unlink()
    os.mkfifo(folder / LIST)


DAMAGES: Mapping[str, tuple[Damage, Verdict, Reason]] = {
    "list changed": (list_changed, INVALID, Reason.DAMAGED_FILE),
    "list missing": (lambda folder: (folder / LIST).unlink(), INVALID, Reason.DAMAGED_FILE),
    "list linked": (list_linked, INVALID, Reason.DAMAGED_FILE),
    "list is a pipe": (list_is_a_pipe, INVALID, Reason.DAMAGED_FILE),
    "name that leads out": (list_outside("../elsewhere"), INVALID, Reason.DAMAGED_FILE),
    "name that is absolute": (list_outside("{folder}/elsewhere"), INVALID, Reason.DAMAGED_FILE),
    "empty manifest": (manifest(""), MALFORMED, Reason.MANIFEST),
    "manifest nested deep": (manifest("[" * 100000), MALFORMED, Reason.MANIFEST),
    "manifest of another schema": (
        in_manifest("imakexec-evidence/1", "imakexec-evidence/9"),
        MALFORMED,
        Reason.MANIFEST,
    ),
    "manifest with a member twice": (
        in_manifest('"complete": true', '"complete": true, "complete": true'),
        MALFORMED,
        Reason.MANIFEST,
    ),
    "manifest with a huge number": (
        in_manifest('"epoch": 1,\n      "before"', f'"epoch": {10**400},\n      "before"'),
        MALFORMED,
        Reason.MANIFEST,
    ),
}

THREATS: tuple[Threat, ...] = (*BROKEN, *MEASURED, *OTHERS)
