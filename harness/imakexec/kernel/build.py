# SPDX-License-Identifier: GPL-2.0-only
"""From a request to a bootable kernel, cached by everything that decides its content.

The key is made of inputs alone: the source's identity, the patches, the fragments and options, and
the compiler. So a kernel that was built before is found without unpacking, configuring or looking
at a tree. What is kept of a build is what a run needs and what evidence shows: boot image,
configuration, System.map and log. vmlinux is kept only with DWARF, which nobody has by chance: it
is many times their size.

A build folder is kept per source, architecture and set of requested symbols. One that a kill
interrupted is thrown away, because a truncated object file looks finished to make; ccache then has
nearly all of it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from imakexec import process
from imakexec.arch import Arch
from imakexec.deadline import Deadline
from imakexec.errors import InfraError, UserError
from imakexec.kernel import config
from imakexec.kernel.cache import Cache
from imakexec.kernel.decode import SCRIPT, DebugInfo
from imakexec.kernel.given import GivenKernel, require_symbols
from imakexec.kernel.make import REPRODUCIBLE, KernelMake, build_folder, complaints, jobs
from imakexec.kernel.series import PatchSeries
from imakexec.kernel.source import SourceTree, debian_source, user_tree
from imakexec.kernel.texts import read_banner
from imakexec.kernel.toolchain import Toolchain
from imakexec.kernel.worktree import WorkTree
from imakexec.progress import Progress, Step

# Raise it when this module changes what a key stands for.
_SCHEMA = 1
_KIND = "kernel"
_COMMON_FRAGMENT = "Kconfig.fragment"
_RESTING_FRAGMENT = "Kconfig.scenarios.fragment"
_DEFAULT_SERIES = "linux-6.1.y"
# What every file is compiled otherwise with, beside the common fragment.
_REACHES_ALL_FILES = ("KASAN", "MODULES", "RANDOMIZE_BASE", "DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT")

DEBUG_INFO = ("CONFIG_DEBUG_KERNEL=y", "CONFIG_DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT=y")
"""What a kernel is built with so that its call traces can be decoded to lines of the source."""

DEFAULT_EXTRA_MEMORY_KB = 40

_WARNING = re.compile(r"\bwarning: ", re.IGNORECASE)
_PRODUCT = re.compile(r"  [A-Z][A-Z0-9_]* +(\S+)")


class BuildFailure(UserError):
    """The tree with these patches and this configuration does not compile.

    A request that cannot be carried out, like a patch that does not apply: no kernel ran, so there
    is no verdict about one (GuestFailure), and the host did its part (InfraError).
    """


@dataclass(frozen=True)
class KernelRequest:
    """Which kernel to make.

    Attributes:
        arch: what it runs on.
        base: "linux-X.Y": the source as Debian packages it.
        kernel_tree: a tree of the user's instead.
        patches: how many of the series to apply. None stands for all of the series that is meant
            for the base, which for a base without one, and for a user's tree, is none at all.
        extra_memory_kb: CONFIG_IMA_KEXEC_EXTRA_MEMORY_KB, in KiB. None stands for the project's
            default where the kernel has the option.
        symbols: further lines of a configuration fragment, e.g. "CONFIG_KASAN=y".
        further: patch files that are applied on top of the series, in order.
        image: a boot image that was built elsewhere, instead of all that.
        config: the configuration of that image; None for the one inside it (CONFIG_IKCONFIG).
    """

    arch: Arch
    base: str = "linux-6.1"
    kernel_tree: Path | None = None
    patches: int | None = None
    extra_memory_kb: int | None = None
    symbols: tuple[str, ...] = ()
    further: tuple[Path, ...] = ()
    image: Path | None = None
    config: Path | None = None


@dataclass(frozen=True)
class KernelImage:
    """A kernel in the cache.

    Attributes:
        image: the boot image.
        config: its .config.
        system_map: its System.map; None of a kernel that was built elsewhere.
        log: what make said; None likewise.
        release: `uname -r`.
        banner: the "Linux version ..." line with which it announces itself.
        base: what it was built from, e.g. "linux-source-6.1 6.1.192-2" or the user's tree.
        patches: the names of the patches applied, in order.
        key: the content key.
        extra_memory_kb: CONFIG_IMA_KEXEC_EXTRA_MEMORY_KB in KiB, None if it has no such option.
        warnings: of the compiler and the build tools, for the files that this build compiled; a
            file that was up to date in the build folder was reported by the build that made it.
        patch_digests: SHA-256 of each patch file, in hexadecimal.
        debug_info: what its call traces are decoded with; None if nobody has it.
    """

    image: Path
    config: Path
    system_map: Path | None
    log: Path | None
    release: str
    banner: str
    base: str
    patches: tuple[str, ...]
    key: str
    extra_memory_kb: int | None
    warnings: tuple[str, ...]
    patch_digests: tuple[str, ...] = ()
    debug_info: DebugInfo | None = None


@dataclass(frozen=True)
class _Plan:
    """A request with its inputs read: all that decides the kernel's content."""

    request: KernelRequest
    source: SourceTree
    series: PatchSeries
    wanted: tuple[config.Wanted, ...]
    compiler: str

    @property
    def key(self) -> str:
        inputs = {
            "schema": _SCHEMA,
            "source": self.source.identity,
            "patches": [patch.digest for patch in self.series.patches],
            "symbols": sorted((symbol.name, symbol.value) for symbol in self.wanted),
            "extra_memory_kb": self.request.extra_memory_kb,
            "arch": self.request.arch.name,
            "compiler": self.compiler,
            "environment": dict(REPRODUCIBLE),
        }
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    @property
    def title(self) -> str:
        return f"{self.source.base} with {len(self.series.patches)} patches"


