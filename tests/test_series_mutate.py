# SPDX-License-Identifier: GPL-2.0-only
"""Mutations are read strictly, and their fate is read from what pytest reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from imakexec.errors import GuestFailure, InfraError, UserError
from imakexec.progress import SilentProgress
from imakexec.project import find_project
from imakexec.series import mutate
from imakexec.series.mutate import Fate, Mutation, Outcome, read_mutations

DIFF = """diff --git a/f b/f
--- a/f
+++ b/f
@@ -1 +1 @@
-a
+b
"""

TESTS = """
import pytest
from imakexec.errors import GuestFailure, InfraError, UserError
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

def test_is_skipped():
    pytest.skip("not here")

@pytest.mark.parametrize("n", [1, 2])
def test_has_parameters(n):
    pass

def test_refuses(pytestconfig):
    if "refused" in mutated(pytestconfig):
        with pytest.raises(UserError):
            pass

def test_breaks(pytestconfig):
    {}["key"] if "breaks-the-test" in mutated(pytestconfig) else None

def test_hangs(pytestconfig):
    if "hangs" in mutated(pytestconfig):
        raise GuestFailure("the guest hung: 20 s passed")

def test_panics(pytestconfig):
    if "panics" in mutated(pytestconfig):
        raise GuestFailure("panic in the guest")

def test_ends_pytest(pytestconfig):
    if "ends-pytest" in mutated(pytestconfig):
        pytest.exit("no more", returncode=3)
"""

CONFTEST = """
from pathlib import Path

def pytest_addoption(parser):
    parser.addoption("--mutation", type=Path)

