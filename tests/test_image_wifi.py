"""Why the Wi-Fi of the image gives no address, from what the kernel and wpa_supplicant have said.

The texts are those of real programs: of the image's own wpa_supplicant 2.10 on simulated radios
(tests/boot), and of the kernel and wpa_supplicant on Pis, as their owners have published them (the
source is with each), with other names.
"""

from __future__ import annotations

from typing import Any

import pytest
from image_support import on_the_pi

wifi, panel = on_the_pi("wifi"), on_the_pi("panel")

# A Zero 2 W with BCM43430/2 (libretro/Lakka-LibreELEC, issue 1911).
ZERO_2_W = """\
brcmfmac: F1 signature read @0x18000000=0x1542a9a6
brcmfmac: brcmf_fw_alloc_request: using brcm/brcmfmac43430b0-sdio for chip BCM43430/2
brcmfmac mmc1:0001:1: Direct firmware load for \
brcm/brcmfmac43430b0-sdio.raspberrypi,model-zero-2-w.bin failed with error -2
brcmfmac mmc1:0001:1: Direct firmware load for brcm/brcmfmac43430b0-sdio.bin failed with error -2
"""
# A radio that works, but without settings for its board (aluminum-ice/pwnagotchi, issue 17).
WORKS = """\
brcmfmac: brcmf_fw_alloc_request: using brcm/brcmfmac43430-sdio for chip BCM43430/1
brcmfmac mmc1:0001:1: Direct firmware load for \
brcm/brcmfmac43430-sdio.raspberrypi,model-zero-2-w.txt failed with error -2
brcmfmac: brcmf_c_preinit_dcmds: Firmware: BCM43430/1 wl0: Aug  7 2017 00:46:29 version \
7.45.41.46 (r666254 CY) FWID 01-f8a78378
"""
# A Pi 4 that an access point does not let in (RPi-Distro/firmware-nonfree, issue 38).
REJECTED = """\
wlan0: Trying to associate with SSID 'home'
wlan0: CTRL-EVENT-ASSOC-REJECT bssid=02:00:00:00:00:01 status_code=16
wlan0: Trying to associate with SSID 'home'
wlan0: CTRL-EVENT-ASSOC-REJECT bssid=02:00:00:00:00:01 status_code=16
BSSID 02:00:00:00:00:01 ignore list count incremented to 2, ignoring for 10 seconds
"""
# The same, as wpa_supplicant 2.9 sums it up (raspberrypi/linux, issue 3318).
CONN_FAILED = """\
wlan0: CTRL-EVENT-SSID-REENABLED id=0 ssid="home"
wlan0: Trying to associate with SSID 'home'
wlan0: CTRL-EVENT-ASSOC-REJECT bssid=00:00:00:00:00:00 status_code=16
wlan0: CTRL-EVENT-SSID-TEMP-DISABLED id=0 ssid="home" auth_failures=3 duration=30 reason=CONN_FAILED
"""
# The image's wpa_supplicant, at an access point with another password: WPA2, then WPA3.
WRONG_KEY = r"""
wlan0: SME: Trying to authenticate with 02:00:00:00:01:00 (SSID='Caf\xc3\xa9 1' freq=2412 MHz)
wlan0: Trying to associate with 02:00:00:00:01:00 (SSID='Caf\xc3\xa9 1' freq=2412 MHz)
wlan0: Associated with 02:00:00:00:01:00
wlan0: CTRL-EVENT-SUBNET-STATUS-UPDATE status=0
wlan0: CTRL-EVENT-DISCONNECTED bssid=02:00:00:00:01:00 reason=15
wlan0: WPA: 4-Way Handshake failed - pre-shared key may be incorrect
wlan0: CTRL-EVENT-SSID-TEMP-DISABLED id=0 ssid="Caf\xc3\xa9 1" auth_failures=2 duration=20 \
reason=WRONG_KEY
BSSID 02:00:00:00:01:00 ignore list count incremented to 2, ignoring for 10 seconds
""".replace("\\\n", "")
WRONG_KEY_OF_WPA3 = r"""
wlan0: CTRL-EVENT-SSID-REENABLED id=0 ssid="Caf\xc3\xa9 1"
wlan0: SME: Trying to authenticate with 02:00:00:00:01:00 (SSID='Caf\xc3\xa9 1' freq=2412 MHz)
wlan0: SME: Trying to authenticate with 02:00:00:00:01:00 (SSID='Caf\xc3\xa9 1' freq=2412 MHz)
wlan0: CTRL-EVENT-AUTH-REJECT 02:00:00:00:01:00 auth_type=3 auth_transaction=2 status_code=1
wlan0: SME: Trying to authenticate with 02:00:00:00:01:00 (SSID='Caf\xc3\xa9 1' freq=2412 MHz)
wlan0: CTRL-EVENT-AUTH-REJECT 02:00:00:00:01:00 auth_type=3 auth_transaction=2 status_code=1
"""
ITS_SCAN = (
    "bssid / frequency / signal level / flags / ssid\n"
    "02:00:00:00:01:00\t2412\t-30\t[WPA2-SAE-CCMP][WPS][ESS]\tCaf\\xc3\\xa9 1\n"
)
IN_REACH = (
    "bssid / frequency / signal level / flags / ssid\n"
    "02:00:00:00:00:01\t2412\t-40\t{flags}\t{name}\n"
)


def told(name: str = "home", security: str = "wpa2", **facts: Any) -> str:
    given: dict[str, Any] = {
        "devices": ("wlan0",),
        "kernel": WORKS,
        "supplicant": "",
        "status": "wpa_state=SCANNING\n",
        "scan": "",
        **facts,
    }
    return str(wifi.explain(wifi.Facts(**given), [wifi.Network(name=name, security=security)]))


