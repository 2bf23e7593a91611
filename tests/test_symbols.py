# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

from pathlib import Path

import pytest

from imakexec.machine.symbols import Symbols

SYSTEM_MAP = """\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _text
ffffffff81000000 T startup_64
ffffffff81000100 t local
ffffffff81000180 W weak
ffffffff81000200 T _etext
ffffffff82000000 D data
ffffffff83000000 T init_code
"""


@pytest.fixture
def symbols(tmp_path: Path) -> Symbols:
    path = tmp_path / "System.map"
    path.write_text(SYSTEM_MAP)
    return Symbols.read(path)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (0xFFFFFFFF81000000, "startup_64+0x0/0x100"),
        (0xFFFFFFFF810000FF, "startup_64+0xff/0x100"),
        (0xFFFFFFFF81000100, "local+0x0/0x80"),
        (0xFFFFFFFF810001FF, "weak+0x7f/0x80"),
        (0xFFFFFFFF81000200, ""),
        (0xFFFFFFFF80FFFFFF, ""),
        (0x401000, ""),
        (0, ""),
    ],
)
def test_an_address_is_in_the_function_before_it(symbols: Symbols, address: int, name: str) -> None:
    assert symbols.name_of(address) == name


def test_a_file_without_functions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "System.map"
    path.write_text("ffffffff82000000 D data\n")
    with pytest.raises(ValueError, match="names no function"):
        Symbols.read(path)
