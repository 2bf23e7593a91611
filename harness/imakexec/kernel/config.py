# SPDX-License-Identifier: GPL-2.0-only
"""The kernel configuration: fragments in, a verified .config out.

The format is that of the kernel's own .config (Documentation/kbuild/kconfig.rst):
`CONFIG_NAME=value`, or `# CONFIG_NAME is not set`, which means the same as `CONFIG_NAME=n`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imakexec.errors import UserError

_SET = re.compile(r"CONFIG_(\w+)=(.+)")
_NOT_SET = re.compile(r"# CONFIG_(\w+) is not set")
EXTRA_MEMORY = "IMA_KEXEC_EXTRA_MEMORY_KB"


@dataclass(frozen=True)
class Wanted:
    """One symbol that the kernel must have.

    Attributes:
        name: without the CONFIG_ prefix.
        value: as in .config, strings with their quotes; "n" for a symbol that is not set.
        origin: where it was asked for: file and line, or an option.
    """

    name: str
    value: str
    origin: str


def read_fragment(path: Path) -> list[Wanted]:
    """The symbols of a fragment file.

    Raises:
        UserError: the file is missing, or a line is neither a symbol nor a comment.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError("a configuration fragment is missing", where=str(path)) from None
    return parse(lines, str(path))


def parse(lines: Iterable[str], origin: str) -> list[Wanted]:
    """The symbols of the lines of a fragment or .config.

    Raises:
        UserError: a line is neither a symbol nor a comment.
    """
    wanted = []
    for number, line in enumerate(lines, 1):
        if match := _SET.fullmatch(line.strip()):
            wanted.append(Wanted(match[1], match[2], f"{origin}:{number}"))
        elif match := _NOT_SET.fullmatch(line.strip()):
            wanted.append(Wanted(match[1], "n", f"{origin}:{number}"))
        elif line.strip() and not line.startswith("#"):
            raise UserError(
                f"not a configuration line: {line.strip()}",
                where=f"{origin}:{number}",
                remedy="write CONFIG_NAME=value or # CONFIG_NAME is not set",
            )
    return wanted


def merge(*parts: Iterable[Wanted]) -> list[Wanted]:
    """One entry per symbol; of several the last counts."""
    return list({wanted.name: wanted for part in parts for wanted in part}.values())


def render(symbols: Iterable[Wanted]) -> str:
    """The symbols as a file for KCONFIG_ALLCONFIG."""
    return "".join(f"CONFIG_{symbol.name}={symbol.value}\n" for symbol in symbols)


def values(config: Path) -> dict[str, str]:
    """The symbols of a .config that are set, by name."""
    lines = config.read_text(encoding="utf-8").splitlines()
    return {symbol.name: symbol.value for symbol in parse(lines, str(config))}


def verify(wanted: Sequence[Wanted], actual: Mapping[str, str], tree: Path) -> None:
    """Check that the configuration came out as wanted; an absent symbol counts as "n".

    Raises:
        UserError: it did not; names every symbol that differs, who wanted it and the likely cause.
    """
    wrong = [symbol for symbol in wanted if actual.get(symbol.name, "n") != symbol.value]
    if not wrong:
        return
    kconfig = Kconfig.read(tree)
    _require_in_range(wrong, kconfig)
    symbols = "symbol" if len(wrong) == 1 else "symbols"
    raise UserError(
        f"{len(wrong)} wanted {symbols} did not survive the configuration of this kernel",
        where=str(tree),
        remedy="correct the fragment, or choose a tree that has the symbols",
        tail="\n".join(_complaint(symbol, actual, kconfig) for symbol in wrong),
    )


def _require_in_range(wrong: Iterable[Wanted], kconfig: Kconfig) -> None:
    """Blame whoever asked for a number that Kconfig clamps, and not the tree.

    Raises:
        UserError: a number is out of its symbol's range.
    """
    for symbol in wrong:
        limits = kconfig.ranges.get(symbol.name)
        if limits is None or limits.holds(symbol.value):
            continue
        raise UserError(
            f"CONFIG_{symbol.name}={symbol.value} is out of range {limits.low}-{limits.high}",
            where=symbol.origin,
            remedy=f"give {limits.low} to {limits.high} ({limits.place} of this kernel)",
        )


