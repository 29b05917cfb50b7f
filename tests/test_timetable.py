"""The layer round schedule: on its grid, whatever the clock and the jobs do."""

from __future__ import annotations

import datetime
import types

import pytest
import schedule
from hypothesis import given
from hypothesis import strategies as st
from support import FakeClock

from node.sensors.timetable import Timetable


def advance(clock: FakeClock, timetable: Timetable, seconds: float) -> None:
    """Let the time pass as the loop does: sleep until something is due, run it."""
    end_s = clock.now_s + seconds
    while timetable.next_due_s <= end_s:
        clock.now_s = max(clock.now_s, timetable.next_due_s)
        timetable.run_due()
    clock.now_s = max(clock.now_s, end_s)


def test_the_first_run_is_at_once_and_the_others_on_the_grid(clock):
    timetable = Timetable(clock)
    runs: list[float] = []
    timetable.every(10.0, runs.append, start_s=clock.now_s)
    timetable.run_due()
    assert runs == [1000.0]
    advance(clock, timetable, 30)
    assert runs == [1000.0, 1010.0, 1020.0, 1030.0]


def test_a_slow_job_moves_no_later_run(clock):
    """schedule alone would drift to a period of 1.4 s."""
    timetable = Timetable(clock)
    began_s: list[float] = []

    def slow(_due_s: float) -> None:
        began_s.append(clock.now_s)
        clock.sleep(0.4)

    timetable.every(1.0, slow, start_s=clock.now_s)
    advance(clock, timetable, 100)
    assert began_s == [1000.0 + n for n in range(101)]


def test_slots_that_were_missed_are_skipped(clock):
    timetable = Timetable(clock)
    runs: list[float] = []
    timetable.every(1.0, runs.append, start_s=clock.now_s)
    timetable.run_due()
    clock.now_s += 5.5
    timetable.run_due()
    timetable.run_due()
    assert runs == [1000.0, 1001.0]
    advance(clock, timetable, 1)
    assert runs[-1] == 1006.0


def test_a_job_that_raises_stays_on_its_schedule_and_starves_nobody(clock, caplog):
    timetable = Timetable(clock)
    runs: list[float] = []

    def fails(_due_s: float) -> None:
        raise RuntimeError("boom")

    timetable.every(1.0, fails, start_s=clock.now_s)
    timetable.every(1.0, runs.append, start_s=clock.now_s)
    advance(clock, timetable, 10)
    assert len(runs) == 11
    assert caplog.text.count("boom") >= 10


class SteppedDatetime(datetime.datetime):
    """The wall clock of the schedule library, set back by a test."""

    step = datetime.timedelta()

    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + cls.step


@pytest.fixture
def stepped(monkeypatch):
    """The library sees `SteppedDatetime`, not stepped yet."""
    clock = types.SimpleNamespace(
        datetime=SteppedDatetime, timedelta=datetime.timedelta, time=datetime.time
    )
    monkeypatch.setattr(schedule, "datetime", clock)
    monkeypatch.setattr(SteppedDatetime, "step", datetime.timedelta())
    return SteppedDatetime


@pytest.mark.parametrize("hours", [-1, 1, -24 * 31, 24 * 31])
def test_a_step_of_the_wall_clock_changes_nothing(clock, stepped, hours):
    timetable = Timetable(clock)
    runs: list[float] = []
    timetable.every(1.0, runs.append, start_s=clock.now_s)
    advance(clock, timetable, 50)
    stepped.step = datetime.timedelta(hours=hours)
    clock.wall_s += hours * 3600
    advance(clock, timetable, 50)
    assert len(runs) == 101


def test_the_library_alone_stops_after_a_backward_step(stepped):
    """Negative control of the test above."""
    plain = schedule.Scheduler()
    runs: list[int] = []
    plain.every(1).seconds.do(lambda: runs.append(1))
    for step_s in (1, -3600, -3599, -3500):
        stepped.step = datetime.timedelta(seconds=step_s + 0.1)
        plain.run_pending()
    assert runs == [1]


def test_each_job_keeps_to_its_own_interval(clock):
    """One that comes due takes no other one with it."""
    timetable = Timetable(clock)
    often: list[float] = []
    seldom: list[float] = []
    timetable.every(1.0, often.append, start_s=clock.now_s)
    timetable.every(10.0, seldom.append, start_s=clock.now_s)
    advance(clock, timetable, 25)
    assert len(often) == 26
    assert seldom == [1000.0, 1010.0, 1020.0]


def test_once_runs_once(clock):
    timetable = Timetable(clock)
    runs: list[float] = []
    timetable.once(clock.now_s + 5, runs.append)
    advance(clock, timetable, 4.9)
    assert runs == []
    advance(clock, timetable, 100)
    assert runs == [1005.0]
    assert timetable.next_due_s == float("inf")


@given(
    interval_s=st.floats(0.1, 5000),
    start_s=st.floats(0, 1e7),
    delays=st.lists(st.floats(0, 10_000), max_size=20),
)
def test_every_run_is_on_the_grid_and_none_comes_twice(interval_s, start_s, delays):
    """Property: whenever the loop wakes up, a slot is used at most once, and slots only advance."""
    clock = FakeClock(start_s)
    timetable = Timetable(clock)
    runs: list[float] = []
    timetable.every(interval_s, runs.append, start_s=start_s)
    for delay_s in delays:
        clock.now_s += delay_s
        timetable.run_due()
        assert timetable.next_due_s > clock.now_s
    slots = [(due_s - start_s) / interval_s for due_s in runs]
    assert slots == sorted(set(slots))
    assert all(abs(slot - round(slot)) < 1e-3 for slot in slots)
