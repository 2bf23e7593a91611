# SPDX-License-Identifier: GPL-2.0-only
"""The printed judgement: complete, in order, at 80 columns, without need of colour."""

from __future__ import annotations

import io
import re
from pathlib import Path

from evidence_maker import Machine, patched_run
from rich.console import Console

from imakexec.attest import Judgement, judge
from imakexec.evidence import BootKind
from imakexec.report.terminal import print_complaints, print_judgement


def _printed(judgement: Judgement) -> list[str]:
    written = io.StringIO()
    console = Console(file=written, soft_wrap=True)
    print_judgement(console, judgement, folder=Path("there"))
    return written.getvalue().splitlines()


def _lossy_run() -> Judgement:
    machine = Machine()
    machine.boot()
    carried = list(machine.records)
    machine.files(3)
    machine.snapshot("before-execute")
    machine.records = carried
    machine.boot(BootKind.KEXEC)
    machine.snapshot("after-kexec")
    return judge(machine.evidence())


def test_a_kexec_in_sync_is_told_from_boot_to_verdict() -> None:
    lines = _printed(judge(patched_run(5).evidence()))
    words = ["boot_aggregate", "kexec_load", "kexec_execute", "boot_aggregate", "hand-over buffer"]
    words += ["PCR 10", "sha1", "sha256", "verdict   IN_SYNC (match)", "action    Nothing."]
    at = 0
    for word in words:
        at = next(i for i in range(at, len(lines)) if word in lines[i]) + 1
    assert lines[-1] == "evidence  there"


def test_the_fill_of_the_buffer_is_drawn_to_scale() -> None:
    judgement = judge(patched_run(5).evidence())
    assert judgement.timeline is not None
    [handover] = judgement.timeline.handovers
    [bar] = [line for line in _printed(judgement) if "#" in line]
    assert f"{handover.bytes_used} of {handover.segment_size} bytes" in bar
    assert handover.fill_percent is not None
    assert abs(bar.count("#") / 40 - handover.fill_percent / 100) <= 1 / 40


def test_a_loss_shows_that_no_bank_matches() -> None:
    lines = _printed(_lossy_run())
    assert sum("NO MATCH" in line for line in lines) == 2
    assert any("3 records that were seen before it are missing" in line for line in lines)
    assert "verdict   OUT_OF_SYNC (no_markers)" in lines


def test_nothing_but_digests_is_wider_than_a_terminal() -> None:
    for judgement in (judge(patched_run(5).evidence()), _lossy_run()):
        for line in _printed(judgement):
            assert len(line) <= 80 or re.search(r"[0-9a-f]{64}$", line), line


def test_kernel_messages_are_shown_as_they_are() -> None:
    written = io.StringIO()
    print_complaints(Console(file=written), ["[    1.5] ima: [bold]full[/bold]"])
    assert written.getvalue() == "kernel    [    1.5] ima: [bold]full[/bold]\n"
