"""`sensor-node doctor` and the computer: buses, pins, permissions, supply, disk, clock."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from doctor_run import doctor, one_sensor
from ports import free_port
from support import SENSOR_NODE, FakeClock, wait_until

from drivers.hardware import HardwareBoard
from drivers.sim.board import SimulatedBoard
from node.config.load import load
from node.config.schema import Config
from node.doctor.board_checks import check_board
from node.doctor.report import Step
from node.doctor.system_checks import check_clock, check_disk, check_files, check_supply
from node.doctor.users import User, node_user
from node.system.clock import SystemClock
from node.system.throttling import Throttled, decode_throttled, read_throttled

PI = "Raspberry Pi 4 Model B Rev 1.4\0"
NOBODY = User("nobody", 65534, 65534, frozenset({65534}))
VIDEO = 44
"""A group that every Debian has, in place of i2c and spi, which only a Pi's has."""

ROOT = User("root", 0, 0, frozenset({0}))


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class RootedBoard(HardwareBoard):
    """The real board, with its files in a folder."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def path(self, absolute: str) -> Path:
        return self._root / absolute.lstrip("/")


@pytest.fixture
def board(tmp_path: Path) -> RootedBoard:
    return a_pi(tmp_path / "pi")


def a_pi(root: Path) -> RootedBoard:
    """A Pi without any bus."""
    made = RootedBoard(root)
    write(made, "/proc/device-tree/model", PI)
    write(made, "/boot/firmware/config.txt", "")
    made.path("/dev").mkdir()
    return made


def write(board: HardwareBoard | SimulatedBoard, path: str, content: str = "") -> Path:
    file = board.path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


def configured(folder: Path, text: str) -> Config:
    file = folder / "node.toml"
    file.write_text(f'[node]\nname = "n"\n[mqtt]\nhost = "127.0.0.1"\n{text}')
    return load(file)


def sensor(identifier: str, driver: str, options: str = "") -> str:
    return f'[[sensor]]\nid = "{identifier}"\ndriver = "{driver}"\n{options}\n'


def checked(config: Config, board: HardwareBoard | SimulatedBoard, user: User = ROOT) -> list[Step]:
    return list(check_board(config, board, user, node_runs=False))


def statuses(steps: list[Step]) -> dict[str, str]:
    return {step.name: step.status for step in steps}


# -- buses -----------------------------------------------------------------------------------------

BUSES = sensor("box", "bme280") + sensor("oven", "max31855") + sensor("tank", "ds18b20")


def test_buses_that_are_off_and_how_to_switch_them_on(tmp_path, board):
    config = configured(tmp_path, BUSES)
    steps = {step.name: step for step in checked(config, board)}
    assert {name: step.status for name, step in steps.items()} == {
        "I2C": "failed",
        "SPI": "failed",
        "1-Wire": "failed",
    }
    assert steps["I2C"].message == "/dev/i2c-1 does not exist: I2C is off"
    assert steps["SPI"].message == "/dev/spidev0.0 does not exist: SPI is off"
    for name, line in (("I2C", "i2c_arm=on"), ("SPI", "spi=on"), ("1-Wire", "dtoverlay=w1-gpio")):
        assert line in steps[name].remedy
        assert "/boot/firmware/config.txt" in steps[name].remedy
    write(board, "/dev/i2c-1")
    write(board, "/dev/spidev0.0")
    board.path("/sys/bus/w1/devices/w1_bus_master1").mkdir(parents=True)
    assert set(statuses(checked(config, board)).values()) == {"ok"}


def test_the_serial_port_of_a_modbus_line_is_looked_at(tmp_path, board):
    """Once for all its sensors; a gateway has none."""
    options = 'port = "/dev/ttyUSB0"\nmodel = "xy-md02"\nunit = {}'
    text = sensor("a", "modbus", options.format(1)) + sensor("b", "modbus", options.format(2))
    text += sensor("c", "modbus", 'host = "10.0.0.1"\nmodel = "xy-md02"')
    (step,) = checked(configured(tmp_path, text), board)
    assert (step.name, step.status) == ("serial", "failed")
    assert step.message == "/dev/ttyUSB0 does not exist"
    assert "/dev/serial/by-id" in step.remedy
    write(board, "/dev/ttyUSB0")
    (step,) = checked(configured(tmp_path, text), board)
    assert (step.status, step.message) == ("ok", "/dev/ttyUSB0 may be used by root")


def test_phantoms_on_1_wire_are_a_missing_pull_up(tmp_path, board):
    """raspberrypi/firmware issue 348."""
    for name in ("w1_bus_master1", "00-200000000000", "00-c00000000000"):
        board.path(f"/sys/bus/w1/devices/{name}").mkdir(parents=True)
    (step,) = checked(configured(tmp_path, sensor("tank", "ds18b20")), board)
    assert step.status == "failed"
    assert "cannot be there: 00-200000000000, 00-c00000000000" in step.message
    assert "no pull-up" in step.remedy


def test_buses_that_nothing_is_configured_on_are_not_mentioned(tmp_path, board):
    assert checked(configured(tmp_path, sensor("cpu", "cpu")), board) == []


def test_another_bus_than_the_configured_one_is_there(tmp_path, board):
    write(board, "/dev/i2c-0")
    write(board, "/sys/class/i2c-dev/i2c-0/name", "bcm2835 (i2c@7e205000)\n")
    (step,) = checked(configured(tmp_path, sensor("box", "bme280")), board)
    assert step.status == "failed"
    assert 'present: /dev/i2c-0 ("bcm2835 (i2c@7e205000)")' in step.message


@as_root
def test_a_user_who_is_not_in_the_group_of_a_device(tmp_path, open_folder):
    """Asked by root for the user of the service."""
    board = a_pi(open_folder)
    device = write(board, "/dev/i2c-1")
    os.chown(device, 0, VIDEO)
    device.chmod(0o660)
    config = configured(tmp_path, sensor("box", "bme280"))
    (step,) = checked(config, board, NOBODY)
    assert step.status == "failed"
    assert step.message == "/dev/i2c-1 may not be used by nobody, which the node runs as"
    assert "it is for the group video: sudo usermod -aG video nobody" in step.remedy
    member = User("nobody", 65534, 65534, frozenset({65534, VIDEO}))
    assert statuses(checked(config, board, member)) == {"I2C": "ok"}
    assert os.geteuid() == 0
    os.chown(device, 0, 0)
    (step,) = checked(config, board, NOBODY)
    assert "a udev rule" in step.remedy


@as_root
def test_permissions_as_another_user_sees_them(open_folder):
    """For itself it asks the kernel; for others, what the file's mode says."""
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from node.doctor.users import User, node_user\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "file = Path(sys.argv[1])\n"
        "me = User('nobody', 65534, 65534, frozenset({65534}))\n"
        "member = User('other', 65533, 44, frozenset({44}))\n"
        "owner = User('owner', 3, 3, frozenset())\n"
        "print([u.may(file, os.R_OK | os.W_OK) for u in (me, member, owner)])\n"
    )
    device = open_folder / "device"
    device.touch()
    seen = []
    for uid, gid, mode in ((0, VIDEO, 0o660), (3, 0, 0o600), (0, 65534, 0o660), (0, 0, 0o666)):
        os.chown(device, uid, gid)
        device.chmod(mode)
        done = subprocess.run(
            [sys.executable, "-c", code, str(device)],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent.parent,
        )
        seen.append(json.loads(done.stdout.lower()))
    assert seen == [
        [False, True, False],
        [False, False, True],
        [True, False, False],
        [True, True, True],
    ]


