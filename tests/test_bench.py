# SPDX-License-Identifier: GPL-2.0-only
"""The benchmark: its figures, its clocks, and what it believes a bare run."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from imakexec import bench
from imakexec.arch import X86_64, Arch
from imakexec.bench import (
    Figures,
    Host,
    MemoryPeak,
    ProcessState,
    Runs,
    Sample,
    Spread,
    bare_argv,
    cpu_model,
    require_both_boots,
    resident_memory,
)
from imakexec.errors import InfraError
from imakexec.job import JobOptions, Prepared, Workshop
from imakexec.kernel.build import KernelImage, KernelRequest
from imakexec.kernel.cache import Cache
from imakexec.kernel.guest_image import GuestImage
from imakexec.machine.accelerator import Accelerator, AcceleratorChoice
from imakexec.machine.qemu import PLACEHOLDERS, MachineConfig, qemu_argv
from imakexec.progress import SilentProgress
from imakexec.report.terminal import render_figures

PROJECT = Path(__file__).parent.parent
BANNER = "[    0.000000] Linux version 6.1.0 (a@b)\n"
END = "[    1.2] imakexec: bare: token feed carried 25 size 5171\n"


def figures(*, reason: str = "TCG: as asked") -> Figures:
    host = Host("Some CPU", 2, "Linux-6.1", 0.5, "QEMU 7.2", Accelerator.TCG, reason)
    job = Runs((Sample(6.0, 5.0), Sample(4.0, 4.0), Sample(5.0, 3.0)))
    bare = Runs((Sample(3.0, 2.0), Sample(4.0, 2.5), Sample(5.0, 3.0)))
    return Figures(host, "linux-source-6.1, 7 patches", 25, job, bare, 100 << 20)


# Figures


def test_a_spread_is_least_middle_and_greatest() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(1.0, 2.0, 3.0)
    assert Spread.of([4.0, 1.0]) == Spread(1.0, 2.5, 4.0)


def test_both_ratios() -> None:
    assert figures().ratio == 5.0 / 4.0
    assert figures().pairwise == Spread(1.0, 1.0, 2.0)


def test_the_figures_are_json() -> None:
    document = json.loads(json.dumps(figures().to_json()))
    assert document["schema"] == "imakexec-bench-roundtrip/1"
    assert document["ratio"] == 1.25
    assert document["job"]["wall"] == {"least": 4.0, "median": 5.0, "most": 6.0}
    assert document["bare"]["cpu"]["median"] == 2.5
    assert document["bare"]["samples"][0] == {"wall": 3.0, "cpu": 2.0}
    assert document["host"]["accelerator"] == "tcg"


def test_the_table_fits_and_says_all() -> None:
    lines = list(render_figures(figures(reason="a long reason " * 12)))
    text = "\n".join(lines)
    assert max(len(line) for line in text.splitlines()) <= 80
    for words in (
        "Some CPU, 2 usable",
        "QEMU 7.2, tcg",
        "main job             4.00 s    5.00 s    6.00 s              4.00 s",
        "bare QEMU            3.00 s    4.00 s    5.00 s              2.50 s",
        "ratio, by pairs        1.00      1.00      2.00",
        "ratio of medians                 1.25",
        "100.0 MiB at most",
    ):
        assert words in text


# The two that are compared


def config() -> MachineConfig:
    return MachineConfig(
        arch=X86_64,
        kernel=Path("/kernel"),
        initrd=Path("/initrd"),
        cmdline="console=ttyS0 imakexec.token=1",
        accelerator=Accelerator.TCG,
        memory_mib=640,
        cpus=3,
    )


def options_of(argv: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in pairwise(argv) if name[0] == "-"}


def test_the_bare_machine_is_the_main_job_s_without_its_connections() -> None:
    bare = options_of(bare_argv(config(), parameters="x=1", console=Path("/log"), tpm=7))
    full = options_of(qemu_argv(config(), PLACEHOLDERS))
    assert full.keys() - bare.keys() == {"-S", "-add-fd", "-mon"}
    assert bare.keys() <= full.keys()
    differing = {name for name in bare if bare[name] != full[name]}
    assert differing <= {"-append", "-chardev", "-no-reboot"}
    assert bare["-append"] == f"{full['-append']} x=1"


def test_the_bare_console_and_tpm_are_the_given_ones() -> None:
    argv = bare_argv(config(), parameters="", console=Path("/log"), tpm=7)
    assert "file,id=console,path=/log" in argv
    assert "socket,id=tpm,fd=7" in argv


@pytest.mark.parametrize(
    ("forced", "end"), [(None, ()), (Accelerator.KVM, ("--accel", "kvm"))], ids=["free", "forced"]
)
def test_the_main_job_is_run_as_a_user_runs_it(
    forced: Accelerator | None, end: tuple[str, ...]
) -> None:
    options = JobOptions(kernel=KernelRequest(arch=X86_64), accelerator=forced, files=7)
    command, *arguments = bench._MainJob(options, Path("/scratch")).argv(Path("/out"))
    assert command == str(Path(sys.executable).parent / "imakexec")
    assert arguments == ["run", "--files", "7", "--out", "/out", *end]


def test_a_bare_run_that_did_its_work_is_believed() -> None:
    require_both_boots(BANNER + BANNER + END, token="feed", files=25)


@pytest.mark.parametrize(
    "console",
    [
        "",
        BANNER + END,
        BANNER + BANNER,
        BANNER + BANNER + BANNER + END,
        BANNER + BANNER + END.replace("feed", "dead"),
        BANNER + BANNER + END.replace("25", "24"),
    ],
)
def test_a_bare_run_that_stopped_half_way_is_not(console: str) -> None:
    with pytest.raises(InfraError, match="did not do its work") as caught:
        require_both_boots(console, token="feed", files=25)
    assert caught.value.tail == console.rstrip("\n")


def test_the_script_in_the_guest_says_what_is_looked_for() -> None:
    script = (PROJECT / "images" / "init-bare").read_text()
    [said] = [line for line in script.splitlines() if line.endswith(">/dev/kmsg")]
    for name, value in (("$token", "feed"), ("$carried", "25"), ("$size", "5171")):
        said = said.replace(name, value)
    require_both_boots(f"{BANNER}{BANNER}{said}", token="feed", files=25)


def test_the_script_mounts_what_the_guest_s_init_mounts() -> None:
    def mounts(name: str) -> list[str]:
        lines = (PROJECT / "images" / name).read_text().splitlines()
        return [line.partition(" ||")[0] for line in lines if line.startswith("busybox ")]

    assert mounts("init-bare") == mounts("init")


def test_the_bare_guest_differs_in_its_init_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: dict[str, bytes] = {}

    def image(self: Workshop, _next: Path, _arch: Arch) -> GuestImage:
        files = (self.project / "images").iterdir()
        packed.update({path.name: path.read_bytes() for path in files})
        return GuestImage(Path("initrd"), "key", ())

    monkeypatch.setattr(Workshop, "image", image)
    here = Path("unused")
    kernel = KernelImage(here, here, here, here, "", "", "", (), "", None, ())
    choice = AcceleratorChoice(Accelerator.TCG, "", forced=False)
    prepared = Prepared(kernel, here, "", GuestImage(here, "", ()), choice)
    workshop = Workshop(PROJECT, SilentProgress(), Cache(tmp_path / "cache"))
    options = JobOptions(kernel=KernelRequest(arch=X86_64))
    bench._bare_image(workshop, prepared, options, tmp_path)

    real = {path.name: path.read_bytes() for path in (PROJECT / "images").iterdir()}
    real["init"] = real.pop("init-bare")
    assert packed == real


# Clocks


def test_a_run_is_timed_to_its_end(tmp_path: Path) -> None:
    before = bench.cpu_seconds()
    wall = bench.run_to_end([sys.executable, "-c", "sum(range(10**6))"], log=tmp_path / "log")
    assert 0 < bench.cpu_seconds() - before < 10
    assert 0 < wall < 10


def test_a_run_that_fails_gives_no_figure(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="ended with status 3") as caught:
        bench.run_to_end(["sh", "-c", "echo because; exit 3"], log=tmp_path / "log")
    assert caught.value.tail == "because"


@pytest.mark.parametrize("looks", [False, True])
def test_a_run_without_an_end_gives_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: bool
) -> None:
    monkeypatch.setattr(bench, "_RUN_SECONDS", 0.1)
    look = (lambda _pid: None) if looks else None
    with pytest.raises(InfraError, match="did not end within"):
        bench.run_to_end(["sleep", "60"], log=tmp_path / "log", look=look)


# Memory


def test_a_program_s_name_may_hold_anything() -> None:
    fields = ["S", "7", *["0"] * 19, "3", *["0"] * 3, "4096", *["0"] * 20]
    state = ProcessState.parse(f"42 (a) b (c)) {' '.join(fields)}\n")
    assert (state.pid, state.parent, state.name, state.stack) == (42, 7, "a) b (c)", 4096)
    assert state.memory == 3 * os.sysconf("SC_PAGE_SIZE")


JOB = ProcessState(pid=10, parent=1, name="imakexec", memory=100, stack=1)
FAMILY = (
    replace(JOB, pid=12, parent=11, name="cc1", memory=5, stack=2),
    replace(JOB, pid=11, parent=10, name="gcc", memory=7, stack=3),
    JOB,
)


def test_descendants_count_and_others_do_not() -> None:
    stranger = replace(JOB, pid=99, parent=1, memory=1000, stack=9)
    assert resident_memory([stranger, *FAMILY], 10, without=()) == 112


def test_the_machine_does_not_count() -> None:
    qemu = replace(JOB, pid=13, parent=10, name="qemu-system-x86", memory=1000, stack=4)
    swtpm = replace(JOB, pid=14, parent=10, name="swtpm", memory=1000, stack=5)
    without = ("qemu-system-x86_64", "swtpm")
    assert resident_memory([*FAMILY, qemu, swtpm], 10, without=without) == 112


def test_a_child_that_has_not_become_a_program_yet_counts_once() -> None:
    copy = replace(JOB, pid=15, parent=10)
    assert resident_memory([*FAMILY, copy], 10, without=()) == 112


def test_processes_without_a_known_stack_all_count() -> None:
    unknown = [replace(process, stack=0) for process in FAMILY]
    assert resident_memory(unknown, 10, without=()) == 112


def test_the_peak_is_of_this_process_and_its_children(tmp_path: Path) -> None:
    own = MemoryPeak(without=())
    own.look(os.getpid())
    assert own.peak > 2**20
    child = MemoryPeak(without=())
    code = "data = b'x' * (30 << 20); import time; time.sleep(0.2)"
    bench.run_to_end([sys.executable, "-c", code], log=tmp_path / "log", look=child.look)
    assert child.peak > 30 << 20
    kept = child.peak
    child.look(-1)
    assert child.peak == kept


# The host


def test_the_processor_is_named() -> None:
    assert cpu_model("processor : 0\nmodel name\t: Some CPU\n\nmodel name\t: B\n") == "Some CPU"
    assert cpu_model("processor : 0\n") == os.uname().machine
