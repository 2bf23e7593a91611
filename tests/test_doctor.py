# SPDX-License-Identifier: GPL-2.0-only
"""The doctor: every check on a host that has it and on one that has not."""

from __future__ import annotations

import json
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imakexec import doctor
from imakexec.doctor import CHECKS, Check, DoctorReport, Row, State, disk_row, examine, memory_row
from imakexec.errors import InfraError
from imakexec.machine.accelerator import Accelerator, AcceleratorChoice
from imakexec.progress import SilentProgress
from imakexec.report.health import render_doctor

GIB = 2**30


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache instead of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "imakexec"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which programs are looked for; it is empty."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def install(programs: Path, name: str, script: str) -> None:
    (programs / name).write_text(f"#!/bin/sh\n{script}\n")
    (programs / name).chmod(0o755)


def rows_of(name: str) -> dict[str, Row]:
    [check] = [check for check in CHECKS if check.name == name]
    return {row.name: row for row in check.rows()}


def build_kernel(cache: Path, key: str, release: str) -> None:
    entry = cache / "kernel" / key
    entry.mkdir(parents=True)
    (entry / "bzImage").touch()
    (entry / "build.json").write_text(json.dumps({"release": release}))


# The frame


@pytest.mark.parametrize(
    ("states", "healthy"),
    [
        ([], True),
        ([State.OK, State.WARNING], True),
        ([State.OK, State.MISSING, State.OK], False),
    ],
)
def test_a_host_is_healthy_when_nothing_is_missing(states: list[State], healthy: bool) -> None:
    assert DoctorReport(tuple(Row("x", state, "") for state in states)).healthy is healthy


@pytest.mark.parametrize(
    "error",
    [
        InfraError("it broke"),
        OSError(30, "it broke"),
        ValueError("it broke"),
        KeyError("it broke"),
    ],
)
def test_what_stops_a_check_is_a_row(error: Exception) -> None:
    def look() -> Iterator[Row]:
        yield Row("first", State.OK, "")
        raise error

    first, broken = Check("all", look, "repair it").rows()
    assert first.name == "first"
    assert (broken.name, broken.state, broken.remedy) == ("all", State.MISSING, "repair it")
    assert "it broke" in broken.seen