@as_root
def test_whose_permissions_count(tmp_path):
    """Those of the node that runs; else of who owns its folder; else of who asks."""
    sleeper = subprocess.Popen(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--groups", f"{VIDEO}", "sleep", "60"]
    )
    try:
        status = Path(f"/proc/{sleeper.pid}/status")
        wait_until(lambda: "Uid:\t65534" in status.read_text())
        running = node_user(sleeper.pid, tmp_path)
    finally:
        sleeper.kill()
        sleeper.wait()
    assert running == User("nobody", 65534, 65534, frozenset({65534, VIDEO}))
    assert node_user(None, tmp_path).name == "root"
    os.chown(tmp_path, 65534, 65534)
    assert node_user(None, tmp_path).uid == 65534


# -- the real devices, in a mount namespace --------------------------------------------------------


def with_files(*commands: str) -> tuple[str, ...]:
    """A prefix that runs a program where `commands` of the shell have changed the files."""
    allowed = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    if allowed.returncode:
        pytest.skip("needs the right to make a mount namespace, as root has it")
    return ("unshare", "--mount", "sh", "-c", "\n".join(["set -e", *commands, 'exec "$@"']), "sh")


DEV = (
    "mount -t tmpfs none /dev",
    "mknod -m 666 /dev/null c 1 3",
    "mknod -m 666 /dev/urandom c 1 9",
)


