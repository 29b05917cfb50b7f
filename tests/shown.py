"""The outputs that the documents show: made again by the commands in them, and compared.

    tests/.venv/bin/python tests/shown.py [DOCUMENT...]     print what differs
    tests/.venv/bin/python tests/shown.py --write           ... and put it into the documents

A block of a document is made by its setting, which a comment before it names:

    <!-- output: running; values -->
    ```
    $ sensor-node status --config node.toml --state-dir state
    node     greenhouse, runs as process 412
    ...
    ```

`...` stands for any lines. Times, ports, process ids and ids never count, nor does the width of
columns; after the setting, `values` says that numbers do not, `any order` that the lines may come
in another order, and `screen` that the command is shown in a terminal of 80 x 24. A block that
cannot be run says why: `<!-- not run: REASON -->`.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from support import PATIENCE_S, Mosquitto, NodeProcess, Subscriber, end, replaced, wait_until
from terminal import Terminal
from web_support import WebProcess

# ruff: noqa: T201

__all__ = ["DOCUMENTS", "ROOT", "SETTINGS", "Block", "Settings", "blocks_of", "difference"]

ROOT = Path(__file__).parent.parent
_FOLDERS = ("deploy", "drivers", "node", "tests", ".github")
DOCUMENTS = sorted(
    str(file.relative_to(ROOT))
    for file in [
        ROOT / "README.md",
        *(f for folder in _FOLDERS for f in ROOT.glob(f"{folder}/**/*.md")),
    ]
    if not {".venv", ".installed"} & set(file.parts)
)
_CONFIGURATION = ROOT / "node" / "commands" / "README.md"
_GOES_ON = ("demo", "run", "watch", "web")
_BLOCK = re.compile(r"^(?:<!-- (.*?) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

_ALWAYS = (
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?[Z?]?", "TIME"),
    (r"\b\d\d:\d\d:\d\d\b", "TIME"),
    (r"(?<=[\w ]):\d{4,5}\b", ":PORT"),
    (r"\bsn[0-9a-f]{12,20}\b", "ID"),
    (r"\b(?=[a-f]*\d)[0-9a-f]{8,16}\b", "ID"),
    (r'(process"?[: ]) ?\d+', r"\1 PID"),
    (r"(may be (?:read|used) by) [\w-]+", r"\1 USER"),
    (r"\(\d+ ms\)", "(# ms)"),
    (r"[ \t]{2,}", "  "),
)
_VALUES = (
    (r"(?<![±\w.-])-?\d+(\.\d+)?(?= ?(?:(?:°[CF]|K|hPa|ppm|V|s|m|h|d|ms|readings?)\b|%))", "#"),
    (r"(?<=[\w:\[}] )-?\d+(\.\d+)?(?=,|  |\)|$)|(?<=[:\[])-?\d+(\.\d+)?(?=[,}\]])", "#"),
    (r'(?<="rate": )\d+', "#"),
    (r"# readings?", "# readings"),
    (r"(?<=from )-?\d+(\.\d+)?", "#"),
    (r"\d+ of \d+ reads", "# of # reads"),
    (r"\bseq \d+|\b\d+ missing", "seq #"),
    (r"[▁▂▃▄▅▆▇█]+", "TREND"),
    (r"#[hm](?: #[ms])?|(?<=  )\?(?=  )", "#s"),
    (r"\b(un)?synced\b", "CLOCK"),
    (r"[ \t]{2,}", "  "),
)


@dataclass(frozen=True)
class Block:
    """A fenced block, and what the comment before it says."""

    document: str
    line: int
    comment: str
    language: str
    text: str
    start: int
    """Where `text` begins in the document."""

    @property
    def setting(self) -> str:
        """The name of the setting that makes it; "" if it is not run."""
        kind, _, rest = self.comment.partition(": ")
        return rest.split(";")[0].strip() if kind == "output" else ""

    @property
    def words(self) -> set[str]:
        return {word.strip() for word in self.comment.partition(";")[2].split(",")} - {""}

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks_of(document: str) -> list[Block]:
    text = (ROOT / document).read_text()
    return [
        Block(document, text.count("\n", 0, m.start(3)), m[1] or "", m[2], m[3], m.start(3))
        for m in _BLOCK.finditer(text)
    ]


def masked(text: str, words: set[str]) -> list[str]:
    """The lines, with what may differ each time replaced."""
    for pattern, name in (*_ALWAYS, *(_VALUES if "values" in words else ())):
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return [line.rstrip() for line in text.strip("\n").splitlines()]


def fits(shown: str, real: str, words: set[str], *, more: bool = False) -> bool:
    """Whether a command prints what is shown; with `more`, possibly more after it."""
    wanted, got = masked(shown, words), masked(real, words)
    if "any order" in words:
        return sorted(wanted) == sorted(got[: len(wanted)] if more else got)
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\n" for line in wanted
    )
    lines = "".join(line + "\n" for line in got)
    return bool(re.match(pattern, lines) if more else re.fullmatch(pattern, lines))


def like(example: Any, real: Any) -> bool:
    """Whether an answer is as a JSON example: the same keys and kinds, and the same words.

    Each item of a list of the example has its like in the answer's.
    """
    if isinstance(example, dict):
        return (
            isinstance(real, dict)
            and list(example) == list(real)
            and all(like(*in_common(key, example[key], real[key])) for key in example)
        )
    if isinstance(example, list):
        return isinstance(real, list) and all(any(like(e, r) for r in real) for e in example)
    if isinstance(example, str) and isinstance(real, str):
        number = re.compile(r"-?\d+(\.\d+)?")
        if number.fullmatch(example):
            return number.fullmatch(real) is not None
        return masked(example, {"values"}) == masked(real, {"values"})
    if isinstance(example, bool) or isinstance(real, bool):
        return example is real
    kinds = (int, float, type(None))  # what is not known yet is null
    return isinstance(example, kinds) and isinstance(real, kinds)


def in_common(key: str, example: Any, real: Any) -> tuple[Any, Any]:
    """Both values; of a sensor's accuracy those channels that have a value in both just now."""
    if key != "accuracy" or not (isinstance(example, dict) and isinstance(real, dict)):
        return example, real
    names = [name for name in example if name in real]
    return {name: example[name] for name in names}, {name: real[name] for name in names}


