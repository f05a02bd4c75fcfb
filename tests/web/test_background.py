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
from layerstore.web import site as sites
from layerstore.web.site import Known, Verify, Work
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


def test_a_layer_that_was_added_is_counted_at_the_next_load(own_sample: Path, show: Show):
    site = show(own_sample)

    for number in range(3):
        # On a machine that is busy, counting takes longer than a page waits: then it says that it is behind.
        while f"Layers {89 + number} Associations" not in (said := words(site.text("/"))):
            assert "the store has changed since" in said or "it is being counted" in said
        add(own_sample, number << 240)
    assert sha256(2 << 240)[:19] in site.text("/-/layers")


def test_a_large_store_shows_the_last_counts_and_says_so(own_sample: Path, show: Show, monkeypatch: pytest.MonkeyPatch):
    go_on = threading.Event()

    def slow(store: SQLMetadataStore) -> Overview:
        assert go_on.wait(60)
        return overview(store)

    monkeypatch.setattr(sites, "overview", slow)
    site = show(own_sample, counted=False)
    first = site.get("/")

    assert "it is being counted" in words(first.text)
    assert first.headers["refresh"] == "2"
    assert "Being counted" in words(site.text("/-/layers"))
    go_on.set()
    until(lambda: "Layers 89" in words(site.text("/")))
    assert "refresh" not in site.get("/").headers
    go_on.clear()
    add(own_sample, 1)
    later = words(site.text("/"))
    assert "Layers 89" in later
    assert "the store has changed since, load the page again" in later
    go_on.set()


def test_work_rests_many_times_as_long_as_it_took(monkeypatch: pytest.MonkeyPatch):
    """Longer than a test lasts here, however slow the machine is; then the rest is declared over."""
    monkeypatch.setattr(sites, "REST", 100_000)
    began: list[float] = []

    def count() -> int:
        began.append(time.monotonic())
        time.sleep(0.1)
        return len(began)

    work = Work(count)

    def look(version: int) -> tuple[int | None, bool]:
        work.look(version)
        work.wait(60)
        return work.known.report, work.known.fresh

    assert look(1) == (1, True)
    assert work._not_before_s >= began[0] + sites.REST * 0.1
    assert look(1) == (1, True)
    assert look(2) == (1, False)
    work._not_before_s = 0
    assert look(2) == (2, True)
    assert len(began) == 2


def test_a_count_that_fails_says_why_and_is_tried_again(own_sample: Path, show: Show, monkeypatch: pytest.MonkeyPatch):
    def fail(_store: SQLMetadataStore) -> Overview:
        raise StoreError("the disk is on fire")

    with monkeypatch.context() as patched:
        patched.setattr(sites, "overview", fail)
        site = show(own_sample, verify=True)
        assert "Counting failed: the disk is on fire" in words(site.text("/"))
        until(lambda: "Sound. Checked 178 entries" in words(site.text("/")))
    until(lambda: "Layers 89" in words(site.text("/")))


def test_the_first_page_says_what_verify_found(odd: Path, show: Show):
    site = show(odd, verify=True)
    until(lambda: "Checked 10 entries" in words(site.text("/")))
    said = words(site.text("/"))

    assert "Something is wrong. Checked" in said
    assert re.search(r"Checked 10 entries at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC in \d+\.\d s", said)
    assert "error an entry is invalid for its namespace v2metadata-by-diffid/sha256/0003" in said
    assert "warning a list holds a digest that maps to no layer" in said
    report = site.json("/-/overview.json")["verify"]["report"]
    assert report["ok"] is False


def test_verify_runs_again_when_the_store_has_changed(own_sample: Path, show: Show, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("layerstore.web.site.REST", 0)
    site = show(own_sample, verify=True)
    until(lambda: "Sound. Checked 178 entries" in words(site.text("/")))
    add(own_sample, 1)
    until(lambda: "Sound. Checked 180 entries" in words(site.text("/")))


def known_by(verify: Verify) -> Known[dict[str, object]]:
    checks = Work(verify)
    checks.look(1)
    checks.wait(60)
    return checks.known


def test_what_keeps_verify_from_running_is_on_the_page(own_sample: Path, show: Show, tmp_path: Path):
    site = show(own_sample)
    shown = site.datasette.layerstore
    assert known_by(Verify(str(own_sample))).error is None
    shown.checks = Work(Verify(str(tmp_path / "nowhere" / "x.db")))
    shown.checks.look(1)
    shown.checks.wait(60)

    assert shown.checks.known.report is None
    assert "nowhere" in str(shown.checks.known.error)
    assert "It failed:" in (said := words(site.text("/")))
    assert "nowhere" in said


def test_a_program_that_prints_no_report_is_an_error(own_sample: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/bin/true")
    assert known_by(Verify(str(own_sample))).error == "no report; exit code 0"


def test_without_verify_the_page_says_so(own_sample: Path, show: Show):
    assert "It is off ( --no-verify )" in words(show(own_sample).text("/"))


def test_a_check_that_runs_is_ended_at_the_end(own_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "slow"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    verify = Verify(str(own_sample))
    checks = Work(verify)
    checks.look(1)
    until(lambda: verify._process is not None)
    process = verify._process
    assert process is not None
    assert checks.known.running_since_ns is not None
    verify.stop()

    assert process.poll() is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    checks.wait(60)
    assert "stopped" in str(known_by(verify).error)
    assert verify._process is process
