# SPDX-License-Identifier: GPL-2.0-only
"""git takes every exit code below 128 for a judgement: only 0, 1 and 125 may come out."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_bisect_driver import GAP, git

from imakexec.arch import X86_64
from imakexec.bisect.fate import Fate, Quality
from imakexec.bisect.judge import Answer, Judge, Question
from imakexec.bisect.step import EXIT_CODES, judge_tree
from imakexec.errors import UserError
from imakexec.job import Workshop
from imakexec.kernel.build import KernelRequest
from imakexec.kernel.cache import Cache
from imakexec.options import Aim
from imakexec.progress import SilentProgress, Step
from imakexec.project import find_project

QUESTION = Question(GAP, 1, Aim.SCENARIO, frozenset(), X86_64, None)

# A command that ends as a test says, in the place of the one that judges.
ENDS = """
import sys
from imakexec import cli, __main__
def ends():
    {how}
cli.main = ends
sys.argv = ["imakexec", "{command}"]
__main__.main()
"""


def exit_code(how: str, command: str = "bisect-step") -> int:
    script = ENDS.format(how=how, command=command)
    # What was started in the background ignores SIGINT, and so would its children.
    argv = ["env", "--default-signal=INT", sys.executable, "-c", script]
    return subprocess.run(argv, capture_output=True, check=False).returncode


@pytest.mark.parametrize("code", [0, 1, 125, 128, 130, 143])
def test_a_code_that_means_something_to_git_is_kept(code: int) -> None:
    assert exit_code(f"sys.exit({code})") == code


@pytest.mark.parametrize(
    "how",
    [
        *(f"sys.exit({code})" for code in (2, 3, 4, 5, 10, 14, 124, 126, 127, 255)),
        "raise RuntimeError",
        "raise MemoryError",
        "raise KeyboardInterrupt",
        "raise ImportError",
    ],
)
def test_every_other_code_stops_git(how: str) -> None:
    assert exit_code(how) == 128


def test_other_commands_keep_their_codes() -> None:
    assert exit_code("sys.exit(10)", command="verify") == 10


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no-such-option"],
        ["--tree=/nonexistent"],
        ["--scenario=none"],
        ["--arch=vax"],
        ["--runs=0"],
    ],
)
def test_a_request_that_cannot_be_carried_out_stops_git(
    arguments: list[str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "imakexec", "bisect-step", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.returncode == 128
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_git(number: signal.Signals, code: int) -> None:
    how = f"import os; os.kill(os.getpid(), {int(number)}); import time; time.sleep(9)"
    assert exit_code(how) == code


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """As much of a checkout as the set-up looks at first; it cannot be set up."""
    folder = tmp_path / "project"
    (folder / "harness").mkdir(parents=True)
    shutil.copy(find_project() / "run_qemu.sh", folder)
    (folder / "harness" / "host-packages.txt").write_text("# none\nbash\n")
    for name in ("pyproject.toml", "requirements.lock", "requirements-build.lock"):
        (folder / name).touch()
    return folder


def set_up_fails(project: Path) -> None:
    (project / "requirements-build.lock").write_text("no requirement at all\n")


def venv_is_broken(project: Path) -> None:
    programs = project / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").write_text("#!/bin/sh\nexit 1\n")
    (programs / "python").chmod(0o755)
    (programs / "imakexec").write_text("#!/bin/sh\necho reached; exit 1\n")
    (programs / "imakexec").chmod(0o755)
    script = (project / "run_qemu.sh").read_text()
    # It is set up as far as the script knows.
    (project / "run_qemu.sh").write_text(script.replace("    set_up 9<&-\n", "    :\n"))


def venv_is_gone(project: Path) -> None:
    venv_is_broken(project)
    shutil.rmtree(project / ".venv")


@pytest.mark.parametrize("breakage", [set_up_fails, venv_is_broken, venv_is_gone])
def test_a_set_up_that_fails_stops_git(
    project: Path, breakage: Callable[[Path], None], tmp_path: Path
) -> None:
    breakage(project)

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [project / "run_qemu.sh", command],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HOME": str(tmp_path)},
        )

    judged = run("bisect-step")
    assert judged.returncode == 128, judged
    assert "reached" not in judged.stdout
    assert run("doctor").returncode in (1, 3, 126, 127)


# The step itself.


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "linux"
    folder.mkdir()
    (folder / "Kconfig").touch()
    (folder / "Makefile").write_text("VERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 0\nEXTRAVERSION =\n")
    git(folder, "init", "--quiet")
    for number in range(3):
        (folder / "number").write_text(f"{number}\n")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--message", f"{number}")
    return folder


class Judged(list[str]):
    """The commits that were judged, and the fate of the next ones."""

    fate = Fate.PASSES


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Judged:
    found = Judged()

    def judge(_self: Judge, request: KernelRequest, _step: Step) -> Answer:
        assert request.kernel_tree is not None
        found.append((request.kernel_tree / "number").read_text().strip())
        return Answer(found.fate, "as told")

    monkeypatch.setattr(Judge, "_judge", judge)
    return found


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path, SilentProgress(), Cache(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("fate", "code"),
    [
        (Fate.PASSES, 0),
        (Fate.FAILS, 1),
        (Fate.NOT_BOOTED, 125),
        (Fate.NOT_BUILT, 125),
        (Fate.NOT_CONFIGURED, 125),
        (Fate.UNDECIDED, 125),
        (Fate.UNKNOWN, 125),
    ],
)
def test_each_fate_has_its_code(
    workshop: Workshop, tree: Path, judged: Judged, fate: Fate, code: int
) -> None:
    judged.fate = fate
    assert EXIT_CODES[judge_tree(workshop, tree, QUESTION).quality] == code


def test_a_step_remembers_only_within_its_bisection(
    workshop: Workshop, tree: Path, judged: Judged
) -> None:
    def step() -> Quality:
        return judge_tree(workshop, tree, QUESTION).quality

    assert [step(), step()] == [Quality.GOOD] * 2
    assert judged == ["2", "2"], "nothing is remembered without a bisection"
    git(tree, "bisect", "start", "HEAD", "HEAD~2")
    assert [step(), step()] == [Quality.GOOD] * 2
    assert judged[2:] == ["1"]
    (tree / "number").write_text("an edit\n")
    step()
    assert judged[3:] == ["an edit"], "an edit is another kernel"
    git(tree, "checkout", "--quiet", "--force", "HEAD")
    git(tree, "bisect", "reset")
    git(tree, "bisect", "start", "HEAD", "HEAD~2")
    step()
    assert judged[4:] == ["1"], "another bisection begins anew"


def test_a_tree_without_history_is_judged(workshop: Workshop, tree: Path, judged: Judged) -> None:
    shutil.rmtree(tree / ".git")
    assert judge_tree(workshop, tree, QUESTION).commit == ""
    assert len(judged) == 1


def test_a_folder_that_is_no_kernel_tree(workshop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a kernel source tree"):
        judge_tree(workshop, tmp_path, QUESTION)
