"""docs/speed.md has the rows that the benchmarks have, as they print them."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import godriver
from benchmarks.__main__ import command
from benchmarks.machine import Machine
from benchmarks.report import Report, around_the_table
from benchmarks.rounds import Times, in_turn
from benchmarks.rows import GO, OURS, PEERS, ROWS, Result
from benchmarks.scale import QUICK

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "speed.md"
MACHINE = Machine("2026-01-31", "A processor", 2, 8, "6.1", "ext4", "3.11.1", "3.40.1", "2.1.9", "5.6.3")


def table(markdown: str) -> list[list[str]]:
    """Return the cells of the first table."""
    first = markdown[markdown.index("|") :].partition("\n\n")[0]
    lines = [line for line in first.splitlines() if line.startswith("|")]
    return [re.split(r" *(?<!\\)\| *", line)[1:-1] for line in lines]


def shown() -> str:
    before, after = around_the_table(PAGE)
    return PAGE.read_text()[len(before) : -len(after)]


def test_the_page_has_the_rows_with_what_they_are_compared_with():
    head, _, *rows = table(shown())

    assert head[:3] == ["what", OURS, "at most"]
    assert set(head[3:-1]) <= {*PEERS, GO}
    assert [(cells[0], cells[-1].rpartition(": ")[0]) for cells in rows] == [(row.what, row.base) for row in ROWS]
    for cells in rows:
        assert float(cells[1].removesuffix(" MB")) > 0


def test_the_page_says_when_and_on_what_it_was_measured_and_the_picture_says_the_same():
    machine = shown().splitlines()[1].partition(";")[0]
    assert re.match(r"20\d\d-\d\d-\d\d, .+ cores, \d+ GB, Linux .+, Python 3\.\d+\.\d+, SQLite 3\.", machine)
    [picture] = re.findall(r"^!\[.+\]\(\.\./(benchmarks/.+)\)$", PAGE.read_text(), re.MULTILINE)
    drawn = (ROOT / picture).read_text()

    assert drawn.startswith("<?xml")
    for words in re.findall(r"[\w.]+", machine):
        assert words in drawn


def test_the_benchmarks_own_readme_explains_every_row():
    section = (ROOT / "benchmarks/README.md").read_text().split("## The rows\n")[1].split("\n## ")[0]
    _, _, *rows = table(section)

    assert [row[0] for row in rows] == [f"`{row.name}`" for row in ROWS]


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_all_sides_take_turns_and_none_always_comes_behind_the_same_one(names: str):
    order: list[tuple[str, int]] = []

    def side(name: str, number: int) -> float:
        order.append((name, number))
        return 2.0 if name == "b" else 1.0

    times = in_turn({name: partial(side, name) for name in names}, 4)

    rounds = ["".join(name for name, number in order if number == each) for each in range(4)]
    assert rounds == [names, names[::-1], names[1:] + names[0], (names[1:] + names[0])[::-1]]
    assert [number for _, number in order][: len(names)] == [4] * len(names), "a round to warm up"
    assert times.seconds == {name: [2.0 if name == "b" else 1.0] * 4 for name in names}


def test_a_ratio_is_the_median_of_the_ratios_within_a_round():
    """A round in which the machine was slow for both is as good as the others."""
    times = Times({"one": [1.0, 20.0, 3.0], "other": [2.0, 10.0, 2.0]})

    assert times.ratio("one", "other") == 1.5
    assert times.median("one") == 3.0


def test_what_was_measured_is_in_the_table_and_in_the_json_and_goes_between_the_marks(tmp_path: Path):
    report = Report(MACHINE, QUICK)
    report.take({"get": (Result(1.3, 4e-6, {"diskcache": 12.3}), Times({OURS: [5e-6], "bare": [4e-6]}))})
    report.results["import_mb"] = Result(212.4)
    file, figures = tmp_path / "some.md", tmp_path / "figures.json"
    file.write_text("above\n<!-- python -m benchmarks -->\nold\n<!-- end -->\nbelow\n")

    report.write_into(file)
    report.write_json(figures)

    assert table(report.markdown())[2:] == [
        ["`store.get`", "1.30", "1.1", "", "", "12", "the bare statement: 4 µs"],
        ["import of the largest tar, peak memory", "212 MB", "300 MB", "", "", "", ""],
    ]
    text = file.read_text()
    assert text.startswith("above\n<!-- python -m benchmarks -->\n2026-01-31, A processor, 2 cores")
    assert text.endswith("|\n<!-- end -->\nbelow\n")
    assert "old" not in text
    first, second = json.loads(figures.read_text())["rows"]
    assert (first["value"], first["rounds_s"]) == (1.3, {OURS: [5e-6], "bare": [4e-6]})
    assert (second["name"], second["value"]) == ("import_mb", 212.4)
    assert report.too_high() == ["`store.get`"]


def test_figures_of_dockers_go_driver_are_a_column_with_where_and_when_they_were_taken(tmp_path: Path):
    file = tmp_path / "go.json"
    file.write_text('{"machine": "another one", "date": "2026-01-30", "seconds": {"get": 6e-06}}')
    report = Report(MACHINE, QUICK, go=godriver.read(file))
    report.take({"get": (Result(1.3, 4e-6), Times({})), "get_diff_id": (Result(1.2, 4e-6), Times({}))})

    head, _, *rows = table(report.markdown())
    assert head == ["what", OURS, "at most", *PEERS, GO, "1 × is"]
    assert [cells[-2] for cells in rows] == ["1.50", ""]
    assert "Docker's Go driver: taken on 2026-01-30, another one." in report.markdown()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "is needed"),
        ('{"machine": "m", "date": "d", "seconds": {"nothing": 1}}', "no row is called nothing"),
        ('{"machine": "m", "date": "d", "seconds": {"get": 0}}', "more than 0"),
        ("{", "Expecting"),
    ],
)
def test_a_file_that_holds_no_such_figures_is_refused(tmp_path: Path, text: str, said: str):
    (tmp_path / "go.json").write_text(text)
    done = CliRunner().invoke(command, ["--go", str(tmp_path / "go.json")])

    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sizes", "many"], "give numbers of layers"),
        (["--sizes", "1000"], "give two or more"),
        (["--plot", "cost.gif"], "draws .svg and .png"),
        (["--plot", "cost.svg", "--part", "reads"], "add --part sizes"),
        (["--json", "there/is/no/such.json"], "there is no directory"),
        (["--into", str(ROOT / "CHANGELOG.md")], "has no line <!-- python -m benchmarks -->"),
    ],
)
def test_what_could_not_be_written_is_refused_before_anything_is_measured(arguments: list[str], said: str):
    done = CliRunner().invoke(command, arguments)

    assert done.exit_code == 2
    assert said in done.output
