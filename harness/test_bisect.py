# SPDX-License-Identifier: GPL-2.0-only
"""Regressions that were put into a history on purpose are found, each exactly.

The history is the base, the series, and then patches of harness/regressions: some break something,
some mend it again, and some change nothing that could be noticed.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imakexec.arch import X86_64
from imakexec.bisect.driver import Found, Request, bisect
from imakexec.bisect.fate import Quality
from imakexec.bisect.judge import Question
from imakexec.job import Workshop
from imakexec.kernel.build import KernelRequest
from imakexec.kernel.series import PatchSeries
from imakexec.options import Aim
from imakexec.project import find_project
from imakexec.suite.runner import Selection

REGRESSIONS = "harness/regressions"
SERIES = "patches/linux-6.1.y"

OURS = 7
"""Patches of the series, after which each history is good."""

ONE_TEST = "test_gap_events.py::test_gap_events[given-5]"
"""Which all of them break."""


@dataclass(frozen=True)
class Case:
    """A history on top of the series.

    Attributes:
        patches: of harness/regressions, in order.
        culprit: the first bad one.
        aim: what its fault is looked for by.
        steps: commits that are judged between the ends, at most.
        runs: that a good kernel must pass.
        skipped: whether git meets commits that cannot be judged.
    """

    patches: tuple[str, ...]
    culprit: str
    aim: Aim
    steps: int
    runs: int = 1
    skipped: bool = False


PANIC = Case(
    ("innocent-text", "panic-at-execute", "innocent-comment"), "panic-at-execute", Aim.SCENARIO, 2
)

CASES = {
    "lost records": Case(
        (
            *("innocent-text", "innocent-message", "build-broken", "innocent-comment"),
            *("build-mended", "lost-records", "innocent-wording"),
        ),
        culprit="lost-records",
        aim=Aim.SCENARIO,
        steps=5,
        skipped=True,
    ),
    "missing marker": Case(
        ("innocent-message", "missing-marker", "innocent-text", "innocent-comment"),
        culprit="missing-marker",
        aim=Aim.SCENARIO,
        steps=3,
    ),
    "panic at execute": Case(
        (
            *("innocent-text", "innocent-message", "boot-broken", "innocent-comment"),
            *("boot-mended", "panic-at-execute", "innocent-wording"),
        ),
        culprit="panic-at-execute",
        aim=Aim.SCENARIO,
        steps=5,
        skipped=True,
    ),
    "panic at boot": Case(
        (
            *("build-broken", "innocent-text", "build-mended", "innocent-message"),
            *("innocent-comment", "boot-broken", "innocent-wording"),
        ),
        culprit="boot-broken",
        aim=Aim.BOOT,
        steps=5,
    ),
    "broken build": Case(
        ("innocent-text", "innocent-message", "build-broken", "innocent-comment"),
        culprit="build-broken",
        aim=Aim.BUILD,
        steps=3,
    ),
    "broken configuration": Case(
        ("innocent-text", "innocent-message", "innocent-comment", "config-broken"),
        culprit="config-broken",
        aim=Aim.CONFIG,
        steps=3,
    ),
    "one failure in three": Case(
        ("innocent-message", "innocent-text", "lost-sometimes", "innocent-comment"),
        culprit="lost-sometimes",
        aim=Aim.SCENARIO,
        steps=3,
        runs=16,
    ),
}


def question(case: Case) -> Question:
    return Question(
        selection=Selection.parse([ONE_TEST]),
        runs=case.runs,
        aim=Aim.SCENARIO,
        known=None,
        arch=X86_64,
        accelerator=None,
    )


def request(case: Case, **source: object) -> Request:
    fields = {"tree": None, "patches": None, "base": "linux-6.1", "kernel_tree": None, "bad": ""}
    return Request(**{**fields, "aim": None, "question": question(case), **source})  # type: ignore[arg-type]


def check(found: Found, case: Case) -> None:
    """The culprit is found, by its own fault, in as few steps as there are."""
    [(_, title)] = found.suspects
    assert case.culprit in title
    assert found.question.aim is case.aim
    assert len(found.steps) <= case.steps
    assert case.skipped <= (Quality.SKIP in {step.quality for step in found.steps})
    assert (found.folder / "good").is_dir() or case.aim in (Aim.BUILD, Aim.CONFIG)
    if case.aim is Aim.SCENARIO:
        assert list((found.folder / "bad").glob("*/evidence/console.log"))


def files_of(case: Case) -> list[Path]:
    """The patches that lead from the base to the last commit of a case."""
    project = find_project()
    ours = [patch.path for patch in PatchSeries.read(project / SERIES).patches]
    return [*ours, *(project / REGRESSIONS / f"{name}.patch" for name in case.patches)]


@pytest.fixture
def left() -> Iterator[list[Found]]:
    """Bisections whose traces in the user's cache are removed after a test."""
    found: list[Found] = []
    yield found
    for each in found:
        shutil.rmtree(each.folder)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(PANIC, id="panic"),
        *(pytest.param(case, id=name, marks=pytest.mark.nightly) for name, case in CASES.items()),
    ],
)
def test_the_first_bad_patch_of_a_series_is_found(
    workshop: Workshop, tmp_path: Path, left: list[Found], case: Case
) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    for number, path in enumerate(files_of(case), 1):
        shutil.copy(path, folder / f"{number:04}-{path.name}")
    found = bisect(workshop, request(case, patches=folder, good=str(OURS)))
    left.append(found)
    check(found, case)


