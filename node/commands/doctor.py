"""`sensor-node doctor`: finds problems and their remedies. `node.doctor` has the checks."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from node.cli.arguments import add_state_dir_argument
from node.cli.help_text import CommandHelp
from node.config import load as configuration
from node.config.schema import Config
from node.config.tls import tls_context
from node.doctor.alarm_checks import check_alarm_programs
from node.doctor.board_checks import check_board
from node.doctor.broker import Broker
from node.doctor.broker_checks import check_broker
from node.doctor.our_node import OurNode, check_our_node, find_our_node
from node.doctor.report import Step, TextReport, as_json, from_sentence, timed
from node.doctor.sensor_checks import check_sensors
from node.doctor.system_checks import (
    TIMESYNC,
    check_clock,
    check_disk,
    check_files,
    check_supply,
)
from node.doctor.topic_list import TopicList, TriedSubscription
from node.doctor.users import node_user
from node.homeassistant.discovery import discovery_topic
from node.homeassistant.forms import component_filter, tried_components
from node.mqtt.connection import MOVED_FILE_NAME
from node.mqtt.credentials import password_of_command
from node.outbox.store import FILE_NAME
from node.report.topic_list import published_topics, subscriptions
from node.sensors.board import open_board
from node.system.clock import SystemClock
from node.system.node_ids import client_id, device_id
from node.system.state_dir import find_state_dir
from node.system.terminal import count, is_plain
from node.topics import NO_COMMAND, Topics

__all__ = ["HELP", "add_arguments", "run"]

# ruff: noqa: T201

HELP = CommandHelp(
    details="""\
Checks everything between the sensors and the broker, prints one line for each step, and says how
to fix each problem: the configuration, the node that runs here, the broker's name, port, TLS and
login, publishing, retained messages and the last will, the permission for each topic, the clock,
the disk, the supply, buses and pins, and each sensor: its package, and what the running node last
read from it.

A running node is not disturbed: the doctor connects with other client ids, publishes on topics of
its own, and moves no pin.
""",
    examples={
        "sudo sensor-node doctor": "all steps, with the configuration of the service",
        "sudo sensor-node doctor --json | jq '.steps[] | select(.status==\"failed\")'": "failures",
    },
    exit_codes={0: "nothing failed (there may be warnings)", 1: "a step failed"},
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--simulate",
        action="store_true",
        help="check simulated hardware; the broker is still the real one",
    )
    add_state_dir_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print each step; exit code 1 if one failed. Warnings and skipped steps are not failures."""
    signal.signal(signal.SIGTERM, _interrupt)  # so that the test's retained message is deleted
    source = configuration.find_file(arguments.config)
    try:
        config = configuration.load(source)
    except configuration.ConfigError as error:
        if arguments.json:
            print(as_json(_invalid(error)))
        raise
    steps = []
    report = TextReport(colour=not is_plain(sys.stdout))
    for step in timed(_examine(config, arguments)):
        steps.append(step)
        if not arguments.json:
            print(report.show(step), end="", flush=True)
    if arguments.json:
        print(as_json(steps))
    else:
        print(report.finish(), end="")
    return 1 if any(step.status == "failed" for step in steps) else 0


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _invalid(error: configuration.ConfigError) -> list[Step]:
    remedy = "correct the file; sensor-node check confirms when it is valid"
    return [
        Step("configuration", "failed", str(p), remedy)
        if p.line
        else from_sentence("configuration", "failed", f"{error.source} {p.message}")
        for p in error.problems
    ]


def _examine(config: Config, arguments: argparse.Namespace) -> Iterator[Step]:
    yield from _configuration(config, simulate=arguments.simulate)
    state_dir = find_state_dir(arguments.state_dir)
    own_id = config.mqtt.client_id or client_id(config.mqtt.base_topic, config.node.name)
    node = find_our_node(state_dir, own_id)
    user = node_user(node.process, state_dir)
    yield from check_our_node(node, config)
    topics = Topics(config.mqtt.base_topic, config.node.name)
    yield from _broker_steps(config, topics, node)
    written = (config.source, TIMESYNC, state_dir / FILE_NAME, Path(__file__))
    yield check_clock(SystemClock(), written)
    yield check_disk(state_dir, user)
    yield from check_files(config, user)
    board = open_board(config, simulate=arguments.simulate)
    yield check_supply(board)
    yield from check_board(config, board, user, node_runs=node.process is not None)
    yield from check_sensors(config, board, node, SystemClock())
    yield from check_alarm_programs(config, user)


def _broker_steps(config: Config, topics: Topics, node: OurNode) -> Iterator[Step]:
    mqtt = config.mqtt
    if mqtt.password_command:
        try:
            password = password_of_command(mqtt.password_command)
        except ValueError as error:
            yield Step("login", "failed", str(error), "run the command by hand, as the node's user")
            return
        mqtt = msgspec.structs.replace(mqtt, password=password)
    moved_file = node.state_dir / MOVED_FILE_NAME
    broker = Broker(mqtt, topics, tls_context(mqtt.tls), moved_file)
    yield from check_broker(broker, _topic_list(config, topics, node), node)


def _configuration(config: Config, *, simulate: bool) -> Iterator[Step]:
    name = "configuration"
    sensors = count(config.sensors, "sensor")
    yield Step(name, "ok", f"{config.source} is valid: node {config.node.name}, {sensors}")
    for remark in config.remarks:
        yield Step(name, "ok", remark)
    for note in config.notes_for(simulate=simulate):
        yield from_sentence(name, "warning", note)


def _topic_list(config: Config, topics: Topics, node: OurNode) -> TopicList:
    device = device_id(node.state_dir)
    discovery = discovery_topic(config.homeassistant.prefix, device)
    # "..." stands for channels that are known only after the sensor was read.
    published = [topic for topic, _ in published_topics(config, device) if "..." not in topic]
    tried = {discovery}
    if config.homeassistant.apart:
        every = component_filter(config.homeassistant.prefix, device)
        tried = set(tried_components(config, device)) if config.homeassistant.enabled else set()
        published = [
            t for topic in published for t in (sorted(tried) if topic == every else [topic])
        ]
    # On Home Assistant's birth topic an empty message means neither online nor offline.
    tries = {topics.command_filter: topics.command(NO_COMMAND), discovery: ""}
    tries |= {topics.status: "", topics.health: ""}  # the node is listening
    return TopicList(
        published=tuple(published),
        history=topics.history,
        discovery=frozenset(tried),
        subscribed=tuple(
            TriedSubscription(s.topic, tries.get(s.topic, s.topic))
            for s in subscriptions(config, device)
        ),
        stream=node.stream,
    )
