"""`deploy/update`'s releases, where they need neither root nor a system.

tests/service has the rest.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "deploy"))

from update_parts import paths, releases
from update_parts.devices import settings_for
from update_parts.system import Impossible

# As pip 25.1 writes it where its output is no terminal, shortened.
PIP = """\
Processing /tmp/sensor-node-x/checkout
  Installing build dependencies: started
  Installing build dependencies: finished with status 'done'
Collecting msgspec<0.21,>=0.19 (from pi-sensor-node==0.1.0)
  Downloading msgspec-0.20.0.tar.gz (300 kB)
Building wheels for collected packages: pi-sensor-node, msgspec
  Building wheel for msgspec (pyproject.toml): started
  Building wheel for msgspec (pyproject.toml): still running...
  Building wheel for msgspec (pyproject.toml): finished with status 'done'
Installing collected packages: msgspec, pi-sensor-node
Successfully installed msgspec-0.20.0 pi-sensor-node-0.1.0
"""


def pip(tmp_path: Path, exit_code: int) -> list[str]:
    script = tmp_path / "pip"
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{PIP}END\necho why >&2\nexit {exit_code}\n")
    script.chmod(0o755)
    return [str(script)]


def test_a_slow_installation_says_what_it_does(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(releases, "SAY_EVERY_S", 0.0)
    releases.must_saying(pip(tmp_path, 0))
    assert capsys.readouterr().out.splitlines() == [
        "  0:00  fetching msgspec",
        *["  0:00  building msgspec"] * 3,
        "  0:00  installing the packages",
    ]


def test_a_quick_one_says_nothing(tmp_path, capsys):
    releases.must_saying(pip(tmp_path, 0))
    assert capsys.readouterr().out == ""


def test_one_that_fails_says_why(tmp_path):
    with pytest.raises(Impossible, match=r"pip failed \(1\):\n[^$]*why$"):
        releases.must_saying(pip(tmp_path, 1))


@pytest.mark.parametrize(
    ("bits", "config", "brings"),
    [
        (64, "", True),
        (32, "", False),
        (32, '# driver = "ble"\n', False),
        (32, '[[sensor]]\n  driver="ble" # the fridge\n', True),
    ],
)
def test_a_32_bit_computer_gets_what_it_must_compile_only_if_a_sensor_needs_it(
    monkeypatch, tmp_path, bits, config, brings
):
    file = tmp_path / "node.toml"
    file.write_text(config)
    monkeypatch.setattr(paths, "CONFIG", file)
    monkeypatch.setattr(sys, "maxsize", 2 ** (bits - 1) - 1)
    assert ("ble-encrypted," in releases.extras()) is brings


def lists(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "cpu"}, {"name": "pond", **fields}]


def test_devices_that_a_driver_declares_become_settings_of_the_unit():
    text = settings_for(lists(devices=["hidraw", "ttyUSB"], groups=["plugdev"]))
    assert text.splitlines()[1:] == [
        "[Service]",
        "# pond",
        "DeviceAllow=char-hidraw rw",
        "DeviceAllow=char-ttyUSB rw",
        "SupplementaryGroups=plugdev",
    ]
    assert settings_for(lists()) == settings_for(lists(devices=[], groups=[])) == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"devices": ["hidraw rw\nExecStartPre=+/bin/sh"]},
        {"devices": ["mem"]},
        {"devices": ["/dev/sda"]},
        {"devices": "hidraw"},
        {"devices": [1]},
        {"groups": ["root"]},
        {"groups": ["disk"]},
        {"groups": ["plugdev\nUser=root"]},
    ],
)
def test_a_driver_gets_nothing_that_no_sensor_needs(fields):
    """What it declares is text of another package, in a file that root reads."""
    with pytest.raises(ValueError, match="declare"):
        settings_for(lists(**fields))


def test_the_devices_come_and_go_with_the_release(tmp_path, monkeypatch):
    """A release of an older `update`, which noted none, has none."""
    reloads: list[str] = []
    monkeypatch.setattr(paths, "RELEASES", tmp_path)
    monkeypatch.setattr(paths, "DROP_IN", tmp_path / "service.d/packages.conf")
    monkeypatch.setattr(releases, "systemctl", reloads.append)
    for name, text in (("new", "[Service]\n"), ("none", ""), ("old", None)):
        (tmp_path / name).mkdir()
        if text is not None:
            (tmp_path / name / "devices.conf").write_text(text)
    for name, present in (("new", True), ("new", True), ("none", False), ("new", True)):
        releases.open_devices(name)
        assert (tmp_path / "service.d/packages.conf").exists() == present
    releases.open_devices("old")
    assert not (tmp_path / "service.d/packages.conf").exists()
    assert reloads == ["daemon-reload"] * 4


def test_a_release_with_packages_notes_and_shows_their_devices(tmp_path, monkeypatch, capsys):
    program = tmp_path / "bin/sensor-node"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho \'[{"name": "pond", "devices": ["hidraw"]}]\'\n')
    program.chmod(0o755)
    monkeypatch.setattr(
        releases,
        "as_user",
        lambda command: subprocess.run(command, capture_output=True, text=True, check=False),
    )
    assert "DeviceAllow=char-hidraw rw" in releases.device_settings(tmp_path)
    assert "DeviceAllow=char-hidraw rw" in capsys.readouterr().out
    program.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(Impossible, match="cannot be found"):
        releases.device_settings(tmp_path)
