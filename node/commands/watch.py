"""`sensor-node watch`: shows what the nodes publish, as a subscriber receives it."""

from __future__ import annotations

import argparse

import msgspec

from node.cli.arguments import positive
from node.cli.help_text import CommandHelp
from node.config import load as configuration
from node.config.schema import HomeAssistantTable, HostName, MqttTable, TopicPath
from node.config.tls import tls_files
from node.config.values import parse_host
from node.mqtt.topic_filters import check_filter
from node.watch.discovery import Units
from node.watch.model import units_of
from node.watch.session import watch

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
        raise argparse.ArgumentTypeError("expected a topic without wildcards") from None


def _filter(written: str) -> str:
    try:
        return check_filter(written)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _node(written: str) -> str:
    if "/" in written:
        raise argparse.ArgumentTypeError("a node's name has no /; for other topics use --topic")
    return "+" if written == "#" else _filter(written)


def _port(written: str) -> int:
    port = int(written)
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError("expected a port from 1 to 65535")
    return port


HELP = CommandHelp(
    details="""\
Subscribes to the topics of the nodes at a broker, and shows a row for each channel, with its age,
whether it is online, how often it is published, and a trend. Rows come and go with their nodes.
Units come from the nodes' discovery messages. With --topic it also shows other topics; with
--history it shows the readings that a node sends after an outage, and those that are missing.

On a terminal (with the package rich) the output is a live table, until Ctrl-C; otherwise, or
with NO_COLOR, a line for each message.
""",
    examples={
        "sensor-node watch --host 192.168.1.10": "every node at a broker without a login",
        "sudo sensor-node watch greenhouse cellar": "two nodes, at the configured broker",
        "sudo sensor-node watch --topic 'zigbee2mqtt/#'": "topics of other programs",
        "sudo sensor-node watch --json | jq -r 'select(.sensor==\"air\").payload'": "for programs",
    },
    exit_codes={0: "a message arrived", 1: "no message arrived"},
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "nodes",
        nargs="*",
        type=_node,
        metavar="NODE",
        help="nodes to show; + matches any (default: all)",
    )
    parser.add_argument(
        "--topic",
        action="append",
        default=[],
        type=_filter,
        metavar="FILTER",
        help="any topics, also of others, as 'zigbee2mqtt/#'; may be given again",
    )
    parser.add_argument(
        "--history", action="store_true", help="show the readings of history, and what is missing"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON per message")
    parser.add_argument("--seconds", type=positive, metavar="N", help="end after N seconds")
    parser.add_argument(
        "--host", type=_host, metavar="HOST", help="a broker, instead of a configuration file"
    )
    parser.add_argument("--port", type=_port, metavar="PORT", help="instead of the configured one")
    parser.add_argument(
        "--base-topic", type=_topic, metavar="TOPIC", help="instead of the configured one"
    )


def run(arguments: argparse.Namespace) -> int:
    """Show messages until a signal or `--seconds`; exit code 1 if none arrived."""
    mqtt, context, prefix, units = _broker(arguments)
    nodes = [f"{mqtt.base_topic}/{node}/#" for node in arguments.nodes]
    filters = nodes + arguments.topic or [f"{mqtt.base_topic}/+/#"]
    heard = watch(
        mqtt,
        tls_context=context,
        filters=filters,
        others=bool(arguments.topic),
        prefix=prefix,
        units=units,
        history=arguments.history,
        seconds=arguments.seconds,
        as_json=arguments.json,
        title=f"{', '.join(filters)} at {mqtt.address}",
    )
    return 0 if heard else 1


def _broker(arguments: argparse.Namespace) -> tuple[MqttTable, object, str, Units]:
    """Return the configured broker, or the one at `--host`, with the other options applied.

    Also return the prefix of Home Assistant's topics, and the units of the configured node.
    """
    given = {
        key: value
        for key, value in (("port", arguments.port), ("base_topic", arguments.base_topic))
        if value is not None
    }
    if arguments.host is not None:
        prefix = HomeAssistantTable().prefix
        return MqttTable(host=arguments.host, **given), None, prefix, {}
    config = configuration.load(configuration.find_file(arguments.config))
    mqtt = msgspec.structs.replace(config.mqtt, **given)
    config = msgspec.structs.replace(config, mqtt=mqtt)
    tls = tls_files(mqtt.tls)
    return mqtt, tls, config.homeassistant.prefix, units_of(config)
