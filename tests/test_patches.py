# SPDX-License-Identifier: GPL-2.0-only
"""What the text of the series promises to those who configure a kernel."""

from __future__ import annotations

import re

from imakexec.kernel.series import PatchSeries
from imakexec.project import find_project


def added_lines(path: str) -> list[str]:
    """All lines that the series adds to a file, in order."""
    series = PatchSeries.read(find_project() / "patches/linux-6.1.y")
    text = "".join(patch.text for patch in series.patches)
    files = re.split(r"^diff --git ", text, flags=re.MULTILINE)
    parts = [part for part in files if part.startswith(f"a/{path} ")]
    return [
        line[1:] for part in parts for line in part.splitlines() if re.match(r"\+(?!\+\+)", line)
    ]


def test_the_extra_memory_is_configured_as_in_mainline() -> None:
    """A configuration of 6.16 or later moves over unchanged."""
    lines = added_lines("security/integrity/ima/Kconfig")
    start = lines.index("config IMA_KEXEC_EXTRA_MEMORY_KB")
    assert [line.strip() for line in lines[start + 1 : start + 5]] == [
        'int "Extra memory for IMA measurements added during kexec soft reboot"',
        "range 0 40",
        "depends on IMA_KEXEC",
        "default 0",
    ]
