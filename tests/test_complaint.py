# SPDX-License-Identifier: GPL-2.0-only
"""What a kernel says that no healthy one says, in genuine logs (console_logs) and line by line.

Those of x86_64 and arm64 named after a fault are from LKDTM, the kernel's own tester of crashes.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from imakexec.machine.complaint import (
    ALLOWED,
    PATTERNS,
    Complaint,
    Severity,
    classify,
    complaint_lines,
    find_banner,
    find_complaints,
    find_stage,
    frames,
)

LOGS = Path(__file__).parent / "console_logs"


def kinds(log: str) -> list[str]:
    lines = (LOGS / log).read_text().splitlines()
    return [pattern.name for pattern in map(classify, lines) if pattern is not None]


@pytest.mark.parametrize(
    ("log", "version"),
    [("x86_64-6.1.192-clean.txt", "6.1.192"), ("arm64-6.1.176-clean.txt", "6.1.176")],
)
def test_a_healthy_boot_matches_nothing_and_shows_one_banner(log: str, version: str) -> None:
    lines = (LOGS / log).read_text().splitlines()
    assert kinds(log) == []
    assert complaint_lines(lines) == ()
    banners = [banner for banner in map(find_banner, lines) if banner is not None]
    assert len(banners) == 1
    assert banners[0].startswith(f"Linux version {version} ")


def test_a_kernel_that_starts_the_tpm_itself_is_healthy() -> None:
    """No firmware does it on QEMU's arm64 board, so that every cold boot there says this."""
    text = (LOGS / "arm64-6.1.176-clean.txt").read_text()
    assert "A TPM error (256) occurred attempting the self test" in text
    assert "starting up the TPM manually" in text


def test_every_exception_from_the_rule_says_why() -> None:
    assert all(allowed.because for allowed in ALLOWED)


def test_every_kind_has_a_name_of_its_own() -> None:
    assert len({pattern.name for pattern in PATTERNS}) == len(PATTERNS)


def reports(log: str) -> list[Complaint]:
    return list(find_complaints((LOGS / log).read_text().splitlines()))


WRITE = "direct_entry:full_proxy_write:vfs_write"
LKDTM = "direct_entry:full_proxy_write:vfs_write:ksys_write"
SOFT_LOCKUP = ("soft lockup", f"lkdtm_SOFTLOCKUP:{LKDTM}")


@pytest.mark.parametrize(
    ("log", "due"),
    [
        (
            "x86_64-6.1.192-panic.txt",
            [("panic", "do_exit:do_group_exit:__x64_sys_exit_group:x64_sys_call:do_syscall_64")],
        ),
        ("x86_64-warning.txt", [("warning", f"lkdtm_WARNING:{LKDTM}")]),
        ("x86_64-bug.txt", [("kernel bug", f"lkdtm_BUG:{LKDTM}")]),
        ("x86_64-bad-access.txt", [("bug report", f"lkdtm_EXCEPTION:{LKDTM}")]),
        (
            "x86_64-soft-lockup.txt",
            [
                SOFT_LOCKUP,
                SOFT_LOCKUP,
                (
                    "RCU stall",
                    "rcu_gp_fqs_loop:rcu_gp_kthread:kthread:ret_from_fork",
                ),
                SOFT_LOCKUP,
            ],
        ),
        (
            "x86_64-kasan.txt",
            [
                (
                    "KASAN report",
                    "lkdtm_WRITE_AFTER_FREE:lkdtm_do_action:direct_entry:full_proxy_write:vfs_write",
                )
            ],
        ),
        (
            "x86_64-atomic.txt",
            [
                (
                    "sleep in atomic context",
                    "exit_to_user_mode_prepare:syscall_exit_to_user_mode:do_syscall_64:"
                    "entry_SYSCALL_64_after_hwframe",
                )
            ],
        ),
        ("x86_64-hung-task.txt", [("hung task", f"lkdtm_HUNG_TASK:lkdtm_do_action:{WRITE}")] * 2),
        (
            "arm64-bug.txt",
            [
                ("kernel bug", f"lkdtm_BUG:{LKDTM}"),
                # It goes on after that in no good state: PANIC_ON_OOPS was switched off.
                ("warning", "ct_kernel_exit:ct_idle_enter:do_idle:cpu_startup_entry:rest_init"),
            ],
        ),
        (
            "arm64-panic.txt",
            [("panic", f"__lkdtm_REPORT_STACK_CANARY:lkdtm_do_action:{WRITE}")],
        ),
        ("arm64-hung-task.txt", [("hung task", f"lkdtm_HUNG_TASK:lkdtm_do_action:{WRITE}")] * 2),
        ("arm64-oops.txt", [("bad access", "sysrq_handle_crash"), ("panic", "")]),
    ],
)
def test_a_report_goes_from_its_first_line_to_its_last(
    log: str, due: list[tuple[str, str]]
) -> None:
    found = reports(log)
    assert [(report.pattern.name, report.fingerprint) for report in found] == due
    lines = (LOGS / log).read_text().splitlines()
    for report in found:
        end = report.place + len(report.lines)
        assert lines[report.place : end] == list(report.lines)


