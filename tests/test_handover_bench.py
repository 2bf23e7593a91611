# SPDX-License-Identifier: GPL-2.0-only
"""The benchmark of the hand-over: what it reads, what it believes, and how it shows figures.

The texts of a guest are captured ones, cut where what is left out changes nothing.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from imakexec import cli, handover_bench
from imakexec.arch import X86_64
from imakexec.bench import Host, Spread, parse_records
from imakexec.errors import GuestFailure, UserError
from imakexec.handover_bench import HandoverFigures, Row, handover, kernels_of
from imakexec.handover_meter import (
    CMDLINE,
    GROW,
    SYMBOLS,
    Area,
    Held,
    Interval,
    MemoryState,
    find_intervals,
    parse_areas,
    parse_free,
)
from imakexec.handover_run import Sample, Subject, require_carried, require_no_complaint
from imakexec.job import Prepared, Workshop
from imakexec.kernel.build import KernelImage, KernelRequest
from imakexec.kernel.cache import Cache
from imakexec.kernel.guest_image import GuestImage
from imakexec.kernel.source import SourceTree
from imakexec.machine.accelerator import Accelerator, AcceleratorChoice
from imakexec.machine.qemu import PLACEHOLDERS, qemu_argv
from imakexec.progress import SilentProgress
from imakexec.report.handover import (
    print_handover,
    render_markdown,
)

PROJECT = Path(__file__).parent.parent

# 6.1.176 with the series, 1020 records.
CONSOLE = """\
[    4.812945] agent (1): drop_caches: 3
[    7.663347] imakexec_load: nsecs=1863543861
[    7.742820] imakexec_load: nsecs=13747473
[    7.756397] agent (1): drop_caches: 3
[    9.595095] imakexec_load: nsecs=1715126730
[    9.610611] agent (1): drop_caches: 3
[    9.723460] imakexec_execute: nsecs=19752935
[    9.728596] kexec_core: Starting new kernel
[    0.000000] Linux version 6.1.176 (imakexec@imakexec) (gcc (Debian 12.2.0-14+deb12u1) 12.2.0)
""".splitlines()

HIDDEN = "0x(____ptrval____)-0x(____ptrval____)"
AREAS = f"""\
{HIDDEN}    8192 acpi_os_map_iomem+0x218/0x290 phys=0x000000003ffe2000 ioremap
{HIDDEN}    8192 pci_iomap_range+0x72/0x90 phys=0x00000000febf8000 ioremap
{HIDDEN}    8192 pci_iomap_range+0x72/0x90 phys=0x00000000febf9000 ioremap
{HIDDEN}   16384 n_tty_open+0x14/0xa0 pages=3 vmalloc
"""
# Further areas with a kexec loaded.
OURS = f"{HIDDEN}  139264 kimage_map_segment+0x154/0x170 vmap\n"
UNRELATED = f"{HIDDEN} 11804672 unpurged vm_area\n"
# The same of 7.3-rc7.
MAINLINE = f"""\
{HIDDEN}  139264 ima_add_kexec_buffer+0x107/0x200 pages=33 vmalloc
{HIDDEN}  139264 kimage_map_segment+0x16d/0x1c0 vmap
"""

ZONEINFO = """\
Node 0, zone      DMA
  pages free     3840
        min      61
      nr_free_pages 3840
  pagesets
    cpu: 0
              count: 0
              high:  18
              batch: 1
  vm stats threshold: 2
Node 0, zone    DMA32
  pages free     239154
  pagesets
    cpu: 0
              count: 1086
              high:  1234
              batch: 63
  vm stats threshold: 8
"""


# Of 7.3-rc7, where the numbers stand further to the right.
NEW_ZONEINFO = """\
  pagesets
    cpu: 0
              count:    3029
              high:     6981
              batch:    63
              high_min: 1237
              high_max: 31088
