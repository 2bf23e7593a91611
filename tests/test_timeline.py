# SPDX-License-Identifier: GPL-2.0-only
"""What a list tells: boots, markers with their values, and how full each hand-over was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from evidence_maker import (
    HEADER,
    Machine,
    Rec,
    buf,
    fields,
    marker,
    ng,
    pack,
    patched_run,
    payload,
    plain_run,
    violation,
)

from imakexec.attest import judge
from imakexec.attest.boot_aggregate import BootAggregateState, find_boot_aggregates
from imakexec.attest.log import MeasurementLog
from imakexec.attest.markers import Marker, MarkerKind, read_markers
from imakexec.attest.timeline import MarkerState, RowKind, Timeline, carried_records
from imakexec.evidence import BootKind


def timeline_of(machine: Machine) -> Timeline:
    timeline = judge(machine.evidence()).timeline
    assert timeline is not None
    return timeline


def markers_of(records: list[Rec]) -> tuple[Marker, ...]:
    log = MeasurementLog.parse(pack(records))
    return read_markers(log, find_boot_aggregates(log))


def test_rows_of_the_main_job() -> None:
    rows = timeline_of(patched_run(25)).rows
    assert [(row.kind, row.index, row.count, row.boot) for row in rows] == [
        (RowKind.BOOT_AGGREGATE, 0, 1, 0),
        (RowKind.RECORDS, 1, 6, 0),
        (RowKind.KEXEC_LOAD, 7, 1, 0),
        (RowKind.RECORDS, 8, 25, 0),
        (RowKind.KEXEC_EXECUTE, 33, 1, 0),
        (RowKind.BOOT_AGGREGATE, 34, 1, 1),
        (RowKind.RECORDS, 35, 4, 1),
    ]


def test_rows_cover_each_byte_once() -> None:
    machine = patched_run(3)
    rows = timeline_of(machine).rows
    assert sum(row.size for row in rows) == len(pack(machine.records))
    assert sum(row.count for row in rows) == len(machine.records)


def test_violations_are_counted_where_they_are() -> None:
    machine = Machine()
    machine.boot()
    machine.measure(violation("/a"), ng("/b"), violation("/c"))
    size = machine.load()
    machine.measure(violation("/d"))
    machine.execute(size)
    machine.snapshot("after-kexec")
    timeline = timeline_of(machine)
    assert [row.violations for row in timeline.rows] == [0, 2, 0, 1, 0, 0, 0]
    assert [boot.violations for boot in timeline.boots] == [3, 0]
    assert judge(machine.evidence()).violations == (2, 4, 6)


def test_boots() -> None:
    boots = timeline_of(patched_run(25)).boots
    assert [(boot.number, boot.index, boot.count, boot.kernel_version) for boot in boots] == [
        (0, 0, 34, "6.1.192"),
        (1, 34, 5, "6.1.192"),
    ]


def test_markers_with_logged_and_recomputed_values() -> None:
    machine = patched_run(25)
    load, execute = timeline_of(machine).markers
    for item, index in ((load, 7), (execute, 33)):
        before = HEADER + len(pack(machine.records[:index]))
        assert item.accepted
        assert item.logged is not None
        assert (item.logged.runtime_size, item.logged.count) == (before, index)
        assert (item.recomputed_size, item.recomputed_count) == (before, index)


def test_fill_of_the_handover() -> None:
    machine = patched_run(25, extra=4096)
    (handover,) = timeline_of(machine).handovers
    used = HEADER + len(pack(machine.records[:34]))
    assert (handover.index, handover.markers) == (34, MarkerState.COMPLETE)
    assert (handover.bytes_used, handover.segment_size) == (used, 8192)
    assert handover.fill_percent == round(100 * used / 8192, 1)
    # The last snapshot before it was taken before kexec_execute was measured.
    assert (handover.lost, handover.whole_prefix) == (0, True)


def test_truncated_handover_is_a_prefix_of_whole_records() -> None:
    machine = patched_run(200, extra=2048)
    (handover,) = timeline_of(machine).handovers
    seen = machine.snapshots[1].log
    assert seen is not None
    log = MeasurementLog.parse(seen)
    assert handover.markers is MarkerState.LOAD_ONLY
    assert handover.whole_prefix
    assert handover.lost == len(log) - handover.index
    assert handover.next_size == log[handover.index].size
    assert handover.segment_size == 4096
    assert handover.bytes_used <= 4096 < handover.bytes_used + log[handover.index].size


def test_loss_without_markers() -> None:
    (handover,) = timeline_of(plain_run(20)).handovers
    assert (handover.markers, handover.markers_expected) == (MarkerState.ABSENT, False)
    assert (handover.lost, handover.segment_size, handover.fill_percent) == (20, None, None)


def test_loss_of_everything() -> None:
    """Nothing was carried: the list shows one boot, the harness knows of two."""
    machine = plain_run()
    machine.records = machine.records[7:]
    machine.snapshots.pop()
    machine.snapshot("after-kexec")
    (handover,) = timeline_of(machine).handovers
    assert (handover.index, handover.bytes_used, handover.lost) == (0, HEADER, 27)


def test_two_kexecs() -> None:
    machine = patched_run(5)
    size = machine.load()
    machine.files(4)
    machine.execute(size)
    machine.snapshot("second")
    first, second = timeline_of(machine).handovers
    assert (first.markers, second.markers) == (MarkerState.COMPLETE, MarkerState.COMPLETE)
    # Only the first was preceded by a snapshot that holds all but the marker.
    assert (first.lost, second.lost) == (0, 0)
    assert second.bytes_used > first.bytes_used


def test_carried_records() -> None:
    assert carried_records([0, 10, 20], 0, 30) == 30
    assert carried_records([0, 10, 20], 1, 30) == 20
    assert carried_records([0, 10, 20], 3, 30) == 0
    assert carried_records([0, 10, 20], 4, 30) == 0


@pytest.mark.parametrize(("release", "expected"), [("6.15.9", False), ("6.16.0-rc1", True)])
def test_a_kernel_that_must_write_markers(release: str, expected: bool) -> None:
    machine = Machine()
    machine.boot()
    machine.records.clear()
    machine.pcr10 = {bank: bytes(len(value)) for bank, value in machine.pcr10.items()}
    machine.measure(machine.boot_aggregate(), buf("kernel_version", release.encode()))
    machine.boot(BootKind.KEXEC)
    machine.snapshot("after-kexec")
    (handover,) = timeline_of(machine).handovers
    assert handover.markers_expected is expected


def test_version_in_a_violation_proves_nothing() -> None:
    machine = Machine()
    machine.boot()
    machine.measure(replace(buf("kernel_version", b"7.0"), violation=True))
    machine.records[1], machine.records[2] = machine.records[2], machine.records[1]
    machine.snapshot("boot")
    assert timeline_of(machine).boots[0].kernel_version == "6.1.192"


# Acceptance of markers: each rule on its own.

Change = Callable[[list[Rec]], None]
BOOT = Machine().boot_aggregate()


def genuine() -> list[Rec]:
    records = [BOOT, ng("/a"), ng("/b")]
    records.append(marker("kexec_load", records, 4096))
    records.append(ng("/c"))
    records.append(marker("kexec_execute", records, 4096))
    return [*records, BOOT]


def test_genuine_markers() -> None:
    assert [item.flaws for item in markers_of(genuine())] == [(), ()]


def replaced(index: int, record: Rec) -> list[Rec]:
    records = genuine()
    records[index] = record
    return records


@pytest.mark.parametrize(
    ("record", "flaw"),
    [
        (ng("kexec_load"), "template"),
        (
            Rec(b"d-ng|n-ng|buf", genuine()[3].data),
            "template",
        ),
        (replace(genuine()[3], violation=True), "violation"),
        (buf("kexec_load", payload(4096, 300, 3), digest=bytes(32)), "digest"),
        (
            Rec(b"ima-buf", fields(b"md4:\0" + bytes(16), b"kexec_load\0", b"")),
            "hash algorithm",
        ),
        (buf("kexec_load", b"\x30\x82\x01\x00"), "content"),
        (buf("kexec_load", payload(4096, 300, 3) + b"\0"), "content"),
        (buf("kexec_load", b" " + payload(4096, 300, 3)), "content"),
        (buf("kexec_load", payload(4096, 300, 3).replace(b"=3;", b"=+3;")), "content"),
        (buf("kexec_load", payload(4096, 300, 3).replace(b"=3;", "=٣;".encode())), "content"),
        (marker("kexec_load", genuine()[:4], 4096), "it counts 4"),
        (buf("kexec_load", payload(4096, HEADER + len(pack(genuine()[:3])), 0)), "it counts 0"),
        (buf("kexec_load", payload(4096, HEADER + len(pack(genuine()[:3])) + 1, 3)), "bytes"),
        (buf("kexec_load", payload(4096, len(pack(genuine()[:3])), 3)), "bytes"),
        (buf("kexec_load", payload(4096, 0, 3)), "bytes"),
    ],
)
def test_load_that_is_no_marker(record: Rec, flaw: str) -> None:
    load, execute = markers_of(replaced(3, record))
    assert not load.accepted
    assert flaw in " ".join(load.flaws)
    assert not execute.accepted


def test_marker_that_lags_behind_under_load() -> None:
    """The kernel reads count and size before it takes the list's lock."""
    records = genuine()
    late = buf("kexec_load", payload(4096, HEADER + len(pack(records[:3])), 2))
    load, _ = markers_of(replaced(3, late))
    assert load.accepted


