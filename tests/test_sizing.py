# SPDX-License-Identifier: GPL-2.0-only
"""`imakexec size`: how large records are, how many have room, and what a window takes."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from xml.dom import minidom

import pytest
from command_line import Run
from evidence_maker import Rec, fields, ng, payload
from evidence_maker import pack as pack_records
from hypothesis import given
from hypothesis import strategies as st
from list_writer import BANKS, entry, pack

from imakexec import sizing
from imakexec.errors import UserError
from imakexec.sizing import (
    MARKER_SIZE,
    Caveat,
    Growth,
    Question,
    Sizes,
    Snapshot,
    at_most,
    bound,
    growth_of,
    least_option,
    most_seen,
    need,
    option_room,
    parse_duration,
    parse_time,
    size_lists,
)

SIZES = st.lists(st.integers(50, 3000), min_size=1, max_size=60)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


def written(folder: Path, records: Sequence[Rec], name: str = "list") -> Path:
    path = folder / name
    path.write_bytes(pack_records(records))
    return path


def files(count: int) -> list[Rec]:
    return [ng(f"/{n:06}") for n in range(count)]


RECORD = len(files(1)[0].pack())


# Sizes.


@given(SIZES)
def test_sizes_against_naive_ones(values: list[int]) -> None:
    sizes = Sizes.of(values)
    assert (sizes.records, sizes.total) == (len(values), sum(values))
    assert (sizes.least, sizes.most) == (min(values), max(values))
    for share, value in ((0.5, sizes.median), (0.9, sizes.p90), (0.99, sizes.p99)):
        reached = [size for size in values if sum(v <= size for v in values) >= share * len(values)]
        assert value == min(reached)
    assert math.isclose(sizes.mean, sum(values) / len(values))
    squares = sum((v - sizes.mean) ** 2 for v in values) / len(values)
    assert math.isclose(sizes.deviation**2, squares, abs_tol=1e-6)


@pytest.mark.parametrize("bank", BANKS)
def test_sizes_are_those_of_the_hand_over_in_the_list_of_any_bank(
    tmp_path: Path, bank: str
) -> None:
    entries = [entry("/a"), entry("/b", template="ima-sig")]
    (tmp_path / "list").write_bytes(pack(entries, bank=bank))
    figures = size_lists([tmp_path / "list"], [], Question())
    assert {name: sizes.total for name, sizes in figures.templates.items()} == {
        "ima-ng": len(entries[0].pack()),
        "ima-sig": len(entries[1].pack()),
    }


def test_a_marker_is_never_larger_than_it_is_taken_for() -> None:
    text = payload(2**64 - 1, 2**64 - 1, 10**20 - 1)
    digest = b"sha512:\0" + bytes(64)
    assert len(Rec(b"ima-buf", fields(digest, b"kexec_execute\0", text)).pack()) == MARKER_SIZE


# Rooms.


def test_rooms_of_records_of_one_size(tmp_path: Path) -> None:
    figures = size_lists([written(tmp_path, files(1000))], [], Question())
    for room, size in zip(figures.rooms, (2048, 4096, 16384, 40960, 65536), strict=True):
        count = (size - 2 * MARKER_SIZE) // RECORD
        assert (room.size, room.typical, room.fewest_seen, room.certain) == (size, *[count] * 3)


def test_rooms_of_large_pages_ascend(tmp_path: Path) -> None:
    figures = size_lists([written(tmp_path, files(9))], [], Question(page_size=65536))
    assert [room.size // 1024 for room in figures.rooms] == [4, 16, 32, 40, 64]
    assert figures.rooms[2].name == "half a page (32 KiB)"


def test_a_list_too_short_for_a_room_says_nothing_of_runs(tmp_path: Path) -> None:
    figures = size_lists([written(tmp_path, files(20))], [], Question())
    assert [room.fewest_seen is None for room in figures.rooms] == [False, *[True] * 4]


@given(SIZES, st.integers(0, 9000))
def test_fewest_in_a_run_against_a_naive_search(values: list[int], room: int) -> None:
    found = []
    for start in range(len(values)):
        for count in range(len(values) - start):
            if sum(values[start : start + count + 1]) > room:
                found.append(count)
                break
    assert sizing._fewest_in_a_run(values, room) == (min(found) if found else None)


def test_what_surely_has_room_has_room_in_every_run(tmp_path: Path) -> None:
    rng = random.Random(5)
    records = [ng("/" + "x" * rng.randrange(1, 400)) for _ in range(2000)]
    for room in size_lists([written(tmp_path, records)], [], Question()).rooms:
        assert room.fewest_seen is not None
        assert room.certain <= room.fewest_seen <= room.typical


# Growth.


def test_growth_of_two_snapshots(tmp_path: Path) -> None:
    paths = [written(tmp_path, files(count), str(count)) for count in (100, 150)]
    growth = size_lists(paths, [1000.0, 1000.0 + 7200], Question()).growth
    assert growth == Growth(2.0, 50, 50 * RECORD, 1.0)
    assert (growth.records_per_hour, growth.bytes_per_hour) == (25, 25 * RECORD)


@pytest.mark.parametrize(
    ("counts", "dispersion"),
    [((0, 100, 200, 300), 1.0), ((0, 101, 199, 300), 1.0), ((0, 0, 300, 300), 300.0)],
)
def test_bursts_widen_the_estimate(
    tmp_path: Path, counts: tuple[int, ...], dispersion: float
) -> None:
    paths = [written(tmp_path, files(10 + n), str(at)) for at, n in enumerate(counts)]
    times = [3600.0 * n for n in range(4)]
    figures = size_lists(paths, times, Question())
    assert figures.growth is not None
    assert figures.need is not None
    assert math.isclose(figures.growth.dispersion, dispersion)
    plain = need(Growth(3.0, 300, 0, 1.0), figures.assumed, Question())
    assert (figures.need.records > plain.records) == (dispersion > 1)


def test_bursts_within_the_limit_as_often_as_was_said() -> None:
    """Bursts of 20 records, one in an interval on average: watched for some, then one more."""
    rng = random.Random(11)
    kept = {
        intervals: sum(next_interval_is_within_the_limit(rng, intervals) for _ in range(300)) / 300
        for intervals in (1, sizing._ENOUGH_INTERVALS)
    }
    assert kept[sizing._ENOUGH_INTERVALS] >= 0.97
    assert kept[1] < 0.85, "a single interval is enough: then nothing has to be minded"


def next_interval_is_within_the_limit(rng: random.Random, intervals: int) -> bool:
    arrived = [20 * poisson(rng, 1) for _ in range(intervals + 1)]
    counts = [sum(arrived[:n]) for n in range(intervals + 1)]
    snapshots = [Snapshot(60.0 * n, count, 90 * count) for n, count in enumerate(counts)]
    growth = growth_of(snapshots)
    return arrived[-1] <= bound(growth, Sizes.of([90]), snapshots, 60, 0.99)[0]


SNAPSHOTS = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 900)), min_size=2, max_size=12
).map(
    lambda steps: [
        Snapshot(*(float(sum(values)), sum(records), sum(sizes)))
        for n in range(len(steps))
        for values, records, sizes in [zip(*steps[: n + 1], strict=True)]
    ]
)


@given(SNAPSHOTS, st.integers(1, 40))
def test_most_seen_against_a_naive_search(snapshots: list[Snapshot], window: int) -> None:
    pairs = [
        (later.records - earlier.records, later.size - earlier.size)
        for n, later in enumerate(snapshots)
        for earlier in snapshots[:n]
        if later.at - earlier.at <= window
    ]
    found = most_seen(snapshots, window)
    assert found == ((max(r for r, _ in pairs), max(s for _, s in pairs)) if pairs else None)


def test_a_window_takes_no_less_than_was_seen(tmp_path: Path) -> None:
    """99 quiet intervals and one burst: few enough to let the deviation look small."""
    counts = [10 + 400 * (n > 50) for n in range(101)]
    paths = [written(tmp_path, files(count), f"{n:03}") for n, count in enumerate(counts)]
    times = [10.0 * n for n in range(101)]
    figures = size_lists(paths, times, Question(window=10, confidence=0.9))
    assert figures.need is not None
    assert figures.growth is not None
    assert figures.need.seen_records == 400 == figures.need.records
    assert figures.need.seen_size == 400 * RECORD
    assert figures.need.size == 400 * RECORD + 2 * MARKER_SIZE
    assert at_most(figures.growth, figures.assumed, 10, 0.9)[0] < 400
    assert figures.caveats == (Caveat.MORE_SEEN,)


@pytest.mark.parametrize(
    ("counts", "step", "window", "caveats"),
    [
        ([10 * n for n in range(1, 14)], 60, 600, ()),
        ([10 * n for n in range(1, 13)], 60, 600, (Caveat.FEW_INTERVALS,)),
        ([10 * n for n in range(1, 14)], 60, 721, (Caveat.LONG_WINDOW,)),
        ([10] * 13, 60, 600, (Caveat.NO_GROWTH,)),
        ([10, 20], 60, 600, (Caveat.FEW_INTERVALS, Caveat.LONG_WINDOW)),
    ],
)
def test_figures_that_rest_on_too_little_say_so(
    run: Run,
    tmp_path: Path,
    counts: list[int],
    step: int,
    window: int,
    caveats: tuple[Caveat, ...],
) -> None:
    paths = [written(tmp_path, files(count), f"{n:03}") for n, count in enumerate(counts)]
    times = [float(step * n) for n in range(len(counts))]
    assert size_lists(paths, times, Question(window=window)).caveats == caveats
    at = [f"--at={moment}" for moment in times]
    said = run("size", *paths, *at, f"--window={window}").out
    assert said.count("mind      ") == len(caveats)


def test_two_snapshots_say_which_of_their_figures_are_weak(run: Run, tmp_path: Path) -> None:
    paths = [written(tmp_path, files(count), str(count)) for count in (10, 20)]
    said = " ".join(run("size", *paths, "--at=0", "--at=60", "--window=90s").out.split())
    assert "mind 1 interval between snapshots: too few to tell bursts" in said
    assert "mind the window is 1.5 times as long as what was watched" in said
    assert "the most seen was 10 records and" in said
    said = run("size", *paths, "--at=0", "--at=60", "--window=30s").out
    assert "the most seen" not in said, "no two snapshots are that close"


def test_names_that_mainline_does_not_count_come_on_top(run: Run, tmp_path: Path) -> None:
    custom = Rec(b"d-ng|n-ng", fields(b"sha1:\0" + bytes(20), b"/a\0"))
    unknown = Rec(b"ima-new", fields(b"x"))
    path = written(tmp_path, [custom, unknown, *files(3), custom])
    figures = size_lists([path], [], Question())
    assert figures.uncounted == 2 * len("d-ng|n-ng")
    assert figures.caveats == (Caveat.NAMES_NOT_COUNTED,)
    said = " ".join(run("size", path).out.split())
    assert "without their name: there, 18 bytes for those of this list" in said


def test_the_next_records_are_taken_to_be_like_the_new_ones_if_these_are_enough(
    tmp_path: Path,
) -> None:
    old = [ng("/" + "x" * 300)] * 50
    for count in (29, 30):
        paths = [written(tmp_path, old, "old"), written(tmp_path, old + files(count), "new")]
        figures = size_lists(paths, [0, 3600], Question())
        assert figures.assumed == (figures.overall if count < 30 else Sizes.of([RECORD] * 30))


# What a window takes.


def negative_binomial(successes: int, chance: float, count: int) -> float:
    """The share of counts up to `count`, by the textbook."""
    return sum(
        math.comb(n + successes - 1, n) * (1 - chance) ** n * chance**successes
        for n in range(count + 1)
    )


@pytest.mark.parametrize("successes", [1, 3, 40])
@pytest.mark.parametrize("chance", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("share", [0.6, 0.95, 0.999])
def test_quantile_against_the_textbook(successes: int, chance: float, share: float) -> None:
    mean = successes * (1 - chance) / chance
    count = sizing._count_quantile(mean, mean / chance, share)
    assert negative_binomial(successes, chance, count) >= share
    assert count == 0 or negative_binomial(successes, chance, count - 1) < share


def test_quantile_goes_over_into_the_normal_one() -> None:
    below, above = (sizing._count_quantile(mean, 2 * mean, 0.99) for mean in (20_000, 20_001))
    assert abs(above - below) < 0.001 * below


@pytest.mark.parametrize("confidence", [0.8, 0.99])
@pytest.mark.parametrize("rate", [0.5, 20.0, 900.0])
def test_a_window_takes_no_more_than_was_said_as_often_as_was_said(
    confidence: float, rate: float
) -> None:
    """Watched for an hour, then one more: simulated again and again."""
    rng, kept, runs = random.Random(7), 0, 400
    values = [90, 120, 600]
    for _ in range(runs):
        growth = Growth(1.0, poisson(rng, rate), 0, 1.0)
        records, size = at_most(growth, Sizes.of(values), 3600, confidence)
        arrived = poisson(rng, rate)
        taken = sum(rng.choices(values, k=arrived)) + 2 * MARKER_SIZE
        kept += arrived <= records and taken <= size
    assert kept / runs >= confidence - 3 * math.sqrt(confidence * (1 - confidence) / runs)


def poisson(rng: random.Random, mean: float) -> int:
    count, moment = 0, rng.expovariate(mean)
    while moment < 1:
        count, moment = count + 1, moment + rng.expovariate(mean)
    return count


def test_nothing_seen_does_not_mean_that_nothing_comes() -> None:
    records, size = at_most(Growth(1.0, 0, 0, 1.0), Sizes.of([100]), 3600, 0.99)
    assert records >= 3
    assert size == 100 * records + 2 * MARKER_SIZE


@pytest.mark.parametrize(
    ("size", "page", "option"),
    [
        (0, 4096, 0),
        (2048, 4096, 0),
        (2049, 4096, 3),
        (3072, 4096, 3),
        (3073, 4096, 4),
        (40960, 4096, 40),
        (40961, 4096, None),
        (32768, 65536, 0),
        (32769, 65536, 33),
    ],
)
def test_least_option(size: int, page: int, option: int | None) -> None:
    assert least_option(size, page) == option
    if option is not None:
        assert option_room(option, page) >= size


def test_longest_window_where_no_option_is_enough() -> None:
    growth, assumed = Growth(1.0, 3600, 0, 1.0), Sizes.of([100])
    answer = need(growth, assumed, Question(window=7200))
    assert answer.option is None
    assert answer.longest_window is not None
    room = option_room(40, 4096)
    assert at_most(growth, assumed, answer.longest_window, 0.99)[1] <= room
    assert at_most(growth, assumed, answer.longest_window + 1, 0.99)[1] > room
    assert need(growth, Sizes.of([50_000]), Question(window=60)).longest_window == 0


# Times.


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400)],
)
def test_windows(text: str, seconds: float) -> None:
    assert parse_duration(text, "--window") == seconds


@pytest.mark.parametrize("text", ["", "0", "0h", "m", "-1m", "1w", "1 m", "nan", "1e3"])
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(UserError, match="no length of time"):
        parse_duration(text, "--window")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1772366400", 1772366400),
        ("1772366400.5", 1772366400.5),
        ("2026-03-01T12:00", 1772366400),
        ("2026-03-01 12:00:00Z", 1772366400),
        ("2026-03-01T14:00+02:00", 1772366400),
    ],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


def test_time_zone_of_the_host_says_nothing_of_the_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert parse_time("2026-03-01T12:00") == 1772366400
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["", "noon", "12:00", "nan", "inf", "-5", "2026-13-01"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UserError, match="no time"):
        parse_time(text)


# The command.


def test_size_of_one_list(run: Run, tmp_path: Path) -> None:
    result = tmp_path / "json"
    ended = run("size", written(tmp_path, files(500)), "--json", result)
    assert (ended.code, ended.err) == (0, "")
    count = (4096 - 2 * MARKER_SIZE) // RECORD
    assert f"{'4 KiB':20}{count:8}{count:8}{count:8}\n" in ended.out
    assert "growth" not in ended.out
    shown = json.loads(result.read_text())
    assert (shown["schema"], shown["growth"], shown["need"]) == ("imakexec-size/1", None, None)
    assert shown["templates"]["ima-ng"]["records"] == 500
    assert [room["typical"] for room in shown["rooms"]][1] == count
    assert shown["marker_size"] == MARKER_SIZE


def test_size_of_two_lists_with_their_times(run: Run, tmp_path: Path) -> None:
    paths = [written(tmp_path, files(count), str(count)) for count in (100, 400)]
    at = ["--at=2026-03-01T12:00", "--at=2026-03-01T13:00"]
    result = tmp_path / "json"
    ended = run("size", *paths, *at, "--window=1m", "--confidence=0.9", "--json", result)
    assert ended.code == 0
    assert "300.0 records and" in " ".join(ended.out.split())
    shown = json.loads(result.read_text())
    assert shown["growth"]["records_per_hour"] == 300
    assert (shown["need"]["window"], shown["need"]["confidence"]) == (60, 0.9)
    option = shown["need"]["option"]
    assert option == least_option(shown["need"]["size"], 4096)
    assert f"CONFIG_IMA_KEXEC_EXTRA_MEMORY_KB={option} " in ended.out
    ended = run("size", *paths, *at, "--window=10h")
    assert "no value is enough: CONFIG_IMA_KEXEC_EXTRA_MEMORY_KB=40 is, for" in ended.out


def test_plots(run: Run, tmp_path: Path) -> None:
    odd = [Rec(b"d-ng|n-ng|<&>", fields(b"sha1:\0" + bytes(20), b"/a\0", b"x"))]
    paths = [written(tmp_path, odd + files(count), str(count)) for count in (100, 400)]
    picture = tmp_path / "plot.svg"
    at = ["--at=100", "--at=4000"]
    for arguments, panels in ((paths[:1], 2), ([*paths, *at], 4)):
        assert run("size", *arguments, "--plot", picture).code == 0
        [svg] = minidom.parse(str(picture)).getElementsByTagName("svg")
        texts = svg.getElementsByTagName("text")
        titles = [node for node in texts if node.hasAttribute("font-weight")]
        tops = [float(node.getAttribute("y")) for node in titles]
        assert tops == [300.0 * panel + 20 for panel in range(panels)]
        # The name of a template may hold anything that can be printed.
        assert any(">d-ng|n-ng|&lt;&amp;&gt;<" in node.toxml() for node in texts)
        height = float(svg.getAttribute("height"))
        for node in svg.getElementsByTagName("polyline"):
            for point in node.getAttribute("points").split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= float(svg.getAttribute("width"))
                assert 0 <= y <= height


def test_a_histogram_shows_every_record_but_the_largest(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "plot.svg"
    run("size", written(tmp_path, [*files(199), ng("/" + "x" * 900)]), "--plot", picture)
    bars = minidom.parse(str(picture)).getElementsByTagName("rect")[1:]
    [bar] = bars
    assert float(bar.getAttribute("height")) == 300 - 40 - 44


def test_no_line_leaves_its_panel(run: Run, tmp_path: Path) -> None:
    """Of such a list more records have room in the only run that fills 64 KiB than on average."""
    picture = tmp_path / "plot.svg"
    records = [ng("/" + "x" * 40_000), *files(20), ng("/" + "x" * 60_000)]
    paths = [written(tmp_path, records[:count], str(count)) for count in (1, 21, 22)]
    run("size", *paths, "--at=1", "--at=2", "--at=60", "--plot", picture)
    lines = minidom.parse(str(picture)).getElementsByTagName("polyline")
    for line in lines:
        heights = [float(point.split(",")[1]) for point in line.getAttribute("points").split()]
        top = max(heights) // 300 * 300 + 40
        assert all(top <= height <= top + 216 for height in heights)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("a", "b"), 2, "2 lists and 0 times"),
        (("a", "b", "--at=1"), 2, "2 lists and 1 times"),
        (("a", "--at=1"), 2, "the time of one list says nothing"),
        (("a", "b", "--at=2", "--at=2"), 2, "do not ascend"),
        (("b", "a", "--at=1", "--at=2"), 2, "it keeps 5 of its 9 records"),
        (("a", "b", "--at=1", "--at=noon"), 2, "'noon' is no time"),
        (("a", "--window=soon"), 2, "'soon' is no length of time"),
        (("a", "--confidence=1"), 2, "--confidence"),
        (("a", "--plot=a"), 2, "where: --plot a"),
        (("a", "--json=a"), 2, "where: --json a"),
        (("a", "--plot=no/plot"), 2, "where: --plot no/plot"),
        (("zero",), 14, "neither a list nor a hand-over buffer"),
    ],
)
def test_what_is_refused(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, files(5), "a")
    written(tmp_path, files(9), "b")
    (tmp_path / "zero").write_bytes(bytes(99))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    ended = run("size", *arguments)
    assert (ended.code, ended.out) == (code, "")
    assert said in ended.err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_of_many_lists_the_first_and_the_last_are_named(run: Run, tmp_path: Path) -> None:
    paths = [written(tmp_path, files(9 + n), f"{n}") for n in range(7)]
    at = [f"--at={n}" for n in range(7)]
    for count, named in ((6, 6), (7, 2)):
        said = run("size", *paths[:count], *at[:count]).out
        assert said.count(f"list      {tmp_path}") == named
        assert f"list      {paths[count - 1]}\n" in said
        assert ("list      ... (5 more)\n" in said) == (count == 7)


def test_figures_fit_a_terminal(run: Run, tmp_path: Path) -> None:
    long = "|".join(["xattrlengths"] * 15).encode()
    records = [*files(40), Rec(long, fields(*[b"x"] * 15))]
    ended = run("size", written(tmp_path, records))
    for line in ended.out.splitlines():
        assert len(line) <= 80 or line == long.decode() or str(tmp_path) in line
