# SPDX-License-Identifier: GPL-2.0-only
"""Fragments are merged and every symbol of theirs is verified."""

from __future__ import annotations

from pathlib import Path

import pytest

from imakexec.arch import ARCHES, Arch
from imakexec.errors import UserError
from imakexec.kernel import config
from imakexec.kernel.config import Wanted

_KCONFIG = """\
menuconfig TPM
\tbool "TPM"
\tdepends on PCI && NET=y

config LONELY
\tbool "nothing to depend on"
"""


def test_both_forms_and_comments() -> None:
    text = ["# SPDX", "", "CONFIG_A=y", "# CONFIG_B is not set", 'CONFIG_C="x y"']
    assert config.parse(text, "f") == [
        Wanted("A", "y", "f:3"),
        Wanted("B", "n", "f:4"),
        Wanted("C", '"x y"', "f:5"),
    ]


@pytest.mark.parametrize("line", ["A=y", "CONFIG_A", "CONFIG_A =y", "CONFIG_A="])
def test_any_other_line_is_an_error_with_its_place(line: str) -> None:
    with pytest.raises(UserError) as caught:
        config.parse(["", line], "fragment")
    assert line in caught.value.what
    assert caught.value.where == "fragment:2"


def test_a_missing_fragment_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        config.read_fragment(tmp_path / "Kconfig.fragment")
    assert caught.value.where == str(tmp_path / "Kconfig.fragment")


def test_the_last_of_several_counts() -> None:
    first, second = Wanted("A", "y", "one:1"), Wanted("A", "n", "two:1")
    assert config.merge([first, Wanted("B", "y", "one:2")], [second]) == [
        second,
        Wanted("B", "y", "one:2"),
    ]


def test_render_is_what_parse_reads() -> None:
    wanted = config.parse(["CONFIG_A=y", "# CONFIG_B is not set"], "f")
    again = config.parse(config.render(wanted).splitlines(), "f")
    assert [(w.name, w.value) for w in again] == [("A", "y"), ("B", "n")]


def test_what_came_out_as_wanted_passes(tmp_path: Path) -> None:
    config.verify([Wanted("A", "y", "f:1"), Wanted("B", "n", "f:2")], {"A": "y"}, tmp_path)


def test_every_missing_symbol_is_named_with_origin_and_cause(tmp_path: Path) -> None:
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers/Kconfig").write_text(_KCONFIG)
    wanted = [
        Wanted("TPM", "y", "f:1"),
        Wanted("GONE", "y", "f:2"),
        Wanted("LONELY", "y", "f:3"),
        Wanted("PCI", "n", "f:4"),
    ]
    with pytest.raises(UserError) as caught:
        config.verify(wanted, {"PCI": "y"}, tmp_path)
    assert caught.value.what.startswith("4 wanted symbols")
    tpm, gone, lonely, pci = caught.value.tail.splitlines()
    assert tpm == (
        "CONFIG_TPM: wanted y (f:1), got n: "
        "it depends on PCI && NET=y (drivers/Kconfig:3); not set: NET"
    )
    assert gone == "CONFIG_GONE: wanted y (f:2), got n: this tree has no such symbol"
    assert "a menu around it is off" in lonely
    assert pci.startswith("CONFIG_PCI: wanted n (f:4), got y")


def test_a_single_symbol_is_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^1 wanted symbol did not survive"):
        config.verify([Wanted("A", "y", "f:1")], {}, tmp_path)


def test_a_number_that_kconfig_clamps_is_the_fault_of_who_asked(tmp_path: Path) -> None:
    text = "config KB\n\tint\n\trange 0 40\n\tdepends on IMA\n"
    (tmp_path / "Kconfig").write_text(text)
    with pytest.raises(UserError) as caught:
        config.verify([Wanted("KB", "41", "--extra-memory-kb")], {"KB": "40"}, tmp_path)
    assert caught.value.what == "CONFIG_KB=41 is out of range 0-40"
    assert caught.value.where == "--extra-memory-kb"
    assert "Kconfig:3" in caught.value.remedy


@pytest.mark.parametrize("limits", ["0 40", "0 50 if X\n\trange 0 40", "0 MOST", "0x0 0x40"])
def test_no_range_is_blamed_that_is_not_known_to_be_broken(tmp_path: Path, limits: str) -> None:
    (tmp_path / "Kconfig").write_text(f"config KB\n\tint\n\trange {limits}\n")
    asked = "40" if limits == "0 40" else "41"
    with pytest.raises(UserError, match="did not survive"):
        config.verify([Wanted("KB", asked, "--extra-memory-kb")], {"KB": "3"}, tmp_path)


def test_extra_memory_is_found_in_the_trees_kconfig(tmp_path: Path) -> None:
    assert not config.has_extra_memory(tmp_path)
    kconfig = tmp_path / "security/integrity/ima/Kconfig"
    kconfig.parent.mkdir(parents=True)
    kconfig.write_text("config IMA\n")
    assert not config.has_extra_memory(tmp_path)
    kconfig.write_text("config IMA\nconfig IMA_KEXEC_EXTRA_MEMORY_KB\n\tint\n")
    assert config.has_extra_memory(tmp_path)


@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES.keys())
def test_the_projects_fragments_are_well_formed(pytestconfig: pytest.Config, arch: Arch) -> None:
    names = [
        wanted.name
        for fragment in (
            "Kconfig.fragment",
            "Kconfig.scenarios.fragment",
            arch.fragment,
            "Kconfig.debug.fragment",
        )
        for wanted in config.read_fragment(pytestconfig.rootpath / fragment)
    ]
    assert "IMA_KEXEC" in names
    assert len(names) == len(set(names))
