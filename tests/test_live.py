# SPDX-License-Identifier: GPL-2.0-only
"""Progress in a log: an end for each step, and a sign of life from a long one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from imakexec.report import live


def _progress() -> tuple[live.TerminalProgress, io.StringIO]:
    written = io.StringIO()
    return live.TerminalProgress(Console(file=written, width=200)), written


def test_a_step_ends_with_its_result() -> None:
    progress, written = _progress()
    with progress.step("pack [the] guest") as step:
        step.update("not worth a line")
        step.done("7.4 MiB")
    assert written.getvalue().split(maxsplit=2)[2] == "ok  pack [the] guest  7.4 MiB\n"


def test_a_step_that_fails_says_so() -> None:
    progress, written = _progress()
    with pytest.raises(ZeroDivisionError), progress.step("divide"):
        raise ZeroDivisionError
    assert "failed  divide" in written.getvalue()


def test_a_long_step_reports_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("imakexec.report.live.time.monotonic", lambda: now)
    progress, written = _progress()
    with progress.step("kernel") as step:
        for second in range(50):
            now = 1000.0 + second
            step.update(f"{second} files", second / 100)
    lines = written.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["20.00", "40.00", "49.00"]
    assert lines[0].endswith("..  kernel 20%  20 files")


@pytest.mark.parametrize("soft_wrap", [False, True])
def test_a_sign_of_life_is_one_line(monkeypatch: pytest.MonkeyPatch, soft_wrap: bool) -> None:
    now = 1000.0
    monkeypatch.setattr("imakexec.report.live.time.monotonic", lambda: now)
    written = io.StringIO()
    console = Console(file=written, width=80, soft_wrap=soft_wrap)
    with live.TerminalProgress(console).step("kernel linux-source-6.1 with 7 patches") as step:
        now += 30
        step.update("711 files, drivers/pci/controller/very/deep/setup-of-the-resources.o")
    first, _ = written.getvalue().splitlines()
    assert len(first) == 80
    assert first.endswith("…")


def test_a_command_can_be_pasted() -> None:
    assert live.shell_command(("qemu", "-m", "512", "-append", "a b", "-S")) == (
        "qemu \\\n    -m 512 \\\n    -append 'a b' \\\n    -S"
    )


def test_a_note_fits_a_terminal_and_hangs_below_itself() -> None:
    progress, written = _progress()
    path = "/" + "x" * 90
    progress.note(
        "accelerator: tcg (KVM [opened] but the probe guest printed no banner within 3 s)"
    )
    progress.note(path)
    first, second, *long = written.getvalue().splitlines()
    assert first == f"{'':9} --  accelerator: tcg (KVM [opened] but the probe guest printed no"
    assert second == f"{'':14}banner within 3 s)"
    assert [line.strip() for line in long] == [f"--  {path}"]