def test_a_host_with_nothing_is_examined_to_the_end(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not list(programs.iterdir())
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(doctor, "_PYTHON_MODULES", ())
    report = examine(SilentProgress())
    missing = {row.name for row in report.rows if row.state is State.MISSING}
    assert missing >= {
        *("packages", "QEMU", "QEMU device tpm-tis", "swtpm", "swtpm_setup"),
        *("kernel source", "cache folder"),
    }
    assert not report.healthy
    assert all(row.remedy for row in report.rows if row.state is not State.OK)


def test_the_doctor_needs_nothing_that_has_to_be_installed() -> None:
    package_folder = Path(doctor.__file__).parents[1]
    code = f"import sys; sys.path.insert(0, {str(package_folder)!r}); import imakexec.doctor"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


# Programs


def test_a_package_is_there_only_if_it_is_installed(programs: Path) -> None:
    answers = ["gcc ii 4:12.2.0-3", "make rc 4.3-4.1", "bison un ", "no packages found matching bc"]
    install(programs, "dpkg-query", "\n".join(f"echo '{a}'" for a in answers) + "\nexit 1")
    rows = rows_of("packages")
    assert rows["package gcc"] == Row("package gcc", State.OK, "4:12.2.0-3")
    for name in ("make", "bison", "bc", "swtpm"):
        assert rows[f"package {name}"].state is State.MISSING
        assert f"apt-get install {name}" in rows[f"package {name}"].remedy


def test_a_python_module_must_load(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = (("pytest", "pytest"), ("gone", "no_such_module"), ("pytest", "pytest.gone"))
    monkeypatch.setattr(doctor, "_PYTHON_MODULES", modules)
    there, gone, broken = next(c for c in CHECKS if c.name == "python modules").rows()
    assert (there.state, there.seen) == (State.OK, pytest.__version__)
    assert gone.state is broken.state is State.MISSING
    assert gone.seen == "ModuleNotFoundError: No module named 'no_such_module'"


def test_the_guardian_ends_the_child_of_a_killed_harness() -> None:
    assert rows_of("guardian")["guardian"].state is State.OK


@pytest.mark.parametrize(
    "harness",
    [
        "import os, subprocess; subprocess.Popen(['sleep', '2']); os.kill(os.getpid(), 9)",
        "raise SystemExit('no children here')",
    ],
)
def test_a_guardian_that_does_not_is_noticed(harness: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_KILLED_HARNESS", harness)
    monkeypatch.setattr(doctor, "_ASK_SECONDS", 0.5)
    assert rows_of("guardian")["guardian"].state is State.MISSING


def test_programs_tell_their_versions(programs: Path) -> None:
    install(programs, "qemu-system-x86_64", "echo 'QEMU 7.2'; echo Copyright")
    install(programs, "swtpm", "echo 'TPM 0.7'")
    assert rows_of("QEMU")["QEMU"] == Row("QEMU", State.OK, "QEMU 7.2")
    assert rows_of("swtpm")["swtpm"] == Row("swtpm", State.OK, "TPM 0.7")


def test_a_program_that_fails_is_missing(programs: Path) -> None:
    install(programs, "swtpm_setup", "exit 127")
    assert rows_of("swtpm_setup")["swtpm_setup"].state is State.MISSING
    install(programs, "swtpm_setup", "exit 0")
    assert rows_of("swtpm_setup")["swtpm_setup"].state is State.OK


def test_a_program_that_hangs_is_missing(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ASK_SECONDS", 0.2)
    install(programs, "swtpm", "exec /bin/sleep 30")
    assert "no end after" in rows_of("swtpm")["swtpm"].seen


@pytest.mark.parametrize(
    ("devices", "state"),
    [
        ('name "tpm-tis", bus ISA', State.OK),
        ('name "tpm-tis-device"\nname "tpm-crb"', State.MISSING),
    ],
)
def test_qemu_must_have_the_tpm(programs: Path, devices: str, state: State) -> None:
    install(programs, "qemu-system-x86_64", f"[ \"$*\" = '-device help' ] && echo '{devices}'")
    assert rows_of("QEMU device tpm-tis")["QEMU device tpm-tis"].state is state


# What runs are made of


def test_the_kernel_source_is_looked_for_without_the_network(programs: Path) -> None:
    offer = "echo 'Version: 6.1.9-1'; echo 'Size: 104857600'"
    install(programs, "apt-cache", f'[ "$3" = linux-source-6.1 ] && {{ {offer}; }}')
    assert rows_of("kernel source")["linux-source-6.1"].seen == "6.1.9-1, 100 MiB"


def test_package_lists_without_the_source_are_no_obstacle(programs: Path) -> None:
    install(programs, "apt-cache", "exit 100")
    row = rows_of("kernel source")["linux-source-6.1"]
    assert row.state is State.WARNING
    assert "apt-get update" in row.remedy


def test_the_cache_need_not_exist_yet(cache: Path) -> None:
    rows = rows_of("cache folder")
    assert rows["cache folder"] == Row("cache folder", State.OK, str(cache))
    assert not cache.exists(), "a doctor looks and leaves things alone"


def test_a_cache_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    row = rows_of("cache folder")["cache folder"]
    assert row.state is State.MISSING
    assert "XDG_CACHE_HOME" in row.remedy


def test_a_user_without_a_home_is_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_account(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "")
    monkeypatch.setattr(pwd, "getpwuid", no_account)
    row = rows_of("cache folder")["cache folder"]
    assert (row.state, row.seen) == (State.MISSING, "there is no home folder to keep kernels in")


def test_a_damaged_kernel_in_the_cache_is_a_row(cache: Path) -> None:
    build_kernel(cache, "a", "6.1.1")
    (cache / "kernel" / "a" / "build.json").write_text("{")
    assert rows_of("kernels")["kernels"].state is State.MISSING


@pytest.mark.parametrize(
    ("free", "built", "state"),
    [
        (2 * GIB, False, State.OK),
        (2 * GIB - 1, False, State.MISSING),
        (2 * GIB - 1, True, State.WARNING),
    ],
)
def test_a_build_needs_room_and_a_built_kernel_less(free: int, built: bool, state: State) -> None:
    assert disk_row(free, built=built).state is state


def test_the_newest_kernel_is_named(cache: Path) -> None:
    assert rows_of("kernels")["kernels"].state is State.WARNING
    build_kernel(cache, "b", "6.1.1")
    build_kernel(cache, "a", "6.1.2")
    assert rows_of("kernels")["kernels"].seen == "2 built, the newest is 6.1.2"


@pytest.mark.parametrize(
    ("accelerator", "built", "state", "remedy"),
    [
        (Accelerator.KVM, True, State.OK, ""),
        (Accelerator.TCG, True, State.WARNING, "TCG needs no KVM"),
        (Accelerator.TCG, False, State.WARNING, "./run_qemu.sh builds one and then tries KVM"),
    ],
)
def test_the_accelerator_comes_with_its_reason(
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    accelerator: Accelerator,
    built: bool,
    state: State,
    remedy: str,
) -> None:
    def probe(_arch: object, *, kernel: Path | None, **_: object) -> AcceleratorChoice:
        assert (kernel is not None) is built
        return AcceleratorChoice(accelerator, "the reason", forced=False)

    if built:
        build_kernel(cache, "a", "6.1.1")
    monkeypatch.setattr(doctor, "probe_accelerator", probe)
    row = rows_of("accelerator")["accelerator"]
    assert (row.state, row.seen) == (state, f"{accelerator}; the reason")
    assert remedy in row.remedy


@pytest.mark.parametrize(("available", "state"), [(2**20, State.OK), (2**20 - 1, State.WARNING)])
def test_a_run_needs_memory(available: int, state: State) -> None:
    row = memory_row(f"MemTotal:  8388608 kB\nMemFree: 1 kB\nMemAvailable:  {available} kB\n")
    assert row.state is state
    assert row.seen == "1.0 of 8.0 GiB available"


# What is shown


def test_every_line_fits_and_nothing_depends_on_colour() -> None:
    long = "a word and " * 20
    rows = (Row("n" * 30, State.WARNING, long, long), Row("swtpm", State.MISSING, "", "do it"))
    lines = [line.plain for line in render_doctor(DoctorReport(rows))]
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("warning ")
    assert any(line.strip() == "to do: do it" for line in lines)
    assert lines[-1] == "Missing: swtpm."


def test_a_healthy_host_is_told_so() -> None:
    *_, last = render_doctor(DoctorReport((Row("QEMU", State.OK, "7.2"),)))
    assert last.plain == "Nothing is missing."
