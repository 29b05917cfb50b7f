"""Finds the attached sensors: by a scan, and by asking for those that a scan cannot find."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from drivers.bus import Board
from drivers.names import driver_called, suggestion
from drivers.packages import install_command
from drivers.registry import find_driver
from drivers.scanning import Finding, Found, Scan
from node.config.schema import TopicPart
from node.config.sensor_toml import free_id, suggest_id
from node.config.values import convert_value
from node.setup.dialog import Dialog

__all__ = ["ChosenSensor", "ask_sensors", "parse_name", "parse_sensor"]

_DHTS = ("dht22", "dht11")
_FREE_FOR_DHT = (17, 27, 22, 23, 24, 25, 5, 6, 12, 13, 16, 26, 18, 19, 20, 21)
"""GPIOs of the 40-pin header without another function, the usual ones first."""
_ONE_WIRE_PIN = 4
_RESERVED = {
    **dict.fromkeys((0, 1), "an add-on board's EEPROM"),
    **dict.fromkeys((2, 3), "I2C"),
    _ONE_WIRE_PIN: "1-Wire",
    **dict.fromkeys(range(7, 12), "SPI"),
    **dict.fromkeys((14, 15), "the serial console"),
}


class ChosenSensor(msgspec.Struct, frozen=True):
    """A sensor that goes into the configuration."""

    id: str
    driver: str
    options: dict[str, str | int]
    comment: str = ""


def parse_sensor(written: str) -> tuple[str, dict[str, str | int]]:
    """Return driver and options of `dht22:pin=17`, as `--sensor` takes it.

    Raises:
        ValueError: the driver is unknown, or an option is not of the form KEY=VALUE.
    """
    word, _, rest = written.partition(":")
    driver = driver_called(word)
    if driver is None:
        raise ValueError(f'unknown driver "{word}"; {suggestion(word)}')
    options: dict[str, str | int] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            raise ValueError(f'"{pair}" is not of the form KEY=VALUE, such as pin=17')
        try:
            options[key] = int(value, 0)
        except ValueError:
            options[key] = value
    return driver, options


def ask_sensors(
    dialog: Dialog,
    board: Board,
    result: Scan,
    given: Sequence[tuple[str, dict[str, str | int]]],
) -> list[ChosenSensor]:
    """Return the sensors of `--sensor`, the wanted ones of the scan, and those asked for.

    Raises:
        Unanswered: there is no further input.
    """
    chosen: list[ChosenSensor] = []
    taken: set[str] = set()

    def add(driver: str, options: dict[str, str | int], comment: str) -> None:
        # Easier to type than the suggestion of scan, which contains the address.
        suggested = free_id(suggest_id(str(options.get("name", driver)), {}), taken)
        name = dialog.ask("  Its name", lambda text: _new_id(text, taken), suggested)
        taken.add(name)
        chosen.append(ChosenSensor(name, driver, options, comment))

    for driver, options in given:
        add(driver, options, find_driver(driver).summary)
    for finding in result.findings:
        dialog.say()
        found = _wanted(dialog, finding)
        if found is not None:
            add(found.driver, found.options, f"{finding.where}: {found.summary}".rstrip(": "))
    for note in (*result.switched_off, *result.notes, *map(str, result.failures)):
        dialog.say()
        dialog.say(f"Note: {note}")
    if dialog.asks:
        dialog.say()
        pins = {sensor.options["pin"] for sensor in chosen if "pin" in sensor.options}
        for driver, pin in _ask_dhts(dialog, board, pins):
            add(driver, {"pin": pin}, find_driver(driver).summary)
    return chosen


def _wanted(dialog: Dialog, finding: Finding) -> Found | None:
    """Ask whether to read a finding, and which chip it is if its address does not say."""
    if finding.sensor is not None:
        found = finding.sensor
        dialog.say(f"Found: {finding.where}: {found.summary or found.driver}")
        if found.missing_extra:
            dialog.say(f"It needs: {install_command(found.missing_extra)}", indent="  ")
        if found.may_be_foreign:
            dialog.say("It is on the air, and may be a neighbour's.", indent="  ")
        wanted = dialog.confirm("  Read it?", default=not found.may_be_foreign)
        return found if wanted else None
    if not finding.possible:
        note = finding.note or "no known sensor has this address"
        dialog.say(f"Found: {finding.where}: {note}.")
        return None
    dialog.say(f"Found: {finding.where}. Several chips use this address.")
    index = dialog.choose(
        "  Which one is it? (Enter for none)", [found.summary for found in finding.possible]
    )
    return None if index is None else finding.possible[index]


def _ask_dhts(dialog: Dialog, board: Board, used: set[str | int]) -> Iterator[tuple[str, int]]:
    """Ask for the sensors with a single data wire, which a scan cannot find."""
    dialog.say(
        "A scan cannot find a DHT22 (also sold as AM2302) or DHT11, because its pin has to be "
        "known."
    )
    another = ""
    while True:
        kind = dialog.ask(
            f"Is there {another or 'one'}? Type dht22 or dht11 (Enter for none)", _dht_kind
        )
        if not kind:
            return
        free = next((pin for pin in _FREE_FOR_DHT if _is_free(board, pin, used)), None)
        pin = dialog.ask(
            "  GPIO of its data wire (the GPIO number, not the pin number of the header)",
            lambda text: _pin(text, used),
            "" if free is None else str(free),
        )
        if pin in _RESERVED and not dialog.confirm(
            f"  GPIO {pin} is usually for {_RESERVED[pin]}. Use it?", default=False
        ):
            continue
        used.add(pin)
        another = "another one"
        yield kind, pin


def _is_free(board: Board, pin: int, used: set[str | int]) -> bool:
    return pin not in used and not board.pin_user(pin)


def _dht_kind(written: str) -> str:
    kind = driver_called(written)
    if written and kind not in _DHTS:
        raise ValueError("Please type dht22 or dht11, or press Enter.")
    return kind or ""


def _pin(written: str, used: set[str | int]) -> int:
    digits = written.upper().removeprefix("GPIO").strip()
    if not digits.isdecimal() or not 0 <= int(digits) <= 27:
        raise ValueError("Please type a GPIO from 0 to 27, such as 17.")
    if int(digits) in used:
        raise ValueError(f"GPIO {int(digits)} is in use by another sensor of this file.")
    return int(digits)


def parse_name(written: str) -> str:
    """Return a name that can be a level of a topic.

    Raises:
        ValueError: it cannot.
    """
    try:
        return str(convert_value(TopicPart, written))
    except ValueError as error:
        raise ValueError(f"A name consists of {str(error).removeprefix('expected ')}.") from error


def _new_id(written: str, taken: set[str]) -> str:
    name = parse_name(written)
    if name == "cmd" or name in taken:
        raise ValueError(f'"{name}" is already taken.')
    return name
