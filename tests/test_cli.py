# SPDX-License-Identifier: GPL-2.0-only
"""What the command makes of errors: one message, and the exit code that tells who is at fault."""

from __future__ import annotations

import errno
import signal
import sys
from pathlib import Path

import pytest

from imakexec import cli, interruption, job
from imakexec.arch import X86_64
from imakexec.errors import GuestFailure, ImaKexecError, InfraError, UserError
from imakexec.kernel.build import KernelRequest
from imakexec.report.machine import require_writable


@pytest.fixture
def ends_with(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> EndsWith:
    return EndsWith(monkeypatch, capsys)


class EndsWith:
    """Runs the command with a main job that raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, error: BaseException, *arguments: str) -> tuple[object, str]:
        """Exit code and error output."""

        def fail(*_: object, **__: object) -> None:
            raise error

        self._monkeypatch.setattr(job, "run_main_job", fail)
        self._monkeypatch.setattr(sys, "argv", ["imakexec", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, self._capsys.readouterr().err


@pytest.mark.parametrize(("kind", "code"), [(UserError, 2), (InfraError, 3), (GuestFailure, 1)])
def test_an_error_is_one_message_and_its_exit_code(
    ends_with: EndsWith, kind: type[ImaKexecError], code: int
) -> None:
    error = kind("what", where="[where]", remedy="do", tail="one\ntwo")
    expected = (
        "imakexec: what\n  where: [where]\n  to do: do\n  last lines:\n    | one\n    | two\n"
    )
    assert ends_with(error) == (code, expected)


def test_what_the_host_refuses_and_nobody_explained_is_the_host_s(
    ends_with: EndsWith, tmp_path: Path
) -> None:
    code, said = ends_with(OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "f")))
    assert code == 3
    assert said.startswith("imakexec: this host refused an operation: No space left on device (")
    assert f"MiB free)\n  where: {tmp_path}/f\n  to do: make room" in said


def test_a_mistake_of_our_own_is_never_taken_for_one_of_the_kernel(ends_with: EndsWith) -> None:
    code, said = ends_with(KeyError("lost"))
    assert code == 3
    assert "KeyError: 'lost'" in said
    assert said.endswith("please report it with the lines above\n")


def test_an_error_that_a_signal_caused_is_the_signal(
    ends_with: EndsWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signal_came() -> None:
        raise interruption.Interrupted(signal.SIGINT)

    monkeypatch.setattr(interruption, "check", signal_came)
    with pytest.raises(interruption.Interrupted):
        ends_with(GuestFailure("the TPM refused"))


@pytest.mark.parametrize("option", ["--files=-1", "--patches=-1", "--memory-mib=1", "--accel=xen"])
def test_a_value_out_of_range_is_a_usage_error(ends_with: EndsWith, option: str) -> None:
    code, said = ends_with(AssertionError("nothing may run"), option)
    assert code == 2
    assert option.partition("=")[0] in said


@pytest.mark.parametrize("place", ["no-folder/file", ".", "file/below"])
def test_a_result_that_cannot_be_written_is_refused_before_the_run(
    ends_with: EndsWith, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").touch()
    code, said = ends_with(AssertionError("nothing may run"), f"--json={tmp_path / place}")
    assert code == 2
    assert said.startswith("imakexec: the result cannot be written: ")
    assert f"  where: --json {tmp_path / place}\n" in said


def test_asking_whether_a_result_can_be_written_changes_nothing(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("before")
    require_writable(old)
    require_writable(new)
    assert old.read_text() == "before"
    assert not new.exists()


@pytest.mark.parametrize("kind", ["file", "folder in use"])
def test_a_place_for_the_evidence_that_is_taken_is_refused_before_a_kernel_is_built(
    tmp_path: Path, kind: str
) -> None:
    taken = tmp_path / "taken"
    if kind == "file":
        taken.touch()
    else:
        (taken / "something").mkdir(parents=True)
    request = KernelRequest(arch=X86_64)
    with pytest.raises(UserError, match="not an empty folder") as error:
        job.check_options(job.JobOptions(kernel=request, out=taken))
    assert error.value.where == f"--out {taken}"
