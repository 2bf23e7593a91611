# SPDX-License-Identifier: GPL-2.0-only
"""Runs the command `imakexec` in this process."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from imakexec import cli


@dataclass(frozen=True)
class Ended:
    """How it ended: exit code, standard output, error output."""

    code: object
    out: str
    err: str


class Run:
    """Takes the arguments as a shell would give them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Ended:
        self._monkeypatch.setattr(sys, "argv", ["imakexec", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = self._capsys.readouterr()
        return Ended(end.value.code, out, err)
