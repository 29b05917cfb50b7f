"""The image's helpers in a booted Debian: what they read, they read without root's rights.

A file system in memory stands for the FAT partition; scripts for the programs that this Debian
has not (ssh-keygen, ip) and for the node.
"""

from __future__ import annotations

import json
import shutil

import pytest
from container import CHECKOUT, Container

HELPERS = CHECKOUT / "deploy/image/root"
UNITS = "etc/systemd/system"
RUN = "/run/sensor-node-panel"
_PROGRAMS = {
    "ssh-keygen": """\
#!/bin/sh
case $1 in
-y) [ -s "$5" ] ;;
*) echo private >"$9" && echo public >"$9.pub" ;;
esac
""",
    "ip": """\
#!/usr/bin/python3
import socket
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
print('[{"ifname": "eth0", "addr_info": [{"local": "192.168.1.9"}]}]')
""",
    "sensor-node": """\
#!/bin/sh
case $1 in
check) grep -q broken "$3" && echo "$3:1: broken" >&2 && exit 78 ;;
status) echo '{"health": {"node": "shed", "version": "1", "broker": "connected, MQTT 5"}}' ;;
esac
exit 0
""",
}
_PROBE = """\
import os, socket, sys
from pathlib import Path

def reach(what):
    with socket.socket(socket.AF_UNIX) as systemd:
        systemd.connect("/run/systemd/private")

for name, attempt in {
    "etc": lambda: Path("/etc/probe").write_text("x"),
    "card": lambda: Path("/boot/firmware/probe").write_text("x"),
    "systemd": lambda: reach("systemd"),
    "mount": lambda: os.execvp("mount", ["mount", "-o", "remount,rw", "/"]),
}.items():
    if name == "mount" and os.fork():
        print("mount", os.waitstatus_to_exitcode(os.wait()[1]))
        continue
    try:
        attempt()
    except OSError as error:
        print(name, "refused")
    else:
        print(name, "DONE")
"""


@pytest.fixture(scope="module")
def helped(system: Container) -> Container:
    """The system with the helpers in place, as the image has them."""
    shutil.copytree(
        HELPERS / "usr/lib/sensor-node", system.file("/usr/lib/sensor-node"), dirs_exist_ok=True
    )
    for name in ("panel", "status"):
        unit = f"sensor-node-{name}.service"
        text = (HELPERS / UNITS / unit).read_text()
        text = text.replace("@SENSOR_NODE@", "/usr/local/bin/sensor-node")
        system.file(f"/{UNITS}/{unit}").write_text(text)
    for name, script in _PROGRAMS.items():
        program = system.file(f"/usr/local/bin/{name}")
        program.write_text(script)
        program.chmod(0o755)
    system.run("mkdir", "-p", "/boot/firmware")
    system.run("mount", "-t", "tmpfs", "-o", "mode=0750", "card", "/boot/firmware")
    system.run("systemctl", "daemon-reload")
    return system


def put(system: Container, **files: str) -> None:
    """Files on the card, which is only read otherwise."""
    system.run("mount", "-o", "remount,rw", "/boot/firmware")
    for name, text in files.items():
        where = "/boot/firmware/" + name.replace("__", ".").replace("_", "-")
        system.run("sh", "-c", 'printf %s "$1" >"$2"', "sh", text, where)
    system.run("mount", "-o", "remount,ro", "/boot/firmware")


def run_panel(system: Container) -> list[str]:
    """The problems that it tells."""
    system.run("systemctl", "restart", "sensor-node-panel")
    assert system.show("Result", "sensor-node-panel") == "success"
    problems: list[str] = json.loads(system.run("cat", f"{RUN}/problems.json").stdout)
    return problems


