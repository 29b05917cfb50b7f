"""The decoders of Bluetooth advertisements, by published captures and by property."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ble.advertisement import (
    Advertisement,
    Decoded,
    Undecodable,
    channel_called,
    is_measured,
    plausible,
)
from drivers.ble.formats import AUTO, FORMATS, decode

# What the sources call the thermometer, what it sent, and what that means; each from the source
# that the decoder's module names, unless it is said here.
BTHOME_KEY = "231d39c1d7cc1ab1aee224cd096db932"
PVVX_KEY = "b9ea895fac7eea6d30532432a516f3a3"


def service(uuid: int, content: str | bytes, **more: Any) -> Advertisement:
    data = bytes.fromhex(content) if isinstance(content, str) else content
    more.setdefault("address", "A4:C1:38:8D:18:B2")
    return Advertisement(service_data={uuid: data}, **more)


def maker(company: int, content: str | bytes, **more: Any) -> Advertisement:
    data = bytes.fromhex(content) if isinstance(content, str) else content
    more.setdefault("address", "A4:C1:38:8D:18:B2")
    return Advertisement(manufacturer_data={company: data}, **more)


VECTORS: dict[str, tuple[str, Advertisement, str, dict[str, float]]] = {
    # https://bthome.io/format/, "Advertising payload"
    "BTHome": (
        "bthome",
        service(0xFCD2, "4002C40903BF13"),
        "",
        {"temperature": 25.0, "humidity": 50.55},
    ),
    # https://github.com/JsBergbau/MiTemperature2/issues/154
    "BTHome of pvvx": (
        "bthome",
        service(0xFCD2, "40001b016402c808036c1a"),
        "",
        {"battery": 100, "temperature": 22.48, "humidity": 67.64},
    ),
    # https://github.com/Bluetooth-Devices/bthome-ble, tests: test_bthome_with_mac
    "BTHome with address": (
        "bthome",
        service(0xFCD2, "42b2188d38c1a404138a01"),
        "",
        {"pressure": 1008.83},
    ),
    # https://bthome.io/encryption/
    "BTHome encrypted": (
        "bthome",
        service(0xFCD2, "41a47266c95f730011223378237214", address="54:48:E6:8F:80:A5"),
        BTHOME_KEY,
        {"temperature": 25.06, "humidity": 50.55},
    ),
    # https://github.com/Bluetooth-Devices/atc-ble, tests/test_parser.py
    "ATC": (
        "atc",
        service(0x181A, "a4c1388d18b201122f640ca025"),
        "",
        {"temperature": 27.4, "humidity": 47, "battery": 100, "battery_voltage": 3.232},
    ),
    "ATC encrypted": (
        "atc",
        service(0x181A, b"X\xe9\xe6Ue\x81\xb3\xf9"),
        PVVX_KEY,
        {"temperature": 26.5, "humidity": 47.0, "battery": 100},
    ),
    "pvvx": (
        "pvvx",
        service(0x181A, b"\xb2\x18\x8d8\xc1\xa4Y\n\xad\x13\xb6\t\x1f\x1e\x05"),
        "",
        {"temperature": 26.49, "humidity": 50.37, "battery": 31, "battery_voltage": 2.486},
    ),
    "pvvx encrypted": (
        "pvvx",
        service(0x181A, b"\x11\xd6\x03\xfb\xfa{m\xfb\x1e&\xfd"),
        PVVX_KEY,
        {"temperature": 23.45, "humidity": 41.73, "battery": 61},
    ),
    # https://docs.ruuvi.com/communication/bluetooth-advertisements/data-format-5-rawv2
    "RuuviTag": (
        "ruuvi",
        maker(0x0499, "0512FC5394C37C0004FFFC040CAC364200CDCBB8334C884F"),
        "",
        {
            "temperature": 24.3,
            "humidity": 53.49,
            "pressure": 1000.44,
            "battery_voltage": 2.977,
        },
    ),
    # Its largest and smallest numbers are beyond what its sensor (BME280, SHTC3) can mean.
    "RuuviTag, largest": (
        "ruuvi",
        maker(0x0499, "057FFFFFFEFFFE7FFF7FFF7FFFFFDEFEFFFECBB8334C884F"),
        "",
        {"battery_voltage": 3.646},
    ),
    "RuuviTag, smallest": (
        "ruuvi",
        maker(0x0499, "058001000000008001800180010000000000CBB8334C884F"),
        "",
        {"humidity": 0.0, "pressure": 500.0, "battery_voltage": 1.6},
    ),
    "RuuviTag, nothing measured": (
        "ruuvi",
        maker(0x0499, "058000FFFFFFFF800080008000FFFFFFFFFFFFFFFFFFFFFF"),
        "",
        {},
    ),
    "Govee H5075": (
        "govee",
        maker(0xEC88, b"\x00\x03A\xc2d\x00", name="GVH5075_2762"),
        "",
        {"temperature": 21.3, "humidity": 44.2, "battery": 100},
    ),
    "Govee H5075, with an iBeacon": (
        "govee",
        maker(0xEC88, b"\x00\x03A\xc2d\x00L\x00\x02\x15INTELLI_ROCKS_HWPu\xf2\xff\x0c"),
        "",
        {"temperature": 21.3, "humidity": 44.2, "battery": 100},
    ),
    # Made up: the bit for a temperature below zero, and 99,990.
    "Govee H5075, frost": (
        "govee",
        maker(0xEC88, b"\x00\x81\x86\x96d\x00"),
        "",
        {"temperature": -9.9, "humidity": 99.0, "battery": 100},
    ),
    "Govee H5075, an impossible value": (
        "govee",
        maker(0xEC88, b"\x00J\x00(;\x00"),
        "",
        {"battery": 59},
    ),
    "Govee H5074": (
        "govee",
        maker(0xEC88, b"\x00\xe6\t\xbc\x12d\x02", name="Govee_H5074_5FF4"),
        "",
        {"temperature": 25.34, "humidity": 47.96, "battery": 100},
    ),
    "Govee H5052": (
        "govee",
        maker(0xEC88, b"\x00\x1c\x01\xa7\x14;\x00\x00\x02", name="Govee_H5052_E81B"),
        "",
        {"temperature": 2.84, "humidity": 52.87, "battery": 59},
    ),
    "Govee H5100": (
        "govee",
        maker(0x0001, b"\x01\x01\x03FTd", name="GVH5100_7738"),
        "",
        {"temperature": 21.4, "humidity": 61.2, "battery": 100},
    ),
    "ThermoPro TP357": (
        "thermopro",
        maker(61890, b"\x00\x1d\x02,", name="TP357 (2142)"),
        "",
        {"temperature": 24.1, "humidity": 29, "battery": 100},
    ),
    "ThermoPro TP357S": (
        "thermopro",
        maker(61122, b'\x00)"\x0b\x01', name="TP357S (2142)"),
        "",
        {"temperature": 23.8, "humidity": 41, "battery": 100},
    ),
    "ThermoPro that has not measured": (
        "thermopro",
        maker(65474, b'\xff\xff"\x0b\x01', name="TP357S (3C62)"),
        "",
        {"battery": 100},
    ),
    "ThermoPro after power-on": (
        "thermopro",
        maker(194, b"\x00\x00\x00,", name="TP393 (9376)"),
        "",
        {"battery": 1},
    ),
    # https://github.com/OpenWonderLabs/SwitchBotAPI-BLE/discussions/2, of a Meter Plus
    "SwitchBot Meter Plus": (
        "switchbot",
        Advertisement(
            address="D3:C6:6B:D4:27:2E",
            manufacturer_data={0x0969: bytes.fromhex("D3C66BD4272E0803009730")},
            service_data={0xFD3D: bytes.fromhex("690064009730")},
        ),
        "",
        {"temperature": 23.0, "humidity": 48, "battery": 100},
    ),
    "Inkbird IBS-TH": (
        "inkbird",
        maker(2044, b"\xc7\x12\x00\xc8=V\x06", name="sps"),
        "",
        {"temperature": 20.44, "humidity": 48.07, "battery": 86},
    ),
    "Inkbird IBS-TH2": (
        "inkbird",
        maker(2363, b"\xd0\x13\x00\xce\x90d\x06"),
        "",
        {"temperature": 23.63, "humidity": 50.72, "battery": 100},
    ),
    "Qingping alarm clock": (
        "qingping",
        service(0xFDCD, b"\x08\x0c4MV4-X\x01\x04 \x01\xb2\x01\x02\x01d"),
        "",
        {"temperature": 28.8, "humidity": 43.4, "battery": 100},
    ),
    "Qingping Temp & RH Monitor Pro": (
        "qingping",
        service(
            0xFDCD,
            b"\x88\x18\x07\x22\x40\x34\x2d\x58\x01\x04\x18\x01\xcd\x00\x02\x01\x61\x07\x02\x73\x27",
        ),
        "",
        {"temperature": 28.0, "humidity": 20.5, "battery": 97, "pressure": 1009.9},
    ),
    "Qingping CO2": (
        "qingping",
        service(0xFDCD, b"\n]\x93\x1d\x864-X\x01\x04\x17\x01\xce\x01\x02\x01d\x13\x02\xb3\x02"),
        "",
        {"temperature": 27.9, "humidity": 46.2, "battery": 100, "co2": 691},
    ),
    "Xiaomi LYWSDCGQ": (
        "mibeacon",
        service(0xFE95, "5020aa01da219335342d580d1004fe004802", address="58:2D:34:35:93:21"),
        "",
        {"temperature": 25.4, "humidity": 58.4},
    ),
    "Xiaomi LYWSD03MMC": (
        "mibeacon",
        service(
            0xFE95,
            "58585b0550f4830238c1a495ef58763c26000097e2abb5",
            address="A4:C1:38:02:83:F4",
        ),
        "e9ea895fac7cca6d30532432a516f3a8",
        {"humidity": 46.7},
    ),
    "Xiaomi CGG1": (
        "mibeacon",
        service(
            0xFE95,
            "5858480b685f12342d585a0b1841e2aa000e00a4964fb5",
            address="5A:58:2D:34:12:5F",
        ),
        "814aac74c4f17b6c1581e1ab87816b99",
        {"humidity": 59.6},
    ),
    "Xiaomi without its address": (
        "mibeacon",
        service(0xFE95, "4858422529202d8c7a76b756a82a0078b8224e", address="A4:C1:38:0E:FD:78"),
        "19b1c678ab0a8bc3dc77765f059188d4",
        {"temperature": 26.1},
    ),
}
every_vector = pytest.mark.parametrize("vector", VECTORS)


def key_of(written: str) -> bytes | None:
    return bytes.fromhex(written) if written else None


@every_vector
@pytest.mark.parametrize("named", [True, False])
def test_a_published_advertisement_has_its_published_values(vector, named):
    form, advertisement, key, values = VECTORS[vector]
    found = decode(advertisement, key_of(key), form if named else AUTO)
    assert found is not None
    assert found[0] == form
    assert found[1].values == pytest.approx(values)


@every_vector
def test_another_format_does_not_take_it(vector):
    form, advertisement, key, _ = VECTORS[vector]
    for other in FORMATS.keys() - {form}:
        assert decode(advertisement, key_of(key), other) is None


@pytest.mark.parametrize("vector", [name for name, (*_, key, _) in VECTORS.items() if key])
def test_a_wrong_key_gives_no_value(vector):
    form, advertisement, _, _ = VECTORS[vector]
    with pytest.raises(Undecodable, match="cannot be decrypted with the configured key"):
        decode(advertisement, bytes(16), form)
    with pytest.raises(Undecodable, match="its key is not configured") as caught:
        decode(advertisement, None, form)
    assert "key" in caught.value.hint


@pytest.mark.parametrize("form", ["BTHome", "ATC", "pvvx", "Xiaomi LYWSDCGQ"])
def test_plain_data_are_refused_where_a_key_is_configured(form):
    """Anyone nearby could send them in the thermometer's name."""
    named, advertisement, _, _ = VECTORS[form]
    with pytest.raises(Undecodable, match="not encrypted, although a key is configured"):
        decode(advertisement, bytes(16), named)