@pytest.mark.parametrize(
    ("text", "name", "severity"),
    [
        ("[    1.000000] Kernel panic - not syncing: VFS", "panic", Severity.FATAL),
        ("[    1.000000][    T1] Kernel panic - not syncing: VFS", "panic", Severity.FATAL),
        ("Kernel panic - not syncing: without printk.time", "panic", Severity.FATAL),
        ("half a line[    1.000000] Kernel panic - not syncing: x", "panic", Severity.FATAL),
        ("[    1.000000] kernel BUG at mm/slub.c:42!", "kernel bug", Severity.FATAL),
        ("[    1.000000] BUG: unable to handle page fault", "bug report", Severity.FATAL),
        ("[    1.000000] BUG: KASAN: use-after-free in f+0x1/0x2", "KASAN report", Severity.FATAL),
        ("[    1.000000] Oops: 0002 [#1] PREEMPT SMP", "oops", Severity.FATAL),
        ("[    1.000000] Oops: Kernel access of bad area, sig: 11 [#1]", "oops", Severity.FATAL),
        (
            "[    1.000000] general protection fault, probably for non-canonical address "
            "0xdead: 0000 [#1]",
            "bad trap",
            Severity.FATAL,
        ),
        ("[    1.000000] invalid opcode: 0000 [#1] SMP", "bad trap", Severity.FATAL),
        ("[    1.000000] WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1", "warning", "suspicious"),
        ("[    1.000000] WARNING: possible circular locking dependency", "lockdep report", None),
        ("[    1.000000] WARNING: suspicious RCU usage", "RCU report", None),
        ("[    1.000000] BUG: sleeping function called from x", "sleep in atomic context", "fatal"),
        ("[    1.000000] rcu: INFO: rcu_sched self-detected stall on CPU", "RCU stall", None),
        ("[    1.000000] rcu: INFO: rcu_preempt detected stalls on CPUs", "RCU stall", None),
        ("[    1.000000] INFO: task sh:1 blocked for more than 120 seconds.", "hung task", None),
        ("[    1.000000] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!", "soft lockup", None),
        ("[    1.000000] tpm tpm0: Operation Timed out", "TPM timeout", None),
        ("[    1.000000] tpm tpm0: tpm_try_transmit: send(): error -62", "TPM timeout", None),
        ("[    1.000000] tpm tpm0: tpm_try_transmit: send(): error -5", "TPM error", None),
        ("[    1.000000] tpm tpm0: A TPM error (379) occurred extending", "TPM error", None),
        ("[    1.0] ima: Kexec segment is full", "hand-over incomplete", None),
        (
            "[    1.0] ima: Error passing over kexec measurement buffer.",
            "hand-over not prepared",
            None,
        ),
        ("[    1.0] ima: Failed to restore the measurement list: -22", "list not restored", None),
        ("[    1.0] ima: Error Communicating to TPM chip, result: -62", "PCR not extended", None),
        ("[    1.0] ima: No TPM chip found, activating TPM-bypass!", "no TPM for IMA", None),
    ],
)
def test_every_spelling_has_its_name(text: str, name: str, severity: str | None) -> None:
    pattern = classify(text)
    assert pattern is not None
    assert pattern.name == name
    assert pattern.severity == (severity or Severity.SUSPICIOUS)


@pytest.mark.parametrize(
    "text",
    [
        "[    1.000000] Kernel command line: oops=panic panic_on_warn",
        "[    1.000000] Spectre V2 : WARNING: Unprivileged eBPF is enabled",
        "[    1.000000] tpm tpm0: A TPM error (256) occurred attempting the self test",
        "[    1.000000] tpm tpm0: starting up the TPM manually",
        "a program that says BUG: in the middle of its line",
        "[    1.000000] DEBUG: nothing",
    ],
)
def test_harmless_lines_match_nothing(text: str) -> None:
    assert classify(text) is None


def test_only_the_kernel_itself_prints_a_banner() -> None:
    assert (
        find_banner("[    0.000000] Linux version 6.1.0 (a@b) #1") == "Linux version 6.1.0 (a@b) #1"
    )
    assert find_banner("cat /proc/version said Linux version 6.1.0 (a@b)") is None


