# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import json
import time
from pathlib import Path

from imakexec.machine.events import EventLog


def events(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_is_in_the_file_before_anything_else_happens(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path, began=time.monotonic() - 5) as log:
        log.add("qmp", name="RESET", data={"guest": True})
        [event] = events(path)
    assert event["event"] == "qmp"
    assert event["name"] == "RESET"
    assert event["data"] == {"guest": True}
    assert isinstance(event["at"], float)
    assert 5 <= event["at"] < 6
    assert str(event["time"]).endswith("Z")


def test_what_a_guest_says_stays_on_its_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path, began=0) as log:
        log.add("complaint", line='a\n{"event": "forged"}\x1b[0m')
    [event] = events(path)
    assert event["line"] == 'a\n{"event": "forged"}\x1b[0m'
    assert "\x1b" not in path.read_text()


def test_what_json_does_not_know_is_a_string(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path, began=0) as log:
        log.add("set aside", console=Path("/x"))
    assert events(path)[0]["console"] == "/x"


def test_an_event_after_the_end_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path, began=0) as log:
        pass
    log.add("late")
    assert events(path) == []


def test_a_full_disk_costs_the_events_and_nothing_else() -> None:
    with EventLog(Path("/dev/full"), began=0) as log:
        log.add("lost")
