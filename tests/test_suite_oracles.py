# SPDX-License-Identifier: GPL-2.0-only
"""Each oracle is silent about a healthy run, and names what is wrong with any other."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
from list_writer import Entry, ascii_list, entry, pack

from imakexec.attest import Judgement, Reason, Verdict
from imakexec.attest.boot_aggregate import BootAggregate, BootAggregateState
from imakexec.attest.timeline import Timeline
from imakexec.evidence import QuoteRecord, Snapshot
from imakexec.suite.oracles import (
    NOT_PADDED,
    Finding,
    Hop,
    Oracle,
    Padded,
    boot_findings,
    count_findings,
    counter_findings,
    find_said,
    leak_findings,
    message_findings,
    padded_replay_findings,
    prefix_findings,
    replay_findings,
    time_findings,
    violation_findings,
)
from imakexec.suite.readings import Reading

FIRST = [entry("boot_aggregate"), entry("/init"), entry("/etc/a")]
SECOND = [*FIRST, entry("/etc/b"), entry("boot_aggregate"), entry("/etc/c")]
VIOLATION = Entry("ima-ng", (b"sha256:\0" + bytes(32), b"/var/log/journal\0"), violation=True)
STEP = 2


def reading(entries: list[Entry], *, epoch: int = 0, name: str = "boot") -> Reading:
    """What a kernel in order says of that list."""
    return Reading(
        snapshot=name,
        epoch=epoch,
        log=pack(entries),
        count=len(entries),
        violations=sum(item.violation for item in entries),
        lists={"ascii_runtime_measurements": ascii_list(entries)},
        update_counter=100 + STEP * len(entries),
        sessions=(),
    )


def wrong(findings: Iterable[Finding]) -> list[str]:
    return [finding.demand for finding in findings]


HEALTHY = [reading(FIRST), reading(SECOND, epoch=1, name="end")]


def test_a_healthy_run_has_no_findings() -> None:
    assert wrong(prefix_findings(HEALTHY)) == []
    assert wrong(count_findings(HEALTHY, NOT_PADDED)) == []
    assert wrong(violation_findings([*HEALTHY, reading([*SECOND, VIOLATION])])) == []
    assert wrong(counter_findings(HEALTHY, STEP)) == []
    assert wrong(time_findings(1.0, [Hop(epoch=1, seconds=2.0, records=10)])) == []
    assert (
        wrong(message_findings(find_said("   1.000000 [    0.1] ima: Allocated hash\n", {}))) == []
    )


def test_a_guest_that_complains_for_ever_fills_no_report() -> None:
    full = "   1.000000 [    0.100000] ima: Kexec segment is full\n"
    error = "   2.000000 [    0.200000] tpm tpm0: A TPM error (1) occurred\n"
    said = Counter(each.because for each in find_said((full + error) * 1000, {"full": "it is"}))
    assert said == {"it is": 500, "": 500}
    [late] = message_findings(find_said(full * 1000 + error, {"full": "it is"}))
    assert "A TPM error" in late.what


@pytest.mark.parametrize("verdict", [Verdict.OUT_OF_SYNC, Verdict.TRUNCATED, Verdict.TAMPERED])
def test_any_other_verdict_than_in_sync(verdict: Verdict) -> None:
    judged = Judgement(verdict=verdict, reason=Reason.MATCH, sentence="So it is.", action="None.")
    [finding] = replay_findings(judged)
    assert finding.demand == Oracle.REPLAY
    assert "So it is." in finding.what


def test_a_list_that_does_not_go_on_from_the_one_before() -> None:
    lost = reading([*FIRST[:2], *SECOND[4:]], epoch=1, name="end")
    [finding] = prefix_findings([HEALTHY[0], lost])
    assert finding == Finding(Oracle.PREFIX, "the list of end keeps 2 of the 3 records of boot")


def test_a_count_that_is_not_the_lists() -> None:
    [finding] = count_findings([replace(HEALTHY[0], count=4)], NOT_PADDED)
    assert "counts 4 records in boot, its list has 3" in finding.what


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("ascii_runtime_measurements", ascii_list(FIRST[:2]), "1 records missing, 0 more"),
        ("ascii_runtime_measurements", ascii_list(SECOND), "0 records missing, 3 more"),
        ("ascii_runtime_measurements", ascii_list([*FIRST[:2], entry("/x")]), "record 2 differs"),
        ("binary_runtime_measurements_sha256", pack(FIRST[:1], bank="sha256"), "2 records missing"),
        ("binary_runtime_measurements_sha1", pack([entry("/x"), *FIRST[1:]]), "record 0 differs"),
    ],
)
def test_another_list_that_differs(name: str, content: bytes, what: str) -> None:
    [finding] = count_findings([replace(HEALTHY[0], lists={name: content})], NOT_PADDED)
    assert finding.demand == Oracle.COUNT
    assert f"{name} in boot: " in finding.what
    assert what in finding.what


def test_records_that_were_set_aside_are_not_the_kernels_to_count() -> None:
    aside = len(pack(FIRST[:1]))
    left = reading(FIRST[1:])
    whole = replace(left, log=pack(FIRST), set_aside=aside)
    assert wrong(count_findings([whole], NOT_PADDED)) == []
    assert len(wrong(count_findings([replace(whole, set_aside=0)], NOT_PADDED))) == 2


def test_a_kernel_all_of_whose_records_are_staged() -> None:
    aside = len(pack(FIRST))
    staged = replace(
        HEALTHY[0], set_aside=aside, count=0, lists={"ascii_runtime_measurements": b""}
    )
    assert wrong(count_findings([staged], NOT_PADDED)) == []
    for also in (replace(staged, count=3), replace(staged, lists=HEALTHY[0].lists)):
        assert wrong(count_findings([also], NOT_PADDED)) == [Oracle.COUNT]


def test_a_list_that_starts_with_another_boot() -> None:
    judged = Judgement(verdict=Verdict.OUT_OF_SYNC, reason=Reason.MATCH, sentence="", action="")
    anew = reading(FIRST, epoch=2, name="end")
    assert wrong(boot_findings(judged, [*HEALTHY, anew], frozenset({0, 2}))) == []
    [finding] = boot_findings(judged, [*HEALTHY, anew], frozenset({0}))
    assert finding == Finding(Oracle.BOOTS, "1 boot_aggregate records in end, boot 2")


def test_a_boot_aggregate_is_zero_where_no_bank_is_fit_for_it_and_only_there() -> None:
    zero, matches = (
        BootAggregate(index, "sha256", bytes(32), None, state)
        for index, state in ((0, BootAggregateState.ZERO), (5, BootAggregateState.MATCHES))
    )
    judged = Judgement(
        verdict=Verdict.IN_SYNC,
        reason=Reason.MATCH,
        sentence="",
        action="",
        timeline=Timeline((), (), (), (), (zero, matches)),
    )
    assert wrong(boot_findings(judged, [], frozenset({0}), frozenset({0}))) == []
    [finding] = boot_findings(judged, [], frozenset({0}))
    assert finding == Finding(Oracle.BOOTS, "boot_aggregate 0 zero")
    assert len(list(boot_findings(judged, [], frozenset({0}), frozenset({1})))) == 2


def padded_quote(entries: list[Entry], *, since: int) -> Snapshot:
    """The list with PCR 10, of which sha256 is padded from record `since` on."""
    pcrs = {"sha1": bytes(20), "sha256": bytes(32)}
    for index, item in enumerate(entries):
        sha1 = item.column("little", "sha1")
        padded = sha1.ljust(32, b"\0")
        sha256 = padded if index >= since else item.column("little", "sha256")
        pcrs["sha1"] = hashlib.sha1(pcrs["sha1"] + sha1).digest()
        pcrs["sha256"] = hashlib.sha256(pcrs["sha256"] + sha256).digest()
    quote = QuoteRecord(b"", b"", b"", {bank: {10: value} for bank, value in pcrs.items()})
    return Snapshot("end", 1, quote, pack(entries), None)


DIVERGED = Judgement(
    verdict=Verdict.OUT_OF_SYNC, reason=Reason.BANKS_DIVERGE, sentence="", action=""
)


@pytest.mark.parametrize("boot", [0, 1])
def test_a_bank_whose_hash_is_missing(boot: int) -> None:
    """From the first boot on it replays as padded, from a later one on not at all."""
    padded = Padded(frozenset({"sha256"}), boot)
    first = 4 if boot else 0
    assert wrong(padded_replay_findings(DIVERGED, padded_quote(SECOND, since=first), padded)) == []
    other = padded_quote(SECOND, since=len(SECOND) if boot == 0 else 0)
    [finding, *_] = padded_replay_findings(DIVERGED, other, padded)
    assert finding.demand == Oracle.REPLAY


def test_a_bank_that_goes_on_to_verify_what_was_before_the_kexec() -> None:
    stale = padded_quote(FIRST, since=len(FIRST))
    [finding] = padded_replay_findings(DIVERGED, stale, Padded(frozenset({"sha256"}), 1))
    assert finding.what == "sha256 matches after 3 records, None were due"


def test_violations_that_are_not_counted() -> None:
    [finding] = violation_findings([replace(reading([*FIRST, VIOLATION]), violations=0)])
    assert "counts 0 violations in boot, its list has 1" in finding.what


def test_an_extend_that_has_no_record() -> None:
    end = replace(HEALTHY[1], update_counter=HEALTHY[1].update_counter + STEP)
    [finding] = counter_findings([HEALTHY[0], end], STEP)
    assert "grown by 3 records, the TPM counts 4" in finding.what
    assert wrong(counter_findings([], STEP)) == []


@pytest.mark.parametrize(
    "line",
    [
        "ima: Failed to restore the measurement list: -22",
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "WARNING: CPU: 0 PID: 1 at kernel/kexec_core.c:1001",
        "INFO: task kexec:60 blocked for more than 120 seconds.",
    ],
)
def test_a_message_that_no_healthy_kernel_prints(line: str) -> None:
    console = f"   1.000000 [    0.100000] {line}\n   1.100000 [    0.200000] fine\n"
    [finding] = message_findings(find_said(console, {}))
    assert line in finding.what
    [allowed] = find_said(console, {line[:12]: "it is told to"})
    assert allowed.because == "it is told to"
    assert wrong(message_findings([allowed])) == []


def test_memory_that_is_lost() -> None:
    report = """unreferenced object 0xffff888004e7e000 (size 64):
  comm "kexec", pid 61, jiffies 4294900000 (age 12.0s)
  backtrace:
    [<00000000a6e15e51>] __kmalloc_node+0x44/0x120
unreferenced object 0xffff888004e7f000 (size 8):
  comm "kexec", pid 61, jiffies 4294900000 (age 12.0s)
"""
    findings = list(leak_findings("at the end", report))
    assert wrong(findings) == [Oracle.LEAKS, Oracle.LEAKS]
    assert findings[0].what == "at the end: unreferenced object 0xffff888004e7e000 (size 64):"
    assert wrong(leak_findings("at the end", "")) == []


def test_a_boot_that_takes_too_long() -> None:
    [finding] = time_findings(1.0, [Hop(1, 14.9, 0), Hop(2, 15.1, 0), Hop(3, 15.4, 1000)])
    assert finding == Finding(Oracle.TIME, "boot 2 took 15.1 s to user space, 15.0 s are allowed")
