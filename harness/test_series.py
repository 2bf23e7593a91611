# SPDX-License-Identifier: GPL-2.0-only
"""Every prefix of the series applies, compiles, boots, and carries what it promises.

These are the cells of `imakexec series check`, one test each. They take long and are left out
unless asked for: `pytest harness/ -m series`.
"""

from __future__ import annotations

import pytest

from imakexec.arch import X86_64
from imakexec.errors import InfraError
from imakexec.job import Workshop
from imakexec.kernel.build import KernelRequest, series_folder
from imakexec.kernel.series import PatchSeries
from imakexec.project import find_project
from imakexec.series.cells import Cell, Column, Status
from imakexec.series.check import COLUMNS, CheckRequest, SeriesCheck

pytestmark = pytest.mark.series

_PATCHES = len(PatchSeries.read(series_folder(KernelRequest(X86_64), find_project())).patches)


@pytest.fixture(scope="session")
def check(
    workshop: Workshop, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> SeriesCheck:
    """The one table that all tests here read, a cell at a time."""
    request = CheckRequest(
        X86_64,
        logs=tmp_path_factory.mktemp("series"),
        kernel_tree=pytestconfig.getoption("--kernel-tree"),
        accelerator=pytestconfig.getoption("--accel"),
    )
    return SeriesCheck(workshop, request)


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name.replace(" ", "-"))
@pytest.mark.parametrize("patches", range(_PATCHES + 1))
def test_a_prefix_keeps_what_the_series_promises(
    check: SeriesCheck, patches: int, column: Column
) -> None:
    cell = check.cell(patches, column)
    if cell.status is Status.INFRA:
        raise InfraError(cell.text, where=str(cell.log or ""), tail="\n".join(cell.details))
    if cell.status in (Status.SKIPPED, Status.NOT_APPLICABLE):
        pytest.skip(cell.text)
    assert cell.status is Status.OK, _message(cell, column)


def _message(cell: Cell, column: Column) -> str:
    return "\n".join([f"{cell.text} ({column.meaning})", *cell.details, f"log: {cell.log}"])