def test_execute_without_load() -> None:
    records = genuine()
    del records[3]
    records[4] = marker("kexec_execute", records[:4], 4096)
    (execute,) = markers_of(records)
    assert execute.flaws == ("no kexec_load stands before it in the same boot",)


def test_execute_not_before_its_boot() -> None:
    records = genuine()
    records.insert(6, ng("/late"))
    assert markers_of(records)[1].flaws == ("no boot_aggregate follows it directly",)
    assert markers_of(genuine()[:-1])[1].flaws == ("no boot_aggregate follows it directly",)


def test_markers_of_an_earlier_boot() -> None:
    """Threat 10: the markers of the first kexec, copied before the second one."""
    records = genuine()
    again = [*records, ng("/d"), records[3], records[5], BOOT]
    assert [item.accepted for item in markers_of(again)] == [True, True, False, False]


def test_size_of_an_earlier_boot_with_a_count_of_this_one() -> None:
    records = [*genuine(), ng("/d")]
    records.append(buf("kexec_load", payload(4096, HEADER + len(pack(records[:3])), 8)))
    (flaw,) = markers_of(records)[2].flaws
    assert "bytes" in flaw


def test_load_of_an_earlier_boot_does_not_serve() -> None:
    records = genuine()
    records.append(marker("kexec_execute", records, 4096))
    records.append(BOOT)
    assert markers_of(records)[2].flaws == ("no kexec_load stands before it in the same boot",)


