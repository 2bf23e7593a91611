# SPDX-License-Identifier: GPL-2.0-only
"""What the command makes of errors: one message, and the exit code that tells who is at fault."""

from __future__ import annotations

import errno
import io
import json
import signal
import sys
from pathlib import Path

import pytest
from evidence_maker import patched_run

from imakexec import cli, interruption, job
from imakexec.attest import judge
from imakexec.errors import GuestFailure, ImaKexecError, InfraError, UserError
from imakexec.report.machine import ResultFile, judgement_document


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


def test_an_old_result_is_gone_before_the_work_and_a_new_one_not_there_yet(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("IN_SYNC")
    ResultFile(old).claim()
    ResultFile(new).claim()
    assert old.read_text() == ""
    assert not new.exists()


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (InfraError("what", where="there", remedy="do", tail="not this"), "what"),
        (KeyError("lost"), "a mistake in imakexec itself: please report it with the lines above"),
    ],
)
def test_the_result_of_a_run_that_failed_is_its_error(
    ends_with: EndsWith, tmp_path: Path, error: Exception, what: str
) -> None:
    result = tmp_path / "result.json"
    result.write_text('{"verdict": "IN_SYNC", "exit_code": 0}')
    assert ends_with(error, f"--json={result}")[0] == 3
    written = json.loads(result.read_text())
    assert (written["schema"], written["exit_code"]) == ("imakexec-error/1", 3)
    assert written["error"]["what"] == what
    assert sorted(written["error"]) == ["remedy", "what", "where"]


def test_a_result_within_evidence_is_refused_and_the_evidence_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_text("{}")
    arguments = ["imakexec", "verify", str(tmp_path), "--json", str(manifest)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert "would lie in the evidence folder" in capsys.readouterr().err
    assert manifest.read_text() == "{}"


def test_what_the_kernels_said_is_part_of_the_result() -> None:
    judgement = judge(patched_run(5).evidence())
    document = judgement_document(judgement, folder=Path("there"), complaints=("ima: full",))
    assert document["kernel_complaints"] == ["ima: full"]
    assert document["exit_code"] == judgement.exit_code
    assert "kernel_complaints" not in judgement_document(judgement, folder=Path("there"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--shell", "boot"), "--shell needs a terminal"),
        (("--base", "linux-6.1", "--kernel-tree", "."), "cannot both be the kernel"),
        (("--kernel", "bzImage", "--patches", "3"), "has its source and its patches"),
        (("--config", ".config"), "there is no kernel that this configuration is of"),
        (("--arch", "vax"), "no architecture 'vax'"),
    ],
)
def test_what_cannot_go_together_is_refused_before_anything_is_built(
    ends_with: EndsWith, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    code, printed = ends_with(AssertionError("nothing may run"), *arguments)
    assert code == 2
    assert said in printed


def test_blanks_between_banks_are_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[job.JobOptions] = []

    def keep(_workshop: object, options: job.JobOptions, **_: object) -> None:
        asked.append(options)
        raise UserError("enough")

    monkeypatch.setattr(job, "run_main_job", keep)
    monkeypatch.setattr(sys, "argv", ["imakexec", "--banks", "sha1, sha256 "])
    with pytest.raises(SystemExit):
        cli.main()
    assert asked[0].banks == ("sha1", "sha256")


@pytest.mark.parametrize("arguments", [["-h"], ["verify", "-h"], ["bench", "roundtrip", "-h"]])
def test_help_has_a_short_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["imakexec", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert "Usage: imakexec" in capsys.readouterr().out


def test_what_a_host_refuses_comes_with_something_to_do() -> None:
    refused = InfraError.refused("no", PermissionError(errno.EACCES, "Permission denied", "/f"))
    assert "name a folder where it can be done" in refused.remedy


def test_a_command_has_the_options_of_no_other() -> None:
    for name in ("run", "verify", "show", "pcr", "size", "test", "doctor"):
        (command,) = cli._application_for(name).registered_commands
        assert name in (command.name, getattr(command.callback, "__name__", None))
    for name in ("bench", "series", "doctorx", "--version"):
        assert cli._application_for(name) is cli.app


def test_a_command_alone_is_called_as_among_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["imakexec", "pcr", str(tmp_path / "missing")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert "the list cannot be read" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["imakexec", "pcr", "--no-such-option"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "Usage: imakexec pcr" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["verify", "show", "pcr", "size"])
def test_arguments_have_their_help(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["imakexec", command, "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    arguments = capsys.readouterr().out.partition("Arguments")[2].partition("Options")[0]
    assert "list" in arguments
