# SPDX-License-Identifier: GPL-2.0-only
"""What a kernel says that no healthy one says: one report each, from its first line to its last.

The kinds of reports are data. Text goes in, reports come out; nothing here knows a machine, so that
each kind is tested on a genuine log (tests/console_logs).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

# A report that has no end in the log must not swallow all that follows.
_LONGEST_REPORT = 200
_FRAMES = 5


class Severity(StrEnum):
    """How bad a kernel message is."""

    FATAL = "fatal"
    """The kernel cannot be trusted to go on: every wait ends."""
    SUSPICIOUS = "suspicious"
    """The run goes on; whoever judges it must look at the message."""


@dataclass(frozen=True)
class Pattern:
    """One kind of kernel message.

    Attributes:
        name: what it is called in reports.
        severity: see `Severity`.
        expression: searched at the start of a message, after any time stamp and caller id; empty
            for none.
        texts: what a message can hold anywhere instead.
        end: searched at the start of a message, which then is the report's last; empty for a report
            of one line.
        is_panic: whether the kernel is dead with it.
        host_seconds: for how long a host with other things to do must keep a machine waiting to
            cause it as well; 0 if it cannot.
    """

    name: str
    severity: Severity
    expression: str = ""
    texts: tuple[str, ...] = ()
    end: str = ""
    is_panic: bool = False
    host_seconds: float = 0.0


# What stands within a message, which is of 1024 characters at most (kernel/printk). Not all of a
# line: one that a guest makes up can begin a message hundreds of times, and each would be searched.
_SOME = r".{0,160}"
_TRACE = r"---\[ end trace "  # kernel/panic.c
_TASK = r" *</TASK>"  # arch/x86/kernel/dumpstack.c
# With panic=-1 the kernel restarts before it would say the first of these.
_PANIC = r"---\[ end Kernel panic|Kernel Offset:|Memory Limit: "
_KASAN = r"={60,}$"

_FATAL, _SUSPICIOUS = Severity.FATAL, Severity.SUSPICIOUS

# The first that matches wins. Spellings are those of x86, arm64 and powerpc: lib/dump_stack.c,
# kernel/panic.c, kernel/hung_task.c, kernel/rcu/tree_stall.h, kernel/locking/lockdep.c,
# mm/kasan/report.c, arch/*/mm/fault.c, arch/*/kernel/traps.c, drivers/char/tpm.
PATTERNS: tuple[Pattern, ...] = (
    Pattern("panic", _FATAL, r"Kernel panic - not syncing", end=_PANIC, is_panic=True),
    Pattern("soft lockup", _SUSPICIOUS, r"(watchdog: )?BUG: soft lockup", end=_TASK),
    Pattern("workqueue lockup", _SUSPICIOUS, r"BUG: workqueue lockup"),
    Pattern("KASAN report", _FATAL, r"BUG: KASAN: ", end=_KASAN),
    Pattern(
        "sleep in atomic context",
        _FATAL,
        r"BUG: (sleeping function called|scheduling while atomic)",
        end=_TASK,
    ),
    Pattern("kernel bug", _FATAL, r"kernel BUG at ", end=_TRACE),
    Pattern("bug report", _FATAL, r"BUG: ", end=_TRACE),
    Pattern("bad access", _FATAL, r"Unable to handle kernel |Unhandled fault:", end=_TRACE),
    Pattern("oops", _FATAL, r"(Internal error: )?Oops( -|:)|Internal error: ", end=_TRACE),
    Pattern(
        "bad trap",
        _FATAL,
        r"(general protection fault|invalid opcode|double fault|stack segment)\b"
        r"[^\[]{0,160}(:|\[#)",
        end=_TRACE,
    ),
    Pattern("hard lockup", _FATAL, rf"(NMI )?[Ww]atchdog:? {_SOME}hard LOCKUP", end=_TASK),
    Pattern(
        "stack overflow",
        _FATAL,
        r"(Insufficient stack space|Kernel stack overflow)",
        end=_TRACE,
    ),
    Pattern(
        "RCU stall",
        _SUSPICIOUS,
        rf"rcu: INFO: {_SOME}detected{_SOME} stall",
        end=_TASK,
    ),
    Pattern(
        "hung task",
        _SUSPICIOUS,
        rf"INFO: task {_SOME} blocked for more than \d+ seconds",
        end=_TASK,
    ),
    Pattern(
        "lockdep report",
        _SUSPICIOUS,
        rf"(INFO|WARNING): (possible|inconsistent) {_SOME}lock|"
        r"WARNING: bad unlock balance|WARNING: Nested lock was not taken",
        end=_TASK,
    ),
    Pattern(
        "RCU report",
        _SUSPICIOUS,
        r"WARNING: suspicious RCU usage",
        texts=("RCU-list traversed", "suspicious RCU"),
        end=_TASK,
    ),
    Pattern("warning", _SUSPICIOUS, r"WARNING: ", end=_TRACE),
    Pattern("UBSAN report", _SUSPICIOUS, r"UBSAN: ", end=r"---\[ end trace |={60,}$"),
    Pattern("slab corruption", _SUSPICIOUS, r"={10,}\s*BUG |Slab corruption"),
    Pattern("page corruption", _SUSPICIOUS, texts=("pagealloc: ",)),
    Pattern(
        "TPM timeout",
        _SUSPICIOUS,
        # -62 is -ETIME.
        rf"tpm tpm\d+: {_SOME}([Tt]imed [Oo]ut|: error -62$)",
        host_seconds=0.2,  # TPM2_TIMEOUT_C, include/linux/tpm.h
    ),
    Pattern("TPM error", _SUSPICIOUS, rf"tpm tpm\d+: {_SOME}(A TPM error|: error -\d+$)"),
    Pattern(
        "hand-over not prepared",
        _SUSPICIOUS,
        texts=(
            "Binary measurement list too large",
            "Not enough memory for the kexec measurement buffer",
            "Error passing over kexec measurement buffer",
            "Could not map",
            "Could not allocate ima pages array",
            "Trying to vfree",
        ),
    ),
    Pattern(
        "hand-over incomplete",
        _SUSPICIOUS,
        texts=(
            "Kexec segment is full",
            "Kexec segment is not mapped",
            "Dump measurements failed",
            "Kexec buffer not set",
            "Kexec file buf not allocated",
            "ima dump:",
        ),
    ),
    Pattern("PCR not extended", _SUSPICIOUS, texts=("Error Communicating to TPM chip",)),
    Pattern(
        "list not restored",
        _SUSPICIOUS,
        texts=(
            "Failed to restore the measurement list",
            "incompatible measurement list",
            "nr of fields mismatch",
            "buf end mismatch",
            "too many measurements",
            "unsupported template",
            "template name that is too long",
            "attempting to initialize the template",
            "attempting to restore the template fmt",
            "cannot calculate template digest",
            "lies outside available memory",
            "beyond memory",
            "Passed IMA kexec data, but CONFIG_IMA not set",
        ),
    ),
    Pattern("no TPM for IMA", _SUSPICIOUS, texts=("activating TPM-bypass",)),
)
"""The texts are those of security/integrity/ima and of arch/x86/kernel/setup.c, Linux 6.1 to 7.3,
and of the series. A kexec_file_load succeeds even when the list will not be carried, and a restore
that failed leaves a kernel that runs: such a line is then the only immediate sign."""


@dataclass(frozen=True)
class Allowed:
    """What is no complaint though it looks like one, on every kernel.

    Attributes:
        expression: searched at the start of a message.
        because: why.
    """

    expression: str
    because: str


ALLOWED: tuple[Allowed, ...] = (
    Allowed(
        r"tpm tpm\d+: A TPM error \(256\) occurred attempting the self test",
        "TPM_RC_INITIALIZE: no firmware has started the TPM, as on QEMU's arm64 board at each cold "
        "boot; the kernel then does it",
    ),
)

# "[    1.234567] ", with CONFIG_PRINTK_CALLER "[    1.234567][    T1] ", or nothing. A message
# can follow what a process wrote without a newline, so the stamp need not start the line.
_STAMP = r"\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? "
_MESSAGE_START = rf"(?:^|{_STAMP})"


def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(f"{_MESSAGE_START}(?:{expression})")


_COMPILED = tuple(
    (pattern, _compiled(pattern.expression) if pattern.expression else None, pattern.texts)
    for pattern in PATTERNS
)
_ENDS = {pattern.name: _compiled(pattern.end) for pattern in PATTERNS if pattern.end}
# One search tells of nearly all lines that they are harmless: a guest can say a million of them.
_ANY_EXPRESSION = _compiled("|".join(p.expression for p in PATTERNS if p.expression))
_ANY_TEXT = re.compile("|".join(re.escape(text) for p in PATTERNS for text in p.texts))
_ALLOWED = tuple(_compiled(allowed.expression) for allowed in ALLOWED)
_BANNER = re.compile(_MESSAGE_START + r"(Linux version \d\S* .*)")


# "func+0x1a/0x2b", with ".cold", ".isra.0" and so on after the name that the source gives it, and
# with the module behind it.
_SYMBOL = r"(?P<name>[A-Za-z_]\w*)(?:\.\w+)*\+0x[0-9a-f]+/0x[0-9a-f]+"
# x86 and arm64 print a blank and the function, powerpc two addresses before it. A "?" is before
# what x86 has found on the stack and not by unwinding.
_FRAME = re.compile(rf"{_MESSAGE_START}(?:\s+|\[[0-9a-f]+\] \[[0-9a-f]+\] ){_SYMBOL}")
_WITHIN_TRACE = re.compile(rf"{_MESSAGE_START}\s+(?:\[|\?|<|{_SYMBOL})")
_PROGRAM_COUNTER = re.compile(rf"{_MESSAGE_START}(?:RIP: 0010:|pc : |NIP \[[0-9a-f]+\] ){_SYMBOL}")
_WARNED_AT = re.compile(rf"{_MESSAGE_START}WARNING: {_SOME} at \S+:\d+ {_SYMBOL}")


def classify(text: str) -> Pattern | None:
    """The first of `PATTERNS` that the console line matches, unless it is `ALLOWED`."""
    if _ANY_EXPRESSION.search(text) is None and _ANY_TEXT.search(text) is None:
        return None
    if any(allowed.search(text) for allowed in _ALLOWED):
        return None
    for pattern, expression, texts in _COMPILED:
        if expression is not None and expression.search(text) is not None:
            return pattern
        if any(part in text for part in texts):
            return pattern
    return None


def find_banner(text: str) -> str | None:
    """The kernel's `linux_banner` (init/version.c) in a console line, without its time stamp."""
    match = _BANNER.search(text)
    return match.group(1) if match else None


