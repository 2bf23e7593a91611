# SPDX-License-Identifier: GPL-2.0-only
"""What `imakexec.attest` offers, and what of it needs no more than Python."""

from __future__ import annotations

import subprocess
import sys

import pytest

from imakexec import attest

_LISTS_ALONE = """
import sys
from imakexec.attest import MeasurementLog, compare_with, read_list, replay
from imakexec.attest import listing, source
from imakexec.report import listing as shown
assert callable(replay)
foreign = {"cryptography", "tpm2_pytss", "typer", "multiprocessing"} & sys.modules.keys()
sys.exit(", ".join(foreign) or 0)
"""


def test_every_name_is_there() -> None:
    for name in attest.__all__:
        assert getattr(attest, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'jugde'"):
        getattr(attest, "jugde")  # noqa: B009  # mypy knows that there is none


def test_a_list_is_read_and_shown_without_what_checks_quotes() -> None:
    done = subprocess.run([sys.executable, "-c", _LISTS_ALONE], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
