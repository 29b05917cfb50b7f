"""A run of `sensor-node doctor`, and what it found."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from support import SENSOR_NODE, replaced, sysfs_config


class Report:
    """What a run of the doctor has found."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        found = json.loads(text)
        self.ok: bool = found["ok"]
        self.steps: list[dict[str, Any]] = found["steps"]

    def all(self, name: str) -> list[dict[str, Any]]:
        return [step for step in self.steps if step["name"] == name]

    def one(self, name: str) -> dict[str, Any]:
        (step,) = self.all(name)
        return step

    @property
    def failed(self) -> dict[str, str]:
        """Step -> message, of those that failed."""
        return {s["name"]: s["message"] for s in self.steps if s["status"] == "failed"}

    def denied(self, name: str) -> list[str]:
        """The topics that failed a step of that name."""
        return [s["message"].split()[0] for s in self.all(name) if s["status"] == "failed"]


def doctor(
    folder: Path,
    config: str,
    *arguments: str,
    prefix: tuple[str, ...] = (),
    file_name: str = "doctor.toml",
) -> Report:
    """The node's state directory is `state` in the folder."""
    file = folder / file_name
    file.write_text(config)
    command = [*prefix, SENSOR_NODE, "doctor", "--json", "--config", str(file)]
    command += ["--state-dir", str(folder / "state"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    report = Report(done.returncode, done.stdout)
    assert (report.code == 0) == report.ok
    return report


def doctors(folder: Path, *configs: str) -> list[Report]:
    """Several runs at once, for most of one is spent on waiting.

    Each needs a broker of its own: all of them look whether the id of one node is free.
    """

    def run(number: int) -> Report:
        return doctor(folder, configs[number], file_name=f"doctor{number}.toml")

    with ThreadPoolExecutor() as pool:
        return list(pool.map(run, range(len(configs))))


def one_sensor(port: int, file: Path, mqtt: str = "", host: str = "127.0.0.1") -> str:
    return replaced(sysfs_config(port, {"s": file}, mqtt=mqtt), ("127.0.0.1", host))