_STAGES = (
    (re.compile("kexec_core: Starting new kernel"), "the purgatory"),
    (_BANNER, "the kernel starts"),
    (re.compile("Run /init as init process"), "user space starts"),
)


def find_stage(text: str) -> str:
    """How far a boot has come with a console line, in words; empty if no further."""
    return next((stage for expression, stage in _STAGES if expression.search(text)), "")


@dataclass(frozen=True)
class Complaint:
    """One report of a kernel.

    Attributes:
        pattern: its kind.
        boot: how many kernels had announced themselves before the one that said it.
        place: index of its first line in the console.
        lines: all of it, as the console showed it, without host times.
        whole: whether its end was seen.
    """

    pattern: Pattern
    boot: int
    place: int
    lines: tuple[str, ...]
    whole: bool

    @property
    def first(self) -> str:
        """The line that names it."""
        return self.lines[0]

    @property
    def fingerprint(self) -> str:
        """The same for the same fault elsewhere: five innermost functions, joined by ":".

        Empty if it has no call trace.
        """
        return ":".join(frames(self.lines)[:_FRAMES])


@dataclass
class _Open:
    """A report whose end has not come yet."""

    pattern: Pattern
    boot: int
    place: int
    lines: list[str] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether the last line is the report's last."""
        return len(self.lines) > 1 and _ENDS[self.pattern.name].search(self.lines[-1]) is not None

    def is_over_before(self, line: str) -> bool:
        """Whether the last line has ended a call trace that has no mark at its end."""
        if self.pattern.end != _TASK or any("<TASK>" in said for said in self.lines):
            return False
        return _FRAME.search(self.lines[-1]) is not None and _WITHIN_TRACE.search(line) is None

    def close(self, *, whole: bool) -> Complaint:
        return Complaint(self.pattern, self.boot, self.place, tuple(self.lines), whole)


