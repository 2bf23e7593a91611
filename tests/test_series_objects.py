# SPDX-License-Identifier: GPL-2.0-only
"""A prefix that does not compile, or says something new, is red; what is asked for exists.

The tree here has a Makefile that answers like the kernel's: it says what the file `says` holds.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from kernel_trees import MAKEFILE, make_patch, make_tree

from imakexec.arch import X86_64
from imakexec.deadline import Deadline
from imakexec.errors import UserError
from imakexec.kernel.build import BuildFailure
from imakexec.kernel.cache import Cache
from imakexec.kernel.config import Wanted
from imakexec.kernel.series import PatchSeries
from imakexec.kernel.source import user_tree
from imakexec.kernel.worktree import WorkTree
from imakexec.progress import SilentProgress
from imakexec.series.cells import Status
from imakexec.series.objects import BOOTABLE, PERMUTATIONS, ObjectChecks, Permutation

_RULES = """
allnoconfig:
	echo configured >> $(O)/runs
	cp $(KCONFIG_ALLCONFIG) $(O)/.config
%.o:
	echo $@ $(W) $(C) >> $(O)/asked
.PHONY: security/integrity/
security/integrity/: $(O)/integrity
	@true
$(O)/integrity: says
	@echo made >> $(O)/made
	@echo "  CC      security/integrity/ima/ima_kexec.o"
	@echo "  CHECK   $(CURDIR)/security/integrity/ima/ima_kexec.c"
	@sed "s|TREE|$(CURDIR)|" says
	@echo "  AR      security/integrity/built-in.a"
	@echo "$(CURDIR)/ima/log.c:1:1: warning: said by something else"
	@! grep error says
	@touch $@