@as_root
def test_devices_of_the_computer_itself_for_the_owner_of_the_nodes_folder(open_folder):
    (open_folder / "state").mkdir()
    os.chown(open_folder / "state", 65534, 65534)
    config = one_sensor(free_port(), open_folder / "t") + sensor("box", "bme280")
    for group, status in ((VIDEO, "failed"), (65534, "ok")):
        device = (
            "touch /dev/i2c-1",
            f"chown 0:{group} /dev/i2c-1",
            "chmod 660 /dev/i2c-1",
        )
        report = doctor(open_folder, config, prefix=with_files(*DEV, *device))
        step = report.one("I2C")
        assert step["status"] == status
        if status == "failed":
            assert step["message"].startswith("/dev/i2c-1 may not be used by nobody")
            assert "usermod -aG video nobody" in step["remedy"]
        assert report.one("disk")["status"] == "ok"


@as_root
def test_a_folder_that_the_node_may_not_write_and_a_file_it_may_not_read(open_folder):
    state = open_folder / "state"
    state.mkdir()
    os.chown(state, 65534, 65534)
    state.chmod(0o555)
    secret = open_folder / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    login = f'username = "u"\npassword_file = "{secret}"'
    config = one_sensor(free_port(), open_folder / "t", login)
    report = doctor(open_folder, config)
    assert report.failed["disk"] == f"{state} may not be written by nobody"
    assert f"{secret} may not be read by nobody" in report.failed["files"]
    assert "sudo chgrp nogroup" in report.one("files")["remedy"]
    os.chown(secret, 65534, 0)
    state.chmod(0o755)
    assert {"disk", "files"}.isdisjoint(doctor(open_folder, config).failed)


FIRMWARE = "/sys/devices/platform/soc/soc:firmware"


@as_root
@pytest.mark.parametrize(
    ("bits", "status", "says"),
    [("50005", "failed", "under-voltage: "), ("0", "ok", "no under-voltage")],
)
def test_under_voltage_by_the_kernels_own_file(tmp_path, bits, status, says):
    prefix = with_files(
        "mount -t tmpfs none /sys/devices/platform",
        f"mkdir -p {FIRMWARE}",
        f"echo {bits} > {FIRMWARE}/get_throttled",
    )
    report = doctor(tmp_path, one_sensor(free_port(), tmp_path / "t"), prefix=prefix)
    step = report.one("supply")
    assert step["status"] == status
    assert step["message"].startswith(says)


# -- supply ----------------------------------------------------------------------------------------


def test_every_bit_of_the_firmware_has_its_meaning():
    """By the table of `vcgencmd get_throttled` in the documentation of Raspberry Pi."""
    meanings = {
        0x1: "under_voltage",
        0x2: "frequency_capped",
        0x4: "throttled",
        0x8: "soft_temperature_limit",
    }
    for bit, name in meanings.items():
        assert decode_throttled(bit) == Throttled(**{name: True})
        assert decode_throttled(bit << 16) == Throttled(**{f"{name}_since_boot": True})
    assert decode_throttled(0) == Throttled()