def build_kernel(
    request: KernelRequest,
    *,
    project: Path,
    cache: Cache,
    progress: Progress,
    deadline: Deadline,
) -> KernelImage:
    """Build the kernel, or find it built.

    Args:
        project: the folder that holds the fragments and `patches/`.

    Raises:
        BuildFailure: it does not compile.
        UserError: no such base, a patch that does not apply, a symbol that the tree does not give.
        InfraError: the host failed: network, disk, a missing tool, the deadline.
    """
    if request.image is not None:
        wanted = needed_symbols(request, project)
        with cache.lock("given", deadline, progress):
            kernel = given_kernel(request.image, request.config, wanted=wanted, cache=cache)
        found = DebugInfo.beside(request.image, kernel.banner, request.arch.cross_compile)
        return replace(kernel, debug_info=found)
    source = find_source(request, cache, progress, deadline)
    plan = _Plan(
        request=request,
        source=source,
        series=choose_series(request, project).and_then(request.further),
        wanted=tuple(wanted_symbols(request, project)),
        compiler=compiler_versions(request.arch, deadline),
    )
    with progress.step(f"kernel {plan.title}") as step:
        image = _load(plan, cache)
        if image is not None:
            step.done("cached")
            return image
        work = WorkTree(source, cache)
        with cache.lock(work.lock_name, deadline, progress):
            image = _load(plan, cache)
            if image is None:
                work.prepare(plan.series, step, deadline)
                with cache.publish(_KIND, plan.key) as folder:
                    _Build(plan, work, cache, step, deadline).into(folder)
                image = _load(plan, cache)
        assert image is not None
        step.done(f"{image.release}, {image.image.stat().st_size / 2**20:.1f} MiB")
    return image


def given_kernel(
    image: Path, config_file: Path | None, *, wanted: Iterable[config.Wanted], cache: Cache
) -> KernelImage:
    """A boot image that was built elsewhere, if a guest can run on it.

    Raises:
        UserError: it is no kernel, nobody knows its configuration, or it lacks an option.
        InfraError: the program that uncompresses it is missing.
    """
    kernel = GivenKernel(image.resolve(), config_file)
    require_symbols(kernel, wanted)
    extra = kernel.symbols().get(config.EXTRA_MEMORY)
    return KernelImage(
        image=kernel.image,
        config=kernel.store_config(cache),
        system_map=None,
        log=None,
        release=kernel.release,
        banner=kernel.banner,
        base=str(kernel.image),
        patches=(),
        key=kernel.key,
        extra_memory_kb=None if extra is None else int(extra),
        warnings=(),
    )


def find_source(
    request: KernelRequest, cache: Cache, progress: Progress, deadline: Deadline
) -> SourceTree:
    """The unpatched source that the request means.

    Raises:
        UserError: no such base, or no kernel tree.
        InfraError: the source cannot be downloaded or unpacked.
    """
    if request.kernel_tree is not None:
        return user_tree(request.kernel_tree, cache, progress, deadline)
    return debian_source(request.base, cache, progress, deadline)


