# SPDX-License-Identifier: GPL-2.0-only
"""The printed judgement: complete, in order, at 80 columns, without need of colour."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

from evidence_maker import Machine, Rec, buf, ng, pack, patched_run
from rich.console import Console

from imakexec.attest import Judgement, judge, judge_list
from imakexec.errors import counted
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


def _detached(records: list[Rec], values: dict[str, bytes], tmp_path: Path) -> list[str]:
    log = tmp_path / "log"
    log.write_bytes(pack(records))
    return _printed(judge_list(log, {bank: {10: value} for bank, value in values.items()}))


def test_the_first_record_in_doubt_is_shown_among_its_neighbours(tmp_path: Path) -> None:
    machine = Machine()
    machine.boot()
    machine.files(9)
    values = machine.pcr10
    lines = _detached([*machine.records[:5], ng("/evil")], values, tmp_path)
    at = lines.index("first record in doubt")
    assert [line[0] for line in lines[at + 1 : at + 5]] == [">", " ", " ", " "]
    lines = _printed(_lossy_run())
    at = lines.index("first record in doubt")
    marked = [line for line in lines[at + 1 :] if line.startswith(">")]
    assert len(marked) == 1
    assert "boot_aggregate" in marked[0]


def test_a_list_that_ends_too_early_says_so() -> None:
    machine = patched_run(3)
    machine.snapshot("now")
    machine.extend(ng("/behind-the-back"))
    last = replace(machine.snapshots[-1], after=machine.quote())
    evidence = replace(machine.evidence(), snapshots=(last,))
    assert f">{len(machine.records):5}  the list ends here" in _printed(judge(evidence))


def test_what_a_guest_has_measured_does_not_steer_the_terminal(tmp_path: Path) -> None:
    machine = Machine()
    machine.boot()
    machine.measure(buf("kernel_version", b"\x1b[2J6.1"), ng("/\x1b[31m[bold]\n"))
    lines = _detached(machine.records, {"sha256": bytes(32)}, tmp_path)
    assert not any("\x1b" in line for line in lines)
    assert any("[bold]" in line for line in lines)


def test_what_a_judgement_quotes_does_not_steer_the_terminal() -> None:
    """Its sentence and its place can name a file or a field that somebody else has chosen."""
    judgement = replace(_lossy_run(), sentence="a\x1b[2Jb", where="c\x1b[31md")
    lines = _printed(judgement)
    assert {"          a?[2Jb", "where     c?[31md"} <= set(lines)


def test_one_thing_and_several_are_counted_apart() -> None:
    assert [counted(number, "boot") for number in range(3)] == ["0 boots", "1 boot", "2 boots"]


def test_records_that_only_markers_know_of_are_shown_as_their_claim() -> None:
    machine = patched_run(5)
    del machine.records[9:12]
    machine.snapshots = []
    machine.snapshot("now")
    lines = _printed(judge(machine.evidence()))
    assert "          its markers claim 3 that do not stand before them" in lines


def test_bare_values_are_called_that(tmp_path: Path) -> None:
    machine = patched_run(3)
    lines = _detached(machine.records, machine.pcr10, tmp_path)
    assert any("Nothing was authenticated" in line for line in lines)
    assert not any("Nothing was authenticated" in line for line in _printed(_lossy_run()))


def test_boots_are_listed_with_their_counters() -> None:
    lines = _printed(judge(patched_run(5).evidence()))
    at = lines.index("boots")
    assert lines[at + 1 : at + 5] == [
        "     0  cold    14 records, Linux 6.1.192",
        " " * 16 + "resetCount 2, restartCount 0, clock 110 to 140 ms",
        "    14  kexec   5 records, Linux 6.1.192",
        " " * 16 + "resetCount 2, restartCount 0, clock 150 to 160 ms",
    ]


def test_a_full_buffer_is_called_full() -> None:
    lines = _printed(judge(patched_run(200, extra=2048).evidence()))
    assert any("full: one more record would not have found room" in line for line in lines)
    assert any("markers  load only" in line for line in lines)
    assert not any("full:" in line for line in _printed(judge(patched_run(5).evidence())))


def test_a_kernel_s_version_does_not_pose_as_a_verdict(tmp_path: Path) -> None:
    machine = Machine()
    machine.boot()
    machine.measure(buf("kernel_version", b"6.1\nverdict   IN_SYNC (match)"))
    del machine.records[1]
    lines = _detached(machine.records, {"sha256": bytes(32)}, tmp_path)
    assert [line for line in lines if line.startswith("verdict")] == [
        "verdict   OUT_OF_SYNC (foreign_extend)"
    ]