def _complaint(symbol: Wanted, actual: Mapping[str, str], kconfig: Kconfig) -> str:
    got = actual.get(symbol.name, "n")
    cause = kconfig.likely_cause(symbol.name, actual)
    return f"CONFIG_{symbol.name}: wanted {symbol.value} ({symbol.origin}), got {got}: {cause}"


@dataclass(frozen=True)
class Range:
    """The numbers that a symbol can have.

    Attributes:
        low: the least.
        high: the greatest.
        place: file and line that say so.
    """

    low: int
    high: int
    place: str

    @classmethod
    def parse(cls, text: str, place: str) -> Range | None:
        """What stands behind `range`; None if it is more than two decimal numbers."""
        match = re.fullmatch(r"(-?\d+)\s+(-?\d+)", text.strip())
        return cls(int(match[1]), int(match[2]), place) if match else None

    def holds(self, value: str) -> bool:
        """Whether the value is in the range; what is no decimal number is nothing to judge."""
        return re.fullmatch(r"-?\d+", value) is None or self.low <= int(value) <= self.high


@dataclass(frozen=True)
class Kconfig:
    """What a tree's Kconfig files say, read as text: good enough to explain, not to decide.

    Attributes:
        depends: of every symbol, its `depends on` expressions with file and line, one tuple for
            all places where the symbol is defined.
        ranges: of every symbol that has a single one, without a condition, in decimal numbers.
    """

    depends: Mapping[str, tuple[tuple[str, str], ...]]
    ranges: Mapping[str, Range]

    @classmethod
    def read(cls, tree: Path) -> Kconfig:
        """Read every Kconfig file below `tree`."""
        depends: dict[str, tuple[tuple[str, str], ...]] = {}
        ranges: dict[str, list[Range | None]] = {}
        for name, line, place in _symbol_lines(tree):
            depends.setdefault(name, ())
            if match := re.match(r"\s+depends on (.+)", line):
                depends[name] = (*depends[name], (match[1], place))
            elif match := re.match(r"\s+range (.+)", line):
                ranges.setdefault(name, []).append(Range.parse(match[1], place))
        single = {name: found[0] for name, found in ranges.items() if len(found) == 1}
        return cls(depends, {name: limits for name, limits in single.items() if limits})

    def likely_cause(self, name: str, actual: Mapping[str, str]) -> str:
        """Why a symbol is not what it should be, as far as the text tells."""
        if name not in self.depends:
            return "this tree has no such symbol"
        for expression, place in self.depends[name]:
            off = [word for word in re.findall(r"[A-Z]\w+", expression) if word not in actual]
            if off:
                return f"it depends on {expression} ({place}); not set: {', '.join(off)}"
        return "another symbol selects it, or a menu around it is off"


def _symbol_lines(tree: Path) -> Iterator[tuple[str, str, str]]:
    """Of every Kconfig file, the lines that define a symbol: its name, the line, file and line."""
    for path in sorted(tree.rglob("Kconfig*")):
        if not path.is_file():
            continue
        name = ""
        text = path.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            if match := re.match(r"\s*(?:menu)?config (\w+)", line):
                name = match[1]
            elif re.match(r"(?:menu|choice|if|endif|endmenu|source)\b", line):
                name = ""
            if name:
                yield name, line, f"{path.relative_to(tree)}:{number}"


def has_extra_memory(tree: Path) -> bool:
    """Whether the tree's IMA can reserve room for records that arrive after the load."""
    return has_ima_option(tree, EXTRA_MEMORY)


def has_ima_option(tree: Path, name: str) -> bool:
    """Whether the tree's IMA has a configuration symbol, named without its CONFIG_."""
    kconfig = tree / "security/integrity/ima/Kconfig"
    return kconfig.is_file() and f"config {name}\n" in kconfig.read_text(encoding="utf-8")
