"""What Raspberry Pi Imager writes for "init_format": "cloudinit", taken over by the image.

The files are as Imager 2.0.10 writes them (its src/customization_generator.cpp, and captures that
others have published), with other values; `users` in place of `user` is from 1.8 to 2.0.2.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_support import DEPLOY, on_the_pi

from node.config import load as configuration

card, panel, imager = (on_the_pi(name) for name in ("card", "panel", "imager"))

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx me@laptop"
USER_DATA = """\
#cloud-config
manage_resolv_conf: false

hostname: greenhouse
manage_etc_hosts: true
packages:
- avahi-daemon
apt:
  preserve_sources_list: true
  conf: |
    Acquire {
      Check-Date "false";
    };
timezone: Europe/Berlin
keyboard:
  model: pc105
  layout: "de"
"""
USER_WITH_PASSWORD = """\
user:
  name: anna
  shell: /bin/bash
  lock_passwd: false
  passwd: "$y$jB5$abcdefgh$0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
ssh_pwauth: true
runcmd:
  - [ systemctl, enable, --now, ssh ]
"""
USER_WITH_KEYS = f"""\
user:
  name: anna
  shell: /bin/bash
  lock_passwd: true
  ssh_authorized_keys:
    - {KEY}
    - ssh-rsa AAAAB3NzaC1yc2EAAAADAQAB second
  sudo: ALL=(ALL) NOPASSWD:ALL
ssh_pwauth: false
"""


def psk(password: str, name: str) -> str:
    """The key that Imager writes in place of the password (IEEE 802.11i, annex H.4)."""
    return hashlib.pbkdf2_hmac("sha1", password.encode(), name.encode(), 4096, 32).hex()


def network_config(name: str, password: str, *, hidden: bool = False, country: str = "DE") -> str:
    """`name` is as Imager escapes it; without a password it is an open network."""
    lines = ["          hidden: true"] if hidden else []
    if password:
        lines.append(f'          password: "{password}"')
    else:
        lines += ["          auth:", "            key-management: none"]
    body = "\n".join(lines)
    return f"""\
network:
  version: 2
  ethernets:
    eth0:
      dhcp4: true
      dhcp6: true
      optional: true
  wifis:
    wlan0:
      dhcp4: true
      regulatory-domain: "{country}"
      access-points:
        "{name}":
{body}
      optional: true