def in_reach(flags: str = "[WPA2-PSK-CCMP][ESS]", name: str = "home") -> str:
    return IN_REACH.format(flags=flags, name=name)


def test_a_pi_without_a_radio():
    assert told(devices=(), kernel="").startswith("this Pi has no wireless device; plug in a cable")


def test_a_zero_2_w_whose_firmware_debian_does_not_have():
    text = told(devices=(), kernel=ZERO_2_W)
    assert text.startswith("this board's radio needs firmware that Debian does not have")
    assert "YOUR-PI.md" in text


def test_other_firmware_that_is_missing_is_named():
    kernel = ZERO_2_W.replace("43430b0", "43455")
    assert "is missing (brcmfmac43455-sdio.bin)" in told(devices=(), kernel=kernel)


def test_settings_of_the_board_that_are_missing_do_not_count():
    assert told(devices=(), kernel=WORKS).startswith("this Pi has no wireless device")


@pytest.mark.parametrize("log", [REJECTED, CONN_FAILED])
def test_an_access_point_that_does_not_let_a_pi_in(log):
    text = told(supplicant=log, scan=in_reach())
    assert 'the Wi-Fi "home" does not let this Pi in (status code 16); a wrong password' in text


def test_a_wrong_password_of_wpa2_and_of_wpa3():
    assert told("Café 1", supplicant=WRONG_KEY) == (
        'the Wi-Fi "Café 1" refuses the password in wifi.toml; capital letters count'
    )
    text = told("Café 1", "wpa3", supplicant=WRONG_KEY_OF_WPA3, scan=ITS_SCAN)
    assert 'the Wi-Fi "Café 1" does not let this Pi in (status code 1); a wrong password' in text
    assert "only accepts WPA3" in told("Café 1", supplicant=WRONG_KEY_OF_WPA3, scan=ITS_SCAN)


def test_a_refusal_that_another_network_has_made_good_does_not_count():
    log = CONN_FAILED + "wlan0: CTRL-EVENT-CONNECTED - Connection to 02:00:00:00:00:02 completed\n"
    assert told(supplicant=log, scan=in_reach()).startswith("still connecting")
    assert told("other", supplicant=CONN_FAILED).startswith('no Wi-Fi with the name "other"')


@pytest.mark.parametrize(
    ("security", "flags", "says"),
    [
        ("wpa2", "[WPA2-SAE-CCMP][ESS]", 'only accepts WPA3; add security = "wpa3"'),
        ("wpa2", "[WPA2-SAE+FT/SAE-CCMP][ESS]", "only accepts WPA3"),
        ("wpa2", "[ESS]", "has no password; remove the line password"),
        ("wpa3", "[WPA2-PSK-CCMP][ESS]", "does not accept WPA3; remove the line security"),
        ("open", "[WPA2-PSK-CCMP][ESS]", "needs a password; enter it in wifi.toml"),
        ("wpa2", "[WPA2-EAP-CCMP][ESS]", "accepts neither WPA2 nor WPA3 with a password"),
        ("wpa2", "[WPA2-PSK+SAE-CCMP][ESS]", "still connecting"),
    ],
)
def test_a_network_in_reach_that_wants_another_security(security, flags, says):
    assert says in told(security=security, scan=in_reach(flags))


def test_a_name_with_letters_that_wpa_supplicant_escapes():
    r"""It writes \xc3\xa9 for é, and \" for a quote (printf_encode)."""
    scan = in_reach("[ESS]", r"Caf\xc3\xa9 \"1\" \\o/")
    assert 'the Wi-Fi "Café "1" \\o/" has no password' in told('Café "1" \\o/', scan=scan)


def test_a_router_that_gives_no_address():
    status = "bssid=02:00:00:00:00:01\nssid=Caf\\xc3\\xa9\nwpa_state=COMPLETED\n"
    assert told(status=status).startswith('the Wi-Fi "Café" has let this Pi in, but has not given')


def test_a_supplicant_that_does_not_answer():
    status = (
        "Failed to connect to non-global ctrl_ifname: wlan0  error: No such file or directory\n"
    )
    assert "wpa_supplicant) does not answer" in told(status=status)


def test_a_reason_for_each_network_of_two():
    facts = wifi.Facts(
        devices=("wlan0",),
        kernel="",
        supplicant=CONN_FAILED,
        status="wpa_state=SCANNING\n",
        scan=in_reach() + "02:00:00:00:00:02\t2412\t-50\t[ESS]\tguests\n",
    )
    wanted = [wifi.Network(name=name, security="wpa2") for name in ("home", "guests", "away")]
    first, second = wifi.explain(facts, wanted).split("; the Wi-Fi ")
    assert '"home" does not let this Pi in' in first
    assert second.startswith('"guests" has no password')


def test_the_networks_are_those_that_the_panel_has_set_up():
    networks = [
        {"name": "home", "password": "12345678", "hidden": True},
        {"name": "Café", "password": "12345678", "security": "wpa3"},
        {"name": "open"},
    ]
    conf = panel.wpa_supplicant_conf({"country": "DE", "network": networks})
    assert [(network.name, network.security) for network in wifi.networks_of(conf)] == [
        ("home", "wpa2"),
        ("Café", "wpa3"),
        ("open", "open"),
    ]


def test_facts_that_are_missing_count_as_empty(tmp_path):
    (tmp_path / "devices").write_text("wlan0\n")
    facts = wifi.read_facts(tmp_path)
    assert (facts.devices, facts.kernel, facts.status) == (("wlan0",), "", "")
