"""What is counted and checked in the background: fresh where it is quick, the last known where it is not."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, StoreError, V2Metadata, V2MetadataService
from layerstore.sql.reading.totals import Overview, overview
from layerstore.web import counts as counting
from layerstore.web.checks import Checks, CheckState
from layerstore.web.counts import Counts
from tests.support.strategies import sha256
from tests.web.conftest import Show
from tests.web.test_pages import words


def add(path: Path, number: int) -> None:
    with SQLMetadataStore(path) as store:
        V2MetadataService(store).add(sha256(number), V2Metadata(sha256(number + 1), "localhost:5000/new/app"))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def layers(counted: counting.Counted) -> int:
    assert counted.overview is not None
    return counted.overview.stats.layers


def test_a_layer_that_was_added_is_counted_at_the_next_load(sample: Path, show: Show):
    site = show(sample)

    for number in range(3):
        # On a machine that is busy, counting takes longer than a page waits: then it says that it is behind.
        while f"Layers {89 + number} Associations" not in (said := words(site.text("/"))):
            assert "the store has changed since" in said or "it is being counted" in said
        add(sample, number << 240)
    assert sha256(2 << 240)[:19] in site.text("/-/layers")


def test_a_large_store_shows_the_last_counts_and_says_so(sample: Path, show: Show, monkeypatch: pytest.MonkeyPatch):
    go_on = threading.Event()

    def slow(store: SQLMetadataStore) -> Overview:
        assert go_on.wait(60)
        return overview(store)

    monkeypatch.setattr(counting, "overview", slow)
    site = show(sample, counted=False)
    first = site.get("/")

    assert "it is being counted" in words(first.text)
    assert first.headers["refresh"] == "2"
    assert "Being counted" in words(site.text("/-/layers"))
    go_on.set()
    until(lambda: "Layers 89" in words(site.text("/")))
    assert "refresh" not in site.get("/").headers
    go_on.clear()
    add(sample, 1)
    later = words(site.text("/"))
    assert "Layers 89" in later
    assert "the store has changed since, load the page again" in later
    go_on.set()


def test_counting_rests_many_times_as_long_as_it_took(sample: Path, monkeypatch: pytest.MonkeyPatch):
    """Longer than a test lasts here, however slow the machine is; then the rest is declared over."""
    began = []

    def count(store: SQLMetadataStore) -> Overview:
        began.append(time.monotonic())
        time.sleep(0.1)
        return overview(store)

    monkeypatch.setattr(counting, "overview", count)
    monkeypatch.setattr(counting, "REST", 100_000)
    with SQLMetadataStore(sample, read_only=True) as store:
        counts = Counts(store, lambda _version: None)
        assert layers(counts.current(60)) == 89
        assert counts._not_before >= began[0] + counting.REST * 0.1
        add(sample, 1)
        soon = counts.current(60)
        assert (layers(soon), soon.fresh, len(began)) == (89, False, 1)

        counts._not_before = 0
        later = counts.current(60)
        assert (layers(later), later.fresh, len(began)) == (90, True, 2)
        counts.stop()


def test_a_count_that_fails_says_why_and_is_tried_again(sample: Path, show: Show, monkeypatch: pytest.MonkeyPatch):
    def fail(_store: SQLMetadataStore) -> Overview:
        raise StoreError("the disk is on fire")

    with monkeypatch.context() as patched:
        patched.setattr(counting, "overview", fail)
        site = show(sample, verify=True)
        assert "Counting failed: the disk is on fire" in words(site.text("/"))
        until(lambda: "Sound. Checked 178 entries" in words(site.text("/")))
    assert "Layers 89" in words(site.text("/"))


def test_the_first_page_says_what_verify_found(odd: Path, show: Show):
    site = show(odd, verify=True)
    until(lambda: "Checked 10 entries" in words(site.text("/")))
    said = words(site.text("/"))

    assert "Something is wrong. Checked" in said
    assert re.search(r"Checked 10 entries at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC in \d+\.\d s", said)
    assert "error an entry is invalid for its namespace v2metadata-by-diffid/sha256/0003" in said
    assert "warning a list holds a digest that maps to no layer" in said
    report = site.json("/-/overview.json")["verify"]["last"]["report"]
    assert report["ok"] is False


def test_verify_runs_again_when_the_store_has_changed(sample: Path, show: Show, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("layerstore.web.checks.REST", 0)
    site = show(sample, verify=True)
    until(lambda: "Sound. Checked 178 entries" in words(site.text("/")))
    add(sample, 1)
    until(lambda: "Sound. Checked 180 entries" in words(site.text("/")))


def last(checks: Checks) -> CheckState:
    until(lambda: checks.state().last is not None)
    return checks.state()


def test_verify_rests_after_a_run(sample: Path):
    checks = Checks(str(sample))
    checks.look(1)
    first = last(checks)
    checks.look(2)

    assert first.last is not None
    assert first.last.error is None
    assert checks.state().running_since_ns is None
    assert checks.state().changed_since
    checks.stop()


def test_what_keeps_verify_from_running_is_on_the_page(sample: Path, show: Show, tmp_path: Path):
    checks = Checks(str(tmp_path / "nowhere" / "x.db"))
    checks.look(1)
    state = last(checks).last

    assert state is not None
    assert state.report is None
    assert "nowhere" in str(state.error)
    site = show(sample)
    site.datasette.layerstore.checks = checks
    assert "It failed at" in words(site.text("/"))
    assert "nowhere" in words(site.text("/"))


def test_a_program_that_prints_no_report_is_an_error(sample: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/bin/true")
    checks = Checks(str(sample))
    checks.look(1)
    state = last(checks).last

    assert state is not None
    assert state.error == "it printed no report: nothing"


def test_without_verify_the_page_says_so(sample: Path, show: Show):
    assert "It is off ( --no-verify )" in words(show(sample).text("/"))


def test_a_check_that_runs_is_ended_at_the_end(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "slow"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    checks = Checks(str(sample))
    checks.look(1)
    process = checks._process
    assert process is not None
    assert checks.state().running_since_ns is not None
    checks.stop()

    assert process.poll() is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    checks.look(2)
    assert checks.state().running_since_ns is None or checks._process is process
