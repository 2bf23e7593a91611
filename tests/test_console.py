# SPDX-License-Identifier: GPL-2.0-only
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import pytest

from imakexec.machine.console import (
    Console,
    ConsoleLine,
    Severity,
    classify,
    console_pipe,
    find_banner,
)
from imakexec.scenario import complaints

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
    assert complaints(lines) == ()
    banners = [banner for banner in map(find_banner, lines) if banner is not None]
    assert len(banners) == 1
    assert banners[0].startswith(f"Linux version {version} ")


def test_a_kernel_that_starts_the_tpm_itself_is_healthy() -> None:
    """No firmware does it on QEMU's arm64 board, so that every cold boot there says this."""
    text = (LOGS / "arm64-6.1.176-clean.txt").read_text()
    assert "A TPM error (256) occurred attempting the self test" in text
    assert "starting up the TPM manually" in text


def test_a_panic_is_one_panic() -> None:
    assert kinds("x86_64-6.1.192-panic.txt") == ["panic"]


def test_an_arm64_oops_is_named_from_its_first_line_to_its_panic() -> None:
    assert kinds("arm64-oops.txt") == ["bad access", "oops", "panic"]


@pytest.mark.parametrize(
    ("text", "name", "severity"),
    [
        ("[    1.000000] Kernel panic - not syncing: VFS", "panic", Severity.FATAL),
        ("[    1.000000][    T1] Kernel panic - not syncing: VFS", "panic", Severity.FATAL),
        ("Kernel panic - not syncing: without printk.time", "panic", Severity.FATAL),
        ("half a line[    1.000000] Kernel panic - not syncing: x", "panic", Severity.FATAL),
        ("[    1.000000] kernel BUG at mm/slub.c:42!", "kernel bug", Severity.FATAL),
        ("[    1.000000] BUG: unable to handle page fault", "bug report", Severity.FATAL),
        ("[    1.000000] BUG: KASAN: use-after-free in f+0x1/0x2", "bug report", Severity.FATAL),
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
        ("[    1.000000] WARNING: possible circular locking dependency", "warning", "suspicious"),
        ("[    1.000000] rcu: INFO: rcu_sched self-detected stall on CPU", "RCU stall", None),
        ("[    1.000000] rcu: INFO: rcu_preempt detected stalls on CPUs", "RCU stall", None),
        ("[    1.000000] INFO: task sh:1 blocked for more than 120 seconds.", "hung task", None),
        ("[    1.000000] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!", "soft lockup", None),
        ("[    1.000000] tpm tpm0: Operation Timed out", "TPM timeout", Severity.SUSPICIOUS),
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


@contextmanager
def console(folder: Path) -> Iterator[tuple[Console, FileIO, list[ConsoleLine]]]:
    ours, guest = console_pipe()
    seen: list[ConsoleLine] = []
    watched = Console(ours, folder / "console.log")
    watched.start(seen.append, lambda _error: None)
    with guest:
        yield watched, guest, seen
    watched.close()


def test_every_byte_is_logged_with_its_time(tmp_path: Path) -> None:
    with console(tmp_path) as (_, guest, seen):
        guest.write(b"one\r\ntwo\xff\r\n\r\nno newline")
    assert [line.text for line in seen] == ["one", "two\\xff", "", "no newline"]
    assert [line.number for line in seen] == [0, 1, 2, 3]
    logged = (tmp_path / "console.log").read_text().splitlines()
    assert [line[12:] for line in logged] == ["one", "two\\xff", "", "no newline"]
    assert all(0 <= float(line[:11]) < 10 for line in logged)


def test_a_line_cut_into_pieces_is_one_line(tmp_path: Path) -> None:
    with console(tmp_path) as (watched, guest, seen):
        guest.write(b"[    1.000000] Kernel pan")
        watched.drain(0.3)
        guest.write(b"ic - not syncing: x\n")
    assert [line.pattern.name for line in seen if line.pattern] == ["panic"]


def test_a_line_without_end_is_cut(tmp_path: Path) -> None:
    with console(tmp_path) as (_, guest, seen):
        guest.write(b"x" * 10000 + b"\n")
    assert [len(line.text) for line in seen] == [4096, 4096, 1808]


def test_a_megabyte_takes_no_quadratic_time(tmp_path: Path) -> None:
    began = time.monotonic()
    with console(tmp_path) as (watched, guest, _):
        guest.write((b"x" * 79 + b"\n") * 12500)
    assert watched.count == 12500
    assert time.monotonic() - began < 10


def test_the_tail_and_the_suspicious_lines_are_kept(tmp_path: Path) -> None:
    with console(tmp_path) as (watched, guest, _):
        guest.write(b"a\n[    1.000000] WARNING: CPU: 0\nb\nc\n")
    assert [line.text for line in watched.suspicious()] == ["[    1.000000] WARNING: CPU: 0"]
    assert [line[12:] for line in watched.tail(2).splitlines()] == ["b", "c"]
    assert [line.text for line in watched.lines(since=2)] == ["b", "c"]


def test_drain_returns_at_the_end_of_file(tmp_path: Path) -> None:
    with console(tmp_path) as (watched, guest, _):
        guest.close()
        began = time.monotonic()
        watched.drain(5)
        watched.drain(5)
        assert time.monotonic() - began < 1


def test_a_burst_of_single_bytes_waits_for_its_reader(tmp_path: Path) -> None:
    text = b"".join(b"[    0.%06d] a line of the kernel\n" % number for number in range(1000))
    ours, guest = console_pipe()
    os.set_blocking(guest.fileno(), False)
    assert sum(guest.write(text[i : i + 1]) or 0 for i in range(len(text))) == len(text)
    watched = Console(ours, tmp_path / "console.log")
    seen: list[ConsoleLine] = []
    watched.start(seen.append, lambda _error: None)
    guest.close()
    watched.close()
    assert "".join(f"{line.text}\n" for line in seen).encode() == text


def test_an_end_that_stays_open_is_left_alone(tmp_path: Path) -> None:
    with console(tmp_path) as (watched, guest, seen):
        guest.write(b"no newline")
        watched.drain(1)
        began = time.monotonic()
        watched.close()
        assert time.monotonic() - began < 2
    assert [line.text for line in seen] == ["no newline"]


def test_an_end_that_writes_for_ever_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imakexec.machine.console._LAST_WORDS_SECONDS", 0.2)
    ours, guest = console_pipe()
    watched = Console(ours, tmp_path / "console.log")
    watched.start(lambda _line: None, lambda _error: None)
    with subprocess.Popen(["yes"], stdout=guest) as flood:
        watched.drain(0.5)
        closing = threading.Thread(target=watched.close, daemon=True)
        closing.start()
        closing.join(5)
        stopped = not closing.is_alive()
        flood.kill()
    guest.close()
    assert stopped


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    ours, guest = console_pipe()
    (tmp_path / "console.log").symlink_to("/dev/full")
    failures: list[OSError] = []
    watched = Console(ours, tmp_path / "console.log")
    watched.start(lambda _line: None, failures.append)
    with guest:
        guest.write(b"line\n")
        watched.drain(2)
    watched.close()
    assert [failure.strerror for failure in failures] == ["No space left on device"]
