# SPDX-License-Identifier: GPL-2.0-only
"""Messages of two states of a tree are comparable, and a new one is found."""

from __future__ import annotations

from collections import Counter

import pytest

from imakexec.series.messages import Message, new_messages, parse_messages, said_by_object

_TREE = "/source/tree"
_OUTPUT = f"""\
  CC      kernel/kexec_core.o
  CHECK   {_TREE}/security/integrity/ima/ima_kexec.c
{_TREE}/kernel/kexec_core.c: In function 'kimage_map_segment':
{_TREE}/kernel/kexec_core.c:940:13: warning: unused variable 'dest' [-Wunused-variable]
  940 |         int dest;
{_TREE}/security/integrity/ima/ima_kexec.c:58:30: warning: incorrect type in assignment
{_TREE}/security/integrity/ima/ima_kexec.c:58:30:    expected unsigned short
{_TREE}/security/integrity/ima/ima_kexec.c:59:30: warning: incorrect type in assignment
{_TREE}/kernel/reboot.c:225: warning: Function parameter or member 'cmd' not described
{_TREE}/include/linux/kexec.h:12:5: warning: no previous prototype for 'f'
{_TREE}/include/linux/kexec.h:12:5: warning: no previous prototype for 'f'
{_TREE}/kernel/kexec_file.c:9:1: error: 'x' redeclared (declared at {_TREE}/include/linux/x.h:7:2)
kernel/kexec_core.o: warning: objtool: f()+0x1: unreachable instruction
make[2]: *** [scripts/Makefile.build:250: kernel/kexec_file.o] Error 1
"""


def _parsed(output: str) -> Counter[Message]:
    return parse_messages(output, _TREE)


_before = _parsed(_OUTPUT)


def test_what_counts_is_taken_without_lines_and_columns() -> None:
    assert _before == Counter(
        {
            Message(
                "kernel/kexec_core.c", "warning: unused variable 'dest' [-Wunused-variable]"
            ): 1,
            Message(
                "security/integrity/ima/ima_kexec.c", "warning: incorrect type in assignment"
            ): 2,
            Message(
                "kernel/reboot.c", "warning: Function parameter or member 'cmd' not described"
            ): 1,
            Message("include/linux/kexec.h", "warning: no previous prototype for 'f'"): 1,
            Message(
                "kernel/kexec_file.c", "error: 'x' redeclared (declared at include/linux/x.h)"
            ): 1,
            Message("kernel/kexec_core.o", "warning: objtool: f()+0x1: unreachable instruction"): 1,
        }
    )


def test_the_same_messages_elsewhere_in_the_file_are_not_new() -> None:
    moved = _OUTPUT.replace(":940:", ":1040:").replace(":58:30", ":77:3")
    now = _parsed(moved)
    assert new_messages(now, _before) == []


def test_one_more_of_the_same_is_new() -> None:
    line = f"{_TREE}/security/integrity/ima/ima_kexec.c:9:9: warning: incorrect type in assignment"
    now = _parsed(f"{_OUTPUT}{line}\n")
    assert new_messages(now, _before) == [
        "security/integrity/ima/ima_kexec.c: warning: incorrect type in assignment "
        "(now 3 times, before 2)"
    ]


def test_a_header_that_is_included_more_often_is_not_new() -> None:
    line = f"{_TREE}/include/linux/kexec.h:12:5: warning: no previous prototype for 'f'\n"
    now = _parsed(_OUTPUT + line * 3)
    assert new_messages(now, _before) == []


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_messages_are_fine_and_other_ones_are_new(count: int) -> None:
    before = Counter({Message("a.c", "warning: x"): 2})
    assert new_messages(Counter({Message("a.c", "warning: x"): count}), before) == []
    assert new_messages(Counter({Message("a.c", "warning: y"): count}), before) == [
        "a.c: warning: y"
    ]


_MAKING = f"""\
make[1]: Entering directory '/objects'
  CALL    {_TREE}/scripts/checksyscalls.sh
{_TREE}/kernel/a.c:1: warning: of nobody
  CC      kernel/a.o
  CHECK   {_TREE}/kernel/a.c
{_TREE}/kernel/a.c:2: warning: a
  AR      kernel/built-in.a
{_TREE}/kernel/b.c:1: warning: of nobody
  AS      arch/x86/kernel/c.o
  CC      kernel/bounds.s
{_TREE}/kernel/bounds.c:1: warning: of no object
"""


def test_what_was_said_belongs_to_the_object_that_was_made() -> None:
    said = said_by_object(_MAKING)
    assert said.keys() == {"kernel/a.o", "arch/x86/kernel/c.o"}
    assert said["kernel/a.o"].splitlines() == _MAKING.splitlines()[3:6]
    assert said["arch/x86/kernel/c.o"].count("\n") == 1