def find_complaints(lines: Iterable[str]) -> Iterator[Complaint]:
    """The reports in a console, in order.

    A report goes on to its end, to the next kernel, to a panic, or for 200 lines. A report within
    another one, as the oops that follows a bad access, belongs to it; one of a single line does
    not, because another CPU can have said it.

    Args:
        lines: of a console or of dmesg, without the time of the host.
    """
    banners = 0
    current: _Open | None = None
    for place, line in enumerate(lines):
        is_banner = find_banner(line) is not None
        banners += is_banner
        boot = max(0, banners - 1)
        pattern = classify(line)
        if pattern is not None and not pattern.end:
            yield Complaint(pattern, boot, place, (line,), whole=True)
            continue
        if current is not None:
            panics = pattern is not None and pattern.is_panic
            if is_banner or panics or len(current.lines) == _LONGEST_REPORT:
                yield current.close(whole=panics)
                current = None
            elif current.is_over_before(line):
                yield current.close(whole=True)
                current = None
        if current is None and pattern is not None:
            current = _Open(pattern, boot, place)
        if current is not None:
            current.lines.append(line)
            if current.is_over:
                yield current.close(whole=True)
                current = None
    if current is not None:
        yield current.close(whole=False)


def read_complaints(console: Path) -> list[Complaint]:
    """The reports in a file that `machine.console` has written, each line with its time.

    Raises:
        OSError: it cannot be read.
    """
    with console.open(encoding="utf-8", errors="replace") as lines:
        said = (line.rstrip("\n").lstrip().partition(" ")[2] for line in lines)
        return list(find_complaints(said))