def test_the_stages_of_a_boot() -> None:
    lines = (LOGS / "x86_64-6.1.192-clean.txt").read_text().splitlines()
    stages = [find_stage(line) for line in lines]
    assert [stage for stage in stages if stage] == ["the kernel starts", "user space starts"]
    assert find_stage("[    5.000000] kexec_core: Starting new kernel") == "the purgatory"


BANNER = "[    0.000000] Linux version 6.1.0 (a@b) #1"
WARNING = "[    1.000000] WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2"
PANIC = "[    2.000000] Kernel panic - not syncing: x"
FULL = "[    1.500000] ima: Kexec segment is full"
LOCKDEP = (
    "[    1.000000] WARNING: possible recursive locking detected",
    "[    1.100000] stack backtrace:",
    "[    1.200000] Call trace:",
    "[    1.300000]  dump_backtrace+0x0/0x130",
    "[    1.400000]  __lock_acquire+0x1/0x2",
    "[    1.500000]  holder.isra.0+0x1/0x2",
    "[    1.600000]  caller+0x1/0x2 [module]",
)


def found_in(*lines: str) -> list[tuple[str, int, int, bool]]:
    return [
        (report.pattern.name, report.boot, len(report.lines), report.whole)
        for report in find_complaints(lines)
    ]


def test_each_report_belongs_to_the_kernel_that_made_it() -> None:
    found = found_in(FULL, BANNER, FULL, BANNER, FULL)
    assert [boot for _, boot, _, _ in found] == [0, 0, 1]


def test_the_next_kernel_ends_a_report() -> None:
    assert found_in(BANNER, WARNING, "more", BANNER, "other") == [("warning", 0, 2, False)]


def test_the_end_of_the_log_ends_a_report() -> None:
    assert found_in(WARNING, "more") == [("warning", 0, 2, False)]


def test_a_panic_is_a_report_of_its_own() -> None:
    assert found_in(WARNING, "more", PANIC, "more") == [
        ("warning", 0, 2, True),
        ("panic", 0, 2, False),
    ]


def test_a_report_without_an_end_does_not_swallow_the_log() -> None:
    found = found_in(WARNING, *["x"] * 500, WARNING)
    assert [size for _, _, size, _ in found] == [200, 1]


def test_what_another_cpu_says_within_a_report_is_not_lost() -> None:
    end = "[    2.000000] ---[ end trace 0000000000000000 ]---"
    assert found_in(WARNING, FULL, end) == [
        ("hand-over incomplete", 0, 1, True),
        ("warning", 0, 2, True),
    ]


def test_a_call_trace_that_nothing_marks_ends_with_its_last_function() -> None:
    found = list(find_complaints([*LOCKDEP, "[    1.700000] fine", WARNING]))
    assert [len(report.lines) for report in found] == [len(LOCKDEP), 1]
    assert found[0].fingerprint == "holder:caller"


def test_what_the_stack_may_hold_by_chance_is_in_no_fingerprint() -> None:
    trace = [WARNING, "[    1.1]  ? g+0x1/0x2", "[    1.100000]  ? h+0x1/0x2"]
    [report] = find_complaints([*trace, "[    1.200000]  k+0x1/0x2"])
    assert report.fingerprint == "f:k"


def test_a_powerpc_trace() -> None:
    [report] = find_complaints(
        [
            "[    1.000000] Oops: Kernel access of bad area, sig: 11 [#1]",
            "[    1.000000] NIP [c000000000123456] broken+0x14/0x60",
            "[    1.000000] [c000000001234560] [c000000000123457] caller+0x14/0x60 (unreliable)",
        ]
    )
    assert report.fingerprint == "broken:caller"


def test_a_million_harmless_lines_take_seconds() -> None:
    began = time.process_time()
    line = "[    1.000000] audit: type=1800 audit(1.2:3): " + "x" * 80
    assert not any(classify(line) for _ in range(100_000))
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "unit",
    [
        "[0.000000] rcu: INFO: detected ",
        "[0.000000] tpm tpm0: : error -6",
        "[0.000000] tpm tpm0: Timed ",
        "[0.000000] watchdog: hard LOCK ",
        "[0.000000] INFO: possible circular ",
        "[0.000000] INFO: task x blocked for more than 1",
        "[0.000000] general protection fault ",
        "[0.000000] WARNING: x at a:1 a",
        "[         ",
        "a.a.",
    ],
)
def test_no_line_that_a_guest_makes_up_takes_long(unit: str) -> None:
    # The longest there is: of 4096 bytes, each shown as an escape.
    text = (unit * 16384)[:16384]
    seconds = []
    for _ in range(3):
        began = time.thread_time()
        classify(text)
        find_banner(text)
        frames([text, text])
        seconds.append(time.thread_time() - began)
    assert min(seconds) < 0.2
