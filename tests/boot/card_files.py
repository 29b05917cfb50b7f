"""What happens to the files of the card: Imager's, the owner's own firmware, an update's."""

from __future__ import annotations

from image_support import make_wheel
from machine import Card, Machine
from report import Report
from support import wait_until

__all__ = [
    "check_imager",
    "check_own_firmware",
    "check_package",
    "check_update",
    "write_as_imager",
    "write_package",
]

_USER_DATA = """\
#cloud-config
manage_resolv_conf: false

hostname: {name}
manage_etc_hosts: true
timezone: Europe/Berlin
user:
  name: anna
  shell: /bin/bash
  lock_passwd: true
  ssh_authorized_keys:
    - {key}
  sudo: ALL=(ALL) NOPASSWD:ALL
ssh_pwauth: false
"""
_NETWORK = """\
network:
  version: 2
  wifis:
    wlan0:
      dhcp4: true
      regulatory-domain: "DE"
      access-points:
        "Caf\\xC3\\xA9 \\"1\\"":
          hidden: true
          password: "{psk}"
      optional: true
"""
_PSK = "0123456789abcdef" * 4


def write_as_imager(card: Card, name: str, key: str) -> None:
    """Write what Raspberry Pi Imager 2 writes to a card, its words on the command line included."""
    card.write("user-data", _USER_DATA.format(name=name, key=key.strip()))
    card.write("network-config", _NETWORK.format(psk=_PSK))
    card.write("meta-data", "instance-id: rpi-imager-1783287924709\n")
    line = card.read("cmdline.txt").strip()
    card.write("cmdline.txt", f"{line} cfg80211.ieee80211_regdom=DE ds=nocloud;i=rpi-imager-1")


def check_imager(machine: Machine, report: Report, name: str) -> None:
    with report.check("the dialogs of Imager arrive in the owner's files, and its files are gone"):
        assert machine.run("hostname").strip() == name
        files = machine.run("ls /boot/firmware").split()
        assert not {"user-data", "network-config", "meta-data"} & set(files), files
        wifi = machine.run("cat /boot/firmware/wifi.toml").replace("\r", "")
        lines = ('country = "DE"', 'name = "Café \\"1\\""', f'password = "{_PSK}"', "hidden = true")
        for line in lines:
            assert f"{line}\n" in wifi, wifi
        assert f'name = "{name}"' in machine.run("cat /boot/firmware/sensor-node.toml")
        conf = machine.run("cat /run/sensor-node-panel/wpa_supplicant.conf")
        assert "ssid=436166c3a920223122\n" in conf, conf


def check_update(machine: Machine, report: Report) -> None:
    """The hooks of a kernel package, raspi-firmware's among them, on the kernel that is there."""
    with report.check("config.txt and cmdline.txt survive an update of the kernel"):
        machine.run("mount -o remount,rw /boot/firmware && mount -o remount,rw /")
        mine = "dtoverlay=dht11,gpiopin=23"
        machine.run(f"echo {mine} >>/boot/firmware/config.txt")
        show = "cd /boot/firmware && cat config.txt cmdline.txt && ls -d config* cmdline*"
        before = machine.run(show)
        machine.run(
            "cd /etc/kernel && DEB_MAINT_PARAMS=configure run-parts --exit-on-error --regex=^z "
            "postinst.d",
            seconds=600,
        )
        after = machine.run(show)
        machine.run("mount -o remount,ro /boot/firmware; mount -o remount,ro /")
        assert mine in after
        assert "You may change this file" in after
        assert after.splitlines() == before.splitlines(), after


def write_package(card: Card) -> None:
    """Put a package of the owner's own on the card, a wheel with a driver."""
    card.make_folder("packages")
    card.write("packages/pond-1.0-py3-none-any.whl", make_wheel())


def check_package(machine: Machine, report: Report) -> None:
    with report.check("a package of the owner's own is installed, tried and kept"):
        store = "/var/lib/sensor-node-packages"
        wait_until(lambda: "trial.json" not in machine.run(f"ls {store}"), 600, "the verdict")
        assert "pond.py" in machine.run(f"ls {store}/current/")
        assert "pond" in machine.run("sensor-node drivers")


def check_own_firmware(machine: Machine, report: Report) -> None:
    with report.check("the owner's firmware is where the kernel looks, by the name it asks for"):
        machine.run(
            "mount -o remount,rw /boot/firmware && mkdir -p /boot/firmware/firmware && "
            "echo x >/boot/firmware/firmware/brcmfmac43436-sdio.bin && "
            "mount -o remount,ro /boot/firmware && systemctl restart sensor-node-firmware"
        )
        path = machine.run("cat /sys/module/firmware_class/parameters/path").strip()
        assert machine.run(f"ls {path}/brcm").split() == ["brcmfmac43430b0-sdio.bin"]
        assert "brcmfmac" in machine.run("lsmod")