def test_where_the_supply_is_told(board):
    """By the firmware's file, on a Pi 5 too; by hwmon's alarm; or by nothing."""
    assert read_throttled(board) is None
    assert check_supply(board).status == "skipped"
    assert check_supply(board).message == "not available: this kernel does not report it"
    board.path("/proc/device-tree/model").unlink()
    assert check_supply(board).message == "not available: this is not a Raspberry Pi"
    file = write(
        board, "/sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"
    )
    file.write_text("50000\n")
    assert read_throttled(board) == Throttled(
        under_voltage_since_boot=True, throttled_since_boot=True
    )
    step = check_supply(board)
    assert (step.status, step.message) == (
        "warning",
        "under-voltage since boot, throttled since boot",
    )
    write(board, "/sys/class/hwmon/hwmon0/name", "cpu_thermal\n")
    write(board, "/sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    alarm = write(board, "/sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n")
    assert check_supply(board).status == "failed"
    file.unlink()
    assert read_throttled(board) == Throttled(under_voltage=True, under_voltage_since_boot=True)
    alarm.write_text("0\n")
    assert read_throttled(board) == Throttled()
    assert check_supply(board).status == "ok"


def test_a_file_of_the_firmware_that_says_nothing(board):
    write(board, f"{FIRMWARE}/get_throttled", "nonsense\n")
    assert read_throttled(board) is None


# -- pins ------------------------------------------------------------------------------------------

PINS = sensor("air", "dht22", "pin = 4\npower_pin = 22") + "[status_led]\npin = 17\n"


def test_a_pin_that_is_taken(tmp_path):
    """By another device of gpiozero's; the pin is not touched."""
    from gpiozero import LED

    config = configured(tmp_path, PINS)
    simulated = SimulatedBoard()
    assert set(statuses(checked(config, simulated)).values()) == {"ok"}
    with LED(17, initial_value=True, pin_factory=simulated.pin_factory()) as led:
        (taken,) = [step for step in checked(config, simulated) if step.status == "failed"]
        assert "GPIO 17, for [status_led], is taken: pin GPIO17 is already in use" in taken.message
        assert led.is_lit
        running = check_board(config, simulated, ROOT, node_runs=True)
        assert "failed" not in {step.status for step in running}, "it is the node itself"
    assert "failed" not in statuses(checked(config, simulated)).values()


@pytest.mark.parametrize("node_runs", [True, False])
@pytest.mark.parametrize(
    ("pin", "user", "remedy"),
    [
        (4, "onewire@4", "1-Wire has it: use another pin"),
        (4, "onewire", "1-Wire has it: use another pin"),  # on our image
        (17, "dht11@11", "dtoverlay=dht11 has it"),
        (17, "spi0 CS0", "stop the program that uses it, or remove the overlay"),
        (4, "dht11@4", None),
    ],
)
def test_a_pin_that_the_kernel_has_is_no_node_s(
    tmp_path, monkeypatch, node_runs, pin, user, remedy
):
    """An overlay of 1-Wire on the pin of a DHT: whether the node runs or not, it is in the way."""
    config, simulated = configured(tmp_path, PINS), SimulatedBoard()
    monkeypatch.setattr(
        simulated, "pin_user", lambda asked: f'its user is "{user}"' if asked == pin else ""
    )
    steps = check_board(config, simulated, ROOT, node_runs=node_runs)
    (found,) = [step for step in steps if step.name == "pins" and user in step.message]
    assert found.status == ("failed" if remedy else "ok")
    assert remedy is None or found.remedy.startswith(remedy)


def test_a_missing_pin_factory_is_named_with_what_it_lacks(tmp_path):
    """On this computer there is no GPIO; what each library says of that is shown."""
    report = doctor(tmp_path, one_sensor(free_port(), tmp_path / "t") + PINS)
    assert "gpiozero finds no GPIO on this computer" in report.failed["pin factory"]
    assert "lgpio: No module named 'lgpio'" in report.failed["pin factory"]
    assert "apt install python3-lgpio" in report.one("pin factory")["remedy"]
    assert {step["status"] for step in report.all("pins")} == {"skipped"}
    simulated = doctor(tmp_path, one_sensor(free_port(), tmp_path / "t") + PINS, "--simulate")
    assert simulated.one("pin factory")["status"] == "ok"
    assert {step["status"] for step in simulated.all("pins")} == {"ok"}


@as_root
def test_a_pin_that_another_program_holds_on_a_pi(tmp_path):
    """libgpiod asks what a kernel would answer: GPIO 17 is held by "lirc"; nothing is requested."""
    if shutil.which("gcc") is None:
        pytest.skip("needs a C compiler: apt-get install gcc libc6-dev")
    shim, source = tmp_path / "shim.so", Path(__file__).with_name("gpio_shim.c")
    command = ["gcc", "-shared", "-fPIC", "-o", str(shim), str(source), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    # A character device that belongs to the subsystem gpio, as libgpiod makes sure.
    chip = (
        "mknod -m 666 /dev/gpiochip0 c 1 3",
        "mount -t tmpfs none /sys/bus",
        "mkdir /sys/bus/gpio",
        "mount -t tmpfs none /sys/dev/char",
        "mkdir /sys/dev/char/1:3",
        "ln -s /sys/bus/gpio /sys/dev/char/1:3/subsystem",
        f"export LD_PRELOAD={shim}",
    )
    config = one_sensor(free_port(), tmp_path / "t") + PINS
    report = doctor(tmp_path, config, prefix=with_files(*DEV, *chip))
    assert [step["message"] for step in report.all("pins")] == [
        'GPIO 17, for [status_led], is taken: the kernel knows its user as "lirc"',
        "GPIO 22, for power_pin of air, is free",
        "GPIO 4, for dht22 air, is free",
    ]
    assert "stop the program that uses it" in report.all("pins")[0]["remedy"]


def test_chips_on_a_bus_claim_no_pin_of_their_own(tmp_path):
    """The kernel holds the select lines of SPI, and that is right."""
    names = {step.name for step in checked(configured(tmp_path, BUSES), SimulatedBoard())}
    assert names == {"I2C", "SPI", "1-Wire"}


# -- disk ------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 100 MB and 400 inodes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = "size=100m,nr_inodes=400"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs the right to mount, as root has it: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave_bytes: int) -> None:
    """Take up the disk but for `leave_bytes`."""
    with (folder / "ballast").open("ab") as ballast:
        size = shutil.disk_usage(folder).free - leave_bytes
        os.posix_fallocate(ballast.fileno(), 0, size)


def test_a_disk_that_is_nearly_full_and_full(small_disk):
    assert check_disk(small_disk / "state", ROOT).status == "ok"
    fill(small_disk, 4_000_000)
    step = check_disk(small_disk / "state", ROOT)
    assert (step.status, step.message) == ("warning", f"{small_disk}: 4.0 MB of 104.9 MB free")
    (small_disk / "more").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    step = check_disk(small_disk, ROOT)
    assert step.status == "failed"
    assert "nothing can be written" in step.message
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        (small_disk / "a").write_bytes(b"x")


def test_a_disk_without_inodes(small_disk):
    for number in range(385):
        (small_disk / f"{number}").touch()
    assert check_disk(small_disk, ROOT).status == "warning"
    with contextlib.suppress(OSError):
        for number in range(99):
            (small_disk / f"more{number}").touch()
    step = check_disk(small_disk, ROOT)
    assert (step.status, step.message) == (
        "failed",
        f"{small_disk}: no free inode for a new file",
    )


def test_a_disk_that_is_read_only(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    step = check_disk(small_disk, ROOT)
    assert step.status == "failed"
    assert "mounted read-only" in step.message


# -- clock and files -------------------------------------------------------------------------------


def test_a_clock_that_is_kept_by_ntp(clock: FakeClock):
    assert check_clock(clock, ()).status == "ok"


def test_a_clock_that_was_never_set(tmp_path):
    """As that of a Pi without network: it shows a time before that of its own files."""
    if shutil.which("faketime") is None:
        pytest.skip("needs faketime: apt-get install faketime")
    prefix = ("env", "NO_FAKE_STAT=1", "faketime", "2020-02-03 04:05:06")
    report = doctor(tmp_path, one_sensor(free_port(), tmp_path / "t"), prefix=prefix)
    step = report.one("clock")
    assert step["status"] == "warning"
    assert "it shows 2020-02-0" in step["message"]
    assert "slow at least, judging by " in step["message"]
    assert "timedatectl set-ntp true" in step["remedy"]
    assert "clock" not in report.failed


def test_a_clock_that_nobody_keeps_and_that_may_be_right(tmp_path, clock: FakeClock):
    clock.in_sync = False
    old = tmp_path / "old"
    old.touch()
    os.utime(old, (clock.wall_s - 60, clock.wall_s - 60))
    step = check_clock(clock, (old, tmp_path / "absent"))
    assert step.status == "warning"
    assert "there is no way to check the time from here" in step.message
    os.utime(old, (clock.wall_s + 7200, clock.wall_s + 7200))
    assert f"2h slow at least, judging by {old}" in check_clock(clock, (old,)).message


def test_the_clock_of_this_computer_is_told_as_the_node_tells_it(tmp_path):
    report = doctor(tmp_path, one_sensor(free_port(), tmp_path / "t"))
    assert (report.one("clock")["status"] == "ok") == SystemClock().synced()


def test_files_that_are_readable(tmp_path):
    (step,) = check_files(configured(tmp_path, ""), ROOT)
    assert (step.status, step.message) == (
        "ok",
        f"{tmp_path / 'node.toml'} may be read by root",
    )


def test_a_running_node_does_not_pay_for_the_doctor():
    """`run` imports none of it, and the doctor none of the terminal views."""
    code = (
        "import sys, node.commands.run, node.loop\n"
        "assert not [m for m in sys.modules if m.startswith('node.doctor')]\n"
        "import node.commands.doctor\n"
        "assert [m for m in sys.modules if m.startswith('node.doctor')]\n"
        "assert 'rich' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_the_digest_of_the_configuration_is_that_of_the_file(tmp_path):
    """What `sha256sum` shows of it, so that it can be compared by hand."""
    config = configured(tmp_path, "")
    done = subprocess.run(
        ["sha256sum", str(config.source)], capture_output=True, text=True, check=True
    )
    assert config.digest == done.stdout[:12]


def test_a_failed_step_is_followed_by_its_remedy(tmp_path):
    """And the steps that need it are skipped, with the reason."""
    file = tmp_path / "node.toml"
    port = free_port()
    file.write_text(one_sensor(port, tmp_path / "t"))
    command = [SENSOR_NODE, "doctor", "--config", str(file), "--state-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert (
        f"FAIL  TCP            127.0.0.1:{port} refuses the connection\n"
        "                     -> is the broker running, and the port right?\n"
    ) in done.stdout
    assert "skip  login          skipped because TCP failed\n" in done.stdout