def complaint_lines(lines: Iterable[str]) -> tuple[str, ...]:
    """The line that names it of each report, as `find_complaints`."""
    return tuple(complaint.first for complaint in find_complaints(lines))


# What is on the stack because of the report itself.
_REPORTERS = re.compile(
    r"(?:dump_stack(?:_lvl)?|show_stack|dump_backtrace|(?:nmi_)?panic|__warn\w*|warn_slowpath\w*|"
    r"report_bug|handle_bug|die|__die|die_body|oops_end|page_fault_oops|exc_\w+|asm_exc_\w+|"
    r"(?:do|handle)_\w*fault|__do_kernel_fault|do_translation_fault|do_mem_abort|el1_abort|"
    r"el1h_64_sync\w*|kasan_\w+|__kasan_\w+|print_report|print_address_description|__asan_\w+|"
    r"lockdep_\w+|print_\w*(?:bug|usage)\w*|check_\w+|__lock_acquire|lock_acquire|validate_chain|"
    r"mark_\w+|__might_resched|__might_sleep|bug_handler|call_break_hook|brk_handler|"
    r"do_debug_exception|el1_dbg|rcu_\w*stall\w*|print_other_cpu_stall|\w*nmi\w*|"
    r"watchdog_timer_fn|__switch_to|(?:__)?schedule(?:_timeout|_bug)?)$"
)


def frames(lines: Sequence[str]) -> list[str]:
    """The functions of a report's first call trace, innermost first, without those that report."""
    found: list[str] = []
    for line in lines:
        match = _PROGRAM_COUNTER.search(line) or _WARNED_AT.search(line) or _FRAME.search(line)
        if match is None:
            if len(found) > 1 and re.search(r"</TASK>|---\[ end|Code: ", line):
                break
            continue
        name = match["name"]
        if not _REPORTERS.match(name) and (not found or found[-1] != name):
            found.append(name)
    return found
