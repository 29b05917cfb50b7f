"""`sensor-node watch`: what the nodes at the broker publish, as a subscriber receives it."""

from __future__ import annotations

import argparse

import msgspec

from node import config as configuration
from node.config_values import parse_host
from node.live_model import Units, units_of
from node.schema import HostName, MqttTable, TopicPath
from node.tls import tls_context
from node.watching import watch

__all__ = ["add_arguments", "run"]


def _host(written: str) -> HostName:
    try:
        return parse_host(written)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _topic(written: str) -> str:
    try:
        return msgspec.convert(written, TopicPath)
    except msgspec.ValidationError:
        raise argparse.ArgumentTypeError("not a topic without wildcards") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("node", nargs="?", metavar="NODE", help="one node alone (default: all)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON per message")
    parser.add_argument("--seconds", type=float, metavar="N", help="end after N seconds")
    parser.add_argument(
        "--host", type=_host, metavar="HOST", help="a broker, instead of a configuration file"
    )
    parser.add_argument("--port", type=int, default=1883, metavar="PORT", help="beside --host")
    parser.add_argument(
        "--base-topic", type=_topic, default="sensors", metavar="TOPIC", help="beside --host"
    )


def run(arguments: argparse.Namespace) -> int:
    """Show messages until Ctrl-C; exit code 1 if there was no broker in all the seconds."""
    mqtt, context, units = _broker(arguments)
    try:
        reached = watch(
            mqtt,
            tls_context=context,
            node=arguments.node,
            units=units,
            seconds=arguments.seconds,
            as_json=arguments.json,
            title=f"{mqtt.base_topic}/# at {mqtt.host}:{mqtt.broker_port}",
        )
    except KeyboardInterrupt:
        return 0
    return 0 if reached else 1


def _broker(arguments: argparse.Namespace) -> tuple[MqttTable, object, Units]:
    if arguments.host is not None:
        mqtt = MqttTable(host=arguments.host, port=arguments.port, base_topic=arguments.base_topic)
        return mqtt, None, {}
    config = configuration.load(configuration.find_file(arguments.config))
    return config.mqtt, tls_context(config.mqtt.tls), units_of(config)