"""


# What the guest says


def test_the_intervals_are_found_in_their_order() -> None:
    assert find_intervals(CONSOLE, Interval.LOAD) == (1.863543861, 0.013747473, 1.71512673)
    assert find_intervals(CONSOLE, Interval.EXECUTE) == (0.019752935,)
    assert find_intervals(["imakexec_execute: nsecs="], Interval.EXECUTE) == ()


def test_areas_are_told_apart_by_caller_size_and_pages() -> None:
    areas = parse_areas(AREAS + OURS + UNRELATED)
    assert areas[Area("pci_iomap_range", 8192, 0)] == 2
    assert areas[Area("n_tty_open", 16384, 3)] == 1
    assert areas[Area("kimage_map_segment", 139264, 0)] == 1
    assert areas.total() == 6


def test_free_memory_is_what_the_zones_and_the_cpus_lists_of_them_hold() -> None:
    assert parse_free(ZONEINFO, page=4096) == (3840 + 239154 + 1086) * 4096
    assert parse_free(NEW_ZONEINFO, page=1) == 3029
    read = MemoryState.parse(zoneinfo=ZONEINFO, vmallocinfo=AREAS, page=4096)
    assert read == MemoryState(parse_free(ZONEINFO, page=4096), parse_areas(AREAS))


def test_a_text_without_free_memory_is_not_read_as_none() -> None:
    with pytest.raises(ValueError, match="no free pages"):
        parse_free("Node 0, zone   Normal\n  pages free     0\n", page=4096)


def state(areas: str, *, free: int = 0) -> MemoryState:
    return MemoryState(free, parse_areas(areas))


def test_a_mapping_of_the_segment_owns_no_pages_and_its_guard_page_does_not_count() -> None:
    held = Held.between(state(AREAS, free=9), state(AREAS + OURS + UNRELATED, free=4), page=4096)
    assert held == Held(5, {}, {"kimage_map_segment": 135168})


def test_a_second_buffer_is_counted_by_the_pages_it_owns() -> None:
    held = Held.between(state(AREAS), state(AREAS + MAINLINE), page=4096)
    assert held.owned == {"ima_add_kexec_buffer": 135168}
    assert held.mapped == {"kimage_map_segment": 135168}


def test_what_was_there_before_is_not_held_by_the_load() -> None:
    assert Held.between(state(AREAS + OURS), state(AREAS + OURS), page=4096) == Held(0, {}, {})


# What is done in the guest


def test_the_growing_script_writes_every_number_once(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file"
    for start, end in (("0", "3"), ("3", "5")):
        subprocess.run(["sh", "-c", GROW, "sh", str(file), start, end], check=True)
    assert file.read_text() == "5\n"


# What is believed


def test_a_list_that_was_carried_whole_is_believed() -> None:
    require_carried(b"abc", b"abcdef", records=(3, 6))


@pytest.mark.parametrize(
    ("after", "count", "same"), [(b"ab", 2, 2), (b"", 0, 0), (b"abXdef", 6, 2), (b"abc", 3, 3)]
)
def test_a_list_that_was_not_gives_no_figure(after: bytes, count: int, same: int) -> None:
    with pytest.raises(GuestFailure, match=f"has {count} records.* first {same} begin"):
        require_carried(b"abc", after, records=(3, count))


def test_that_there_is_no_tpm_is_no_complaint() -> None:
    require_no_complaint([*CONSOLE, "[ 1.744288] ima: No TPM chip found, activating TPM-bypass!"])


def test_a_complaint_of_either_kernel_gives_no_figure() -> None:
    line = "[    9.7] ima: Kexec segment is full, carrying 3 of 5 measurements."
    with pytest.raises(GuestFailure) as caught:
        require_no_complaint([*CONSOLE, line])
    assert caught.value.tail == line


# What is compared


def test_a_base_with_patches_is_measured_without_and_with_them() -> None:
    found = kernels_of(["linux-6.1", "linux-6.12", "linux-6.1"], PROJECT)
    plain, patched, other = found.values()
    assert list(found)[::2] == ["6.1, plain", "6.12"]
    assert list(found)[1].startswith("6.1, ")
    assert (plain.patches, patched.patches, other.patches) == (0, None, None)
    assert {request.symbols for request in found.values()} == {SYMBOLS}


@pytest.mark.parametrize(
    ("base", "kconfig", "patches", "room"),
    [
        ("linux-6.12", "config IMA\n", None, None),
        ("linux-7.3", "config IMA_KEXEC_EXTRA_MEMORY_KB\n", None, 0),
        ("linux-6.1", "config IMA\n", None, 0),
        ("linux-6.1", "config IMA\n", 0, None),
    ],
)
def test_all_kernels_have_the_same_room(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    base: str,
    kconfig: str,
    patches: int | None,
    room: int | None,
) -> None:
    file = tmp_path / "tree" / "security/integrity/ima/Kconfig"
    file.parent.mkdir(parents=True)
    file.write_text(kconfig)
    tree = SourceTree(tmp_path / "tree", "", "", "", "")
    monkeypatch.setattr(handover_bench, "debian_source", lambda *_: tree)
    workshop = Workshop(PROJECT, SilentProgress(), Cache(tmp_path / "cache"))
    request = KernelRequest(arch=X86_64, base=base, patches=patches)
    assert handover_bench._with_least_room(request, workshop).extra_memory_kb == room


def test_lengths_are_positive_numbers() -> None:
    assert parse_records("1000, 20") == (1000, 20)
    for text in ("", "1,", "0", "-1", "many"):
        with pytest.raises(UserError, match="lengths"):
            parse_records(text)


HERE = Path("unused")


def subject(name: str = "6.1", accelerator: Accelerator = Accelerator.TCG) -> Subject:
    kernel = KernelImage(HERE, HERE, HERE, HERE, "", "", "base", ("a", "b"), "", 0, ())
    choice = AcceleratorChoice(accelerator, "as asked", forced=True)
    prepared = Prepared(kernel, HERE, "", GuestImage(HERE, "", ()), choice)
    return Subject(name, KernelRequest(arch=X86_64), prepared)


def test_the_machine_has_no_tpm_and_prints_trace_events() -> None:
    config = subject().config(counting=False)
    argv = qemu_argv(config, PLACEHOLDERS)
    assert "-tpmdev" not in argv
    assert "-icount" not in argv
    assert CMDLINE in config.cmdline.split()


def test_instructions_are_counted_by_the_guest_s_clock() -> None:
    argv = qemu_argv(subject().config(counting=True), PLACEHOLDERS)
    assert argv[argv.index("-icount") + 1] == "shift=0,sleep=off"
    assert subject().can_count
    assert not subject(accelerator=Accelerator.KVM).can_count


# Figures


def sample(factor: int = 1, *, second: bool = False) -> Sample:
    owned = {"ima_add_kexec_buffer": 135168 * factor} if second else {}
    held = Held(19832832 + 135168 * factor, owned, {"kimage_map_segment": 135168 * factor})
    return Sample(1020, 131485, 0.8, 0.02 * factor, 135168 * factor, held, Held(4096, {}, {}))


def figures(*, counted: bool = True) -> HandoverFigures:
    host = Host("Some CPU", 2, "Linux-6.1", 0.5, "QEMU 7.2", Accelerator.TCG, "a reason " * 12)
    rows = [
        Row(
            name,
            wanted,
            tuple(sample(factor * n, second=name == "7.3") for n in (1, 3, 2)),
            sample(factor) if counted else None,
        )
        for wanted, factor in ((0, 1), (100000, 1000))
        for name in ("6.1, 7 patches", "7.3")
    ]
    kernels = {"6.1, 7 patches": "linux-source-6.1 6.1.192-2, 7 patches", "7.3": "linux-7.3 " * 9}
    return HandoverFigures(host, 1024, kernels, 3, tuple(rows))


def test_a_row_s_spreads_are_of_its_timed_runs() -> None:
    row = figures().rows[0]
    assert row.execute == Spread(0.02, 0.04, 0.06)
    assert row.load == Spread(0.8, 0.8, 0.8)
    assert row.median(lambda run: run.segment) == 2 * 135168


def test_the_figures_are_json() -> None:
    document = json.loads(json.dumps(figures().to_json()))
    assert document["schema"] == "imakexec-bench-handover/1"
    first = document["rows"][0]
    assert first["execute"]["median"] == 0.04
    assert first["samples"][1]["held"]["mapped"] == {"kimage_map_segment": 3 * 135168}
    assert first["counted"]["execute"] == 0.02
    assert document["host"]["accelerator"] == "tcg"


def printed(shown: HandoverFigures) -> list[str]:
    written = io.StringIO()
    print_handover(Console(file=written, soft_wrap=True), shown)
    return written.getvalue().splitlines()


def cells(lines: Sequence[str], kernel: str) -> list[list[str]]:
    """What stands in the lines of a kernel, by table and, within it, by length."""
    return [line[len(kernel) :].split() for line in lines if line.startswith(f"{kernel} ")]


def test_the_tables_fit_and_say_all() -> None:
    lines = printed(figures())
    assert max(len(line) for line in lines) <= 80
    for words in (
        "machine   QEMU 7.2, tcg, 1024 MiB, no TPM",
        "as booted (1020 in all, 128 KiB)",
        "100000 records (1020 in all, 128 KiB)",
    ):
        assert words in lines
    assert cells(lines, "7.3") == [
        ["264", "264", "264", "19632", "0", "4"],
        ["264000", "264000", "264000", "283368", "263736", "4"],
        ["40.0", "20.0", "60.0", "800.0", "800.0", "800.0"],
        ["40000.0", "20000.0", "60000.0", "800.0", "800.0", "800.0"],
        ["20.00", "800.00"],
        ["20000.00", "800.00"],
    ]
    assert cells(lines, "6.1, 7 patches")[1] == ["264000", "264000", "0", "283368", "263736", "4"]


def test_an_accelerator_that_cannot_count_leaves_a_dash() -> None:
    assert cells(printed(figures(counted=False)), "7.3")[-1] == ["-", "-"]


def test_markdown_says_the_same() -> None:
    text = render_markdown(figures())
    row = "| 100000 records (1020 in all, 128 KiB) | 7.3 | 264000 | 264000 | 264000 | 283368 |"
    assert row in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) == 3 * (2 + 4)


# The turns


def test_the_kernels_take_turns_and_count_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int, bool]] = []

    def take(self: Subject, wanted: int, *_: object, counting: bool, **__: object) -> Sample:
        seen.append((self.name, wanted, counting))
        return sample()

    monkeypatch.setattr(Subject, "sample", take)
    monkeypatch.setattr(handover_bench, "_prepare", lambda *_: [subject("a"), subject("b")])
    monkeypatch.setattr(handover_bench, "tool_version", lambda _: "QEMU")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    got = handover(SilentProgress(), records=[7], runs=2)
    turn = [("a", 0), ("b", 0), ("a", 7), ("b", 7)]
    assert seen == [(*each, counting) for counting in (False, False, True) for each in turn]
    assert [(row.kernel, row.wanted, len(row.samples)) for row in got.rows] == [
        (*each, 2) for each in turn
    ]
    assert all(row.counted is not None for row in got.rows)


def test_the_command_passes_its_options_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked: dict[str, object] = {}

    def measure(_: object, **options: object) -> HandoverFigures:
        asked.update(options)
        return figures()

    monkeypatch.setattr(handover_bench, "handover", measure)
    files = ["--json", str(tmp_path / "j"), "--markdown", str(tmp_path / "m")]
    arguments = ["--base", "linux-6.1", "--base", "linux-7.3", "--records", "5,6", "--runs", "4"]
    monkeypatch.setattr(sys, "argv", ["imakexec", "bench", "handover", *arguments, *files])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert asked == {
        "bases": ["linux-6.1", "linux-7.3"],
        "records": (5, 6),
        "runs": 4,
        "accelerator": None,
    }
    assert "2nd buf." in capsys.readouterr().out
    assert json.loads((tmp_path / "j").read_text())["runs"] == 4 - 1
    assert (tmp_path / "m").read_text() == render_markdown(figures())
