"""Programs of alarms: what such a program can reach, and that all it starts ends with it.

In bubblewrap here, by a real node; in the unit of the service, `tests/service/check_alarm_program`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import open_folder, sysfs_config, wait_until

from node.alarms import programs as module
from node.alarms.programs import AlarmPrograms, bubblewrap_problem
from node.config.load import load
from node.doctor.alarm_checks import check_alarm_programs
from node.doctor.users import User

TESTS = Path(__file__).parent
HOOK = TESTS.parent / "node/alarms/hook.py"
PYTHON = "/usr/bin/python3"
NOBODY = 65534
ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
def programs(caplog: pytest.LogCaptureFixture) -> Iterator[AlarmPrograms]:
    """In bubblewrap, where that works; without a unit."""
    caplog.set_level("INFO")
    made = AlarmPrograms([], unit=Path("/nowhere"))
    yield made
    made.close()


def need_bubblewrap() -> None:
    if problem := bubblewrap_problem():
        pytest.skip(f"needs bubblewrap: {problem}")


def running(marker: object) -> list[int]:
    """The processes that have a word in their command line, without those that wrap them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(marker).encode() in words and words[0] != b"bwrap":
            found.append(int(process.name))
    return found


def attack_in(text: str) -> dict[str, Any]:
    """What `alarm_attack` has told."""
    line = next(line for line in text.splitlines() if line.startswith("ATTACK "))
    found = json.loads(line.removeprefix("ATTACK "))
    assert isinstance(found, dict)
    return found


def test_a_program_reaches_neither_secrets_nor_the_log_nor_the_network(
    broker, start_node, temperature_file, tmp_path
):
    """A real node's, whose program tries each; the control is the same program by itself."""
    need_bubblewrap()
    (tmp_path / "password").write_text("geheim")
    (tmp_path / "password").chmod(0o600)
    attack = [sys.executable, str(TESTS / "alarm_attack.py"), str(tmp_path / "password")]
    attack += [str(tmp_path / "node.toml"), "--", str(tmp_path / "state"), "127.0.0.1"]
    attack += [str(broker.port), "0"]
    login = f'username = "u"\npassword_file = "{tmp_path}/password"\n'
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="200ms", mqtt=login)
    config += f"[[sensor.channel.temperature.alarm]]\nabove = 20\nexec = {json.dumps(attack)}\n"
    node = start_node(config, env={"SENSOR_NODE_PROBE": "of the node"})
    node.wait_for_log("ATTACK ")
    found = attack_in(node.log)
    assert found["secrets"] == ["Permission denied", "Permission denied"]
    assert found["log"] == "No such file or directory"
    assert found["write"] == "Read-only file system"
    assert found["connect"] in ("Network is unreachable", "Connection refused")
    assert not [text for text in found["environments"] if "of the node" in text]
    others = {name for name in found["environment"] if not name.startswith("SENSOR_NODE_")}
    assert others <= {"LANG", "PATH", "PWD", "LC_CTYPE"}
    assert "SENSOR_NODE_PROBE" not in found["environment"]
    node.wait_for_log("the programs of alarms run in bubblewrap: without a network")

    control = subprocess.run(attack, capture_output=True, check=True)
    told = attack_in(control.stderr.decode())
    assert told["secrets"][0] == "got 'geheim'"
    assert "password_file" in told["secrets"][1]
    assert told["log"] == "got b'SQLite'"
    assert (told["write"], told["connect"]) == ("got 'written'", "got 'connected'")
    assert [text for text in told["environments"] if "of the node" in text]


@pytest.mark.parametrize("wrapped", [True, False])
def test_all_that_a_program_has_started_ends_with_it(
    programs, tmp_path, caplog, monkeypatch, wrapped
):
    """When it ends, when its time is over, and when the node stops; in whatever session it is."""
    if wrapped:
        need_bubblewrap()
    else:
        monkeypatch.setattr(module, "bubblewrap_problem", lambda: "it is not there")
    sleeper = f"setsid sh -c 'exec sleep 600 {tmp_path}' & setsid sleep 600 {tmp_path} &"
    marker = tmp_path / "began"
    programs.run(["/bin/sh", "-c", f"{sleeper} touch {marker}; exit 3"], {})
    wait_until(lambda: "/bin/sh failed with exit code 3" in caplog.text)
    assert marker.exists()
    assert running(tmp_path) == []
    programs._time_limit_s = 0.5
    programs.run(["/bin/sh", "-c", f"{sleeper} exec sleep 600"], {})
    wait_until(lambda: "/bin/sh was ended: it ran longer than 0.5 s" in caplog.text)
    assert running(tmp_path) == []
    programs._time_limit_s = 60
    marker.unlink()
    programs.run(["/bin/sh", "-c", f"{sleeper} touch {marker}; exec sleep 600"], {})
    wait_until(marker.exists)
    programs.close()
    wait_until(lambda: running(tmp_path) == [])
    how = "bubblewrap: without a network" if wrapped else "the rights of this user: it is not there"
    assert how in caplog.text


