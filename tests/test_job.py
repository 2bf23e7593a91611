# SPDX-License-Identifier: GPL-2.0-only
"""What the main job refuses before anything is built, and what it says about a run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from imakexec import job
from imakexec.arch import X86_64
from imakexec.errors import UserError
from imakexec.evidence import EvidenceWriter
from imakexec.job import JobOptions, check_options
from imakexec.kernel.build import KernelImage, KernelRequest
from imakexec.kernel.guest_image import GuestImage
from imakexec.machine.accelerator import Accelerator, AcceleratorChoice
from imakexec.options import ShellIn
from imakexec.scenario import Session


def _options(**options: Any) -> JobOptions:
    return JobOptions(kernel=KernelRequest(arch=X86_64), **options)


@pytest.mark.parametrize("kind", ["file", "folder in use", "link to an empty folder", "dead link"])
def test_a_place_for_the_evidence_that_is_taken(tmp_path: Path, kind: str) -> None:
    taken = tmp_path / "taken"
    match kind:
        case "file":
            taken.touch()
        case "folder in use":
            (taken / "something").mkdir(parents=True)
        case "link to an empty folder":
            (tmp_path / "empty").mkdir()
            taken.symlink_to(tmp_path / "empty")
        case _:
            taken.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not an empty folder") as error:
        check_options(_options(out=taken))
    assert error.value.where == f"--out {taken}"


@pytest.mark.parametrize("place", ["file/below", "x" * 300])
def test_a_place_where_no_evidence_can_be_made(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="the evidence folder cannot be made: "):
        check_options(_options(out=tmp_path / place))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_trying_a_place_for_the_evidence_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_options(_options(out=tmp_path / "empty"))
    check_options(_options(out=tmp_path / "new/deep"))
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


@pytest.mark.parametrize("character", ["\n", "\0", "\x1b", "\x7f", "\udcff"])
def test_a_command_line_is_text(character: str) -> None:
    with pytest.raises(UserError, match="cannot be printed") as error:
        check_options(_options(cmdline=f"quiet{character}ima=off"))
    assert "--cmdline" in error.value.where


@pytest.mark.parametrize("shell", [None, ShellIn.KEXEC])
def test_a_command_line_fits_the_kernel_with_our_words_on_it(shell: ShellIn | None) -> None:
    ours = len(f"{job.kernel_cmdline(_options())}  imakexec.token={16 * 'f'}")
    ours += len(" imakexec.shell=ttyS1") if shell else 0
    room = 2048 - 1 - ours
    check_options(_options(cmdline="x" * room, shell=shell))
    with pytest.raises(UserError, match="takes 2049 bytes, and this kernel has room for 2048"):
        check_options(_options(cmdline="x" * (room + 1), shell=shell))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "is not a file"),
        (b"", "is no boot image"),
        (b"\x7fELF" + bytes(0x300), "is no boot image"),
        (bytes(0x201) + b"HdrS", "is no boot image"),
    ],
)
def test_a_next_kernel_that_cannot_boot(tmp_path: Path, content: bytes | None, fault: str) -> None:
    image = tmp_path / "image"
    if content is not None:
        image.write_bytes(content)
    with pytest.raises(UserError, match=fault) as error:
        check_options(_options(next_kernel=image))
    assert error.value.where == f"--next-kernel {image}"


def test_a_next_kernel_that_can_boot(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(bytes(0x202) + b"HdrS" + bytes(100))
    check_options(_options(next_kernel=tmp_path / "image"))


def test_the_evidence_names_both_kernels_by_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "tool_version", lambda program: f"{program} 1")
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"A")
    second.write_bytes(b"B")
    kernel = KernelImage(first, first, first, first, "", "", "", (), "", None, ())
    choice = AcceleratorChoice(Accelerator.TCG, "", forced=False)
    prepared = job.Prepared(kernel, second, "", GuestImage(first, "", ()), choice)
    run = cast(Any, job.describe_run(job.machine_config(prepared, _options()), prepared))
    assert run["kernel"]["sha256"] == hashlib.sha256(b"A").hexdigest()
    assert run["next_kernel"]["sha256"] == hashlib.sha256(b"B").hexdigest()


def test_the_evidence_keeps_what_the_kernels_said() -> None:
    said: list[dict[str, object]] = []
    evidence = cast(EvidenceWriter, SimpleNamespace(set_run=said.append))
    session = cast(Session, SimpleNamespace(evidence=evidence, run={"harness": "1"}))
    job.record_complaints(session, ("ima: full",))
    assert said == [{"harness": "1", "kernel_complaints": ["ima: full"]}]
