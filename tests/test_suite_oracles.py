# SPDX-License-Identifier: GPL-2.0-only
"""Each oracle is silent about a healthy run, and names what is wrong with any other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from list_writer import Entry, ascii_list, entry, pack

from imakexec.attest import Judgement, Reason, Verdict
from imakexec.suite.oracles import (
    Finding,
    Hop,
    Oracle,
    count_findings,
    counter_findings,
    leak_findings,
    message_findings,
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
    assert wrong(count_findings(HEALTHY, frozenset())) == []
    assert wrong(violation_findings([*HEALTHY, reading([*SECOND, VIOLATION])])) == []
    assert wrong(counter_findings(HEALTHY, STEP)) == []
    assert wrong(time_findings(1.0, [Hop(epoch=1, seconds=2.0, records=10)])) == []
    assert wrong(message_findings("   1.000000 [    0.1] ima: Allocated hash\n", ())) == []


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
    [finding] = count_findings([replace(HEALTHY[0], count=4)], frozenset())
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
    [finding] = count_findings([replace(HEALTHY[0], lists={name: content})], frozenset())
    assert finding.demand == Oracle.COUNT
    assert f"{name} in boot: " in finding.what
    assert what in finding.what


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
    [finding] = message_findings(console, ())
    assert line in finding.what
    assert wrong(message_findings(console, (line[:12],))) == []


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
    [finding] = time_findings(1.0, [Hop(1, 14.9, 0), Hop(2, 15.1, 0), Hop(3, 16.9, 1000)])
    assert finding == Finding(Oracle.TIME, "boot 2 took 15.1 s to user space, 15.0 s are allowed")
