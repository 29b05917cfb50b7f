"""The table `[simulation]`: the room, and timed faults. Imported only if there is such a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from drivers.sim.faults import DEFAULT_AMOUNTS, KINDS, fault_kinds
from node.config.reader import TableReader, expected_table
from node.config.schema import FaultTable, SensorTable, SimulationTable
from node.config.values import did_you_mean, nearest

if TYPE_CHECKING:
    from node.config.toml_lines import KeyPath

__all__ = ["read_simulation"]


def read_simulation(
    reader: TableReader, written: object, sensors: list[tuple[int, SensorTable]]
) -> SimulationTable | None:
    """Return the table; None if anything in it is wrong.

    `sensors` are the valid ones; for the others, only the id of a fault is checked.
    """
    if not isinstance(written, dict):
        reader.problem(("simulation",), expected_table("simulation"))
        return None
    before = len(reader.problems)
    room = {key: value for key, value in written.items() if key != "fault"}
    values = reader.right_keys(SimulationTable, room, ("simulation",))
    faults = _read_faults(reader, written.get("fault", []), sensors)
    return SimulationTable(**values, fault=faults) if len(reader.problems) == before else None


def _read_faults(
    reader: TableReader, written: object, sensors: list[tuple[int, SensorTable]]
) -> tuple[FaultTable, ...]:
    if not isinstance(written, list):
        what = "expected tables: write [[simulation.fault]], in double brackets"
        reader.problem(("simulation", "fault"), what)
        return ()
    by_id = {sensor.id: sensor for _, sensor in sensors}
    faults = []
    for index, table in enumerate(written):
        path: KeyPath = ("simulation", "fault", index)
        values = reader.table(FaultTable, table, path)
        if values is None:
            continue
        fault = FaultTable(**values)
        _check_sensor_and_kind(reader, fault, by_id, path)
        _check_times(reader, fault, path)
        _check_amount(reader, fault, path)
        faults.append(fault)
    return tuple(faults)


def _check_sensor_and_kind(
    reader: TableReader, fault: FaultTable, by_id: dict[str, SensorTable], path: KeyPath
) -> None:
    if fault.kind not in KINDS:
        hint = did_you_mean(fault.kind, KINDS)
        reader.problem((*path, "kind"), f"{_unknown('fault', fault.kind, KINDS)}; {hint}")
    ids = reader.sensor_ids.values()
    if fault.sensor not in ids:
        hint = did_you_mean(fault.sensor, ids) if ids else "no [[sensor]] is configured"
        reader.problem((*path, "sensor"), f"{_unknown('sensor', fault.sensor, ids)}; {hint}")
    sensor = by_id.get(fault.sensor)
    if sensor is None or fault.kind not in KINDS:
        return
    by_its_own = sensor.info.simulate is not None
    possible = fault_kinds(sensor.driver, sensor.options, by_its_own=by_its_own)
    if not possible:
        message = f'"{sensor.id}" ({sensor.driver}) is not simulated, so it cannot have a fault'
        reader.problem((*path, "sensor"), message)
    elif fault.kind not in possible:
        has = ", ".join(possible)
        message = f'"{sensor.id}" ({sensor.driver}) cannot have {fault.kind}; it can have {has}'
        reader.problem((*path, "kind"), message)


def _unknown(what: str, word: str, known: Iterable[str]) -> str:
    """Name the word if it is misspelt; one that resembles no known word may be a secret."""
    return f'unknown {what} "{word}"' if nearest(word, known) else f"unknown {what}"


def _check_times(reader: TableReader, fault: FaultTable, path: KeyPath) -> None:
    if fault.for_ is not None and not fault.for_:
        reader.problem((*path, "for"), "must be above 0; leave it out for a fault that stays")
    if fault.every is None:
        return
    if fault.for_ is None:
        reader.problem(
            (*path, "every"), "only applies together with for: without it the fault never ends"
        )
    elif fault.every <= fault.for_:
        reader.problem((*path, "every"), "must be longer than for: otherwise the fault never ends")


def _check_amount(reader: TableReader, fault: FaultTable, path: KeyPath) -> None:
    if fault.amount is None or fault.kind not in KINDS:
        return
    if fault.kind not in DEFAULT_AMOUNTS:
        kinds = ", ".join(DEFAULT_AMOUNTS)
        reader.problem((*path, "amount"), f"only applies to {kinds}")
    elif fault.kind == "slow" and fault.amount <= 0:
        reader.problem(
            (*path, "amount"), "must be above 0: the added delay of an answer in seconds"
        )
    elif fault.amount == 0:
        reader.problem((*path, "amount"), "must not be 0")
