"""`sensor-node watch`: what the nodes at the broker publish, as a subscriber receives it."""

from __future__ import annotations

import argparse

import msgspec

from node import config as configuration
from node.config_values import parse_host
from node.help_text import CommandHelp
from node.live_model import Units, units_of
from node.option_text import positive
from node.schema import HostName, MqttTable, TopicPath
from node.tls import tls_context
from node.watching import watch

__all__ = ["HELP", "add_arguments", "run"]


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


HELP = CommandHelp(
    details="""\
Subscribes to what the nodes at a broker publish, and shows it.
""",
    examples={
        "sensor-node watch --host 192.168.1.10": "every node at a broker that wants no login",
        "sensor-node watch greenhouse": "one node, at the configured broker",
    },
    exit_codes={0: "something was heard", 1: "nothing was heard"},
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("node", nargs="?", metavar="NODE", help="one node alone (default: all)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON per message")
    parser.add_argument("--seconds", type=positive, metavar="N", help="end after N seconds")
    parser.add_argument(
        "--host", type=_host, metavar="HOST", help="a broker, instead of a configuration file"
    )
    parser.add_argument("--port", type=int, metavar="PORT", help="instead of the configured one")
    parser.add_argument(
        "--base-topic", type=_topic, metavar="TOPIC", help="instead of the configured one"
    )


def run(arguments: argparse.Namespace) -> int:
    """Show messages until Ctrl-C; exit code 1 if there was none in all the seconds."""
    mqtt, context, units = _broker(arguments)
    try:
        heard = watch(
            mqtt,
            tls_context=context,
            node=arguments.node,
            units=units,
            seconds=arguments.seconds,
            as_json=arguments.json,
            title=f"{mqtt.base_topic}/# at {mqtt.address}",
        )
    except KeyboardInterrupt:
        return 0
    return 0 if heard else 1


def _broker(arguments: argparse.Namespace) -> tuple[MqttTable, object, Units]:
    """The broker of the configuration, or the one at `--host`; with the other options put in."""
    given = {
        key: value
        for key, value in (("port", arguments.port), ("base_topic", arguments.base_topic))
        if value is not None
    }
    if arguments.host is not None:
        return MqttTable(host=arguments.host, **given), None, {}
    config = configuration.load(configuration.find_file(arguments.config))
    mqtt = msgspec.structs.replace(config.mqtt, **given)
    return mqtt, tls_context(mqtt.tls), units_of(config)