"""


@pytest.fixture
def pi(tmp_path, monkeypatch) -> Any:
    """A new card, and the programs of a start, which find it; `mount` is replaced by true."""
    boot, run = tmp_path / "boot", tmp_path / "run"
    boot.mkdir()
    run.mkdir()
    for file in (DEPLOY / "image/boot").glob("*.*"):
        (boot / file.name).write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    for module in (card, panel, imager):
        for name in ("CONFIG", "WIFI", "SSH_KEYS", "_USER_DATA", "_NETWORK", "BOOT"):
            if hasattr(module, name):
                where = getattr(module, name)
                moved = boot if name == "BOOT" else boot / where.name
                monkeypatch.setattr(module, name, moved)
    monkeypatch.setattr(imager, "_IMAGERS", tuple(boot / file.name for file in imager._IMAGERS))
    monkeypatch.setattr(imager, "_COMPOSED", run / "imager")
    monkeypatch.setattr(imager, "PROBLEMS", run / "imager.json")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("mount", "sync"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")

    def start(user_data: str = "", network: str = "") -> list[str]:
        for name, text in (("user-data", user_data), ("network-config", network)):
            if text:
                (boot / name).write_text(text)
                (boot / "meta-data").write_text("instance-id: rpi-imager-1783287924709\n")
        for arguments in ([], ["--apply"]):
            monkeypatch.setattr(sys, "argv", ["imager.py", *arguments])
            assert imager.main() == 0
        problems = run / "imager.json"
        return list(json.loads(problems.read_text())) if problems.exists() else []

    start.boot = boot  # type: ignore[attr-defined]
    return start


def wifi_of(boot: Path) -> str:
    return str(panel.wpa_supplicant_conf(card.read_toml(boot / "wifi.toml")))


def test_the_dialogs_arrive_in_the_owners_three_files(pi):
    key = psk("its password", "My Wi-Fi")
    assert pi(USER_DATA + USER_WITH_KEYS, network_config("My Wi-Fi", key)) == [
        'Raspberry Pi Imager named the user "anna"; log in as root, with the key'
    ]
    assert card.read_toml(pi.boot / "wifi.toml") == {
        "country": "DE",
        "network": [{"name": "My Wi-Fi", "password": key}],
    }
    assert f"psk={key}" in wifi_of(pi.boot)
    assert panel.ssh_keys((pi.boot / "ssh.txt").read_text()) == (
        [KEY, "ssh-rsa AAAAB3NzaC1yc2EAAAADAQAB second"],
        [],
    )
    config = configuration.load(pi.boot / "sensor-node.toml")
    assert config.node.name == "greenhouse"
    assert panel.host_name(card.read_toml(pi.boot / "sensor-node.toml"), "1f2e") == "greenhouse"
    left = {file.name for file in pi.boot.iterdir() if file.is_file()}
    assert left == {"sensor-node.toml", "wifi.toml", "ssh.txt"}, "no password hash stays"
    for file in left:
        text = (pi.boot / file).read_bytes()
        assert text.count(b"\n") == text.count(b"\r\n"), "for every editor on Windows"
    assert "# hidden = true" in (pi.boot / "wifi.toml").read_text(), "the explanations stay"


def test_only_the_owners_three_files_are_written(pi, tmp_path):
    """Were the step without rights to leave a config.txt behind, it would not reach the card."""
    composed = tmp_path / "run/imager"
    composed.mkdir()
    (composed / "config.txt").write_text("kernel=mine\n")
    pi(USER_DATA)
    assert not (pi.boot / "config.txt").exists()
    assert "greenhouse" in (pi.boot / "sensor-node.toml").read_text()


def test_a_start_without_imagers_files_changes_nothing(pi):
    before = {file.name: file.read_bytes() for file in pi.boot.iterdir() if file.is_file()}
    assert pi() == []
    assert before == {file.name: file.read_bytes() for file in pi.boot.iterdir() if file.is_file()}


def test_the_same_again_after_a_power_cut_adds_nothing_twice(pi):
    files = (USER_DATA + USER_WITH_KEYS, network_config("home", psk("12345678", "home")))
    pi(*files)
    once = {file.name: file.read_bytes() for file in pi.boot.iterdir()}
    pi(*files)
    assert once == {file.name: file.read_bytes() for file in pi.boot.iterdir()}


@pytest.mark.parametrize(
    ("escaped", "name"),
    [
        ('say \\"hi\\" \\\\ there', 'say "hi" \\ there'),
        ("Café", "Café"),
        ("Caf\\xC3\\xA9", "Café"),
        ("無線", "無線"),
        ("null", "null"),
        ("123", "123"),
        ("a: b # c", "a: b # c"),
    ],
)
def test_names_with_quotes_and_other_letters_survive(pi, escaped, name):
    key = psk("12345678", name)
    pi("", network_config(escaped, key))
    assert card.read_toml(pi.boot / "wifi.toml")["network"] == [{"name": name, "password": key}]
    assert f"ssid={name.encode().hex()}\n" in wifi_of(pi.boot)


def test_an_open_network_and_a_hidden_one(pi):
    pi("", network_config("guests", ""))
    pi("", network_config("secret", "0" * 64, hidden=True, country="GB"))
    conf = wifi_of(pi.boot)
    assert "ssid=677565737473\n    key_mgmt=NONE\n" in conf
    assert "ssid=736563726574\n    scan_ssid=1\n    key_mgmt=WPA-PSK\n" in conf
    assert "country=DE\n" in conf, "the first that was named"


def test_a_country_without_a_network_is_on_the_command_line(pi, tmp_path, monkeypatch):
    line = tmp_path / "cmdline"
    line.write_text("root=1 cfg80211.ieee80211_regdom=AT ds=nocloud;i=rpi-imager-1\n")
    monkeypatch.setattr(imager, "_COMMAND_LINE", line)
    pi("", network_config("home", "0" * 64).replace('      regulatory-domain: "DE"\n', ""))
    assert "country=AT\n" in wifi_of(pi.boot)


@pytest.mark.parametrize(
    "users",
    [
        USER_WITH_PASSWORD,
        'users:\n- name: anna\n  groups: users,adm\n  passwd: "$5$a$b"\nssh_pwauth: true\n',
    ],
    ids=["2.0.10", "1.8"],
)
def test_a_user_with_a_password_is_not_there_and_status_says_so(pi, users):
    (problem,) = pi(USER_DATA + users)
    assert "which this image does not have; to log in, put your public key into ssh.txt" in problem
    assert "passwd" not in "".join(file.read_text() for file in pi.boot.glob("*.t*"))


def test_keys_of_the_older_form_arrive_too(pi):
    pi(f"users:\n- default\n- name: anna\n  ssh_authorized_keys:\n    - {KEY}\n")
    assert panel.ssh_keys((pi.boot / "ssh.txt").read_text())[0] == [KEY]


def test_what_the_owner_has_written_has_precedence(pi):
    own = 'country = "FR"\n[[network]]\nname = "home"\npassword = "the other password"\n'
    (pi.boot / "wifi.toml").write_text(own)
    config = '[node]\nname = "shed"\n[mqtt]\nhost = "10.0.0.1"\n'
    (pi.boot / "sensor-node.toml").write_text(config)
    (problem,) = pi(USER_DATA, network_config("home", "0" * 64))
    assert 'the host name "greenhouse" is not used' in problem
    assert (pi.boot / "wifi.toml").read_text() == own
    assert (pi.boot / "sensor-node.toml").read_text() == config
    pi("", network_config("garden", "0" * 64))
    assert card.read_toml(pi.boot / "wifi.toml") == {
        "country": "FR",
        "network": [
            {"name": "home", "password": "the other password"},
            {"name": "garden", "password": "0" * 64},
        ],
    }


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ('[node]\n[mqtt]\nhost = "b"\n', "b"),
        ('[mqtt]\nhost = "b"\n', "b"),
        ('[ node ]  # this one\n# name = "x"\n[mqtt]\nhost = "b"', "b"),
        ('\ufeff[mqtt]\nhost = "b"\n[node]\n', "b"),
    ],
)
def test_the_host_name_finds_its_place_in_any_configuration(text, host):
    new = imager.host_name_in(text, imager.Settings(host_name="greenhouse"))
    assert tomllib.loads(new.lstrip("\ufeff")) == {
        "node": {"name": "greenhouse"},
        "mqtt": {"host": host},
    }


def test_a_place_that_is_not_found_is_asked_for():
    with pytest.raises(card.BadFile, match='write name = "g" below'):
        imager.host_name_in("node = { }\n", imager.Settings(host_name="g"))


@pytest.mark.parametrize(
    ("user_data", "network", "problem"),
    [
        ("hostname: [\n", "", "user-data of Raspberry Pi Imager is not valid YAML, line 2"),
        ("", "a: b: c\n", "network-config of Raspberry Pi Imager is not valid YAML, line 1"),
    ],
)
def test_a_broken_file_is_reported_and_stays(pi, user_data, network, problem):
    assert pi(user_data, network) == [problem]
    assert (pi.boot / "meta-data").exists()


def test_a_broken_file_of_the_owner_costs_that_file_alone(pi):
    (pi.boot / "wifi.toml").write_text('country = "hunter2')
    problems = pi(USER_DATA, network_config("home", "0" * 64))
    assert (
        problems
        == ["Raspberry Pi Imager's settings: wifi.toml is not valid TOML (at line 1, column 19)"]
        or "wifi.toml is not valid TOML" in problems[0]
    )
    assert "hunter2" not in problems[0]
    assert card.read_toml(pi.boot / "sensor-node.toml")["node"] == {"name": "greenhouse"}


@given(
    data=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "network",
                        "wifis",
                        "access-points",
                        "users",
                        "user",
                        "name",
                        "hostname",
                        "ssh_authorized_keys",
                        "password",
                        "auth",
                        "hidden",
                        "x",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_no_other_yaml_ends_the_start_or_makes_invalid_files(data):
    """Whatever a hand or another program has written."""
    text = json.dumps(data)
    settings = imager.read_settings(text, text, "")
    assert tomllib.loads(imager.wifi_in("", settings)) is not None
    for key in panel.ssh_keys(imager.keys_in("", settings))[0]:
        assert re.match(r"\S+ \S", key)
