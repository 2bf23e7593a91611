# SPDX-License-Identifier: GPL-2.0-only
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from imakexec.arch import ARCHES, ARM64, X86_64, Uefi
from imakexec.errors import InfraError
from imakexec.machine.accelerator import Accelerator
from imakexec.machine.qemu import MachineConfig, command_lines, read_event, require_uefi
from imakexec.machine.watch import Cause

CONFIG = MachineConfig(
    arch=X86_64,
    kernel=Path("bzImage"),
    initrd=Path("initrd.gz"),
    cmdline="console=ttyS0 panic=-1",
    accelerator=Accelerator.TCG,
)


def options(argv: tuple[str, ...], name: str) -> list[str]:
    return [value for option, value in pairwise(argv) if option == name]


def qemu(config: MachineConfig = CONFIG) -> tuple[str, ...]:
    return command_lines(config)[0]


def test_the_guest_waits_for_us_and_a_reset_is_an_end() -> None:
    assert {"-S", "-no-reboot", "-nodefaults", "-no-user-config"} <= set(qemu())


def test_kernel_initrd_and_command_line_are_given_as_they_are() -> None:
    argv = qemu()
    assert options(argv, "-kernel") == ["bzImage"]
    assert options(argv, "-initrd") == ["initrd.gz"]
    assert options(argv, "-append") == ["console=ttyS0 panic=-1"]
    assert options(argv, "-accel") == ["tcg"]


def test_the_tpm_is_the_architecture_s() -> None:
    assert "tpm-tis,tpmdev=tpm0" in options(qemu(), "-device")
    assert "emulator,id=tpm0,chardev=tpm" in options(qemu(), "-tpmdev")


def test_uefi_firmware_is_the_architecture_s() -> None:
    assert options(qemu(), "-bios") == []
    for arch in ARCHES.values():
        argv = qemu(replace(CONFIG, arch=arch, uefi=True))
        assert options(argv, "-bios") == [str(arch.uefi.image)]


def test_firmware_that_is_missing_is_named_with_its_package() -> None:
    bare = replace(X86_64, uefi=Uefi(Path("/nowhere/fw.fd"), package="firmware"))
    with pytest.raises(InfraError) as caught:
        require_uefi(bare)
    assert caught.value.where == "/nowhere/fw.fd"
    assert "apt-get install --no-install-recommends firmware" in caught.value.remedy


def test_a_machine_without_tpm_has_no_trace_of_one() -> None:
    argv, swtpm = command_lines(replace(CONFIG, tpm=False))
    assert not any("tpm" in argument for argument in argv)
    assert swtpm == ()


def test_every_connection_is_inherited_and_none_has_a_path_or_a_port() -> None:
    chardevs = options(qemu(), "-chardev")
    assert len(chardevs) == 4
    assert options(qemu(), "-add-fd") == ["fd=CONSOLE,set=1", "fd=KEYS,set=2"]
    others = [chardev for chardev in chardevs if ",path=/dev/fdset/1," not in chardev]
    assert len(others) == 3
    assert all(",fd=" in chardev for chardev in others)
    assert not any("path=" in chardev or "port=" in chardev for chardev in others)


def test_the_shell_is_a_second_serial_port_on_our_terminal() -> None:
    assert options(qemu(), "-serial") == ["chardev:console"]
    argv = qemu(replace(CONFIG, shell=True))
    assert options(argv, "-serial") == ["chardev:console", "chardev:shell"]
    assert "stdio,id=shell,signal=off" in options(argv, "-chardev")


def test_the_swtpm_shown_takes_its_connection_from_us() -> None:
    _, swtpm = command_lines(CONFIG)
    assert options(swtpm, "--ctrl") == ["type=unixio,clientfd=TPM"]
    assert "--terminate" in swtpm


def test_the_agent_s_port_has_its_name() -> None:
    assert "virtserialport,chardev=channel,name=imakexec.agent" in options(qemu(), "-device")


def test_an_arm64_guest_has_the_board_and_the_tpm_that_survive_a_kexec() -> None:
    argv = qemu(replace(CONFIG, arch=ARM64, kernel=Path("Image"), cmdline="console=ttyAMA0"))
    assert argv[0] == "qemu-system-aarch64"
    assert options(argv, "-M") == ["virt,gic-version=2,dtb-randomness=off"]
    assert options(argv, "-cpu") == ["cortex-a57"]
    assert options(argv, "-accel") == ["tcg"]
    assert "tpm-tis-device,tpmdev=tpm0" in options(argv, "-device")
    assert "virtio-serial-pci" in options(argv, "-device")
    assert options(argv, "-serial") == ["chardev:console"]


def test_a_shell_has_a_console_of_its_own() -> None:
    assert options(qemu(replace(CONFIG, shell=True)), "-serial") == [
        "chardev:console",
        "chardev:shell",
    ]
    argv = qemu(replace(CONFIG, arch=ARM64, shell=True))
    assert options(argv, "-serial") == ["chardev:console"]
    # It takes port 0 of a bus that must be there already.
    devices = options(argv, "-device")
    assert devices.index("virtconsole,chardev=shell") > devices.index("virtio-serial-pci")


@pytest.mark.parametrize(
    ("event", "cause"),
    [
        ({"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-reset"}}, Cause.RESET),
        ({"event": "RESET", "data": {"guest": True, "reason": "guest-reset"}}, Cause.RESET),
        ({"event": "SHUTDOWN", "data": {"reason": "guest-shutdown"}}, Cause.POWER_OFF),
        ({"event": "SHUTDOWN", "data": {"reason": "host-qmp-quit"}}, Cause.POWER_OFF),
        ({"event": "SHUTDOWN", "data": {"reason": "guest-panic"}}, Cause.CRASHED),
        ({"event": "GUEST_PANICKED", "data": {"action": "pause"}}, Cause.CRASHED),
        ({"event": "SHUTDOWN", "data": {"reason": "host-signal"}}, Cause.QEMU_DIED),
        ({"event": "STOP"}, Cause.QEMU_STOPPED),
    ],
)
def test_what_qmp_events_mean(event: dict[str, Any], cause: Cause) -> None:
    log = Path("qemu.log")
    sighting = read_event(event, qemu_log=log)
    assert sighting is not None
    assert sighting.cause is cause
    assert sighting.log == (log if cause.is_host else None)


@pytest.mark.parametrize("name", ["RESUME", "VSERPORT_CHANGE", "RTC_CHANGE"])
def test_other_qmp_events_end_nothing(name: str) -> None:
    assert read_event({"event": name, "data": {"open": True}}, qemu_log=Path("log")) is None


def test_memory_that_others_see_is_a_shared_file() -> None:
    assert "-object" not in qemu()
    argv = qemu(replace(CONFIG, ram=Path("ram"), memory_mib=256))
    assert options(argv, "-object") == [
        "memory-backend-file,id=ram,size=256M,share=on,mem-path=ram"
    ]
    assert "memory-backend=ram" in options(argv, "-machine")
