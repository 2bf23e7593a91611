# SPDX-License-Identifier: GPL-2.0-only
"""The table of a check: what ends in which cell, and what the command ends with."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernel_trees import make_patch, make_tree

from imakexec.arch import X86_64
from imakexec.errors import GuestFailure, ImaKexecError, InfraError, UserError
from imakexec.job import Workshop
from imakexec.kernel.build import BuildFailure, KernelImage, KernelRequest
from imakexec.kernel.cache import Cache
from imakexec.progress import SilentProgress
from imakexec.series import check
from imakexec.series.boots import BootChecks
from imakexec.series.cells import Cell, CheckReport, Row, Status
from imakexec.series.check import COLUMNS, CheckRequest, SeriesCheck, run_check
from imakexec.series.mail import MailChecks
from imakexec.series.objects import ObjectChecks

_OK = Cell(Status.OK, "ok")


class _World:
    """Answers in the place of git, make and QEMU, and notes what it was asked.

    Attributes:
        errors: what is raised, by what is asked for and the number of patches.
        kernels: the requests for kernels.
        warnings: of every kernel.
    """

    def __init__(self) -> None:
        self.errors: dict[tuple[str, int], ImaKexecError] = {}
        self.kernels: list[int | None] = []
        self.warnings: tuple[str, ...] = ()

    def cell(self, name: str, patches: int) -> Cell:
        if error := self.errors.get((name, patches)):
            raise error
        return _OK

    def kernel(self, request: KernelRequest) -> KernelImage:
        self.kernels.append(request.patches)
        if error := self.errors.get(("kernel", request.patches or 0)):
            raise error
        path = Path("there")
        return KernelImage(
            image=path,
            config=path,
            system_map=path,
            log=path,
            release="6.1",
            banner="Linux",
            base="base",
            patches=(),
            key="key",
            extra_memory_kb=None,
            warnings=self.warnings,
        )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> _World:
    made = _World()
    monkeypatch.setattr(check, "require_programs", lambda _arch: None)
    monkeypatch.setattr(Workshop, "kernel", lambda _self, request: made.kernel(request))
    monkeypatch.setattr(MailChecks, "applies", lambda _self, n: made.cell("git am", n))
    monkeypatch.setattr(MailChecks, "reads_well", lambda _self, n: made.cell("checkpatch", n))
    monkeypatch.setattr(
        ObjectChecks, "compare", lambda _self, n, permutation: made.cell(permutation.name, n)
    )
    monkeypatch.setattr(ObjectChecks, "tools", ("gcc 99",))
    monkeypatch.setattr(BootChecks, "carries", lambda _self, n, _kernel, way: made.cell(way, n))
    monkeypatch.setattr(BootChecks, "verdict", lambda _self, n, _kernel: made.cell("verdict", n))
    return made


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """A project with a series of two patches."""
    project = tmp_path / "project"
    (project / "patches").mkdir(parents=True)
    (project / "images").mkdir()
    (project / "images/init").write_text("#!/bin/sh\n")
    (project / "Kconfig.fragment").write_text("CONFIG_IMA=y\n")
    (project / "Kconfig.scenarios.fragment").write_text("")
    (project / X86_64.fragment).write_text("CONFIG_ACPI=y\n")
    trees = [make_tree(tmp_path / f"state{number}") for number in range(3)]
    for number in (1, 2):
        (trees[number] / "ima/log.c").write_text(f"patched {number}\n")
        make_patch(
            project / "patches/linux-6.1.y", f"{number}.patch", trees[number - 1], trees[number]
        )
    return Workshop(project, SilentProgress(), Cache(tmp_path / "cache"))


@pytest.fixture
def request_(tmp_path: Path) -> CheckRequest:
    return CheckRequest(X86_64, logs=tmp_path / "logs", kernel_tree=tmp_path / "state0")


def _rows(workshop: Workshop, request: CheckRequest) -> tuple[list[Row], int]:
    """The rows, and what the command ends with."""
    kept: list[CheckReport] = []
    report = run_check(workshop, request, lambda _row: None, kept.append)
    assert [len(each.rows) for each in kept] == list(range(1, len(report.rows) + 1))
    return list(report.rows), report.exit_code


@pytest.mark.usefixtures("world")
def test_all_is_well(workshop: Workshop, request_: CheckRequest) -> None:
    rows, code = _rows(workshop, request_)
    assert [row.title for row in rows] == ["base", "1/2", "2/2"]
    assert all(row.cells == {column.name: _OK for column in COLUMNS} for row in rows)
    assert code == 0


def test_rows_come_cell_by_cell(workshop: Workshop, request_: CheckRequest, world: _World) -> None:
    sizes = [len(row.cells) for row in SeriesCheck(workshop, request_).rows()]
    assert sizes == [*range(1, len(COLUMNS) + 1)] * 3
    assert world.kernels == [0, 1, 2], "each is built once"


@pytest.mark.usefixtures("world")
def test_one_row_alone(workshop: Workshop, request_: CheckRequest, tmp_path: Path) -> None:
    request = CheckRequest(X86_64, logs=request_.logs, kernel_tree=tmp_path / "state0", patch=2)
    rows, _ = _rows(workshop, request)
    assert [row.title for row in rows] == ["2/2"]


@pytest.mark.usefixtures("world")
def test_a_row_that_there_is_not(workshop: Workshop, tmp_path: Path) -> None:
    request = CheckRequest(X86_64, logs=tmp_path / "logs", kernel_tree=tmp_path / "state0", patch=3)
    with pytest.raises(UserError, match="the series has 2 patches"):
        run_check(workshop, request, lambda _row: None, lambda _report: None)
    assert not request.logs.exists(), "the next try may use the same folder"


@pytest.mark.parametrize(
    "error",
    [
        GuestFailure("it panicked", tail="Oops"),
        UserError("the patch does not apply", tail="error: line 1"),
        BuildFailure("make failed", tail="error: no stub"),
    ],
)
def test_a_failure_of_the_series_is_red_and_has_a_log(
    workshop: Workshop, request_: CheckRequest, world: _World, error: ImaKexecError
) -> None:
    world.errors["twice", 1] = error
    rows, code = _rows(workshop, request_)
    cell = rows[1].cells["twice"]
    assert (cell.status, cell.text, cell.details) == (Status.RED, error.what, (error.tail,))
    assert cell.log is not None
    assert error.what in cell.log.read_text()
    assert rows[1].cells["reload"] is _OK
    assert code == 1


def test_a_failure_of_the_host_is_not_red(
    workshop: Workshop, request_: CheckRequest, world: _World
) -> None:
    world.errors["git am", 1] = InfraError("the disk is full")
    rows, code = _rows(workshop, request_)
    assert rows[1].cells["git am"].status is Status.INFRA
    assert code == 3
    world.errors["checkpatch", 2] = UserError("bad")
    again = CheckRequest(X86_64, logs=request_.logs / "again", kernel_tree=request_.kernel_tree)
    assert _rows(workshop, again)[1] == 1


def test_without_a_kernel_nothing_is_booted(
    workshop: Workshop, request_: CheckRequest, world: _World
) -> None:
    world.errors["kernel", 2] = BuildFailure("make bzImage failed", tail="error: x")
    rows, _ = _rows(workshop, request_)
    statuses = {name: cell.status for name, cell in rows[2].cells.items()}
    assert statuses["build"] is Status.RED
    assert {statuses[name] for name in ("carries", "twice", "reload", "verdict")} == {
        Status.SKIPPED
    }
    assert statuses["IMA=n"] is Status.OK
    assert world.kernels == [0, 1, 2], "what failed is not built again"


def test_a_warning_of_the_kernel_is_red_but_in_the_base(
    workshop: Workshop, request_: CheckRequest, world: _World
) -> None:
    world.warnings = ("kernel/x.c:1:1: warning: unused",)
    rows, _ = _rows(workshop, request_)
    assert rows[0].cells["build"] is _OK
    assert rows[1].cells["build"].text == "1 compiler warning"
    assert rows[1].cells["build"].details == world.warnings


@pytest.mark.usefixtures("world")
def test_an_edit_meanwhile_does_not_count(workshop: Workshop, request_: CheckRequest) -> None:
    started = SeriesCheck(workshop, request_)
    for path in (workshop.project / "patches/linux-6.1.y").glob("*.patch"):
        path.unlink()
    (workshop.project / "images/init").write_text("edited\n")
    assert (request_.logs / "checked/images/init").read_text() == "#!/bin/sh\n"
    for patch in started.subject.series.patches:
        assert patch.path.read_text() == patch.text
        assert patch.path.is_relative_to(request_.logs)


@pytest.mark.usefixtures("world")
def test_logs_are_not_mixed_with_others(workshop: Workshop, request_: CheckRequest) -> None:
    request_.logs.mkdir()
    (request_.logs / "mine").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        SeriesCheck(workshop, request_)