"""
_OLD = "TREE/ima/log.c:3:1: warning: old\n"
_WANTED = (
    *("IMA", "IMA_KEXEC", "INTEGRITY", "KEXEC", "KEXEC_CORE", "KEXEC_FILE"),
    *("MULTIUSER", "X86"),
)


@pytest.fixture
def checks(tmp_path: Path) -> ObjectChecks:
    """Of three patches the second moves the old message, the third brings one of its own."""
    states = [make_tree(tmp_path / "state0")]
    (states[0] / "Makefile").write_text(MAKEFILE + _RULES)
    (states[0] / "says").write_text(_OLD)
    (states[0] / "security/integrity/ima").mkdir(parents=True)
    (states[0] / "security/integrity/ima/ima_kexec.c").write_text("int x;\n")
    new = "TREE/ima/log.c:9:1: warning: new\n"
    for number, says in enumerate((_OLD, _OLD.replace(":3:", ":30:"), _OLD + new), 1):
        states.append(tmp_path / f"state{number}")
        shutil.copytree(states[-2], states[-1])
        (states[-1] / "says").write_text(says)
        log = states[-1] / "ima/log.c"
        log.write_text(log.read_text() + f"patched {number}\n")
        make_patch(tmp_path / "patches", f"{number}.patch", states[-2], states[-1])
    cache = Cache(tmp_path / "cache")
    source = user_tree(states[0], cache, SilentProgress(), Deadline.after(20))
    (tmp_path / "logs").mkdir()
    return ObjectChecks(
        series=PatchSeries.read(tmp_path / "patches"),
        work=WorkTree(source, cache),
        arch=X86_64,
        wanted=tuple(Wanted(name, "y", "here") for name in _WANTED),
        cache=cache,
        progress=SilentProgress(),
        logs=tmp_path / "logs",
    )


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ObjectChecks, "tools", ("gcc 99", "sparse 99"))


def _folder(checks: ObjectChecks, permutation: Permutation) -> Path:
    [folder] = checks.work.folder.glob(f"objects-*-{permutation.name.replace('=', '-')}")
    return folder


def _asked(checks: ObjectChecks, permutation: Permutation) -> list[str]:
    return (_folder(checks, permutation) / "asked").read_text().splitlines()


@pytest.mark.parametrize("patches", [0, 1, 2])
def test_what_the_base_says_too_is_fine(checks: ObjectChecks, patches: int) -> None:
    cell = checks.compare(patches, BOOTABLE)
    assert (cell.status, cell.text) == (Status.OK, "ok")
    assert cell.log is not None
    assert "warning: old" in cell.log.read_text()


def test_a_new_message_is_red_and_quoted(checks: ObjectChecks) -> None:
    cell = checks.compare(3, BOOTABLE)
    assert (cell.status, cell.text) == (Status.RED, "1 new message")
    [line] = cell.details
    assert line.startswith("ima/log.c: warning: new")


def test_everything_is_made_with_warnings_and_sparse(checks: ObjectChecks) -> None:
    checks.compare(0, BOOTABLE)
    asked = _asked(checks, BOOTABLE)
    assert all(line.endswith(" 1 1") for line in asked)
    names = {line.split()[0] for line in asked}
    assert {"kernel/kexec_core.o", "kernel/kexec_file.o", "kernel/kexec.o"} <= names
    assert "arch/x86/kernel/machine_kexec_64.o" in names


@pytest.mark.parametrize("permutation", PERMUTATIONS, ids=lambda permutation: permutation.name)
def test_objects_that_do_not_exist_are_not_asked_for(
    checks: ObjectChecks, permutation: Permutation
) -> None:
    assert checks.compare(0, permutation).status is Status.OK
    names = {line.split()[0] for line in _asked(checks, permutation)}
    for symbol, name in (
        ("KEXEC_FILE", "kernel/kexec_file.o"),
        ("KEXEC_FILE", "arch/x86/kernel/kexec-bzimage64.o"),
        ("KEXEC", "kernel/kexec.o"),
        ("KEXEC_CORE", "kernel/kexec_core.o"),
    ):
        assert (name in names) == (permutation.symbols.get(symbol, "y") == "y")
    narrow = "arch/x86/kernel/machine_kexec_32.o" in names
    assert narrow == permutation.is_32bit


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1)])
def test_whatever_was_made_before(checks: ObjectChecks, order: tuple[int, ...]) -> None:
    for patches in order:
        red = checks.compare(patches, BOOTABLE).status is Status.RED
        assert red == (patches == 3)


def test_what_a_patch_does_not_reach_is_not_made_again(checks: ObjectChecks) -> None:
    """But what was said about it is said again."""
    cells = [checks.compare(patches, BOOTABLE) for patches in (0, 1)]
    assert (_folder(checks, BOOTABLE) / "made").read_text() == "made\n"
    logs = [cell.log.read_text() for cell in cells if cell.log is not None]
    assert logs[0] == logs[1]
    assert "warning: old" in logs[1]


def test_what_was_said_about_an_object_goes_with_its_source(
    checks: ObjectChecks, tmp_path: Path
) -> None:
    before, after = tmp_path / "state3", tmp_path / "state4"
    shutil.copytree(before, after)
    (after / "security/integrity/ima/ima_kexec.c").unlink()
    make_patch(tmp_path / "patches", "4.patch", before, after)
    without = replace(checks, series=PatchSeries.read(tmp_path / "patches"))
    assert without.compare(3, BOOTABLE).status is Status.RED
    assert without.compare(4, BOOTABLE).status is Status.OK


def test_the_outcome_is_kept(checks: ObjectChecks) -> None:
    checks.compare(3, BOOTABLE)
    asked = _asked(checks, BOOTABLE)
    again = replace(checks, logs=checks.logs / "again")
    again.logs.mkdir()
    assert again.compare(3, BOOTABLE).status is Status.RED
    assert _asked(checks, BOOTABLE) == asked


def test_configuring_is_done_once(checks: ObjectChecks) -> None:
    for patches in range(3):
        checks.compare(patches, BOOTABLE)
    assert (_folder(checks, BOOTABLE) / "runs").read_text() == "configured\n"


def test_a_symbol_that_stays_on_is_an_error(checks: ObjectChecks) -> None:
    odd = Permutation("ODD=y", ("ODD",), MappingProxyType({"ODD": "y", "IMA": "n"}))
    makefile = checks.work.source.path / "Makefile"
    makefile.write_text(makefile.read_text().replace("cp $(KCONFIG", "grep -v ODD $(KCONFIG"))
    makefile.write_text(makefile.read_text().replace(") $(O)/.config", ") > $(O)/.config"))
    source = user_tree(checks.work.source.path, checks.cache, SilentProgress(), Deadline.after(20))
    edited = replace(checks, work=WorkTree(source, checks.cache))
    with pytest.raises(UserError, match="did not survive"):
        edited.compare(0, odd)


def test_what_does_not_compile_is_an_error_with_its_lines(
    checks: ObjectChecks, tmp_path: Path
) -> None:
    before, after = tmp_path / "state3", tmp_path / "state4"
    shutil.copytree(before, after)
    (after / "says").write_text("TREE/ima/log.c:1:1: error: no stub\n")
    make_patch(tmp_path / "patches", "4.patch", before, after)
    broken = replace(checks, series=PatchSeries.read(tmp_path / "patches"))
    with pytest.raises(BuildFailure) as caught:
        broken.compare(4, BOOTABLE)
    assert "error: no stub" in caught.value.tail
    assert broken.compare(3, BOOTABLE).text == "1 new message"


def test_an_architecture_without_a_32bit_sibling(checks: ObjectChecks) -> None:
    [narrow] = [permutation for permutation in PERMUTATIONS if permutation.is_32bit]
    alone = replace(checks, arch=replace(X86_64, kexec_32bit=None))
    assert alone.compare(1, narrow).status is Status.NOT_APPLICABLE
