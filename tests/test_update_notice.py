"""What `deploy/update` leaves for the node to tell."""

from __future__ import annotations

from functools import partial

from support import sysfs_config, wait_until

UNDONE = "the update to 0.2.0 was undone: it has not committed a reading; 0.1.0 runs again"


def test_a_notice_in_the_state_directory_is_a_problem_of_the_node(
    broker, start_node, subscribe, temperature_file, tmp_path
):
    """Read at the start; when the file is gone, so is the problem of the next run."""
    (tmp_path / "state").mkdir()
    notice = tmp_path / "state" / "update-undone"
    notice.write_text(UNDONE + "\n")
    subscriber = subscribe(broker.port)

    def tells_of(process: int) -> bool:
        newest: int = subscriber.health()["process"]
        return newest == process

    for problems in ([UNDONE], []):
        node = start_node(sysfs_config(broker.port, {"s": temperature_file}))
        # Its own: the last words of the run before may still be on their way.
        wait_until(partial(tells_of, node.process.pid))
        assert subscriber.health()["problems"] == problems
        assert node.terminate() == 0
        notice.unlink(missing_ok=True)


def test_a_notice_that_is_no_text_stops_nothing(
    broker, start_node, subscribe, temperature_file, tmp_path
):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "update-undone").write_bytes(b"\xff\n" * 5000)
    subscriber = subscribe(broker.port)
    start_node(sysfs_config(broker.port, {"s": temperature_file}))
    wait_until(lambda: subscriber.on("sensors/test/health"))
    [problem] = subscriber.health()["problems"]
    assert len(problem) <= 500