def test_processes_and_memory_are_bounded_for_a_user_who_is_not_root():
    """By limits that need no right: also where there is neither a unit nor bubblewrap."""
    with open_folder() as folder:
        for file in (HOOK, TESTS / "alarm_attack.py"):
            (folder / file.name).write_text(file.read_text())
        attack = [PYTHON, str(folder / "alarm_attack.py"), "--", str(folder), "127.0.0.1", "9"]
        answer, errors = hook(folder / HOOK.name, [*attack, "100"])
        assert (answer, attack_in(errors)["user"]) == ({"exit_code": 0}, NOBODY)
        assert 32 <= attack_in(errors)["started"] <= 64
        assert running(folder / "alarm_attack.py") == []
        eat = "x = bytearray(300 * 1024**2)"
        answer, errors = hook(folder / HOOK.name, [PYTHON, "-c", eat])
        assert (answer, "MemoryError" in errors) == ({"exit_code": 1}, True)
        assert hook(folder / HOOK.name, [PYTHON, "-c", eat.replace("300", "30")])[0] == {
            "exit_code": 0
        }


def hook(file: Path, program: list[str]) -> tuple[dict[str, Any], str]:
    """Run a program by the hook as nobody; the answer, and what the program said."""
    job = {"program": program, "wrapper": [], "environment": ENVIRONMENT, "time_limit_s": 60}
    process = subprocess.Popen(
        [PYTHON, "-I", "-S", str(file)],
        user=NOBODY if os.getuid() == 0 else None,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.read())
        return answer, process.stderr.read().decode()


@pytest.mark.parametrize(
    "job",
    [
        b"",
        b"nonsense",
        b"[]",
        b'{"program": []}',
        b'{"program": [], "wrapper": [], "environment": {"PATH": ""}, "time_limit_s": 1}',
    ],
)
def test_the_hook_answers_nonsense_with_an_error(job):
    done = subprocess.run(
        [sys.executable, "-I", "-S", HOOK], input=job + b"\n", capture_output=True, check=True
    )
    assert set(json.loads(done.stdout)) == {"error"}
    assert done.stderr == b""


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Callable[[list[str]], Path]]:
    """A socket that starts a program for each connection, as systemd does with Accept=yes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()

        def serve(command: list[str]) -> Path:
            def accept() -> None:
                with contextlib.suppress(OSError):  # the listener is shut down at the end
                    while True:
                        link, _ = listener.accept()
                        with link:
                            end = link.fileno()
                            subprocess.run(command, stdin=end, stdout=end, check=False)

            threading.Thread(target=accept, daemon=True).start()
            return tmp_path / "socket"

        yield serve
        listener.shutdown(socket.SHUT_RDWR)


def test_in_the_service_the_unit_runs_it(unit, tmp_path, caplog):
    """With no wrapper of ours: the unit's sandbox would not let it be made."""
    caplog.set_level("INFO")
    path = unit([sys.executable, "-I", "-S", str(HOOK)])
    programs = AlarmPrograms([], unit=path)
    programs.run(["/bin/sh", "-c", f'echo "$X" >{tmp_path}/ran; exit 7'], {"X": "a fact"})
    wait_until(lambda: "/bin/sh failed with exit code 7" in caplog.text)
    assert (tmp_path / "ran").read_text() == "a fact\n"
    assert "bubblewrap" not in caplog.text
    programs.close()


def test_a_unit_that_fails_is_reported_and_nothing_runs_outside_of_it(unit, tmp_path, caplog):
    programs = AlarmPrograms([], unit=unit(["true"]))
    programs.run(["/bin/touch", str(tmp_path / "ran")], {})
    why = "its service failed: sudo journalctl -t sensor-node-alarm"
    wait_until(lambda: why in caplog.text)
    (tmp_path / "socket").unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / "socket"))
    programs.run(["/bin/touch", str(tmp_path / "ran")], {})
    wait_until(lambda: "Connection refused" in caplog.text)
    assert not (tmp_path / "ran").exists()
    programs.close()


def test_the_doctor_says_what_is_wrong_with_a_program_and_its_sandbox(tmp_path, monkeypatch):
    need_bubblewrap()
    with open_folder() as folder:
        for name, mode in (("everyones", 0o755), ("roots", 0o700)):
            (folder / name).touch()
            (folder / name).chmod(mode)
        alarms = "".join(
            f"[[sensor.channel.temperature.alarm]]\nname = '{name}'\nabove = 1\n"
            f"exec = ['{folder}/{name}']\n"
            for name in ("everyones", "roots", "nothing")
        )
        file = tmp_path / "node.toml"
        file.write_text(sysfs_config(1883, {"s": folder / "everyones"}) + alarms)
        config = load(file)
        nobody = User("nobody", NOBODY, NOBODY, frozenset({NOBODY}))
        socket_file = tmp_path / "socket"

        def said() -> list[tuple[str, str]]:
            steps = check_alarm_programs(config, nobody, unit=socket_file)
            return [(step.status, step.message.replace(f"{folder}/", "")) for step in steps]

        missing = ("failed", "nothing of s/nothing does not exist")
        assert said() == [
            ("failed", "roots of s/roots may not be run by nobody"),
            missing,
            ("ok", "their programs run in bubblewrap"),
        ]
        monkeypatch.setattr(module, "_PATH", "/nowhere")
        assert said()[-1] == (
            "warning",
            "their programs run with the rights of the node's user: bubblewrap is not installed",
        )
        socket_file.touch()
        assert said() == [
            (
                "failed",
                "roots of s/roots may not be run by every user, and runs as a user of its own",
            ),
            missing,
            ("ok", "their programs run in sensor-node-alarm@.service"),
        ]
