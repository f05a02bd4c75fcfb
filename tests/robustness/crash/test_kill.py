"""Every writer is killed by SIGKILL, in place of chosen system calls and at random moments, and started anew.

What was acknowledged is there; of what was not, each part is there whole or not at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.robustness.crash import trace
from tests.robustness.crash.conftest import Stage
from tests.robustness.crash.writers import ON_FILES, WRITERS
from tests.support.counting import Counted

MakeStage = Callable[[str], Stage]


def moments(stage: Stage) -> list[tuple[str, int]]:
    """Record a whole run; return each call that changes or syncs what is in its directory, and its number."""
    home = stage.home()
    stage.victim(home).record(stage.log)
    found = [
        (call.name, call.order)
        for call in trace.read(stage.log)
        if call.name in trace.CHANGES and (str(home) in repr(call.arguments) or call.name == "sync")
    ]
    stage.forget(home)
    return found


def by_turns(found: list[tuple[str, int]], luck: random.Random) -> list[tuple[str, int]]:
    """Shuffle moments, but of each kind of call in turn, so that the rare ones are among the first."""
    luck.shuffle(found)
    rank: dict[tuple[str, int], int] = {}
    seen: dict[str, int] = {}
    for moment in found:
        rank[moment] = seen[moment[0]] = seen.get(moment[0], 0) + 1
    return sorted(found, key=lambda moment: rank[moment])


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("strace")
@pytest.mark.promises(kills=12)
@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_that_is_killed_at_a_chosen_call_loses_nothing_and_leaves_no_half(
    stage: MakeStage, request: pytest.FixtureRequest, counted: Counted, name: str
):
    """In place of each call that writes, syncs, renames, links or removes, so also before and after each commit,
    between the two halves of an `add` to files, and between a temporary file and its rename.

    All of them if `--kills` allows, else some of each kind. Each time the moment is the same, as strace counts the
    calls.
    """
    at = stage(name)
    luck = random.Random(name)
    wanted = request.config.getoption("--kills") // 25
    for call, number in by_turns(moments(at), luck):
        home = at.home()
        died = at.victim(home).die_in(call, number, at.log)
        # Where threads take turns, a call that came last time may not come, or in another one.
        wanted -= died.killed
        counted("kills", int(died.killed))
        at.writer.check(home, at.steps, died.acknowledged)
        at.forget(home)
        if not wanted:
            break


@pytest.mark.timeout(3600)
@pytest.mark.promises(kills=4)
@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_that_is_killed_at_any_moment_loses_nothing_and_leaves_no_half(
    stage: MakeStage, request: pytest.FixtureRequest, counted: Counted, name: str
):
    at = stage(name)
    luck = random.Random(name)
    home = at.home()
    duration = at.victim(home).measure()
    at.forget(home)
    wanted, tries = request.config.getoption("--kills") // 75, 0
    while wanted:
        tries += 1
        home = at.home()
        died = at.victim(home).die_after(luck.uniform(0, duration * 0.9))
        wanted -= died.killed
        counted("kills", int(died.killed))
        at.writer.check(home, at.steps, died.acknowledged)
        at.forget(home)
        assert tries < 100 + 10 * wanted, "it is always done before it can be killed"


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("add", {"pwrite64", "fdatasync"}),
        ("add to files", {"write", "fsync", "renameat"}),
        ("export", {"write", "syncfs", "renameat2", "unlinkat"}),
        ("export --tar", {"write", "fsync", "rename"}),
        ("backup", {"pwrite64", "fsync", "renameat2", "unlink"}),
    ],
)
def test_the_chosen_calls_are_among_the_moments(stage: MakeStage, name: str, calls: set[str]):
    """The control: were a file written in another way, the tests above would look at the wrong moments."""
    found = {call for call, _ in by_turns(moments(stage(name)), random.Random(name))[:10]}
    assert calls <= found or (name in ON_FILES and {"rename", "renameat", "renameat2", "link", "linkat"} & found)
