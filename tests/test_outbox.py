"""The log of readings: against a model, after crashes, on full, read-only and broken disks."""

from __future__ import annotations

import shutil
import sqlite3
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import FakeClock, small_disk_at

from node.config.schema import OutboxTable
from node.outbox import file as outbox_file
from node.outbox import outbox as outbox_module
from node.outbox.file import OutboxFile
from node.outbox.log_file import LogFile
from node.outbox.outbox import Outbox
from node.outbox.records import Event
from node.outbox.store import FILE_NAME
from node.reading import Layout, Reading
from node.system.state_dir import StateDirLock
from node.units import Seconds

AIR = Layout("air", ("temperature", "humidity"), ("°C", "%"))
WATER = Layout("water", ("temperature",), ("°C",))


def append(outbox: Outbox, clock: FakeClock, *values: float, layout: Layout = AIR) -> Reading:
    return outbox.append(
        layout, values, boot_s=clock.boot_s(), utc_s=clock.utc_s(), synced=clock.synced()
    )


def fill(outbox: Outbox, clock: FakeClock, count: int) -> list[Reading]:
    """Readings whose value is their seq, ten seconds apart, committed together."""
    made = []
    for _ in range(count):
        clock.sleep(10)
        clock.wall_s += 10
        made.append(append(outbox, clock, float(outbox.last_seq + 1), layout=WATER))
    outbox.commit()
    return made


def seqs(readings: list[Reading]) -> list[int]:
    return [reading.seq for reading in readings]


@pytest.fixture
def outbox(tmp_path: Path, clock: FakeClock) -> Outbox:
    return Outbox(tmp_path, OutboxTable(), clock)


def crashed_copy(folder: Path, into: Path) -> Path:
    """What a process that is killed now leaves on the disk."""
    into.mkdir()
    for suffix in ("", "-wal"):
        file = folder / (FILE_NAME + suffix)
        if file.exists():
            shutil.copy(file, into)
    return into


def test_readings_come_back_as_they_were(outbox, clock, tmp_path):
    first = append(outbox, clock, 21.5, 45.2)
    clock.sleep(0.123)
    clock.wall_s += 0.123
    second = append(outbox, clock, -4, layout=WATER)
    outbox.commit()
    assert outbox.read(0, 10) == [first, second]
    outbox.close()
    again = Outbox(tmp_path, OutboxTable(), clock)
    assert again.read(0, 10) == [first, second]
    assert again.read(0, 10)[1].values == {"temperature": -4}
    assert (again.stream, again.last_seq, again.cursor) == (outbox.stream, 2, 0)


def test_seq_goes_on_when_everything_has_been_purged(clock, tmp_path):
    """A plain rowid would begin at 1 again (sqlite.org/autoinc.html)."""
    outbox = Outbox(tmp_path, OutboxTable(keep=Seconds(60)), clock)
    fill(outbox, clock, 20)
    outbox.acknowledge(1, 20)
    clock.sleep(2 * outbox_module.PURGE_EVERY_S)
    clock.wall_s += 2 * outbox_module.PURGE_EVERY_S
    outbox.note(Event(0, "WARNING", "something to commit"))
    outbox.commit()
    assert outbox.read(0, 10) == []
    outbox.close()
    again = Outbox(tmp_path, OutboxTable(), clock)
    assert append(again, clock, 1.0, 2.0).seq == 21
    assert (again.cursor, again.unsent, again.dropped) == (20, 1, 0)