def test_the_panel_makes_settings_of_the_card(helped):
    put(
        helped,
        wifi__toml='country = "DE"\n[[network]]\nname = "home"\npassword = "12345678"\n',
        ssh__txt="ssh-ed25519 AAAA me\n",
        sensor_node__toml='[node]\nname = "shed"\n[web]\nenabled = true\nhost = "0.0.0.0"\n',
    )
    assert run_panel(helped) == []
    assert 'psk="12345678"' in helped.run("cat", f"{RUN}/wpa_supplicant.conf").stdout
    assert helped.run("stat", "-c", "%a %U", f"{RUN}/wpa_supplicant.conf").stdout == "600 root\n"
    assert helped.run("cat", f"{RUN}/authorized_keys").stdout == "ssh-ed25519 AAAA me\n"
    assert helped.run("cat", f"{RUN}/hostname").stdout == "shed\n"
    assert "Port=8080" in helped.run("cat", "/run/systemd/dnssd/sensor-node.dnssd").stdout
    kept = "/var/lib/sensor-node-panel/wpa_supplicant.conf"
    assert 'psk="12345678"' in helped.run("cat", kept).stdout


def test_a_host_key_that_a_power_cut_has_left_empty_is_made_again(helped):
    key = helped.file("/var/lib/sensor-node-ssh/ssh_host_ed25519_key")
    assert key.read_text() == "private\n"
    key.write_text("")
    assert run_panel(helped) == []
    assert key.read_text() == "private\n"
    assert key.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "wifi",
    ["network = [1]", "x = " + "[" * 3000 + "]" * 3000, 'country = "hunter2'],
    ids=["a number", "brackets", "no end"],
)
def test_a_mistake_in_one_file_costs_that_file_alone(helped, wifi):
    """The keys are there, and the last Wi-Fi that was right stays."""
    put(helped, wifi__toml=wifi)
    helped.run("rm", f"{RUN}/authorized_keys", f"{RUN}/wpa_supplicant.conf")
    [problem] = run_panel(helped)
    assert problem.startswith("wifi.toml")
    assert "hunter2" not in problem
    helped.run("test", "-s", f"{RUN}/authorized_keys")
    assert 'psk="12345678"' in helped.run("cat", f"{RUN}/wpa_supplicant.conf").stdout


def test_the_status_is_put_on_the_card_when_there_is_something_new_to_say(helped):
    """By a service that may neither write there nor mount."""
    put(helped, sensor_node__toml="[node]\n")
    for _ in range(2):
        helped.run("systemctl", "restart", "sensor-node-status")
    text = helped.run("cat", "/boot/firmware/status.txt").stdout
    assert "The node is NOT RUNNING (inactive" in text
    assert "Network: 192.168.1.9 on eth0" in text
    assert "Broker:  connected, MQTT 5" in text
    assert " ro," in helped.run("sh", "-c", "grep firmware /proc/mounts").stdout
    put(helped, sensor_node__toml="broken\n")
    helped.run("systemctl", "restart", "sensor-node-status")
    text = helped.run("cat", "/boot/firmware/status.txt").stdout
    assert "sensor-node.toml CANNOT BE USED:\r\n  line 1: broken\r\n" in text.replace("\n", "\r\n")


@pytest.mark.parametrize("name", ["panel", "status"])
def test_what_reads_the_card_has_no_way_to_the_rest(helped, name):
    """Were it to run what is written there: no file of the system, no mount, no systemd."""
    helped.file("/srv/probe.py").write_text(_PROBE)
    unit = f"sensor-node-{name}"
    done = helped.run("python3", "/srv/probe.py").stdout
    assert "etc DONE" in done, "the control"
    assert "systemd DONE" in done
    helped.run("rm", "/etc/probe")
    probe = "ExecStart=\nExecStart=/usr/bin/python3 -I /srv/probe.py\nExecStartPost="
    helped.drop_in(probe, unit=unit)
    try:
        # Started too often, for what is started at boot.
        helped.run("systemctl", "reset-failed", unit, check=False)
        helped.run("systemctl", "restart", unit)
        said = helped.journal(unit)
    finally:
        helped.file(f"/{UNITS}/{unit}.service.d/test.conf").unlink()
        helped.run("systemctl", "daemon-reload")
    for each in ("etc", "card", "systemd"):
        assert f"{each} refused" in said, said
    assert "mount 0" not in said
