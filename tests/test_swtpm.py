# SPDX-License-Identifier: GPL-2.0-only
import shutil
import struct
from pathlib import Path

import pytest

from imakexec.errors import InfraError, UserError
from imakexec.machine.swtpm import start_swtpm, swtpm_argv

needs_swtpm = pytest.mark.skipif(shutil.which("swtpm_setup") is None, reason="no swtpm here")

CMD_GET_CAPABILITY = 1  # swtpm_ioctls(3); PTM_GET_CAPABILITY over the control channel


def test_the_state_folder_and_the_connection_are_in_the_command_line() -> None:
    argv = swtpm_argv("/tmp/state", "7", "swtpm.log")
    assert "dir=/tmp/state" in argv
    assert "type=unixio,clientfd=7" in argv


@pytest.mark.parametrize("banks", [(), ("md5",), ("sha1", "sha1")])
def test_an_impossible_set_of_banks_is_the_user_s_error(
    tmp_path: Path, banks: tuple[str, ...]
) -> None:
    with (
        pytest.raises(UserError, match="not a set of PCR banks"),
        start_swtpm(banks, templates=tmp_path, log=tmp_path / "log"),
    ):
        pass


def test_a_host_without_swtpm_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(InfraError, match="no swtpm") as caught,
        start_swtpm(("sha256",), templates=tmp_path, log=tmp_path / "log"),
    ):
        pass
    assert "apt-get install swtpm" in caught.value.remedy


@needs_swtpm
def test_a_tpm_answers_and_leaves_nothing_behind(tmp_path: Path) -> None:
    templates = tmp_path / "templates"
    with start_swtpm(("sha1", "sha256"), templates=templates, log=tmp_path / "log") as tpm:
        state = Path(next(a for a in tpm.argv if a.startswith("dir=")).removeprefix("dir="))
        assert state.is_absolute()
        tpm.connection.sendall(struct.pack(">I", CMD_GET_CAPABILITY))
        tpm.connection.settimeout(10)
        assert tpm.connection.recv(8)[:4] == bytes(4)
    assert tpm.process.returncode is not None
    assert not state.exists()
    assert len(list(templates.iterdir())) == 1

    # The second time the template is there: swtpm_setup is needed no more.
    made = next(templates.iterdir()).stat().st_mtime_ns
    with start_swtpm(("sha1", "sha256"), templates=templates, log=tmp_path / "log"):
        pass
    assert next(templates.iterdir()).stat().st_mtime_ns == made