def choose_series(request: KernelRequest, project: Path) -> PatchSeries:
    """The patches that the request means.

    A series belongs to the base it is named after. On any other tree nothing is applied unasked;
    asked for, the project's series is tried.

    Raises:
        UserError: the series is shorter than asked for, or broken.
    """
    folder = series_folder(request, project)
    if request.kernel_tree is None and folder.name == f"{request.base}.y":
        series = PatchSeries.read(folder)
        return series if request.patches is None else series.first(request.patches)
    if not request.patches:
        return PatchSeries()
    return PatchSeries.read(folder).first(request.patches)


def offers_ima_option(request: KernelRequest, tree: Path, name: str) -> bool:
    """Whether IMA has a configuration symbol in a source with the request's further patches.

    Args:
        tree: the source without them.
        name: of the symbol, without its CONFIG_.

    Raises:
        UserError: there is no such patch file.
    """
    added = PatchSeries().and_then(request.further).patches
    has_been_added = any(f"+config {name}\n" in patch.text for patch in added)
    return has_been_added or config.has_ima_option(tree, name)


def series_folder(request: KernelRequest, project: Path) -> Path:
    """Where the series lies that is meant for the base, or else is tried on it if asked for."""
    own = project / "patches" / f"{request.base}.y"
    if request.kernel_tree is None and own.is_dir():
        return own
    return project / "patches" / _DEFAULT_SERIES


def wanted_symbols(request: KernelRequest, project: Path) -> list[config.Wanted]:
    """The configuration that the request means, without its extra memory.

    Raises:
        UserError: a fragment is missing or is none.
    """
    return config.merge(
        needed_symbols(request, project),
        config.read_fragment(project / _RESTING_FRAGMENT),
        config.parse(request.symbols, "the requested symbols"),
    )


def needed_symbols(request: KernelRequest, project: Path) -> list[config.Wanted]:
    """The part of it without which no guest runs.

    Raises:
        UserError: a fragment is missing or is none.
    """
    return config.merge(
        config.read_fragment(project / _COMMON_FRAGMENT),
        config.read_fragment(project / request.arch.fragment),
    )


def compiler_versions(arch: Arch, deadline: Deadline) -> str:
    """What compiles and links for an architecture, with versions, one a line.

    Raises:
        InfraError: one is missing.
    """
    chain = Toolchain.of(arch.cross_compile)
    tools = (chain.compiler, chain.linker)
    for tool in tools:
        if shutil.which(tool) is None:
            remedy = chain.set_up(arch.set_up)
            raise InfraError(f"there is no {tool} on this host", where="PATH", remedy=remedy)
    versions = [
        process.run([tool, "--version"], deadline=deadline).output.partition("\n")[0]
        for tool in tools
    ]
    return "\n".join([*versions, *([f"KCFLAGS {chain.flags}"] if chain.flags else [])])


def _load(plan: _Plan, cache: Cache) -> KernelImage | None:
    entry = cache.lookup(_KIND, plan.key)
    if entry is None:
        return None
    facts = json.loads((entry / "build.json").read_text(encoding="utf-8"))
    return KernelImage(
        image=entry / Path(plan.request.arch.kernel_image).name,
        config=entry / "config",
        system_map=entry / "System.map",
        log=entry / "build.log",
        release=facts["release"],
        banner=facts["banner"],
        base=plan.source.base,
        patches=plan.series.names,
        key=plan.key,
        extra_memory_kb=facts["extra_memory_kb"],
        warnings=tuple(facts["warnings"]),
        patch_digests=tuple(patch.digest for patch in plan.series.patches),
        debug_info=_kept_debug_info(entry, plan.request.arch),
    )


def _kept_debug_info(entry: Path, arch: Arch) -> DebugInfo | None:
    vmlinux, script = entry / "vmlinux", entry / Path(SCRIPT).name
    return DebugInfo(vmlinux, script, arch.cross_compile) if vmlinux.is_file() else None