@pytest.mark.parametrize("form", ["ATC", "pvvx", "Xiaomi LYWSDCGQ", "Xiaomi LYWSD03MMC"])
def test_data_of_another_thermometer_are_refused(form):
    named, advertisement, key, _ = VECTORS[form]
    moved = Advertisement(address="00:11:22:33:44:55", service_data=advertisement.service_data)
    with pytest.raises(Undecodable, match="another address"):
        decode(moved, key_of(key), named)


@pytest.mark.parametrize(
    ("vector", "counter", "rising"),
    [
        ("BTHome", None, None),
        ("BTHome of pvvx", 0x1B, None),
        ("BTHome encrypted", None, 0x33221100),
        ("ATC", 0x25, None),
        ("pvvx", 0x1E, None),
        ("pvvx encrypted", 0x11, None),
        ("RuuviTag", 205, None),
        ("Xiaomi LYWSDCGQ", 218, None),
        ("Xiaomi LYWSD03MMC", 0x2650, None),
        ("Govee H5075", None, None),
    ],
)
def test_the_counter_of_a_measurement(vector, counter, rising):
    form, advertisement, key, _ = VECTORS[vector]
    found = decode(advertisement, key_of(key), form)
    assert found is not None
    assert (found[1].counter, found[1].rising) == (counter, rising)