def test_marker_before_any_boot() -> None:
    (load,) = markers_of([marker("kexec_load", [], 4096), BOOT])
    assert load.flaws == ("it stands before the first boot_aggregate",)


def test_a_record_that_names_both_markers_is_one() -> None:
    both = buf("kexec_load", b"kexec_execute\0")
    (marker,) = read_markers(MeasurementLog.parse(pack([BOOT, both])), [0])
    assert (marker.kind, marker.index) == (MarkerKind.LOAD, 1)


def test_custom_template_counted_with_an_empty_name() -> None:
    custom = Rec(b"d-ng|n-ng|sig", fields(b"sha1:\0" + bytes(20), b"/a\0", b""))
    records = [BOOT, custom]
    for uncounted in (0, len(custom.template)):
        size = HEADER + len(pack(records)) - uncounted
        (load,) = markers_of([*records, buf("kexec_load", payload(4096, size, 2))])
        assert load.accepted
    (load,) = markers_of([*records, buf("kexec_load", payload(4096, size - 1, 2))])
    assert not load.accepted


# boot_aggregate.


def test_boot_aggregate_is_recomputed() -> None:
    machine = patched_run(1)
    first, second = timeline_of(machine).boot_aggregates
    expected = hashlib.sha256(b"".join(machine.firmware["sha256"])).digest()
    assert (first.state, second.state) == (BootAggregateState.MATCHES, BootAggregateState.MATCHES)
    assert first.algorithm == "sha256"
    assert first.logged == first.recomputed == second.logged == expected


def test_boot_aggregate_where_no_firmware_measures() -> None:
    """QEMU's arm64 board starts the kernel itself: ten PCRs are as the TPM was switched on."""
    machine = Machine()
    machine.firmware = {
        bank: [bytes(len(pcr)) for pcr in pcrs] for bank, pcrs in machine.firmware.items()
    }
    machine.boot()
    machine.snapshot("boot")
    [aggregate] = timeline_of(machine).boot_aggregates
    assert aggregate.logged == aggregate.recomputed == hashlib.sha256(bytes(320)).digest()
    assert aggregate.state is BootAggregateState.MATCHES


