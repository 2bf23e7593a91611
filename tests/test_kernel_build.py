# SPDX-License-Identifier: GPL-2.0-only
"""A kernel is built once per content; what fails says whose fault it is.

The tree here has a Makefile that answers like the kernel's in a moment.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from kernel_trees import MAKEFILE, make_patch, make_tree

from imakexec.arch import ARM64, X86_64
from imakexec.deadline import Deadline
from imakexec.errors import InfraError, UserError
from imakexec.kernel import build
from imakexec.kernel.build import (
    BuildFailure,
    KernelImage,
    KernelRequest,
    build_kernel,
    choose_series,
)
from imakexec.kernel.cache import Cache
from imakexec.progress import SilentProgress

_BANNER = "Linux version 6.1.192 (u@h) (gcc) #1 SMP Thu Jan  1 00:00:00 UTC 1970"
_RULES = rf"""
allnoconfig:
	cp $(KCONFIG_ALLCONFIG) $(O)/.config
olddefconfig:
	echo configured >> $(O)/runs
bzImage:
	sh ./compile
	mkdir -p $(O)/arch/x86/boot $(O)/include/config
	cat ima/log.c > $(O)/arch/x86/boot/bzImage
	echo 6.1.192 > $(O)/include/config/kernel.release
	printf '{_BANNER}\n\0' > $(O)/vmlinux
	touch $(O)/System.map
"""
_COMPILE = "echo '  CC      ima/log.o'\n"
_KCONFIG = "config IMA_KEXEC_EXTRA_MEMORY_KB\n\tint\n"

_BUILDER = """
import sys
from pathlib import Path
from imakexec.arch import X86_64
from imakexec.deadline import Deadline
from imakexec.kernel.build import KernelRequest, build_kernel
from imakexec.kernel.cache import Cache
from imakexec.progress import SilentProgress
request = KernelRequest(X86_64, kernel_tree=Path(sys.argv[1]))
build_kernel(request, project=Path(sys.argv[2]), cache=Cache(Path(sys.argv[3])),
             progress=SilentProgress(), deadline=Deadline.after(60))
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = make_tree(tmp_path / "linux")
    (folder / "Makefile").write_text(MAKEFILE + _RULES)
    (folder / "compile").write_text(_COMPILE)
    return folder


