# SPDX-License-Identifier: GPL-2.0-only
"""What this host lacks is said before or instead of a verdict, never as a fault of the kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Lab, World
from imakexec.arch import X86_64
from imakexec.errors import InfraError
from imakexec.kernel.build import KernelRequest
from imakexec.machine import accelerator
from imakexec.machine.accelerator import Accelerator, probe_accelerator
from imakexec.machine.swtpm import start_swtpm
from imakexec.project import find_project
from imakexec.strict_json import parse_json
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import SuiteRun

_KIB = 1024

# A QEMU whose KVM opens and then runs nothing, which is what some hosts have.
_HANGING_KVM = """#!/bin/sh
case "$*" in
*" -accel kvm "*) exec sleep 300 ;;
*) exec {qemu} "$@" ;;
esac
"""


def assert_refused(run: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """The run ended with that exit code and one message that has all the words."""
    assert run.returncode == code, run.stderr
    assert run.stderr.count("imakexec: ") == 1, run.stderr
    assert "Traceback" not in run.stderr
    message = run.stderr[run.stderr.index("imakexec: ") :]
    assert [word for word in words if word not in message] == [], message
    assert "  to do: " in message


# KVM


@pytest.fixture
def hanging_kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have /dev/kvm open, and guests under KVM hang."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / X86_64.qemu).write_text(_HANGING_KVM.format(qemu=shutil.which(X86_64.qemu)))
    (programs / X86_64.qemu).chmod(0o755)
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(accelerator, "_DEVICE", device)


@pytest.mark.usefixtures("hanging_kvm")
def test_kvm_that_opens_and_hangs_is_refused_in_seconds(
    lab: Lab, patched: KernelRequest, tmp_path: Path
) -> None:
    if patched.arch is not X86_64:
        pytest.skip("needs --arch x86_64: KVM is for guests of the host's own architecture")
    kernel = lab.workshop.kernel(patched).image
    started = time.monotonic()
    with pytest.raises(InfraError, match="KVM opened but the probe guest printed nothing") as error:
        probe_accelerator(X86_64, forced=Accelerator.KVM, memory=tmp_path, kernel=kernel)
    assert time.monotonic() - started < 10
    assert "--accel" in error.value.remedy

    started = time.monotonic()
    choice = probe_accelerator(X86_64, forced=None, memory=tmp_path, kernel=kernel)
    assert time.monotonic() - started < 1, "what was learned must be remembered"
    assert choice.accelerator is Accelerator.TCG
    assert "KVM opened but the probe guest printed nothing" in choice.reason


@pytest.mark.parametrize(
    ("forced", "chosen"), [(Accelerator.KVM, None), (None, Accelerator.TCG)], ids=["forced", "free"]
)
def test_a_host_without_kvm(
    forced: Accelerator | None,
    chosen: Accelerator | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = tmp_path / "kvm"
    monkeypatch.setattr(accelerator, "_DEVICE", device)
    if chosen is None:
        with pytest.raises(InfraError, match=f"{device} is missing") as error:
            probe_accelerator(X86_64, forced=forced, memory=tmp_path, kernel=None)
        assert "--accel" in error.value.remedy
    else:
        choice = probe_accelerator(X86_64, forced=forced, memory=tmp_path, kernel=None)
        assert (choice.accelerator, choice.reason) == (chosen, f"KVM: {device} is missing")


# Requests that cannot be carried out: nothing is run for them, though the kernel is there.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--patches=99"], ["7 patches", "99", "--patches 0 to 7"]),
        (["--banks=sha256,md5"], ["PCR banks", "--banks"]),
        (["--arch=vax"], ["vax", "--arch", "x86_64"]),
        (["--next-kernel=/nonexistent"], ["--next-kernel /nonexistent"]),
        (["--json=/nonexistent/file"], ["--json /nonexistent/file"]),
    ],
)
def test_a_request_that_cannot_be_carried_out(
    world: World, arguments: list[str], words: list[str]
) -> None:
    assert_refused(world.run(*arguments), 2, *words)
    assert not world.evidence.exists()
    world.assert_nothing_is_left()


@pytest.mark.parametrize("missing", ["qemu", "swtpm", "swtpm_setup"])
def test_a_host_without_a_program(world: World, tmp_path: Path, missing: str) -> None:
    missing = world.arch.qemu if missing == "qemu" else missing
    programs = tmp_path / "bin"
    programs.mkdir()
    for folder in os.get_exec_path():
        for program in Path(folder).glob("*"):
            link = programs / program.name
            if program.name != missing and not link.is_symlink():
                link.symlink_to(program)
    assert_refused(world.run(PATH=str(programs)), 3, "there is no", missing.removesuffix("_setup"))
    assert not world.evidence.exists()
    world.assert_nothing_is_left()


# Disks that are full.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system with room for so many bytes."""
    folder = tmp_path / "small-disk"
    folder.mkdir()

    def mount(size: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


# The first thing that does not fit is the console; with hardly any room, the evidence itself.
@pytest.mark.parametrize("room", [24 * _KIB, 8 * _KIB])
def test_a_full_disk_under_the_evidence(
    world: World, small_disk: Callable[[int], Path], room: int
) -> None:
    folder = small_disk(room) / "evidence"
    run = world.run(f"--out={folder}")
    assert_refused(run, 3, "No space left on device", str(folder))
    world.assert_nothing_is_left()


def test_a_full_disk_under_the_cache(world: World, small_disk: Callable[[int], Path]) -> None:
    (world.cache / "guest-image").unlink()
    cache = small_disk(2 * _KIB * _KIB) / "imakexec"
    shutil.copytree(world.cache, cache, symlinks=True)
    run = world.run(XDG_CACHE_HOME=str(cache.parent))
    assert_refused(run, 3, "no space left", "MiB free", str(cache))
    world.assert_nothing_is_left()
    assert [path for path in (cache / "tmp").iterdir() if path.exists()] == []
    assert not (cache / "guest-image").exists()


@pytest.mark.parametrize("room", [8 * _KIB, 48 * _KIB, 160 * _KIB])
def test_a_full_disk_under_the_artefacts(
    world: World, small_disk: Callable[[int], Path], room: int
) -> None:
    folder = small_disk(room) / "artefacts"
    assert_no_verdict(world, "No space left on device", f"--artefacts={folder}")


def assert_no_verdict(world: World, what: str, *options: str, **environment: str) -> None:
    """A run of the tests that comes to no more than that: the host has failed, with this reason."""
    report = world.folder / "results.json"
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", "--reruns=0"),
            *(*options, f"--json={report}", "--accel=tcg"),
            *(f"--basetemp={world.folder / 'pytest'}", "-k", "patched-1]"),
            "harness/test_gap_events.py",
        ],
        cwd=find_project(),
        env={**world.environment, "PYTEST_ADDOPTS": "", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == InfraError.exit_code, run.stdout
    assert what in run.stdout
    [test] = SuiteRun.read(parse_json(report.read_bytes(), "results.json")).tests
    assert test.outcome is Outcome.INFRA
    world.assert_nothing_is_left()


@pytest.fixture
def read_only_cache(world: World, small_disk: Callable[[int], Path]) -> Path:
    """A cache with all that a run needs, on a file system that takes nothing."""
    disk = small_disk(_KIB * _KIB)
    shutil.copytree(world.cache, disk / "imakexec", symlinks=True)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    return disk


READ_ONLY = "the cache cannot be written: Read-only file system"


def test_a_read_only_cache(world: World, read_only_cache: Path) -> None:
    run = world.run(XDG_CACHE_HOME=str(read_only_cache))
    assert_refused(run, 3, READ_ONLY, str(read_only_cache), "XDG_CACHE_HOME")
    assert not world.evidence.exists()
    world.assert_nothing_is_left()


def test_a_read_only_cache_under_the_tests(world: World, read_only_cache: Path) -> None:
    assert_no_verdict(world, READ_ONLY, XDG_CACHE_HOME=str(read_only_cache))


# Without room swtpm_setup fails, and where a TPM's template is there already, the TPM of the guest.
@pytest.mark.parametrize("template", [False, True])
def test_a_full_disk_under_the_temporary_folder(
    world: World, small_disk: Callable[[int], Path], template: bool
) -> None:
    if template:
        with start_swtpm(
            ("sha1", "sha256"), templates=world.cache / "tpm", log=world.folder / "log"
        ):
            pass
    disk = small_disk(16 * _KIB)
    # Python itself takes another folder if not a byte can be written to the one that TMPDIR names.
    (disk / "nearly-all").write_bytes(bytes(12 * _KIB))
    run = world.run(TMPDIR=str(disk))
    assert_refused(run, 3, "MiB free", str(disk))
    assert [path.name for path in disk.iterdir()] == ["nearly-all"]