class OutboxMachine(RuleBasedStateMachine):
    """Append, commit, acknowledge in any order, crash, reopen, bound and purge, beside a model."""

    MAX_READINGS = 40

    def __init__(self) -> None:
        super().__init__()
        self.temporary = TemporaryDirectory(prefix="outbox-")
        self.lives = 0

    @initialize()
    def begin(self) -> None:
        self.clock = FakeClock()
        self.folder = Path(self.temporary.name) / "0"
        self.made: dict[int, float] = {}
        """What was given out under each seq, the latest life that committed it."""
        self.committed = 0
        self.in_flight: list[tuple[int, int]] = []
        self.acknowledged: set[int] = set()
        self.committed_cursor = 0
        self.dropped_before = 0
        self.open()
        self.stream = self.outbox.stream

    def open(self) -> None:
        table = OutboxTable(max_readings=self.MAX_READINGS, keep=Seconds(300))
        self.outbox = Outbox(self.folder, table, self.clock)
        self.position = self.outbox.cursor

    @rule(count=st.integers(1, 15), step_s=st.sampled_from([0.0, 0.5, -3600.0]))
    def append_and_commit(self, count: int, step_s: float) -> None:
        self.append_only(count)
        self.clock.wall_s += step_s
        self.commit()

    @rule(count=st.integers(1, 5))
    def append_only(self, count: int) -> None:
        for number in range(count):
            self.clock.sleep(1)
            self.clock.wall_s += 1
            value = float(self.outbox.last_seq * 7 + number)
            reading = append(self.outbox, self.clock, value, layout=WATER)
            assert reading.seq == max(self.made, default=0) + 1, "a seq was given out twice"
            self.made[reading.seq] = value

    @rule()
    def commit(self) -> None:
        self.outbox.commit()
        self.committed = self.outbox.last_seq
        self.committed_cursor = self.outbox.cursor

    @rule(count=st.integers(1, 10))
    def send(self, count: int) -> None:
        self.position = max(self.position, self.outbox.cursor)
        batch = self.outbox.read(self.position, count)
        if batch:
            self.in_flight.append((self.position + 1, batch[-1].seq))
            self.position = batch[-1].seq

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def acknowledge_any(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.in_flight) - 1))
        first, last = self.in_flight.pop(index)
        self.acknowledged.update(range(first, last + 1))
        self.outbox.acknowledge(first, last)

    @rule()
    def lose_the_link(self) -> None:
        self.in_flight.clear()
        self.acknowledged = {seq for seq in self.acknowledged if seq <= self.outbox.cursor}
        self.outbox.forget_acknowledged()
        self.position = self.outbox.cursor

    @rule()
    def crash(self) -> None:
        self.lives += 1
        new = crashed_copy(self.folder, Path(self.temporary.name) / str(self.lives))
        self.outbox.close()
        self.folder = new
        self.after_restart()
        assert self.outbox.last_seq == self.committed, "exactly what was committed is there"
        assert self.outbox.cursor == self.committed_cursor

    @rule()
    def reopen(self) -> None:
        self.committed, cursor = self.outbox.last_seq, self.outbox.cursor
        self.outbox.close()
        self.after_restart()
        assert self.outbox.last_seq == self.committed
        assert self.outbox.cursor == self.committed_cursor == cursor or cursor >= 0

    def after_restart(self) -> None:
        self.open()
        self.committed_cursor = self.outbox.cursor
        self.in_flight.clear()
        self.made = {seq: value for seq, value in self.made.items() if seq <= self.committed}
        self.acknowledged = {seq for seq in self.acknowledged if seq <= self.outbox.cursor}
        assert self.outbox.stream == self.stream

    @rule(hours=st.integers(1, 3))
    def let_time_pass(self, hours: int) -> None:
        self.clock.sleep(3600 * hours)
        self.clock.wall_s += 3600 * hours

    @invariant()
    def what_is_unsent_is_there_in_order(self) -> None:
        if not hasattr(self, "outbox"):
            return
        cursor = self.outbox.cursor
        unsent = self.outbox.read(cursor, 1000)
        assert [(r.seq, r.numbers[0]) for r in unsent] == [
            (seq, self.made[seq]) for seq in range(cursor + 1, self.outbox.last_seq + 1)
        ]

    @invariant()
    def the_cursor_passes_only_what_was_acknowledged_or_dropped(self) -> None:
        if not hasattr(self, "outbox"):
            return
        passed = set(range(1, self.outbox.cursor + 1))
        assert len(passed - self.acknowledged) <= self.outbox.dropped

    @invariant()
    def the_bound_holds_after_a_commit(self) -> None:
        if hasattr(self, "outbox") and self.committed == self.outbox.last_seq:
            assert self.outbox.unsent <= self.MAX_READINGS
            with sqlite3.connect(self.folder / FILE_NAME) as db:
                (stored,) = db.execute("SELECT total(count) FROM tick").fetchone()
            db.close()
            assert stored <= 2 * self.MAX_READINGS + outbox_file_slack()

    def teardown(self) -> None:
        if hasattr(self, "outbox"):
            self.outbox.close()
        self.temporary.cleanup()


def outbox_file_slack() -> int:
    """A row goes as a whole, with the last of its readings."""
    return 20


TestOutboxAgainstModel = OutboxMachine.TestCase
TestOutboxAgainstModel.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True
)


def test_the_oldest_unsent_are_dropped_last_and_counted(tmp_path, clock, caplog):
    """Sent ones go first; what is dropped is counted, told once, and survives a restart."""
    outbox = Outbox(tmp_path, OutboxTable(max_readings=100), clock)
    fill(outbox, clock, 80)
    outbox.acknowledge(1, 30)
    fill(outbox, clock, 50)
    assert (outbox.unsent, outbox.dropped) == (100, 0)
    fill(outbox, clock, 25)
    fill(outbox, clock, 25)
    assert (outbox.unsent, outbox.dropped) == (100, 50)
    assert seqs(outbox.read(outbox.cursor, 1)) == [81]
    assert caplog.text.count("the oldest unsent readings are dropped") == 1
    outbox.close()
    again = Outbox(tmp_path, OutboxTable(max_readings=100), clock)
    assert (again.unsent, again.dropped) == (100, 50)


