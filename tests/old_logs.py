"""Makes tests/logs: a log of readings as an earlier commit writes it, by running its node.

    tests/.venv/bin/python tests/old_logs.py 2cd8325 f772fcd

A log is made once, and not again: it stands for all that such a node has left on a card. There was
no broker, so nothing of it was sent; the sensor t reads 21.5 °C, u 4.25 °C.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from ports import free_port
from support import sysfs_config, wait_until

from node.outbox.log_file import LogFile

# ruff: noqa: T201

CHECKOUT = Path(__file__).resolve().parents[1]
LOGS = CHECKOUT / "tests" / "logs"
READINGS = 8
VALUES = {"t": 21.5, "u": 4.25}


def unpack(commit: str, folder: Path) -> bool:
    """Unpack the code of that commit; return whether this checkout has it."""
    git = ("git", "-c", "safe.directory=*", "-C", str(CHECKOUT), "archive", commit)
    archive = subprocess.run([*git, "node", "drivers"], capture_output=True, check=False)
    if archive.returncode != 0:
        return False
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return True


def run_node(code: Path, work: Path, readings: int = READINGS) -> str:
    """Run the node in `code` until its log in `work` has `readings`; return what it says."""
    sensors = {}
    for name, value in VALUES.items():
        sensors[name] = work / f"{name}.txt"
        sensors[name].write_text(f"{round(value * 1000)}\n")
    config = work / "node.toml"
    config.write_text(sysfs_config(free_port(), sensors, interval="0.5s"))
    command = [sys.executable, "-m", "node", "run", "--config", str(config)]
    process = subprocess.Popen(
        [*command, "--state-dir", str(work / "state")],
        cwd=code,
        env={**os.environ, "PYTHONPATH": str(code)},
        stderr=subprocess.PIPE,
        text=True,
    )
    log = work / "state" / "outbox.db"
    try:
        wait_until(lambda: count(log) >= readings, 60, "readings in the log")
    finally:
        process.terminate()
        _, said = process.communicate(timeout=60)
    return said


def count(log: Path) -> int:
    """Return the number of the newest reading; 0 if the log cannot be read yet."""
    try:
        file = LogFile(log)
    except Exception:  # noqa: BLE001 - whatever a file is that is being made
        return 0
    try:
        return file.ledger.last_seq
    finally:
        file.close()


def main() -> None:
    LOGS.mkdir(exist_ok=True)
    for commit in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            if not unpack(commit, Path(folder, "code")):
                sys.exit(f"this checkout has no commit {commit}")
            run_node(Path(folder, "code"), Path(folder))
            shutil.copy(Path(folder, "state/outbox.db"), LOGS / f"{commit}.db")
            print(LOGS / f"{commit}.db")


if __name__ == "__main__":
    main()