class Setting:
    """A folder in which commands are typed, with the program on the path."""

    tries = 1
    """How often a command is typed: what a node knows changes, and its outbox is empty at times."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0

    def close(self) -> None:
        pass

    def make(self, block: Block) -> str:
        """The block anew: each command of it, and what it prints now."""
        parts = re.split(r"^\$ (.*(?:\\\n.*)*)\n", block.text, flags=re.MULTILINE)[1:]
        if not parts:
            raise ValueError(f"{block}: no line of it is a command, as in `$ sensor-node check`")
        made = ""
        for command, shown in zip(parts[::2], parts[1::2], strict=True):
            sudo = command.startswith("sudo ")
            for _ in range(self.tries):
                printed = self._print(
                    command.removeprefix("sudo "), shown, block.words, service=sudo
                )
                if fits(shown, printed, block.words):
                    break
            made += f"$ {command}\n{shown if fits(shown, printed, block.words) else printed}"
        return made

    def _print(self, command: str, shown: str, words: set[str], *, service: bool) -> str:
        """What the command prints; with `service`, on the service's configuration and log."""
        if command.startswith("mosquitto_rr "):
            return request(self.port, shlex.split(command))
        typed = command.replace("--host 192.168.1.10", f"--host 127.0.0.1 --port {self.port}")
        typed = typed.replace("sensor-node web", "sensor-node web --port 0")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        config = self.folder / "node.toml" if service else "/nonexistent"
        env = {**os.environ, "PATH": path, "SENSOR_NODE_CONFIG": str(config)}
        if service:
            env["STATE_DIRECTORY"] = str(self.folder / "state")
        goes_on = re.search(rf"sensor-node ({'|'.join(_GOES_ON)})\b", typed) is not None
        if "screen" in words:
            return self._on_screen(typed, shown, words, path)
        with subprocess.Popen(
            ["bash", "-c", f"exec {typed}" if "|" not in typed else typed],
            cwd=self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            lines: list[str] = []
            source = process.stdout
            reader = threading.Thread(target=lambda: lines.extend(source), daemon=True)
            reader.start()
            with contextlib.suppress(AssertionError):
                wait_until(
                    lambda: (
                        process.poll() is not None
                        or (goes_on and fits(shown, self._there(lines), words, more=True))
                    ),
                    PATIENCE_S if goes_on else 3 * PATIENCE_S,
                )
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            end(process)
            reader.join(PATIENCE_S)
        printed = self._there(lines)
        return shown if goes_on and fits(shown, printed, words, more=True) else printed

    def _on_screen(self, typed: str, shown: str, words: set[str], path: str) -> str:
        terminal = Terminal("bash", "-c", f"cd {self.folder}; exec {typed}", PATH=path)
        try:
            with contextlib.suppress(AssertionError):
                wait_until(lambda: fits(shown, self._there([terminal.text]), words), 3 * PATIENCE_S)
            return self._there([terminal.text.rstrip("\n") + "\n"])
        finally:
            terminal.close()

    def _there(self, lines: list[str]) -> str:
        """What is printed, with the places of the documents."""
        text = "".join(lines).replace(f"127.0.0.1:{self.port}", "192.168.1.10:1883")
        text = text.replace("127.0.0.1 is an address", "192.168.1.10 is an address")
        return text.replace(str(self.folder / "state"), "/var/lib/sensor-node")


def indented(value: Any, margin: str = "") -> str:
    """JSON, with what fits on a line of 100 on one."""
    line = json.dumps(value, ensure_ascii=False)
    if len(margin + line) <= 96 or not isinstance(value, dict | list):
        return line
    inner = margin + "  "
    if isinstance(value, list):
        parts = [indented(item, inner) for item in value]
    else:
        parts = [f"{json.dumps(key)}: {indented(item, inner)}" for key, item in value.items()]
    left, right = "[]" if isinstance(value, list) else "{}"
    return f"{left}\n{inner}" + f",\n{inner}".join(parts) + f"\n{margin}{right}"


def request(port: int, command: list[str]) -> str:
    """What `mosquitto_rr -V 5 -t TOPIC -e RESPONSE_TOPIC -m PAYLOAD` prints."""
    given = dict(zip(command[1::2], command[2::2], strict=True))
    listener = Subscriber(port, given["-e"])
    try:
        asked = Properties(PacketTypes.PUBLISH)
        asked.ResponseTopic = given["-e"]
        listener.client.publish(given["-t"], given["-m"], 1, properties=asked)
        wait_until(lambda: listener.on(given["-e"]))
        return listener.on(given["-e"])[0] + "\n"
    finally:
        listener.close()


class Configured(Setting):
    """There is a broker, and the configuration of node/commands/README.md as node.toml."""

    def __init__(self, folder: Path, *broker_lines: str) -> None:
        super().__init__(folder)
        self.broker = Mosquitto(folder, *broker_lines).start()
        self.port = self.broker.port
        (config,) = [
            block.text
            for block in blocks_of(str(_CONFIGURATION.relative_to(ROOT)))
            if block.language == "toml" and "[mqtt]" in block.text
        ]
        here = f'host = "127.0.0.1"\nport = {self.port}'
        self.config = replaced(config, ('host = "192.168.1.10"', here))
        (folder / "node.toml").write_text(self.config)

    def close(self) -> None:
        self.broker.stop()


class Running(Configured):
    """The node runs, with its page; another one, `cellar`, has died."""

    tries = 5

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with contextlib.ExitStack() as ends:
            ends.callback(super().close)
            (folder / "cellar").mkdir()
            name = ('name = "greenhouse"', 'name = "cellar"')
            dead = NodeProcess(folder / "cellar", replaced(self.config, name), "--simulate")
            ends.callback(dead.kill)
            self.page = WebProcess(folder / "state", config=self.config)
            ends.callback(self.page.kill)
            node = NodeProcess(folder, self.config, "--simulate")
            ends.callback(node.kill)
            subscriber = Subscriber(self.port)
            ends.callback(subscriber.close)
            for sensor in ("air", "box", "cpu", "tank"):
                subscriber.wait_for(f"sensors/cellar/{sensor}/availability", "online")
            dead.kill()
            subscriber.wait_for("sensors/cellar/status", "offline")
            wait_until(self._has_met_its_faults)
            self._ends = ends.pop_all()

    def _has_met_its_faults(self) -> bool:
        """Whether the page counts the spike, and misses the sensor that was unplugged."""
        sensors = {sensor["id"]: sensor for sensor in self.page.get("/api/v1/now").json["sensors"]}
        return (
            len(sensors) == 4
            and bool(sensors["air"]["rejected_for"])
            and sensors["tank"]["state"] == "offline"
        )

    def make(self, block: Block) -> str:
        before = (ROOT / block.document).read_text()[: block.start]
        if block.language == "json":
            path = re.findall(r"`GET (/\S+?)`", before)[-1]
            answer = self.page.get(path).json
            if like(json.loads(block.text), answer):
                return block.text
            return indented(answer) + "\n"
        if "metrics" in block.words:
            real = self.page.get("/metrics").text
            return "".join(f"{line}\n" for line in real.splitlines() if line[0] != "#")
        return super().make(block)

    def close(self) -> None:
        self._ends.close()


class Mistaken(Setting):
    """The configuration has three mistakes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "node.toml").write_text(
            '[node]\nname = "greenhouse"\n[mqtt]\nhots = "192.168.1.10"\n'
            '[[sensor]]\nid = "air"\ndriver = "dht23"\npin = 23\n'
        )


class Denied(Configured):
    """The broker's ACL denies a topic, and the node has stopped."""

    def __init__(self, folder: Path) -> None:
        acl = folder / "acl"
        acl.write_text("topic deny sensors/greenhouse/air/state\ntopic readwrite #\n")
        super().__init__(folder, f"acl_file {acl}")
        node = NodeProcess(folder, self.config, "--simulate")
        try:
            node.wait_for_log("air (dht22): online")
            node.terminate()
        finally:
            node.kill()


SETTINGS: dict[str, type[Setting]] = {
    "nothing": Setting,
    "mistaken": Mistaken,
    "configured": Configured,
    "denied": Denied,
    "running": Running,
}


class Settings:
    """Each setting is set up when the first block needs it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Setting] = {}

    def of(self, name: str) -> Setting:
        if name not in self._made:
            (self._folder / name).mkdir()
            self._made[name] = SETTINGS[name](self._folder / name)
        return self._made[name]

    def make(self, block: Block) -> str:
        return self.of(block.setting).make(block)

    def close(self) -> None:
        for setting in self._made.values():
            setting.close()


def difference(block: Block, made: str) -> str:
    """How what was made differs from what is shown; "" if it does not, but for what may."""
    if fits(block.text, made, block.words):
        return ""
    old, new = masked(block.text, block.words), masked(made, block.words)
    lines = difflib.unified_diff(old, new, str(block), "is printed", lineterm="", n=1)
    return "\n".join(list(lines)[:60])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("document", nargs="*", default=DOCUMENTS)
    parser.add_argument("--write", action="store_true", help="put it into the documents")
    arguments = parser.parse_args()
    differing = 0
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        made_by = Settings(Path(folder))
        try:
            for document in arguments.document:
                for block in reversed([b for b in blocks_of(document) if b.setting]):
                    made = made_by.make(block)
                    if found := difference(block, made):
                        differing += 1
                        print(found)
                        if arguments.write:
                            text = (ROOT / document).read_text()
                            end_of_it = block.start + len(block.text)
                            text = text[: block.start] + made + text[end_of_it:]
                            (ROOT / document).write_text(text)
        finally:
            made_by.close()
    return differing > 0


if __name__ == "__main__":
    sys.exit(main())