def test_old_rows_go_in_bulk(tmp_path, clock):
    """At the bound of the file, rows are deleted once in a long while, and not with each commit."""
    outbox = Outbox(tmp_path, OutboxTable(max_readings=2000), clock)
    deletions = 0
    before = 0
    for tick in range(510):
        fill(outbox, clock, 10)
        outbox.acknowledge(tick * 10 + 1, tick * 10 + 10)
        (stored,) = sqlite3.connect(tmp_path / FILE_NAME).execute(
            "SELECT total(count) FROM tick"
        ).fetchone()  # fmt: skip
        deletions += stored < before
        before = stored
        assert stored <= 2000 + outbox_module.SLACK + 10
    assert deletions == 3


def test_acknowledgements_out_of_order_move_the_cursor_when_the_gap_closes(outbox, clock):
    fill(outbox, clock, 30)
    outbox.acknowledge(11, 20)
    outbox.acknowledge(21, 30)
    assert outbox.cursor == 0
    outbox.acknowledge(1, 10)
    assert outbox.cursor == 30


# -- clocks


def test_readings_get_their_true_time_when_the_clock_is_set(outbox, clock, tmp_path):
    """Begun in 1970, set to the present 40 s later; after a restart of the process too."""
    present_s, clock.wall_s, clock.in_sync = clock.wall_s, 5.0, False
    fill(outbox, clock, 3)
    assert [r.utc_ms for r in outbox.read(0, 9)] == [15_000, 25_000, 35_000]
    assert not any(r.synced for r in outbox.read(0, 9))
    outbox.close()
    outbox = Outbox(tmp_path, OutboxTable(), clock)
    clock.sleep(10)
    clock.wall_s, clock.in_sync = present_s, True
    outbox.clock_was_set(boot_s=clock.boot_s(), utc_s=clock.utc_s())
    true_times = [round((present_s - 30 + 10 * n) * 1000) for n in range(3)]
    assert [r.utc_ms for r in outbox.read(0, 9)] == true_times
    assert all(r.synced for r in outbox.read(0, 9))
    fill(outbox, clock, 1)
    outbox.close()
    again = Outbox(tmp_path, OutboxTable(), clock)
    assert [r.utc_ms for r in again.read(0, 9)][:3] == true_times


def test_readings_of_another_boot_keep_the_time_they_had(outbox, clock, tmp_path):
    """Nobody knows how long the computer was off."""
    clock.wall_s, clock.in_sync = 5.0, False
    fill(outbox, clock, 2)
    outbox.close()
    clock.boot_id, clock.wall_s, clock.in_sync = "the-second-boot", 1.8e9, True
    again = Outbox(tmp_path, OutboxTable(), clock)
    again.clock_was_set(boot_s=clock.boot_s(), utc_s=clock.utc_s())
    fill(again, clock, 1)
    found = again.read(0, 9)
    assert [r.utc_ms for r in found[:2]] == [15_000, 25_000]
    assert [r.synced for r in found] == [False, False, True]


def test_a_step_of_the_clock_within_a_tick_is_kept_apart(outbox, clock):
    """Rows hold times as differences; a step would go into all of them."""
    before = append(outbox, clock, 1.0, layout=WATER)
    clock.wall_s += 86_400
    after = append(outbox, clock, 2.0, layout=WATER)
    outbox.commit()
    assert outbox.read(0, 9) == [before, after]


# -- the WAL, and when it is synced


def test_commits_do_not_make_the_wal_longer(tmp_path, clock):
    """A file that grows costs its inode and the file system's journal with each commit."""
    outbox = Outbox(tmp_path, OutboxTable(), clock)
    wal = tmp_path / f"{FILE_NAME}-wal"
    size = wal.stat().st_size
    folds = 0
    for _ in range(450):
        fill(outbox, clock, 10)
        (used,) = struct.unpack_from("<I", (tmp_path / f"{FILE_NAME}-shm").read_bytes(), 16)
        folds += used < 5  # mxFrame: https://sqlite.org/walformat.html, "The WAL-Index Header"
        assert wal.stat().st_size == size
    assert folds >= 2, "it was folded, and begun again"


def test_a_wal_that_cannot_be_lengthened_grows_as_it_is_needed(small_disk, clock):
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free - 100_000))
    outbox = Outbox(small_disk, OutboxTable(), clock)
    made = fill(outbox, clock, 10)
    assert outbox.problem == ""
    assert outbox.read(0, 50) == made


@pytest.mark.parametrize(("sync_every", "synced"), [(0, [1, 1, 1, 1]), (25, [1, 0, 0, 1])])
def test_readings_are_synced_with_each_commit_or_every_so_often(
    tmp_path, clock, sync_every, synced
):
    outbox = Outbox(tmp_path, OutboxTable(sync_every=Seconds(sync_every)), clock)
    seen = []
    for _ in range(4):
        fill(outbox, clock, 1)  # takes ten seconds
        (level,) = database(outbox).execute("PRAGMA synchronous").fetchone()
        seen.append(int(level == 2))  # FULL; NORMAL syncs when it folds the WAL
    assert seen == synced