@dataclass
class _Build:
    """One run of make, in the build folder of the source and the architecture."""

    plan: _Plan
    work: WorkTree
    cache: Cache
    step: Step
    deadline: Deadline
    products: int = 0
    warnings: list[str] = field(default_factory=list)

    @property
    def _objects(self) -> Path:
        # Configurations share a folder: make compiles what the symbols that differ reach, while in
        # a folder of its own each would begin with everything.
        request = self.plan.request
        apart = [name for name in _REACHES_ALL_FILES if f"CONFIG_{name}=y" in request.symbols]
        chain = Toolchain.of(request.arch.cross_compile)
        return self.work.folder / "-".join([f"build-{request.arch.name}{chain.folder}", *apart])

    @property
    def _log(self) -> Path:
        return self._objects / "build.log"

    def into(self, folder: Path) -> None:
        """Configure, compile and put what is kept into `folder`."""
        with build_folder(self._objects, self.step):
            self._log.unlink(missing_ok=True)
            actual = self._configure()
            self._compile(actual)
        self._keep(folder, actual)

    def _configure(self) -> Mapping[str, str]:
        """Write .config and return its symbols, verified."""
        self.step.update("configuring")
        wanted = [*self.plan.wanted, *self._extra_memory()]
        merged = self._objects / "wanted.config"
        merged.write_text(config.render(wanted), encoding="utf-8")
        settings = {"KCONFIG_ALLCONFIG": str(merged)}
        self._make(["allnoconfig"], settings)
        self._make(["olddefconfig"])
        actual = config.values(self._objects / ".config")
        config.verify(wanted, actual, self.work.tree)
        return actual

    def _extra_memory(self) -> list[config.Wanted]:
        asked = self.plan.request.extra_memory_kb
        if any(symbol.name == "IMA_KEXEC" and symbol.value == "n" for symbol in self.plan.wanted):
            return []  # it hands no log over, so there is nothing to reserve room for
        if config.has_extra_memory(self.work.tree):
            kb = DEFAULT_EXTRA_MEMORY_KB if asked is None else asked
            return [config.Wanted(config.EXTRA_MEMORY, str(kb), "--extra-memory-kb")]
        if asked is None:
            return []
        raise UserError(
            f"this kernel has no CONFIG_{config.EXTRA_MEMORY}: its log has no room to grow",
            where=self.plan.title,
            remedy="apply the whole series, or leave out --extra-memory-kb",
        )

    def _compile(self, actual: Mapping[str, str]) -> None:
        if actual.get("OBJTOOL") == "y":
            # Objtool and its libsubcmd both link tools/objtool/fixdep (tools/objtool/Makefile of
            # 6.1), so that in a parallel build one can run it while the other writes it.
            self._make(["tools/objtool"], on_line=self._watch)
        self._make([jobs(), self.plan.request.arch.kernel_target], on_line=self._watch)

    def _watch(self, line: str) -> None:
        product = _PRODUCT.match(line)
        if product is not None:
            self.products += 1
            self.step.update(f"{self.products} files, {product[1]}")
        elif _WARNING.search(line):
            self.warnings.append(line)

    def _make(
        self,
        arguments: list[str],
        settings: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        """Run make out of tree.

        Raises:
            BuildFailure: it failed, though the disk is not full.
        """
        make = KernelMake(
            tree=self.work.tree,
            objects=self._objects,
            kernel_arch=self.plan.request.arch.kernel_arch,
            toolchain=Toolchain.of(self.plan.request.arch.cross_compile),
            cache=self.cache,
            log=self._log,
        )
        made = make.run(arguments, self.deadline, settings=settings, on_line=on_line)
        if made.returncode == 0:
            return
        raise BuildFailure(
            f"make {arguments[-1]} failed for {self.plan.title}",
            where=str(self._log),
            remedy="correct the patch or the tree, or choose another --patches N",
            tail=complaints(made.output),
        )

    def _keep(self, folder: Path, actual: Mapping[str, str]) -> None:
        image = self._objects / self.plan.request.arch.kernel_image
        shutil.copyfile(image, folder / image.name)
        shutil.copyfile(self._log, folder / self._log.name)
        shutil.copyfile(self._objects / ".config", folder / "config")
        shutil.copyfile(self._objects / "System.map", folder / "System.map")
        if actual.get("DEBUG_INFO") == "y":
            shutil.copyfile(self._objects / "vmlinux", folder / "vmlinux")
            shutil.copyfile(self.work.tree / SCRIPT, folder / Path(SCRIPT).name)
        extra = actual.get(config.EXTRA_MEMORY)
        facts = {
            "release": (self._objects / "include/config/kernel.release").read_text().strip(),
            "banner": read_banner((self._objects / "vmlinux").read_bytes()),
            "extra_memory_kb": None if extra is None else int(extra),
            "warnings": self.warnings,
        }
        (folder / "build.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")