def git(tree: Path, *words: str) -> str:
    """Run git in a repository that a test has made, and return what it says."""
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "gc.auto=0"]
    done = subprocess.run([*command, *words], cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout.strip()


@pytest.fixture(scope="session")
def tree(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A git repository of the base with the series, and a branch for each case."""
    folder = tmp_path_factory.mktemp("history") / "linux"
    source = workshop.source(KernelRequest(X86_64))
    # As hard links: git replaces files and never writes into them.
    subprocess.run(["cp", "--archive", "--link", source.path, folder], check=True)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message", "base")
    for path in files_of(PANIC)[:OURS]:
        git(folder, "am", "--quiet", str(path))
    git(folder, "tag", "series")
    for name, case in CASES.items():
        git(folder, "checkout", "--quiet", "-b", branch_of(name), "series")
        for path in files_of(case)[OURS:]:
            git(folder, "apply", str(path))
            git(folder, "commit", "--quiet", "--all", "--message", path.stem)
    yield folder
    shutil.rmtree(folder)  # more than a gigabyte


def branch_of(name: str) -> str:
    return name.replace(" ", "-")


@pytest.mark.nightly
@pytest.mark.parametrize("name", CASES)
def test_the_first_bad_commit_of_a_tree_is_found(
    workshop: Workshop, tree: Path, left: list[Found], name: str
) -> None:
    case = CASES[name]
    found = bisect(workshop, request(case, tree=tree, good="series", bad=branch_of(name)))
    left.append(found)
    check(found, case)
    assert found.patch.startswith("From ")


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["lost records", "panic at execute"])
def test_git_finds_it_by_itself(tree: Path, name: str) -> None:
    git(tree, "checkout", "--quiet", branch_of(name))
    git(tree, "bisect", "start", branch_of(name), "series")
    step = [str(find_project() / "run_qemu.sh"), "bisect-step", f"--scenario={ONE_TEST}"]
    said = git(tree, "bisect", "run", *step)
    found = git(tree, "show", "--no-patch", "--format=%s", "refs/bisect/bad")
    git(tree, "bisect", "reset")
    assert "is the first bad commit" in said
    assert found == CASES[name].culprit
    assert git(tree, "status", "--porcelain") == "", "nothing is written to the tree"