def pytest_sessionfinish(session):
    # As the suite does for a run that has errors and no failure.
    mutation = session.config.getoption("--mutation")
    if mutation and "breaks-the-host" in mutation.read_text():
        session.exitstatus = 3
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with tests of its own."""
    harness = tmp_path / "harness"
    (harness / "mutations").mkdir(parents=True)
    (harness / "test_it.py").write_text(TESTS)
    (harness / "conftest.py").write_text(CONFTEST)
    return tmp_path


def add(project: Path, name: str, what: str, *tests: str, more: str = "") -> None:
    lines = "".join(f"Noticed-by: test_it.py::{test}\n" for test in tests)
    (project / mutate.FOLDER / f"{name}.patch").write_text(f"{what}\n\n{lines}{more}---\n{DIFF}")


def outcomes(project: Path) -> dict[str, Outcome]:
    logs = project / "logs"
    logs.mkdir()
    found = mutate.mutate(project, read_mutations(project), logs, SilentProgress())
    return {outcome.mutation.name: outcome for outcome in found}


# A name, what it does to the tests of TESTS, and which of them.
FATES = [
    (
        Fate.KILLED,
        "noticed",
        ("test_passes", "test_notices"),
        "test_notices",
        "AssertionError",
    ),
    (Fate.SURVIVED, "nobody sees it", ("test_notices", "test_passes"), "", "2 tests passed"),
    (Fate.INVALID, "breaks-the-build", ("test_notices",), "", "BuildFailure: make failed"),
    (Fate.INVALID, "breaks-the-build", ("test_builds_late",), "", "BuildFailure: make failed"),
    (Fate.INFRA, "breaks-the-host", ("test_notices",), "", "InfraError: no QEMU"),
    (
        Fate.INVALID,
        "breaks-the-test",
        ("test_breaks",),
        "test_breaks",
        "KeyError: 'key'",
    ),
    (
        Fate.INFRA,
        "hangs",
        ("test_hangs",),
        "test_hangs",
        "GuestFailure: the guest hung",
    ),
    (Fate.KILLED, "panics", ("test_panics",), "test_panics", "GuestFailure: panic"),
    (
        Fate.KILLED,
        "refused",
        ("test_refuses",),
        "test_refuses",
        "Failed: DID NOT RAISE",
    ),
    (Fate.INFRA, "ends-pytest", ("test_ends_pytest",), "", "pytest ended with exit status 3"),
]


def test_every_fate(project: Path) -> None:
    for number, (_, what, tests, _, _) in enumerate(FATES):
        add(project, f"{number}", what, *tests)
    found = outcomes(project)
    for number, (fate, _, _, test, reason) in enumerate(FATES):
        outcome = found[f"{number}"]
        name = f"test_it.py::{test}" if test else ""
        assert (outcome.fate, outcome.test) == (fate, name), outcome
        assert reason in outcome.reason
        assert outcome.log.exists()


def test_workers_that_somebody_wants_do_not_change_the_fate(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-n2")
    add(project, "killed", "noticed", "test_notices")
    assert outcomes(project)["killed"].fate is Fate.KILLED


def test_a_hang_that_was_announced_is_a_failure(project: Path) -> None:
    add(project, "loop", "hangs", "test_hangs", more="Noticed-as: hang\n")
    assert outcomes(project)["loop"].fate is Fate.KILLED


def test_a_test_that_fails_anyway_proves_nothing(project: Path) -> None:
    add(project, "hopeless", "noticed", "test_always_fails")
    with pytest.raises(GuestFailure, match=r"without any mutation: .*test_always_fails: assert"):
        outcomes(project)


def test_a_test_that_is_skipped_proves_nothing(project: Path) -> None:
    add(project, "hopeless", "noticed", "test_is_skipped")
    with pytest.raises(InfraError, match="skipped on this host: not here"):
        outcomes(project)


def test_a_series_that_does_not_build_is_no_trouble_of_the_host(project: Path) -> None:
    add(project, "any", "noticed", "test_notices")
    conftest = project / "harness/conftest.py"
    conftest.write_text(CONFTEST.replace("type=Path", "type=Path, default='breaks-the-build'"))
    (project / "breaks-the-build").write_text("breaks-the-build")
    with pytest.raises(UserError, match=r"without any mutation: .*BuildFailure: make failed"):
        outcomes(project)


@pytest.mark.parametrize(
    ("test", "why"),
    [
        ("test_it.py::test_nowhere", "there is none"),
        ("test_it.py::test_has_parameters", "it needs its parameters"),
        ("test_other.py::test_passes", "its file does not exist"),
    ],
)
def test_a_test_that_does_not_exist_is_named(project: Path, test: str, why: str) -> None:
    add(project, "good", "noticed", "test_notices", "test_has_parameters[2]")
    path = project / mutate.FOLDER / "lost.patch"
    path.write_text(f"What.\n\nNoticed-by: {test}\n---\n{DIFF}")
    with pytest.raises(UserError, match=f"no test is called {test}: {why}") as caught:
        outcomes(project)
    assert caught.value.where == f"{path}, Noticed-by"


def test_tests_that_cannot_be_imported(project: Path) -> None:
    add(project, "good", "noticed", "test_notices")
    (project / "harness/test_it.py").write_text("import nowhere\n")
    with pytest.raises(UserError, match="cannot find the tests") as caught:
        outcomes(project)
    assert "nowhere" in caught.value.tail


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


def test_a_mutation_that_is_no_text(project: Path) -> None:
    path = project / mutate.FOLDER / "binary.patch"
    path.write_bytes(b"What.\n\xff")
    with pytest.raises(UserError, match="not UTF-8: invalid start byte at byte 6") as caught:
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


def test_the_document_names_every_mutation_with_a_test_of_its_own() -> None:
    text = (find_project() / "docs/series-requirements.md").read_text()
    rows = [
        [cell.strip(" `").replace(r"\|", "|") for cell in line.strip("|").split(" | ")]
        for line in text.partition("## Mutations")[2].splitlines()
        if line.startswith("| `")
    ]
    found = {mutation.name: mutation for mutation in read_mutations(find_project())}
    assert [name for name, _, _ in rows] == sorted(found)
    for name, what, test in rows:
        assert what == found[name].what
        assert test in found[name].noticed_by