def test_what_is_a_boot_aggregate() -> None:
    plain = fields(b"sha256:\0" + bytes(32), b"boot_aggregate\0")
    late = fields(b"sha256:\0" + bytes(32), b"boot_aggregate_late\0")
    records = [
        Rec(b"ima-ng", plain),
        Rec(b"ima-ng", late),
        Rec(b"ima-sig", plain + fields(b"")),
        Rec(b"ima-ng", plain, violation=True),
        buf("boot_aggregate", b"a keyring may have any name"),
        ng("/boot_aggregate"),
        ng("boot_aggregates"),
    ]
    assert find_boot_aggregates(MeasurementLog.parse(pack(records))) == (0, 1, 2)


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
def test_boot_aggregate_covers_pcr_8_and_9_but_for_sha1(bank: str) -> None:
    machine = Machine((bank,))
    machine.measure(machine.boot_aggregate(bank))
    machine.epoch = 0
    machine.snapshot("boot")
    assert timeline_of(machine).boot_aggregates[0].state is BootAggregateState.MATCHES
    machine.firmware[bank][8] = bytes(len(machine.firmware[bank][8]))
    machine.snapshot("later")
    machine.snapshots.pop(0)
    state = BootAggregateState.MATCHES if bank == "sha1" else BootAggregateState.DIFFERS
    assert timeline_of(machine).boot_aggregates[0].state is state


# How each boot began, and what the TPM said in it.


def test_boots_by_kexec_keep_the_counters() -> None:
    boots = timeline_of(patched_run(5)).boots
    assert [boot.kind for boot in boots] == [BootKind.COLD, BootKind.KEXEC]
    clocks = [boot.clock for boot in boots]
    assert all(clock is not None and clock[0].pair == clock[1].pair == (2, 0) for clock in clocks)
    seen = [(clock[0].clock, clock[1].clock) for clock in clocks if clock]
    assert seen == [(110, 140), (150, 160)]


def test_a_boot_without_a_quote_has_no_clock() -> None:
    machine = patched_run(5)
    machine.snapshots = machine.snapshots[-1:]
    first, second = timeline_of(machine).boots
    assert first.clock is None
    assert second.clock is not None


def test_a_list_that_was_handed_nothing_begins_with_a_kexec() -> None:
    machine = Machine()
    machine.boot()
    machine.snapshot("boot")
    machine.records = []
    machine.boot(BootKind.KEXEC)
    machine.snapshot("after-kexec")
    (boot,) = timeline_of(machine).boots
    assert boot.kind is BootKind.KEXEC


def test_full_is_when_the_next_record_has_no_room() -> None:
    machine = patched_run(200, extra=2048)
    (handover,) = timeline_of(machine).handovers
    assert handover.full is True
    roomy = patched_run(5, extra=65536)
    assert timeline_of(roomy).handovers[0].full is False
    assert timeline_of(plain_run(5)).handovers[0].full is None


def test_full_of_a_verifier_that_has_seen_nothing_before() -> None:
    """The next record is unknown, so the largest before stands for it, not one behind."""
    machine = patched_run(200, extra=2048)
    machine.snapshots = machine.snapshots[-1:]
    (handover,) = timeline_of(machine).handovers
    assert handover.segment_size is not None
    sizes = [len(record.pack()) for record in machine.records[: handover.index]]
    room = handover.segment_size - handover.bytes_used
    assert handover.full is (room < max(sizes))
    machine.files(1, "/x" * 2000)
    machine.snapshots = []
    machine.snapshot("later")
    assert timeline_of(machine).handovers[0].full is handover.full


def test_markers_tell_of_records_that_are_not_there() -> None:
    machine = patched_run(5)
    assert timeline_of(machine).handovers[0].uncounted == 0
    del machine.records[9:12]
    machine.snapshots = []
    machine.snapshot("now")
    judgement = judge(machine.evidence())
    assert judgement.timeline is not None
    assert judgement.timeline.handovers[0].uncounted == 3
    assert "its markers claim 3 that do not stand before them" in judgement.sentence


def test_a_violation_claims_nothing() -> None:
    """Anybody who can provoke one chooses what it says."""
    machine = plain_run(3)
    machine.measure(replace(marker("kexec_load", machine.records, 9999), violation=True))
    lying = buf("kexec_load", payload(8192, 99999, 99999))
    machine.records.insert(3, replace(lying, violation=True))
    machine.boot(BootKind.KEXEC)
    machine.snapshots = []
    machine.snapshot("now")
    handovers = timeline_of(machine).handovers
    assert [gap.uncounted for gap in handovers] == [0, 0]
    assert {gap.markers for gap in handovers} == {MarkerState.ABSENT}
