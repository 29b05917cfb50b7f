"""Runs the brokers, their experiments and their faults, and counts; see `run`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from brokers import Broker, Nats, RabbitMQ
from experiments import experiments
from faults import FAULTS, Row, measure, quiet
from hosts import make_hosts
from loss import UNSAFE, lose_a_disk
from plant import Balancer, Count, Plant

_KINDS: dict[str, type[Broker]] = {"rabbitmq": RabbitMQ, "nats": Nats}
_BROKERS = 3


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="sensor-node-cluster-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        root = folder / "root"
        root.mkdir()
        subprocess.run(["tar", "-xf", str(arguments.root_tar), "-C", str(root)], check=True)
        trial = _Trial(arguments, folder, root)
        try:
            done = trial.run()
        finally:
            trial.stop()
            trial.keep_logs()
    sys.exit(0 if done else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/cluster/run", description=__doc__)
    parser.add_argument("--root-tar", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--broker", choices=[*_KINDS], default="rabbitmq", help="(rabbitmq)")
    parser.add_argument("--nodes", type=int, default=200, help="(200)")
    parser.add_argument("--real", type=int, default=3, help="how many of them are real (3)")
    parser.add_argument("--interval", type=float, default=10, help="of the readings, in s (10)")
    parser.add_argument("--history", type=float, default=5, help="between batches, in s (5)")
    parser.add_argument("--consumers", type=int, default=3, help="(3)")
    parser.add_argument("--quiet", type=float, default=30, help="seconds without a fault (30)")
    parser.add_argument("--down", type=float, default=20, help="seconds of each fault (20)")
    parser.add_argument(
        "--faults", nargs="*", choices=[*FAULTS, []], default=[*FAULTS], help="(all)"
    )
    parser.add_argument("--each", type=int, default=_BROKERS, help="brokers that have each (3)")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=["experiments", "faults", "loss"],
        default=["experiments", "faults", "loss"],
        help="(all)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures here")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep the logs here")
    return parser.parse_args()


class _Trial:
    def __init__(self, arguments: argparse.Namespace, folder: Path, root: Path) -> None:
        self._arguments = arguments
        self._folder = folder
        self._root = root
        self._kind = _KINDS[arguments.broker]
        self._hosts = make_hosts(_BROKERS, root)
        self._figures: dict[str, Any] = {}
        self._plants = 0
        self._brokers: list[Broker] = []

    def run(self) -> bool:
        """Do the parts; return whether nothing was lost, or stored twice."""
        parts = self._arguments.parts
        done = True
        brokers = self._start({})
        if "experiments" in parts:
            say(f"{self._arguments.broker}: what it does")
            self._figures["experiments"] = experiments(brokers, say)
        if "faults" in parts:
            done = self._faults(brokers)
        if "loss" in parts:
            done = self._losses(brokers) and done
        if self._arguments.json:
            self._arguments.json.write_text(json.dumps(self._figures, indent=1))
        return done

    def _start(self, changes: dict[str, str]) -> list[Broker]:
        """Start three brokers with empty folders, and wait until each accepts clients."""
        began_s = time.monotonic()
        brokers = [self._kind(host, self._root, changes) for host in self._hosts]
        self._brokers = brokers
        for broker in brokers:
            broker.start()
        for broker in brokers:
            broker.wait_until_it_welcomes()
        brokers[0].complete()
        say(f"three brokers accept clients after {time.monotonic() - began_s:.0f} s")
        return brokers

    def _plant(self) -> Plant:
        self._plants += 1
        folder = self._folder / f"plant{self._plants}"
        folder.mkdir()
        folder.chmod(0o755)
        return Plant(folder, mqtt_5=self._kind.mqtt_5)

    def _faults(self, brokers: list[Broker]) -> bool:
        options = self._arguments
        balancer, plant = Balancer(self._root), self._plant()
        try:
            plant.start_consumers(options.consumers)
            plant.start_nodes(options.nodes, options.real, options.interval, options.history)
            plant.wait_until_all_are_stored()
            rows = [quiet(plant, options.quiet)]
            _show(rows[0], 0)
            for fault in options.faults:
                left = [*brokers]
                for _ in range(1 if fault == "restart" else options.each):
                    one = max(left, key=balancer.connections)
                    left.remove(one)
                    clients = balancer.connections(one)
                    rows.append(measure(plant, brokers, fault, one, options.down))
                    _show(rows[-1], clients)
            plant.rest()
            count = plant.count(within_s=180)
            say(_told(count))
        finally:
            plant.stop()
            balancer.stop()
        self._figures["faults"] = [row._asdict() for row in rows]
        self._figures["count"] = count._asdict()
        return not (count.missing or count.twice)

    def _losses(self, brokers: list[Broker]) -> bool:
        """Lose a disk, with the right settings and without; return whether both showed."""
        options = self._arguments
        as_expected = True
        for name, changes in (("as in deploy/cluster", {}), ("the control", UNSAFE)):
            for broker in brokers:
                broker.kill()
                broker.forget()
            brokers = self._start(changes)
            balancer, plant = Balancer(self._root), self._plant()
            try:
                plant.start_consumers(1)
                plant.start_nodes(options.nodes, options.real, options.interval, options.history)
                plant.wait_until_all_are_stored()
                lost = lose_a_disk(plant, brokers, options.down)
            finally:
                plant.stop()
                balancer.stop()
            say(
                f"a disk is lost, {name}: {lost.waited} readings were with the brokers only; "
                f"{_told(lost.counted)}; {lost.gaps} are in the view gaps; of the real nodes "
                f"{lost.missing_of_real} are missing"
            )
            self._figures[f"a disk is lost, {name}"] = {
                **lost._asdict(),
                "counted": lost.counted._asdict(),
            }
            should_lose = bool(changes)
            as_expected &= bool(lost.counted.missing) == should_lose and not lost.missing_of_real
        return as_expected

    def stop(self) -> None:
        """Kill the brokers that run."""
        for broker in self._brokers:
            if broker.runs:
                broker.kill()

    def keep_logs(self) -> None:
        """Copy the logs of all processes, if that is wanted."""
        if self._arguments.logs:
            for log in (*self._root.glob("srv/**/*.log"), *self._folder.glob("plant*/**/*.log")):
                target = self._arguments.logs / log.relative_to(self._folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(log.read_bytes())


def _told(count: Count) -> str:
    return (
        f"{count.committed} readings committed: {count.missing} are not in the database, "
        f"{count.twice} values are there twice; nodes were asked {count.asked} times"
    )


def _show(row: Row, clients: int) -> None:
    concerned = f" ({clients} clients)" if clients else ""
    say(
        f"{row.fault + concerned:52} {row.seconds:5.0f} s {row.messages_per_s:6.1f} messages/s "
        f"{row.readings_per_s:6.1f} readings/s; lag {row.lag_median_s:5.1f} s, at most "
        f"{row.lag_worst_s:5.1f} s; {row.losses:4} connections lost; online after "
        f"{row.online_again_s:5.1f} s, all stored after {row.recovery_s:5.1f} s"
    )


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    os.umask(0o022)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left behind
    main()
