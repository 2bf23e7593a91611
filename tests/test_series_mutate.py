# SPDX-License-Identifier: GPL-2.0-only
"""Mutations are read strictly, and their fate is read from what pytest reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from imakexec.errors import GuestFailure, InfraError, UserError
from imakexec.progress import SilentProgress
from imakexec.project import find_project
from imakexec.series import mutate
from imakexec.series.mutate import Fate, Mutation, read_mutations

DIFF = """diff --git a/f b/f
--- a/f
+++ b/f
@@ -1 +1 @@
-a
+b
"""

TESTS = """
import pytest
from imakexec.errors import InfraError
from imakexec.kernel.build import BuildFailure

def mutated(config):
    path = config.getoption("--mutation")
    return "" if path is None else path.read_text()

@pytest.fixture
def kernel(pytestconfig):
    text = mutated(pytestconfig)
    if "breaks-the-build" in text:
        raise BuildFailure("make failed")
    if "breaks-the-host" in text:
        raise InfraError("no QEMU")
    return text

def test_notices(kernel):
    assert "noticed" not in kernel

def test_passes(kernel):
    pass

def test_builds_late(pytestconfig):
    if "breaks-the-build" in mutated(pytestconfig):
        raise BuildFailure("make failed")

def test_always_fails():
    assert False
"""

CONFTEST = """
from pathlib import Path

def pytest_addoption(parser):
    parser.addoption("--mutation", type=Path)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with tests of its own."""
    harness = tmp_path / "harness"
    (harness / "mutations").mkdir(parents=True)
    (harness / "test_it.py").write_text(TESTS)
    (harness / "conftest.py").write_text(CONFTEST)
    return tmp_path


def add(project: Path, name: str, what: str, *tests: str) -> None:
    lines = "".join(f"Noticed-by: test_it.py::{test}\n" for test in tests)
    (project / mutate.FOLDER / f"{name}.patch").write_text(f"{what}\n\n{lines}---\n{DIFF}")


def fates(project: Path) -> dict[str, tuple[Fate, str]]:
    logs = project / "logs"
    logs.mkdir()
    outcomes = mutate.mutate(project, read_mutations(project), logs, SilentProgress())
    said = {outcome.mutation.name: (outcome.fate, outcome.by) for outcome in outcomes}
    return {name: (fate, by.partition(" with ")[2] or by) for name, (fate, by) in said.items()}


def test_every_fate(project: Path) -> None:
    add(project, "killed", "noticed", "test_passes", "test_notices")
    add(project, "survived", "nobody sees it", "test_notices", "test_passes")
    add(project, "unbuildable", "breaks-the-build", "test_notices")
    add(project, "unbuildable-later", "breaks-the-build", "test_builds_late")
    add(project, "infra", "breaks-the-host", "test_notices")
    assert fates(project) == {
        "killed": (Fate.KILLED, "test_notices"),
        "survived": (Fate.SURVIVED, "2 tests passed"),
        "unbuildable": (Fate.INVALID, '"imakexec.kernel.build.BuildFailure: make failed"'),
        "unbuildable-later": (Fate.INVALID, "imakexec.kernel.build.BuildFailure: make failed"),
        "infra": (Fate.INFRA, '"imakexec.errors.InfraError: no QEMU"'),
    }


def test_a_test_that_fails_anyway_proves_nothing(project: Path) -> None:
    add(project, "hopeless", "noticed", "test_always_fails")
    with pytest.raises(GuestFailure, match="without any mutation: test_always_fails"):
        fates(project)


def test_a_test_that_does_not_exist(project: Path) -> None:
    add(project, "lost", "noticed", "test_nowhere")
    with pytest.raises((GuestFailure, InfraError), match="a test that was not found"):
        fates(project)


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        (f"\n\nNoticed-by: t\n---\n{DIFF}", "a first line"),
        (f"What.\n\n---\n{DIFF}", "a line Noticed-by"),
        ("What.\n\nNoticed-by: t\n", "a diff"),
    ],
)
def test_a_file_that_is_no_mutation(project: Path, text: str, lacks: str) -> None:
    path = project / mutate.FOLDER / "broken.patch"
    path.write_text(text)
    with pytest.raises(UserError, match=f"the mutation lacks {lacks}") as caught:
        Mutation.read(path)
    assert caught.value.where == str(path)


def test_only_those_that_were_named(project: Path) -> None:
    add(project, "one", "a", "test_passes")
    add(project, "two", "b", "test_passes")
    assert [mutation.name for mutation in read_mutations(project, ["two"])] == ["two"]
    with pytest.raises(UserError, match="no mutation 'three'"):
        read_mutations(project, ["three"])


def test_the_mutations_of_the_project_are_complete() -> None:
    found = read_mutations(find_project())
    assert len(found) >= 20
    assert all(mutation.what.endswith(".") and len(mutation.what) < 80 for mutation in found)
    for test in {test for mutation in found for test in mutation.noticed_by}:
        file, _, function = test.partition("[")[0].partition("::")
        assert f"def {function}(" in (find_project() / "harness" / file).read_text(), test