@pytest.mark.parametrize(
    ("advertisement", "what"),
    [
        (maker(0x0499, "03291A1ECE1EFC18F94202CA0B53"), "data format 3"),
        (maker(0xEC88, b"\x00\x03A\xc2\xe4\x00"), "broken or unplugged"),
        (service(0xFCD2, "2002C409"), "BTHome version 1"),
        (service(0xFCD2, "4002C4"), "end within object 0x02"),
        (service(0xFE95, "5830b603d28b98c54124f8c3491476757e00000099"), "another address"),
        (maker(0x0001, b"\x01\x01\x0e\xd12\x98"), "its name has not been heard"),
    ],
)
def test_it_says_why_it_cannot_decode(advertisement, what):
    with pytest.raises(Undecodable, match=what):
        decode(advertisement, None)


@pytest.mark.parametrize("name", ["GVH5106_4E05", "a thing of Nokia's"])
def test_another_meaning_of_the_same_bytes_is_not_taken_for_a_temperature(name):
    """An H5106 (with PM2.5) would be 97 °C warm."""
    assert decode(maker(0x0001, b"\x01\x01\x0e\xd12\x98", name=name), None) is None


def test_several_probes_have_channels_of_their_own():
    found = decode(service(0xFCD2, "40 02 c409 02 9001 45 0601 03 bf13"), None)
    assert found is not None
    assert found[1].values == {
        "temperature": 25.0,
        "temperature_2": 4.0,
        "temperature_3": 26.2,
        "humidity": 50.55,
    }
    assert channel_called("temperature_3").unit == "°C"