@pytest.fixture
def project(tmp_path: Path, tree: Path) -> Path:
    """Fragments, and a series of one patch that changes log.c and brings the memory option."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "Kconfig.fragment").write_text("CONFIG_IMA=y\n")
    (folder / "Kconfig.scenarios.fragment").write_text("")
    (folder / X86_64.fragment).write_text("CONFIG_ACPI=y\n")
    after = tmp_path / "after"
    subprocess.run(["cp", "-a", str(tree), str(after)], check=True)
    (after / "ima/log.c").write_text("patched\n")
    (after / "security/integrity/ima").mkdir(parents=True)
    (after / "security/integrity/ima/Kconfig").write_text(_KCONFIG)
    (folder / "patches").mkdir()
    make_patch(folder / "patches/linux-6.1.y", "1.patch", tree, after)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def request_(tree: Path) -> KernelRequest:
    return KernelRequest(X86_64, kernel_tree=tree)


def _build(request: KernelRequest, project: Path, cache: Cache) -> KernelImage:
    return build_kernel(
        request,
        project=project,
        cache=cache,
        progress=SilentProgress(),
        deadline=Deadline.after(30),
    )


def _said(kernel: KernelImage) -> str:
    """What make said."""
    assert kernel.log is not None
    return kernel.log.read_text()


def _runs(cache: Cache) -> int:
    return sum(len(path.read_text().split()) for path in cache.root.glob("work/*/build-*/runs"))


def test_what_is_built_is_described(request_: KernelRequest, project: Path, cache: Cache) -> None:
    kernel = _build(request_, project, cache)
    assert kernel.image.read_text().startswith("line 1\n")
    assert kernel.config.read_text() == "CONFIG_IMA=y\nCONFIG_ACPI=y\n"
    assert kernel.system_map is not None
    assert kernel.system_map.exists()
    assert "CC      ima/log.o" in _said(kernel)
    assert (kernel.release, kernel.banner) == ("6.1.192", _BANNER)
    assert (kernel.patches, kernel.extra_memory_kb, kernel.warnings) == ((), None, ())
    assert kernel.base == str(request_.kernel_tree)


def test_a_further_patch_goes_on_top_of_the_series(
    tree: Path, project: Path, cache: Cache, tmp_path: Path
) -> None:
    before, after = tmp_path / "patched", tmp_path / "broken"
    subprocess.run(["cp", "-a", str(tree), str(before)], check=True)
    (before / "ima/log.c").write_text("patched\n")
    subprocess.run(["cp", "-a", str(before), str(after)], check=True)
    (after / "ima/log.c").write_text("broken\n")
    make_patch(tmp_path / "further", "break.patch", before, after)
    series = KernelRequest(X86_64, kernel_tree=tree, patches=1)
    broken = replace(series, further=(tmp_path / "further/break.patch",))
    good, bad = _build(series, project, cache), _build(broken, project, cache)
    assert good.image.read_text().startswith("patched\n")
    assert bad.image.read_text().startswith("broken\n")
    assert bad.patches == ("1.patch", "break.patch")


def test_only_symbols_that_reach_all_files_have_a_folder_of_their_own(
    request_: KernelRequest, project: Path, cache: Cache
) -> None:
    for symbols in ((), ("CONFIG_OF=y",), ("CONFIG_KASAN=y",)):
        _build(replace(request_, symbols=symbols), project, cache)
    folders = cache.root.glob("work/*/build-*")
    assert sorted(path.name for path in folders) == ["build-x86_64", "build-x86_64-KASAN"]


def test_the_second_build_is_none(request_: KernelRequest, project: Path, cache: Cache) -> None:
    first = _build(request_, project, cache)
    assert _build(request_, project, cache) == first
    assert _runs(cache) == 1


def test_patches_change_kernel_and_options(
    request_: KernelRequest, project: Path, cache: Cache
) -> None:
    plain = _build(request_, project, cache)
    patched = _build(replace(request_, patches=1), project, cache)
    assert patched.key != plain.key
    assert patched.image.read_text() == "patched\n"
    assert patched.patches == ("1.patch",)
    assert patched.extra_memory_kb == 40
    more = _build(replace(request_, patches=1, extra_memory_kb=8), project, cache)
    assert more.extra_memory_kb == 8


def test_everything_that_decides_the_content_is_in_the_key(
    request_: KernelRequest,
    project: Path,
    cache: Cache,
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = [_build(request_, project, cache).key]
    keys.append(_build(replace(request_, symbols=("CONFIG_X=y",)), project, cache).key)
    with (project / "Kconfig.fragment").open("a") as fragment:
        fragment.write("CONFIG_TCG_TPM=y\n")
    keys.append(_build(request_, project, cache).key)
    (tree / "ima/log.c").write_text("edited\n")
    keys.append(_build(request_, project, cache).key)
    monkeypatch.setattr(build, "compiler_versions", lambda *_: "gcc 99")
    keys.append(_build(request_, project, cache).key)
    assert len(set(keys)) == len(keys)


@pytest.fixture
def cross_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in PATH with a compiler and a linker for arm64."""
    folder = tmp_path / "cross"
    folder.mkdir()
    for name in ("gcc", "ld"):
        tool = folder / f"{ARM64.cross_compile}{name}"
        tool.write_text(f"#!/bin/sh\necho {name} for arm64 1.2\necho and more\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


@pytest.mark.usefixtures("cross_tools")
def test_the_compiler_in_the_key_is_that_of_the_architecture() -> None:
    deadline = Deadline.after(30)
    assert build.compiler_versions(ARM64, deadline) == "gcc for arm64 1.2\nld for arm64 1.2"
    assert "arm64" not in build.compiler_versions(X86_64, deadline)


@pytest.mark.parametrize("name", ["gcc", "ld"])
def test_a_missing_cross_compiler_is_asked_for_by_its_package(
    cross_tools: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (cross_tools / f"{ARM64.cross_compile}{name}").unlink()
    monkeypatch.setenv("PATH", str(cross_tools))
    with pytest.raises(InfraError, match=f"there is no {ARM64.cross_compile}{name}") as caught:
        build.compiler_versions(ARM64, Deadline.after(30))
    assert "apt-get install --no-install-recommends qemu-system-arm" in caught.value.remedy


@pytest.mark.usefixtures("cross_tools")
def test_an_architecture_is_compiled_with_its_own_tools(
    request_: KernelRequest, project: Path, cache: Cache, tree: Path
) -> None:
    (project / ARM64.fragment).write_text("CONFIG_OF=y\n")
    rules = _RULES.replace("bzImage:", "Image:").replace("arch/x86", "arch/arm64")
    rules = rules.replace("arch/arm64/boot/bzImage", "arch/arm64/boot/Image")
    told = "\techo '  ASKED   $(ARCH) $(CROSS_COMPILE) $(CC) $(HOSTCC)'\n\tsh ./compile\n"
    (tree / "Makefile").write_text(MAKEFILE + rules.replace("\tsh ./compile\n", told))
    kernel = _build(replace(request_, arch=ARM64), project, cache)
    assert kernel.image.name == "Image"
    prefix = ARM64.cross_compile
    assert f"ASKED   arm64 {prefix} ccache {prefix}gcc ccache gcc" in _said(kernel)


def test_extra_memory_that_the_kernel_cannot_have(
    request_: KernelRequest, project: Path, cache: Cache
) -> None:
    with pytest.raises(UserError, match="no CONFIG_IMA_KEXEC_EXTRA_MEMORY_KB"):
        _build(replace(request_, extra_memory_kb=8), project, cache)


def test_no_extra_memory_for_a_kernel_that_hands_nothing_over(
    request_: KernelRequest, project: Path, cache: Cache
) -> None:
    deaf = replace(request_, patches=1, symbols=("# CONFIG_IMA_KEXEC is not set",))
    assert _build(deaf, project, cache).extra_memory_kb is None


def test_a_symbol_that_vanishes_is_named(
    request_: KernelRequest, project: Path, cache: Cache, tree: Path
) -> None:
    rules = _RULES.replace("cp $(KCONFIG_ALLCONFIG)", "grep -v ACPI $(KCONFIG_ALLCONFIG) >")
    (tree / "Makefile").write_text(MAKEFILE + rules)
    with pytest.raises(UserError) as caught:
        _build(request_, project, cache)
    fragment = project / X86_64.fragment
    assert f"CONFIG_ACPI: wanted y ({fragment}:1), got n" in caught.value.tail


def test_warnings_are_collected(
    request_: KernelRequest, project: Path, cache: Cache, tree: Path
) -> None:
    (tree / "compile").write_text("echo 'ima/log.c:1:2: warning: unused'; echo 'WARNING: modpost'")
    kernel = _build(request_, project, cache)
    assert kernel.warnings == ("ima/log.c:1:2: warning: unused", "WARNING: modpost")


def test_code_that_does_not_compile_is_the_requests_fault(
    request_: KernelRequest, project: Path, cache: Cache, tree: Path
) -> None:
    (tree / "compile").write_text("echo 'ima/log.c:1:2: error: expected x'; exit 1")
    with pytest.raises(BuildFailure) as caught:
        _build(request_, project, cache)
    assert caught.value.exit_code == 2
    assert "ima/log.c:1:2: error: expected x" in caught.value.tail
    assert "expected x" in Path(caught.value.where).read_text()
    assert not list(cache.root.glob("kernel/*"))
    (tree / "compile").write_text(_COMPILE)
    assert _build(request_, project, cache).release == "6.1.192"
    # What was compiled before the error is not compiled again.
    assert _runs(cache) == 2


def test_a_full_disk_is_the_hosts_fault(
    request_: KernelRequest, project: Path, cache: Cache, tree: Path
) -> None:
    (tree / "compile").write_text("echo 'fatal error: x.s: No space left on device'; exit 1")
    with pytest.raises(InfraError, match="no space left on the file system of the cache"):
        _build(request_, project, cache)


def test_the_users_environment_does_not_reach_the_build(
    request_: KernelRequest,
    project: Path,
    cache: Cache,
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAFLAGS", "-O0")
    monkeypatch.setenv("CCACHE_DIR", "/users/own")
    (tree / "compile").write_text('echo "$KAFLAGS,$KBUILD_BUILD_USER,$CCACHE_DIR"')
    log = _said(_build(request_, project, cache))
    assert "\n,imakexec,/users/own\n" in log


def test_sigkill_while_compiling_leaves_a_sound_cache(
    request_: KernelRequest, project: Path, cache: Cache, tree: Path
) -> None:
    objects = "$(O)/truncated.o"
    rules = _RULES.replace(
        "sh ./compile", f"test -e {objects} || {{ touch {objects}; sleep 300; }}"
    )
    (tree / "Makefile").write_text(MAKEFILE + rules)
    arguments = [str(tree), str(project), str(cache.root)]
    builder = subprocess.Popen([sys.executable, "-c", _BUILDER, *arguments])
    deadline = Deadline.after(30)
    while not list(cache.root.glob("work/*/build-*/truncated.o")):
        assert not deadline.expired, "the build did not start"
        time.sleep(0.01)
    os.kill(builder.pid, signal.SIGKILL)
    builder.wait()
    assert not list(cache.root.glob("kernel/*"))

    (tree / "Makefile").write_text(MAKEFILE + _RULES)
    (tree / "compile").write_text("ls $(O)")
    kernel = _build(request_, project, cache)
    assert kernel.release == "6.1.192"
    assert not list(cache.root.glob("work/*/build-*/truncated.o"))
    assert not list((cache.root / "tmp").iterdir())


@pytest.mark.parametrize("killed", [False, True])
def test_of_two_builds_of_one_kernel_one_builds_and_one_waits(
    project: Path, cache: Cache, tree: Path, killed: bool
) -> None:
    go_on = tree.parent / "go-on"
    (tree / "compile").write_text(
        f"echo >>{tree.parent}/compiled; until test -e {go_on}; do sleep 0.05; done"
    )
    arguments = [str(tree), str(project), str(cache.root)]
    compiled = tree.parent / "compiled"

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", _BUILDER, *arguments])

    def wait_for(condition: Callable[[], bool]) -> None:
        deadline = Deadline.after(30)
        while not condition():
            assert not deadline.expired
            time.sleep(0.01)

    first = start()
    wait_for(compiled.exists)
    second = start()
    lock = next((cache.root / "locks").glob("work-*"))
    wait_for(lambda: len(_openers(lock)) == 2)
    if killed:
        first.kill()
        first.wait()
        wait_for(lambda: len(compiled.read_text().splitlines()) == 2)
    go_on.touch()
    assert second.wait(30) == 0
    assert first.wait(30) == (-signal.SIGKILL if killed else 0)
    assert len(compiled.read_text().splitlines()) == (2 if killed else 1)
    assert len(list(cache.root.glob("kernel/*"))) == 1
    assert not list((cache.root / "tmp").iterdir())


def _openers(path: Path) -> list[str]:
    """The processes that have a file open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if link.readlink() == path:
                found.append(link.parts[2])
    return found


@pytest.mark.parametrize(
    ("base", "asked", "applied"),
    [
        ("linux-6.1", None, 1),
        ("linux-6.1", 0, 0),
        ("linux-6.1", 1, 1),
        ("linux-7.3", None, 0),
        ("linux-7.3", 1, 1),
    ],
)
def test_a_series_belongs_to_its_base(
    project: Path, base: str, asked: int | None, applied: int
) -> None:
    request = KernelRequest(X86_64, base=base, patches=asked)
    assert len(choose_series(request, project).patches) == applied


def test_a_users_tree_is_patched_only_when_asked(project: Path, tree: Path) -> None:
    request = KernelRequest(X86_64, kernel_tree=tree)
    assert choose_series(request, project).patches == ()
    assert len(choose_series(replace(request, patches=1), project).patches) == 1