@pytest.mark.parametrize("sync_every", [0, 600])
def test_numbers_that_a_power_cut_may_have_undone_get_another_stream(tmp_path, clock, sync_every):
    """The broker may have readings with them that the log has lost."""
    table = OutboxTable(sync_every=Seconds(sync_every))
    outbox = Outbox(tmp_path / "log", table, clock)
    made = fill(outbox, clock, 5)
    again = Outbox(crashed_copy(tmp_path / "log", tmp_path / "crashed"), table, clock)
    assert again.read(0, 50) == made
    assert again.stream_of(5) == outbox.stream
    assert (again.stream == outbox.stream) is not bool(sync_every)
    stream = again.stream
    fill(again, clock, 1)
    again.close()
    assert Outbox(tmp_path / "crashed", table, clock).stream == stream, "a clean end is none"


# -- disks


def database(outbox: Outbox) -> sqlite3.Connection:
    """The connection that an outbox has to its file."""
    file = outbox._store._file
    assert file is not None
    return file._db


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "noise":
        content = bytearray(bytes(range(7, 207)) * (len(content) // 200 + 1))
    elif how == "noise in the middle":
        for index in range(len(content) // 2, len(content) // 2 + 3000):
            content[index] = (index * 37) % 251
    elif how == "cut short":
        del content[len(content) // 2 :]
    elif how == "cut to nothing":
        del content[100:]
    elif how == "one flipped bit in a reading":
        place = content.rindex(b"[[1,0,")
        content[place + 8] ^= 1
    else:
        raise AssertionError(how)
    file.write_bytes(content)


@pytest.mark.parametrize(
    "how",
    [
        "noise",
        "noise in the middle",
        "cut short",
        "cut to nothing",
        "one flipped bit in a reading",
    ],
)
@pytest.mark.parametrize("killed", [False, True])
def test_a_damaged_log_is_set_aside_and_a_new_one_begun(tmp_path, clock, caplog, how, killed):
    """What was damaged is never taken for a reading; what is sound of the unsent is kept."""
    made: dict[int, Reading] = {}
    folder = tmp_path / "log"
    outbox = Outbox(folder, OutboxTable(), clock)
    for _ in range(100):
        made.update((r.seq, r) for r in fill(outbox, clock, 20))
    outbox.acknowledge(1, 100)
    fill(outbox, clock, 1)
    if not killed:
        outbox.close()
    else:  # the WAL has been copied into the file, and is still there
        database(outbox).execute("PRAGMA wal_checkpoint")
        folder = crashed_copy(folder, tmp_path / "crashed")
        outbox.close()
    damage(folder / FILE_NAME, how)
    again = Outbox(folder, OutboxTable(), clock)
    found = again.read(0, 5000)
    while found:
        for reading in found:
            assert made.get(reading.seq, reading) == reading
        position = found[-1].seq
        found = again.read(position, 5000)
    assert again.problem == ""
    if again.set_aside:
        assert again.stream != outbox.stream
        assert caplog.text.count("the log cannot be used") == 1
        aside = folder / again.set_aside[0]
        assert aside.exists()
    else:
        assert killed or how != "noise", "a WAL has all that was in the file"
    new = fill(again, clock, 3)
    assert again.read(new[0].seq - 1, 3) == new
    if how == "one flipped bit in a reading":
        assert again.unsent >= 1850, "all that is sound"
    again.close()


@pytest.fixture(scope="module")
def sound_log(tmp_path_factory) -> tuple[Path, dict[int, Reading]]:
    """What a killed node left: a file and a WAL, with 600 readings of which 100 were sent."""
    clock = FakeClock()
    folder = tmp_path_factory.mktemp("sound")
    outbox = Outbox(folder / "log", OutboxTable(), clock)
    made: dict[int, Reading] = {}
    for tick in range(60):
        made.update((r.seq, r) for r in fill(outbox, clock, 10))
        if tick == 40:
            database(outbox).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    outbox.acknowledge(1, 100)
    made.update((r.seq, r) for r in fill(outbox, clock, 1))
    return crashed_copy(folder / "log", folder / "crashed"), made


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    wal=st.booleans(),
    where=st.floats(0, 1, exclude_max=True),
    noise=st.binary(min_size=1, max_size=300),
    cut=st.booleans(),
)
def test_whatever_a_card_makes_of_the_log_it_tells_nothing_false(sound_log, wal, where, noise, cut):
    """Noise anywhere in the file or its WAL, or their end gone; and the node goes on."""
    sound, made = sound_log
    with TemporaryDirectory(prefix="noise-") as name:
        folder = Path(name) / "log"
        shutil.copytree(sound, folder)
        file = folder / (FILE_NAME + ("-wal" if wal else ""))
        content = bytearray(file.read_bytes())
        place = int(where * len(content))
        if cut:
            del content[place:]
        else:
            content[place : place + len(noise)] = noise[: len(content) - place]
        file.write_bytes(content)
        clock = FakeClock(start_s=50_000)
        outbox = Outbox(folder, OutboxTable(), clock)
        position = 0
        while found := outbox.read(position, 100):
            for reading in found:
                assert made[reading.seq] == reading
            position = found[-1].seq
        new = fill(outbox, clock, 2)
        assert outbox.problem == ""
        assert outbox.read(new[0].seq - 1, 9) == new
        outbox.close()
        again = Outbox(folder, OutboxTable(), clock)
        assert again.read(new[0].seq - 1, 9) == new
        again.close()


def test_a_log_that_is_damaged_while_it_is_open(tmp_path, clock):
    """The numbers go on, so that no retained topic goes backwards."""
    outbox = Outbox(tmp_path, OutboxTable(), clock)
    fill(outbox, clock, 2000)
    database(outbox).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database(outbox).execute("PRAGMA cache_size = 0")
    damage(tmp_path / FILE_NAME, "noise in the middle")
    for position in range(0, 2000, 100):
        outbox.read(position, 100)
    assert len(outbox.set_aside) == 1
    new = fill(outbox, clock, 2)
    assert seqs(new) == [2001, 2002]
    assert outbox.read(2000, 9) == new
    outbox.close()
    assert Outbox(tmp_path, OutboxTable(), clock).last_seq == 2002


def test_a_log_of_a_newer_version_is_set_aside_untouched(outbox, clock, tmp_path, caplog):
    fill(outbox, clock, 5)
    outbox.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    content = (tmp_path / FILE_NAME).read_bytes()
    again = Outbox(tmp_path, OutboxTable(), clock)
    assert "in format 99" in caplog.text
    assert (tmp_path / again.set_aside[0]).read_bytes() == content
    assert seqs(fill(again, clock, 1)) == [1]
    assert again.stream != outbox.stream


def test_a_log_of_an_earlier_version_is_migrated(outbox, clock, tmp_path, monkeypatch):
    """With a step that some later version may have; what is in the log stays."""
    made = fill(outbox, clock, 5)
    outbox.close()
    step = "CREATE TABLE extra (n INTEGER); INSERT INTO extra SELECT last_seq FROM tick"
    monkeypatch.setattr(outbox_file, "_MIGRATIONS", (*outbox_file._MIGRATIONS, step))
    file = OutboxFile(tmp_path / FILE_NAME)
    version, extra = file._db.execute(
        "SELECT (SELECT user_version FROM pragma_user_version), max(n) FROM extra"
    ).fetchone()
    assert (version, extra) == (2, 5)
    file.close()
    monkeypatch.undo()
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("DROP TABLE extra")
        db.execute("PRAGMA user_version = 1")
    db.close()
    assert Outbox(tmp_path, OutboxTable(), clock).read(0, 9) == made


def test_a_migration_that_fails_leaves_the_file_as_it_was(outbox, clock, tmp_path, monkeypatch):
    made = fill(outbox, clock, 5)
    outbox.close()
    step = "CREATE TABLE extra (n INTEGER); SELECT nonsense"
    monkeypatch.setattr(outbox_file, "_MIGRATIONS", (*outbox_file._MIGRATIONS, step))
    with pytest.raises(sqlite3.OperationalError):
        OutboxFile(tmp_path / FILE_NAME)
    monkeypatch.undo()
    assert Outbox(tmp_path, OutboxTable(), clock).read(0, 9) == made


def test_only_the_newest_logs_that_were_set_aside_are_kept(tmp_path, clock):
    for _ in range(6):
        clock.wall_s += 60
        (tmp_path / FILE_NAME).write_bytes(b"not a database" * 100)
        outbox = Outbox(tmp_path, OutboxTable(), clock)
        outbox.close()
    assert len(list(tmp_path.glob("outbox-set-aside-*.db"))) == 3
    assert len(outbox.set_aside) == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of half a megabyte."""
    with small_disk_at(tmp_path / "disk") as folder:
        yield folder


def remount(folder: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)


def test_a_full_disk_loses_nothing_and_is_taken_up_again(small_disk, clock, caplog):
    """Readings wait in memory, and can be sent from there; the rest of the log stays readable."""
    outbox = Outbox(small_disk, OutboxTable(), clock)
    made = fill(outbox, clock, 10)
    stream = outbox.stream
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free))
    for _ in range(1000):
        if outbox.problem:
            break
        made += fill(outbox, clock, 10)
    assert "full" in outbox.problem
    assert "disk" in outbox.problem
    assert caplog.text.count("cannot be written") == 1
    assert outbox.read(0, 5000) == made
    assert outbox.stream != stream, "what is sent from memory might get its numbers once more"
    ballast.unlink()
    clock.sleep(40)
    made += fill(outbox, clock, 1)
    assert outbox.problem == ""
    assert caplog.text.count("is written again") == 1
    assert outbox.read(0, 5000) == made
    stream = outbox.stream
    outbox.close()
    again = Outbox(small_disk, OutboxTable(), clock)
    assert again.stream == stream
    assert again.read(0, 5000) == made
    again.close()


def test_a_card_that_has_turned_read_only_has_its_backlog_sent(small_disk, clock):
    """After a clean stop; what is measured now comes after it, in a stream of its own."""
    outbox = Outbox(small_disk, OutboxTable(), clock)
    old = fill(outbox, clock, 4)
    outbox.acknowledge(1, 2)
    old += fill(outbox, clock, 1)
    outbox.close()
    remount(small_disk, "ro")
    again = Outbox(small_disk, OutboxTable(), clock)
    assert "its disk is mounted read-only" in again.problem
    assert (again.cursor, again.unsent) == (2, 3)
    made = fill(again, clock, 3)
    assert again.read(2, 99) == [*old[2:], *made]
    assert {again.stream_of(seq) for seq in (3, 4, 5)} == {outbox.stream}
    of_memory = again.stream_of(6)
    assert of_memory == again.stream != outbox.stream
    again.acknowledge(3, 6)
    remount(small_disk, "rw")
    clock.sleep(40)
    made += fill(again, clock, 1)
    assert again.problem == ""
    assert (again.cursor, again.read(6, 99)) == (6, made[1:])
    assert [again.stream_of(seq) for seq in (5, 6, 9)] == [outbox.stream, of_memory, of_memory]
    again.close()
    third = Outbox(small_disk, OutboxTable(), clock)
    assert [third.stream_of(seq) for seq in (5, 6, 9)] == [outbox.stream, of_memory, of_memory]
    third.close()


def full(disk: Path, outbox: Outbox, clock: FakeClock) -> Path:
    """Fill the disk until the log cannot be written; return the file that fills it."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free))
    while not outbox.problem:
        fill(outbox, clock, 10)
    return ballast


def test_a_reading_keeps_its_stream_whatever_the_disk_does(small_disk, clock):
    """Else a consumer that drops (stream, seq) twice would take it as another."""
    outbox = Outbox(small_disk, OutboxTable(), clock)
    fill(outbox, clock, 10)
    given: dict[int, set[str]] = {}

    def note(log: Outbox) -> None:
        for seq in range(1, log.last_seq + 1):
            given.setdefault(seq, set()).add(log.stream_of(seq))

    for _ in range(3):
        note(outbox)
        ballast = full(small_disk, outbox, clock)
        note(outbox)
        ballast.unlink()
        clock.sleep(40)
        fill(outbox, clock, 1)
        assert outbox.problem == ""
    note(outbox)
    outbox.close()
    again = Outbox(small_disk, OutboxTable(), clock)
    note(again)
    again.close()
    assert all(len(streams) == 1 for streams in given.values())
    assert len(set.union(*given.values())) == 4, "one more for each time that memory was sent from"


def test_a_number_that_memory_gave_out_is_given_out_in_another_stream(small_disk, clock):
    """A crash while the disk is full: what was sent from memory has its own stream."""
    outbox = Outbox(small_disk, OutboxTable(), clock)
    made = fill(outbox, clock, 5)
    full(small_disk, outbox, clock)
    seq = outbox.last_seq
    sent = outbox.stream_of(seq)
    crashed = Outbox(crashed_copy(small_disk, small_disk.parent / "crashed"), OutboxTable(), clock)
    while crashed.last_seq < seq:
        fill(crashed, clock, 1)
    assert crashed.stream_of(seq) != sent
    assert crashed.stream_of(made[0].seq) == outbox.stream_of(made[0].seq)
    crashed.close()
    outbox.close()


def test_a_clean_stop_writes_what_is_in_memory_however_lately_that_failed(small_disk, clock):
    outbox = Outbox(small_disk, OutboxTable(), clock)
    ballast = full(small_disk, outbox, clock)
    last_seq = outbox.last_seq
    assert outbox._uncommitted
    ballast.unlink()
    outbox.close()
    again = Outbox(small_disk, OutboxTable(), clock)
    assert again.last_seq == last_seq
    again.close()


def test_what_can_be_written_nowhere_is_said_to_be_lost(small_disk, clock, caplog):
    outbox = Outbox(small_disk, OutboxTable(), clock)
    full(small_disk, outbox, clock)
    count = len(outbox._uncommitted)
    outbox.close()
    assert f"{count} readings are lost" in caplog.text


def test_a_damaged_log_keeps_the_stream_of_what_it_still_has(tmp_path, clock):
    outbox = Outbox(tmp_path, OutboxTable(), clock)
    fill(outbox, clock, 20)
    database(outbox).execute("UPDATE boot SET checksum = checksum + 1")
    outbox.close()
    again = Outbox(tmp_path, OutboxTable(), clock)
    assert again.set_aside
    assert again.stream_of(again.last_seq) == outbox.stream
    (new,) = fill(again, clock, 1)
    assert again.stream_of(new.seq) == again.stream != outbox.stream
    again.close()


def test_another_stream_begins_with_what_is_newer(outbox, clock):
    """A restored card: what was taken before the broker's newest word keeps its stream."""
    before = fill(outbox, clock, 3)
    clock.wall_s += 100
    then_ms = round(clock.wall_s * 1000)
    clock.wall_s += 100
    after = fill(outbox, clock, 3)
    old = outbox.stream
    outbox.close()
    again = Outbox(outbox._store._folder, OutboxTable(), clock)
    again.begin_stream_since(then_ms)
    outbox = again
    assert {outbox.stream_of(r.seq) for r in before} == {old}
    assert {outbox.stream_of(r.seq) for r in after} == {outbox.stream} != {old}


def test_a_disk_that_becomes_read_only_while_the_log_is_open(small_disk, clock):
    outbox = Outbox(small_disk, OutboxTable(), clock)
    made = fill(outbox, clock, 4)
    done = subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=False)
    if done.returncode:
        # As the kernel does on errors of the disk, whoever has files open.
        subprocess.run(["mount", "-o", "remount,ro,force", str(small_disk)], check=False)
    made += fill(outbox, clock, 4)
    if done.returncode == 0:
        assert "cannot be written" in outbox.problem
        assert outbox.read(0, 99) == made
        remount(small_disk, "rw")
    clock.sleep(40)
    made += fill(outbox, clock, 1)
    assert outbox.problem == ""
    assert outbox.read(0, 99) == made
    outbox.close()


def test_memory_is_bounded_without_a_disk(clock, monkeypatch, caplog):
    monkeypatch.setattr(outbox_module, "MAX_IN_MEMORY", 50)
    outbox = Outbox(None, OutboxTable(), clock)
    for _ in range(30):
        fill(outbox, clock, 10)
    assert len(outbox._uncommitted) == 50
    assert outbox.dropped == 250
    assert caplog.text.count("the oldest unsent readings are dropped") == 1
    assert seqs(outbox.read(outbox.cursor, 99)) == list(range(251, 301))


def test_a_full_memory_drops_nothing_of_what_the_disk_still_has(small_disk, clock, monkeypatch):
    monkeypatch.setattr(outbox_module, "MAX_IN_MEMORY", 50)
    outbox = Outbox(small_disk, OutboxTable(), clock)
    stored = fill(outbox, clock, 500)
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    while not outbox.problem:
        stored += fill(outbox, clock, 10)
    before = outbox.last_seq
    for _ in range(20):
        fill(outbox, clock, 10)
    waiting = list(outbox._uncommitted)
    assert len(waiting) == 50
    assert outbox.cursor == 0
    assert outbox.read(0, 500) == stored[:500]
    assert (
        outbox.dropped
        == outbox.last_seq - before - 50 + len(outbox.read(500, 999)) - (len(stored) - 500)
        or outbox.dropped > 100
    )
    assert outbox.unsent == outbox.last_seq - outbox.dropped
    assert outbox.read(waiting[0].seq - 1, 99) == waiting
    outbox.close()


def test_readings_that_cannot_be_read_now_are_not_passed_over(outbox, clock, monkeypatch):
    """The disk fails a read: what is in memory waits behind what is in the file."""
    made = fill(outbox, clock, 20)
    newest = append(outbox, clock, 1.0, layout=WATER)

    def fails(*_: object, **_options: object) -> list[Reading]:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(OutboxFile, "readings_after", fails)
        assert outbox.read(0, 50) == []
        assert "disk I/O error" in outbox.problem
    assert outbox.read(0, 50) == [*made, newest]


def test_what_was_acknowledged_is_not_counted_as_dropped(tmp_path, clock):
    outbox = Outbox(tmp_path, OutboxTable(max_readings=10), clock)
    fill(outbox, clock, 10)
    outbox.acknowledge(4, 5)
    fill(outbox, clock, 6)
    assert (outbox.cursor, outbox.dropped) == (6, 4)


def test_a_page_that_is_gone_costs_its_own_readings_alone_and_they_are_counted(
    tmp_path, clock, caplog
):
    outbox = Outbox(tmp_path, OutboxTable(), clock)
    for _ in range(100):
        fill(outbox, clock, 50)
    outbox.close()
    file = tmp_path / FILE_NAME
    content = bytearray(file.read_bytes())
    page = content.index(b"[[1,0,2501") // 1024 * 1024
    content[page : page + 1024] = bytes(1024)
    file.write_bytes(content)
    again = Outbox(tmp_path, OutboxTable(), clock)
    position, found = 0, []
    while batch := again.read(position, 500):
        found += batch
        position = batch[-1].seq
    again.commit()
    assert 4800 < len(found) < 5000
    assert again.dropped == 5000 - len(found)
    assert "unsent readings were recovered" in caplog.text


def test_a_damaged_log_on_a_full_disk_is_copied_when_there_is_room(tmp_path, clock, monkeypatch):
    """Until then nothing is sent that comes after it, for it would be passed over."""
    outbox = Outbox(tmp_path, OutboxTable(), clock)
    made = [reading for _ in range(20) for reading in fill(outbox, clock, 1)]
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("UPDATE tick SET checksum = 0 WHERE last_seq = 7")
    db.close()

    def full(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(OutboxFile, "__init__", full)
        assert outbox.read(0, 99) == []
        new = [append(outbox, clock, 1.0, layout=WATER)]
        outbox.commit()
        assert "full" in outbox.problem
        assert outbox.read(0, 99) == []
    clock.sleep(40)
    new += fill(outbox, clock, 1)
    assert outbox.problem == ""
    assert outbox.read(0, 99) == [*made[:6], *made[7:], *new]
    assert outbox.dropped == 1


def test_a_cursor_that_noise_has_moved_is_damage(tmp_path, clock):
    """It would pass over everything up to where it points."""
    outbox = Outbox(tmp_path, OutboxTable(), clock)
    made = fill(outbox, clock, 10)
    outbox.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("UPDATE tick SET cursor = 1 << 20")
        db.execute("UPDATE ledger SET cursor = 5")
    db.close()
    again = Outbox(tmp_path, OutboxTable(), clock)
    assert again.set_aside
    assert again.unsent in (0, 10)
    assert again.cursor <= again.last_seq
    assert again.read(again.cursor, 99) in ([], made)


def test_a_folder_that_is_taken_when_it_comes_to_be_is_not_written_to(tmp_path, clock):
    """Both nodes were started before the disk was there; the second to come waits."""
    folder = tmp_path / "later"
    first = Outbox(folder, OutboxTable(), clock, hold=StateDirLock(folder).hold)
    second = Outbox(folder, OutboxTable(), clock, hold=StateDirLock(folder).hold)
    assert first.problem == ""
    assert "another sensor-node" in second.problem
    made = fill(second, clock, 2)
    assert second.read(0, 9) == made
    assert LogFile(folder / FILE_NAME).ledger.last_seq == 0


def test_a_folder_that_is_made_anew_belongs_to_who_takes_it_first(tmp_path, clock):
    """It was deleted under the node, and another one began there: its log is left alone."""
    folder = tmp_path / "log"
    first = Outbox(folder, OutboxTable(), clock, hold=StateDirLock(folder).hold)
    made = fill(first, clock, 2)
    shutil.rmtree(folder)
    second = Outbox(folder, OutboxTable(), clock, hold=StateDirLock(folder).hold)
    others = fill(second, clock, 3)
    made += fill(first, clock, 4)
    clock.sleep(60)
    others += fill(second, clock, 1)
    made += fill(first, clock, 1)
    assert "another sensor-node" in first.problem
    assert not second.set_aside
    assert not second.problem
    assert second.read(0, 99) == others
    assert first.read(0, 99) == made


def test_a_folder_that_is_deleted_is_made_anew_and_taken_again(tmp_path, clock):
    folder = tmp_path / "log"
    first = Outbox(folder, OutboxTable(), clock, hold=StateDirLock(folder).hold)
    made = fill(first, clock, 2)
    shutil.rmtree(folder)
    made += fill(first, clock, 1)
    clock.sleep(60)
    made += fill(first, clock, 1)
    assert not first.problem
    assert first.read(0, 99) == made
    second = Outbox(folder, OutboxTable(), clock, hold=StateDirLock(folder).hold)
    assert "another sensor-node" in second.problem


def test_a_folder_that_cannot_be_made(tmp_path, clock):
    (tmp_path / "file").touch()
    outbox = Outbox(tmp_path / "file" / "log", OutboxTable(), clock)
    assert "Not a directory" in outbox.problem
    made = fill(outbox, clock, 3)
    assert outbox.read(0, 9) == made


def test_a_log_that_is_deleted_under_the_node(outbox, clock, tmp_path):
    """Somebody tidies up: it is noticed, and what was unsent is in the new log."""
    made = fill(outbox, clock, 10)
    for file in tmp_path.glob("outbox.db*"):
        file.unlink()
    clock.sleep(4000)
    clock.wall_s += 4000
    made += fill(outbox, clock, 2)
    outbox.close()
    again = Outbox(tmp_path, OutboxTable(), clock)
    assert again.last_seq == 12
    assert again.read(0, 99) == made


def test_a_reader_does_not_disturb_the_writer(outbox, clock, tmp_path):
    """`sensor-node status` looks into the log of a running node."""
    fill(outbox, clock, 10)
    reader = LogFile(tmp_path / FILE_NAME)
    assert len(reader.readings_after(0, 99)) == 10
    fill(outbox, clock, 10)
    assert outbox.problem == ""
    assert len(reader.readings_after(0, 99)) == 20
    reader.close()
    outbox.close()
    files = sorted(tmp_path.iterdir())
    reader = LogFile(tmp_path / FILE_NAME)
    assert len(reader.readings_after(0, 99)) == 20
    reader.close()
    assert sorted(tmp_path.iterdir()) == files, "a reader leaves nothing behind"
