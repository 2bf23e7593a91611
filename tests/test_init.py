# SPDX-License-Identifier: GPL-2.0-only
"""How the guest's /init reads its parameters: its own words, run by the host's shell."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

# The host's own tail: it need not have a busybox.
_SCRIPT = 'busybox() {{ "$@"; }}\n{function}\ncmdline=$1\nprintf %s "$(parameter policy)"\n'


@pytest.mark.parametrize(
    ("cmdline", "value"),
    [
        ("quiet", ""),
        ("policy=one quiet policy=two", "two"),
        ("quiet polic*", ""),
        ("policy=/etc/*", "/etc/*"),
    ],
)
def test_a_parameter_is_a_word_of_the_command_line_as_it_stands(
    pytestconfig: pytest.Config, tmp_path: Path, cmdline: str, value: str
) -> None:
    (tmp_path / "policy=file").touch()
    text = (pytestconfig.rootpath / "images/init").read_text()
    function = re.search(r"^parameter\(\)\n\{\n.*?^\}$", text, re.MULTILINE | re.DOTALL)
    assert function is not None
    command = ["sh", "-c", _SCRIPT.format(function=function[0]), "sh", cmdline]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == value
