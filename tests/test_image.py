"""What the image makes of the files on its FAT partition, without booting it (tests/boot does)."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_support import DEPLOY, on_the_pi
from support import replaced

from node.config import load as configuration

card, panel, status = (on_the_pi(name) for name in ("card", "panel", "status"))


def test_the_configuration_on_a_new_card_is_valid():
    """Its user names a broker, and no more."""
    config = configuration.load(DEPLOY / "image/boot/sensor-node.toml")
    assert [sensor.driver for sensor in config.sensors] == ["cpu"]


def test_what_is_commented_out_on_a_new_card_is_valid_too(tmp_path):
    text = (DEPLOY / "image/boot/sensor-node.toml").read_text()
    text = re.sub(r"^# (?=[\[a-z_]+[\]\w ]*( =|\]$|$))", "", text, flags=re.M)
    text = replaced(text, ('ca_file = "ca.crt"', ""))
    file = tmp_path / "node.toml"
    file.write_text(text)
    config = configuration.load(file)
    assert [sensor.driver for sensor in config.sensors] == [
        "cpu",
        "ds18b20",
        "bme280",
        "ble",
        "dht22",
    ]
    assert config.mqtt.username == "greenhouse"


@pytest.mark.parametrize(
    ("web", "port"),
    [
        ({}, None),
        ({"enabled": True}, None),
        ({"enabled": True, "host": "127.0.0.2"}, None),
        ({"enabled": False, "host": "0.0.0.0"}, None),
        ({"enabled": True, "host": "0.0.0.0", "port": "x"}, None),
        ({"enabled": True, "host": "0.0.0.0"}, 8080),
        ({"enabled": True, "host": "::", "port": 80}, 80),
        ("web", None),
    ],
)
def test_the_network_is_told_of_a_status_page_that_it_can_reach(web, port):
    text = panel.page_announcement({"web": web})
    assert text == "" if port is None else f"\nPort={port}\n" in text


def test_a_new_card_names_no_wifi_and_no_key_and_that_is_no_problem():
    document = card.read_toml(DEPLOY / "image/boot/wifi.toml")
    assert panel.wpa_supplicant_conf(document) == ""
    assert panel.ssh_keys((DEPLOY / "image/boot/ssh.txt").read_text()) == ([], [])


def test_wifi_as_the_card_shows_it_is_understood(tmp_path):
    file = tmp_path / "wifi.toml"
    text = (DEPLOY / "image/boot/wifi.toml").read_text()
    file.write_text(re.sub(r"^# (?=\[\[|\w+ = )", "", text, flags=re.M))
    assert panel.wpa_supplicant_conf(card.read_toml(file)).splitlines() == [
        "ctrl_interface=/run/wpa_supplicant",
        "country=DE",
        "network={",
        "    ssid=4d792057692d4669",
        "    scan_ssid=1",
        "    key_mgmt=SAE",
        "    ieee80211w=2",
        '    sae_password="its password"',
        "}",
    ]


def test_an_ordinary_and_an_open_network():
    networks = [{"name": "Café", "password": 'with " and #'}, {"name": "open"}]
    conf = panel.wpa_supplicant_conf({"country": "US", "network": networks})
    assert '    ssid=436166c3a9\n    key_mgmt=WPA-PSK\n    psk="with " and #"\n' in conf
    assert "    ssid=6f70656e\n    key_mgmt=NONE\n" in conf


def test_a_key_of_64_hex_digits_is_written_without_quotes():
    """As rpi-imager has it; in quotes, wpa_supplicant would take it for a password, and refuse."""
    key = "0123456789abcdefABCDEF" + "0" * 42
    conf = panel.wpa_supplicant_conf({"country": "DE", "network": [{"name": "a", "password": key}]})
    assert f"    key_mgmt=WPA-PSK\n    psk={key.lower()}\n" in conf


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {
                "country": "DE",
                "network": [{"name": "a", "password": "0" * 64, "security": "wpa3"}],
            },
            "WPA3 needs the password itself",
        ),
        ({"country": "DE", "network": [{"name": "a", "password": "g" * 64}]}, "64 hex digits"),
        ({"network": [{"name": "a"}]}, "country must be two capital letters"),
        ({"country": "de", "network": [{"name": "a"}]}, "country must be two capital letters"),
        ({"country": "DE", "network": [{}]}, "#1: name must be"),
        ({"country": "DE", "network": [{"name": "a" * 33}]}, "#1: name must be"),
        ({"country": "DE", "network": [{"name": "a", "password": "short"}]}, "password must be 8"),
        (
            {"country": "DE", "network": [{"name": "a", "pasword": "x"}]},
            "#1: unknown keys: 1; the keys are",
        ),
        ({"country": "DE", "network": [1]}, "two pairs of brackets"),
        ({"country": "DE", "network": {"name": "a"}}, "two pairs of brackets"),
        ({"ssid": "a"}, "unknown keys: 1; the keys are"),
        (
            {"country": "DE", "network": [{"name": "a", "password": "12345678", "security": "x"}]},
            'security is "wpa2" or "wpa3"',
        ),
    ],
)
def test_a_mistake_in_the_wifi_settings_is_told(document, message):
    with pytest.raises(card.BadFile, match=re.escape(message)):
        panel.wpa_supplicant_conf(document)


@given(name=st.text(min_size=1, max_size=32), password=st.text(min_size=0, max_size=70))
def test_nothing_that_is_written_as_a_name_or_a_password_becomes_a_setting(name, password):
    """Each setting of the result is one of ours, on a line of its own."""
    network = {"name": name, "password": password}
    try:
        conf = panel.wpa_supplicant_conf({"country": "DE", "network": [network]})
    except card.BadFile:
        return
    inside = conf.split("network={\n")[1].splitlines()
    assert [line.strip().split("=")[0] for line in inside] == ["ssid", "key_mgmt", "psk", "}"]


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ({"node": {"name": "greenhouse"}}, "greenhouse"),
        ({"node": {"name": "Attic_2"}}, "attic-2"),
        ({"node": {"name": "___"}}, "sensor-node-1f2e"),
        ({"node": {"name": "x" * 64}}, "x" * 63),
        ({"node": 1}, "sensor-node-1f2e"),
        ({}, "sensor-node-1f2e"),
    ],
)
def test_the_host_is_named_for_the_node(node, name):
    assert panel.host_name(node, "1f2e") == name


def test_keys_are_told_from_lines_that_are_none():
    text = "# a remark\r\nssh-ed25519 AAAAC3 me@here\r\n\r\nPuTTY-User-Key-File-3: ssh-rsa\r\n"
    assert panel.ssh_keys(text) == (["ssh-ed25519 AAAAC3 me@here"], [4])


def test_a_file_saved_by_an_editor_of_windows_is_understood(tmp_path):
    file = tmp_path / "wifi.toml"
    file.write_bytes(b'\xef\xbb\xbfcountry = "DE"\r\n')
    assert card.read_toml(file) == {"country": "DE"}
    file.write_bytes('country = "DÉ"\r\n'.encode("cp1252"))
    with pytest.raises(card.BadFile, match=r"wifi\.toml is not UTF-8"):
        card.read_toml(file)


WELL = {
    "health": {
        "node": "greenhouse",
        "version": "0.1.0",
        "broker": "connected to 192.168.1.10:1883",
        "sensors": {
            "air": {"online": True, "last_error": None},
            "water": {"online": False, "last_error": "no device; check the pull-up"},
        },
        "problems": ["the supply is too weak"],
    }
}


def composed(**changes: Any) -> str:
    """status.txt of a node that is well, but for what is given."""
    facts: dict[str, Any] = {
        "host": "greenhouse",
        "unit": {"ActiveState": "active", "ExecMainStatus": "0"},
        "bad_configuration": [],
        "problems": [],
        "addresses": [("wlan0", "192.168.1.33")],
        "wired_without": [],
        "wifi": "",
        "clock_set": True,
        "known": WELL,
    }
    return str(status.compose(**{**facts, **changes}))


def test_status_says_what_runs_what_is_wrong_and_where():
    text = composed()
    for line in (
        'The node "greenhouse" is running, version 0.1.0.',
        "Network: 192.168.1.33 on wlan0",
        "Broker:  connected to 192.168.1.10:1883",
        "Sensor:  air: online",
        "Sensor:  water: OFFLINE: no device; check the pull-up",
        "Problem: the supply is too weak",
    ):
        assert line in text.splitlines()


def test_status_of_a_bad_configuration_names_the_line_and_the_way_out():
    wrong = ["line 3: [mqtt] host: is missing"]
    on_the_last_good_one = composed(bad_configuration=wrong)
    assert "  line 3: [mqtt] host: is missing\nThe last valid configuration" in on_the_last_good_one
    assert "is running" in on_the_last_good_one
    first = composed(
        bad_configuration=wrong, unit={"ActiveState": "failed", "ExecMainStatus": "78"}, known={}
    )
    assert "NOT RUNNING (failed, exit code 78)" in first
    assert "Nothing is measured: edit sensor-node.toml on this card" in first


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"wifi": None}, "Network: NONE; plug in a cable, or name your Wi-Fi in wifi.toml"),
        ({"wifi": "no Wi-Fi with"}, "Network: NONE; no Wi-Fi with"),
        (
            {"wifi": None, "wired_without": ["eth0"]},
            "Network: NONE; the cable at eth0 is plugged in, but the router has not given this Pi "
            "an address; is DHCP on there? Restart the router",
        ),
    ],
)
def test_status_without_a_network_says_what_to_try(facts, line):
    assert line in composed(addresses=[], **facts).splitlines()


def test_status_names_the_fault_of_the_wifi_when_a_cable_does_its_work():
    text = composed(addresses=[("eth0", "192.168.1.9")], wifi="no Wi-Fi with")
    assert "Network: 192.168.1.9 on eth0" in text
    assert "\nWi-Fi:   no Wi-Fi with\n" in text


def test_every_file_of_the_image_is_for_a_program_that_accepts_it():
    """The units of the image, by systemd itself."""
    files = (DEPLOY / "image/root/etc/systemd/system").glob("sensor-node-*")
    units = sorted(file for file in files if file.is_file())
    assert units
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if str(DEPLOY) in line]
    assert lines == [], "unknown keys and the like"


def test_the_locked_packages_are_those_that_the_project_asks_for():
    """Each dependency of pyproject.toml is there, pinned, with a hash."""
    import tomllib

    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["view"]]
    for extra in project["optional-dependencies"]["chips"]:
        for name in re.findall(r"[\w]+", extra.split("[")[1]):
            asked += project["optional-dependencies"][name]
    lines = (DEPLOY / "requirements-arm64.txt").read_text().splitlines()
    locked = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==\S+ --hash=sha256:[0-9a-f]{64}", line) for line in locked)
    names = {re.sub(r"[-_.]+", "-", line.split("==")[0]) for line in locked}
    for requirement in asked:
        name = re.match(r"[\w.-]+", requirement)
        assert name is not None
        assert re.sub(r"[-_.]+", "-", name[0].lower()) in names, requirement
