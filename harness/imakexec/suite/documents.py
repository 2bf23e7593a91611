# SPDX-License-Identifier: GPL-2.0-only
"""The reports of a run of the tests that were asked for, as files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from imakexec.suite.result import SuiteRun


@dataclass(frozen=True)
class Reports:
    """Where reports go; None for those that nobody wants.

    Attributes:
        html: the folder of a page, which is that of the artefacts, or the page links nothing.
        json: a file for "imakexec-suite/1".
        ktap: a file for KTAP.
        kcidb: a file for KCIDB.
        kcidb_origin: the name of the CI system there.
    """

    html: Path | None
    json: Path | None
    ktap: Path | None
    kcidb: Path | None
    kcidb_origin: str

    def of(self, run: SuiteRun, folder: Path | None) -> Iterator[Callable[[], str]]:
        """What writes each of them, and says where it is.

        Each raises OSError if its file cannot be written, and ImaKexecError if there is something
        wrong with the request or the report.

        Args:
            folder: of the artefacts; None if there is none.
        """
        # Imported only where they are asked for: they load large libraries.
        if self.json is not None:
            path, text = self.json, json.dumps(run.to_json(), indent=2) + "\n"
            yield lambda: _write(path, text)
        if self.html is not None:
            from imakexec.report.html import write_html  # noqa: PLC0415

            page = self.html
            yield lambda: str(write_html(run, page))
        if self.ktap is not None:
            from imakexec.report.ktap import ktap_lines  # noqa: PLC0415

            lines = self.ktap
            yield lambda: _write(lines, "".join(f"{line}\n" for line in ktap_lines(run)))
        if self.kcidb is not None:
            from imakexec.report.kcidb import write_kcidb  # noqa: PLC0415

            report, origin = self.kcidb, self.kcidb_origin
            yield lambda: write_kcidb(run, report, origin=origin, folder=folder)


def _write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)