SLOTS: dict[str, list[tuple[str, int]]] = {
    "bthome": [("service", 0xFCD2)],
    "pvvx": [("service", 0x181A)],
    "atc": [("service", 0x181A)],
    "mibeacon": [("service", 0xFE95)],
    "qingping": [("service", 0xFDCD)],
    "switchbot": [("service", 0xFD3D), ("maker", 0x0969)],
    "ruuvi": [("maker", 0x0499)],
    "govee": [("maker", 0xEC88), ("maker", 0x0001), ("maker", 0x8801)],
    "thermopro": [("maker", 0xF1C2), ("maker", 0x00C2)],
    "inkbird": [("maker", 2044)],
}
_NAMES = st.sampled_from(["", "sps", "TP357 (2142)", "GVH5101_1", "GVH5178", "x"])
_BEGINNINGS = st.sampled_from([b"", b"\x40", b"\x41", b"\x05", b"\x58\x58", b"i\x00", b"\x01\x01"])


def in_range(decoded: Decoded) -> bool:
    for name, value in decoded.values.items():
        low, high = channel_called(name).plausible
        if not (math.isfinite(value) and low <= value <= high):
            return False
    return True


@pytest.mark.parametrize("form", FORMATS)
@given(
    content=st.tuples(_BEGINNINGS, st.binary(max_size=28)).map(b"".join),
    also=st.binary(max_size=20),
    name=_NAMES,
    key=st.sampled_from([None, bytes(16)]),
)
def test_any_bytes_give_a_plausible_value_or_the_decoders_own_error(form, content, also, name, key):
    contents = [content, also, also]
    services = {
        number: data
        for (kind, number), data in zip(SLOTS[form], contents, strict=False)
        if kind == "service"
    }
    makers = {
        number: data
        for (kind, number), data in zip(SLOTS[form], contents, strict=False)
        if kind == "maker"
    }
    advertisement = Advertisement(
        address="A4:C1:38:8D:18:B2", service_data=services, manufacturer_data=makers, name=name
    )
    for named in (form, AUTO):
        with contextlib.suppress(Undecodable):
            found = decode(advertisement, key, named)
            assert found is None or in_range(found[1])


@given(st.dictionaries(st.sampled_from(["temperature", "humidity_2", "rssi"]), st.floats()))
def test_what_is_not_plausible_counts_as_not_measured(values):
    assert in_range(Decoded(plausible(values)))


def test_diagnostic_quantities_are_told_from_measured_ones():
    assert [name for name in ("temperature_2", "co2", "battery", "rssi") if is_measured(name)] == [
        "temperature_2",
        "co2",
    ]
