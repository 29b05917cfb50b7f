"""The image's Wi-Fi on simulated radios: the kernel's mac80211_hwsim, one of them an access point.

The access point is the image's own wpa_supplicant, with networkd's DHCP server. What wpa_supplicant
says, and what status.txt makes of it, is that of a real connection; only the chip is not there.
"""

from __future__ import annotations

from machine import Machine
from report import Report
from support import wait_until

__all__ = ["check_wifi"]

_NAME = "Café 1"
_PASSWORD = "its password"
_WIFI = """\
country = "DE"
[[network]]
name = "{name}"
{lines}
"""
_WPA2 = 'key_mgmt=WPA-PSK\nproto=RSN\npairwise=CCMP\npsk="{password}"'
_WPA3 = 'key_mgmt=SAE\nproto=RSN\npairwise=CCMP\nieee80211w=2\nsae_password="{password}"'
_OPEN = "key_mgmt=NONE"
_ACCESS_POINT = """\
ctrl_interface=/run/access-point
country=DE
network={{
ssid={name}
mode=2
frequency=2412
{security}
}}
"""
_ITS_NETWORK = """\
[Match]
Name=wlan1
[Network]
Address=10.9.9.1/24
DHCPServer={dhcp}
"""
_STATUS = "systemctl start sensor-node-status && cat /boot/firmware/status.txt"


def check_wifi(machine: Machine, report: Report) -> None:
    """The Pi with two radios more, beside its cable; ends without them."""
    with report.check("a Pi without a wireless device says so"):
        _set_up(machine, f'password = "{_PASSWORD}"')
        assert "this Pi has no wireless device" in _status(machine)
    # What udev would start for the access point's radio is not for it.
    machine.run(
        "systemctl mask --runtime --quiet sensor-node-wifi@wlan1 && modprobe mac80211_hwsim "
        "radios=2 && udevadm settle"
    )
    _offer(machine, _WPA2)
    with report.check("Wi-Fi with a password connects, and gets an address"):
        _set_up(machine, f'password = "{_PASSWORD}"')
        _says(machine, "Network: 10.9.9.", "on wlan0")
    with report.check("status.txt says that the password is wrong"):
        _set_up(machine, 'password = "another password"')
        _says(machine, f'Wi-Fi:   the Wi-Fi "{_NAME}" refuses the password in wifi.toml')
    with report.check("status.txt says that no Wi-Fi of that name is in reach"):
        _set_up(machine, f'password = "{_PASSWORD}"', name="Cafe 1")
        _says(machine, 'no Wi-Fi with the name "Cafe 1" is in reach')
    with report.check("status.txt says that a network with a password needs one"):
        _set_up(machine, "")
        _says(machine, f'the Wi-Fi "{_NAME}" needs a password')
    with report.check("status.txt says that the router gives no address"):
        _offer(machine, _WPA2, dhcp=False)
        _set_up(machine, f'password = "{_PASSWORD}"')
        _says(machine, f'the Wi-Fi "{_NAME}" has let this Pi in, but has not given it an address')
    _offer(machine, _WPA3)
    with report.check("status.txt says that a network only accepts WPA3"):
        _set_up(machine, f'password = "{_PASSWORD}"')
        _says(machine, f'the Wi-Fi "{_NAME}" only accepts WPA3; add security = "wpa3"')
    with report.check("with that line it connects"):
        _set_up(machine, f'password = "{_PASSWORD}"\nsecurity = "wpa3"')
        _says(machine, "Network: 10.9.9.", "on wlan0")
    with report.check("status.txt says that WPA3 does not let this Pi in"):
        _set_up(machine, 'password = "another password"\nsecurity = "wpa3"')
        _says(machine, f'the Wi-Fi "{_NAME}"', "password in wifi.toml")
    _offer(machine, _OPEN)
    with report.check("status.txt says that a network has no password"):
        _set_up(machine, f'password = "{_PASSWORD}"')
        _says(machine, f'the Wi-Fi "{_NAME}" has no password; remove the line password')
    machine.run("systemctl stop sensor-node-wifi@wlan0 access-point && rmmod mac80211_hwsim")


def _offer(machine: Machine, security: str, *, dhcp: bool = True) -> None:
    """Let the access point offer the network; what it was before is gone."""
    text = _ACCESS_POINT.format(
        name=_NAME.encode().hex(), security=security.format(password=_PASSWORD)
    )
    _write(machine, "/run/access-point.conf", text)
    network = _ITS_NETWORK.format(dhcp="yes" if dhcp else "no")
    _write(machine, "/run/systemd/network/10-access-point.network", network)
    machine.run(
        "networkctl reload; systemctl stop access-point 2>/dev/null; "
        "systemd-run --quiet --collect --unit=access-point "
        "wpa_supplicant -i wlan1 -c /run/access-point.conf"
    )


def _set_up(machine: Machine, lines: str, *, name: str = _NAME) -> None:
    """Write wifi.toml as its owner would, and start what reads it again."""
    machine.run("mount -o remount,rw /boot/firmware")
    _write(machine, "/boot/firmware/wifi.toml", _WIFI.format(name=name, lines=lines))
    machine.run(
        "mount -o remount,ro /boot/firmware && journalctl --rotate --vacuum-time=1s --quiet; "
        "systemctl restart sensor-node-panel && "
        "if [ -e /sys/class/net/wlan0 ]; then systemctl restart sensor-node-wifi@wlan0; fi"
    )


def _write(machine: Machine, path: str, text: str) -> None:
    machine.run(f"mkdir -p $(dirname {path}) && cat > {path} <<'END'\n{text}\nEND")


def _status(machine: Machine) -> str:
    return machine.run(_STATUS, seconds=240)


def _says(machine: Machine, *words: str) -> None:
    """Until status.txt has all of the words, on one line."""

    def says() -> bool:
        lines = _status(machine).splitlines()
        return any(all(word in line for word in words) for line in lines)

    try:
        wait_until(says, 180, " ".join(words))
    except AssertionError as error:
        facts = machine.run(
            "mkdir -p /run/sensor-node-status && sh /usr/lib/sensor-node/radio-facts.sh; "
            "cd /run/sensor-node-status && tail -n 30 kernel devices status scan supplicant"
        )
        raise AssertionError(f"{error}\n{_status(machine)}\n{facts}") from None
