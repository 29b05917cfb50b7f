"""A broker loses its disk: with the settings of deploy/cluster, and with those of the control.

In the control each session is on one broker alone, and what was acknowledged is lost with it. The
simulated nodes cannot send anything again, so theirs stay gaps; the real ones are asked for it.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from brokers import Broker, Nats, RabbitMQ
from plant import Count, Plant
from support import ledger_in, wait_until

__all__ = ["UNSAFE", "Lost", "lose_a_disk"]

UNSAFE = {
    "mqtt.durable_queue_type = quorum": "mqtt.durable_queue_type = classic",
    "queue_leader_locator = balanced": "queue_leader_locator = client-local",
    "stream_replicas: 3": "stream_replicas: 1",
}
_CONSUMER = "consumer1"
_GAPS = "SELECT coalesce(sum(readings), 0) FROM sensor_node.gaps"
_STREAM = "data/jetstream/$G/streams/$MQTT_msgs"
_PATIENCE_S = 180.0


class Lost(NamedTuple):
    """What the loss of a disk has cost."""

    waited: int
    """Readings that only the brokers had when the disk was lost."""
    counted: Count
    gaps: int
    """Readings that the view `gaps` lists."""
    missing_of_real: int


def lose_a_disk(plant: Plant, brokers: list[Broker], away_s: float) -> Lost:
    """Let messages wait for a consumer for `away_s`; then lose the disk that they are on."""
    plant.stores[_CONSUMER].kill()
    time.sleep(away_s)
    waited = len(_acknowledged(plant) - plant.stored())
    one = _keeper(brokers)
    others = [broker for broker in brokers if broker is not one]
    one.kill()
    one.forget()
    if isinstance(others[0], RabbitMQ):
        others[0].remove(one)
    one.start()
    one.wait_until_it_welcomes()
    plant.start_consumer(_CONSUMER)
    plant.wait_until_all_are_stored()  # something later of each node
    plant.rest()
    wait_until(
        lambda: not _of_real(plant, plant.committed() - plant.stored()),
        _PATIENCE_S,
        "the real nodes to replay what is missing",
    )
    counted = plant.count(within_s=30)
    missing_of_real = len(_of_real(plant, plant.committed() - plant.stored()))
    ((gaps,),) = plant.database.ask(_GAPS)
    return Lost(waited, counted, int(gaps), missing_of_real)


def _acknowledged(plant: Plant) -> set[tuple[str, int]]:
    """What a broker has acknowledged to the real nodes, or about that of the simulated ones."""
    real = {
        (name, seq)
        for name, node in plant.real.items()
        for seq in range(1, ledger_in(node.state_dir).cursor + 1)
    }
    return real | {key for key in plant.committed() if key[0] not in plant.real}


def _of_real(plant: Plant, readings: set[tuple[str, int]]) -> set[tuple[str, int]]:
    return {key for key in readings if key[0] in plant.real}


def _keeper(brokers: list[Broker]) -> Broker:
    """The broker that has, or leads, what waits for the consumer."""
    if isinstance(brokers[0], Nats):
        return next(broker for broker in brokers if (broker.folder / _STREAM).exists())
    assert isinstance(brokers[0], RabbitMQ)
    keeper = brokers[0].keeper_of(f"mqtt-subscription-sensor-node-store-{_CONSUMER}qos1")
    return next(broker for broker in brokers if broker.host.name == keeper)
