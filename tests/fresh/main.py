"""`tests/fresh/run`, once mmdebstrap is installed: unpacks, runs every step, tells what failed.

What is typed is taken from README.md, and from what a script tells an ordinary user to type.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from root import USER, Done, Root

# ruff: noqa: T201

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "/var/cache")) / "sensor-node"
DEBIANS = {"bookworm": "Debian 12", "trixie": "Debian 13"}
ROOM_BYTES = 6 << 30
LIMIT_S = 3600
LOGS_KEPT = 10

# In the short form: one file for each program that a pristine system has not.
FIRST_TESTS = (
    *("test_demo", "test_brokers", "test_completion", "test_doctor_board", "test_security"),
    *("test_web_browser",),
)
PREPARATIONS = (
    "tests/boot/prepare",
    "deploy/build-image --prepare",
    "tests/service/run --prepare",
    "tests/kernel/run",
    "tests/homeassistant/run --prepare",
    "tests/bench/run --prepare",
    "tests/armhf/run --prepare",
)


class NotRun(Exception):
    """Nothing can be said: why."""


@dataclass(frozen=True)
class Result:
    step: str
    suite: str
    who: str
    seconds: float
    problem: str
    """Empty: it did what it should."""
    log: Path


class Round:
    """The steps in the Debians that are asked for."""

    def __init__(self, work: Path, logs: Path, results: list[Result], *, short: bool) -> None:
        """`results`: where it writes what came of each step."""
        self._work = work
        self._logs = logs
        self._short = short
        self._results = results
        self._prerequisites, self._demo, self._tests = what_the_readme_says()
        self._bundle = work / "sensor-node.bundle"
        git = ["git", "-C", str(CHECKOUT), "bundle", "create", "-q", str(self._bundle), "HEAD"]
        if subprocess.run(git, check=False).returncode != 0:
            raise NotRun("this is no clone of the repository that git can read")

    def run(self, suite: str) -> None:
        make = [str(CHECKOUT / "tests/root_tar"), suite, *self._prerequisites]
        made = subprocess.run(make, stdout=subprocess.PIPE, text=True, check=False)
        if made.returncode != 0:
            raise NotRun(f"no root file system of {suite} can be made")
        tar = Path(made.stdout.strip())
        if self._short:
            with self._root(suite, tar) as root:
                self._refusal(suite, root)
                self._readme(suite, root, "root")
                for command in PREPARATIONS:
                    self._step(command, suite, root, "root", command)
            return
        for command in PREPARATIONS:
            with self._root(suite, tar) as root:
                self._step(command, suite, root, "root", command)
        with self._root(suite, tar) as root:
            named = self._refusal(suite, root)
            if named:
                # As with `sudo`, and somebody who says yes.
                answer = f'sudo() {{ "$@"; }}; yes 2>/dev/null | {{ {named}; }}'
                self._step("what it names, typed", suite, root, "root", answer)
                self._readme(suite, root, USER)
        with self._root(suite, tar) as root:
            self._readme(suite, root, "root")

    @contextmanager
    def _root(self, suite: str, tar: Path) -> Iterator[Root]:
        root = Root(self._work / suite, tar, self._bundle)
        try:
            yield root
        finally:
            root.remove()

    def _readme(self, suite: str, root: Root, who: str) -> None:
        self._step("README: the demo", suite, root, who, self._demo, until=shows_readings)
        tests = self._tests
        if self._short:
            tests += "".join(f" tests/{name}.py" for name in FIRST_TESTS) + " -n 6"
        self._step("README: the tests", suite, root, who, tests)

    def _refusal(self, suite: str, root: Root) -> str:
        """What a user who may install nothing is told to type; empty: nothing."""
        told: list[str] = []

        def judge(done: Done) -> str:
            told.extend(re.findall(r"^ +(sudo apt-get .*)$", done.output, re.MULTILINE))
            if done.exit_code == 0:
                return "it went on, though packages are missing"
            return "" if len(told) == 1 else "it does not say what to type"

        self._step("README: the tests, refused", suite, root, USER, self._tests, judge=judge)
        return told[0] if told else ""

    def _step(
        self,
        step: str,
        suite: str,
        root: Root,
        who: str,
        command: str,
        *,
        until: Callable[[str], bool] | None = None,
        judge: Callable[[Done], str] | None = None,
    ) -> None:
        number = len(self._results) + 1
        name = re.sub(r"\W+", "-", step).strip("-")
        log = self._logs / f"{number:02}-{suite}-{'root' if who == 'root' else 'user'}-{name}.log"
        print(f"{DEBIANS[suite]}, {who}: {command}", flush=True)
        with binary_formats_as_before():
            done = root.run(who, command, log, limit_s=LIMIT_S, until=until)
        if done.exit_code is None:
            problem = f"it has not ended within {LIMIT_S} s"
        elif judge is not None:
            problem = judge(done)
        else:
            problem = f"exit code {done.exit_code}" if done.exit_code else ""
        if until is not None and not problem and not until(done.output):
            problem = "it has shown no readings"
        left = [line for line in done.left if not is_allowed(line)]
        if left and not problem:
            problem = "; ".join(["it left behind", *left[:3], *(["..."] if len(left) > 3 else [])])
        result = Result(step, suite, who, done.seconds, problem, log)
        self._results.append(result)
        said = re.findall(r"^=+ (.*(?:passed|failed|error).*) =+$", done.output, re.MULTILINE)
        words = [f"FAILED: {problem}: {log}" if problem else "ok", *said, f"{done.seconds:.0f} s"]
        print("    " + ", ".join(words), flush=True)
        if problem and until is None:  # a terminal's screens are not lines
            print("    " + "\n    ".join(done.output.splitlines()[-20:]), flush=True)


def what_the_readme_says() -> tuple[list[str], str, str]:
    """The packages that must be there, and the first two commands: the demo, and the tests."""
    text = (CHECKOUT / "README.md").read_text()
    named = re.search(r"\(Debian 12 or 13 with ([^;)]*);", text)
    if named is None:
        raise NotRun("README.md no longer says what must be there: `(Debian 12 or 13 with ...;`")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    if len(blocks) < 2:
        raise NotRun("README.md has no two commands: blocks of ```sh")
    demo, tests = (block.strip() for block in blocks[:2])
    if not demo.endswith("sensor-node demo") or "tests" not in tests:
        raise NotRun(f"README.md begins with other commands than are run here: {demo}; {tests}")
    return re.split(r",\s+|\s+and\s+", named[1]), demo, tests


def shows_readings(output: str) -> bool:
    """Of most of the demo's sensors; its table is written without ends of lines."""
    return len(set(re.findall(r"(demo/\w+) [^/]{,130}online", output))) >= 4


def is_allowed(line: str) -> bool:
    """pytest keeps its folder of folders."""
    return line.startswith("file /tmp/pytest-of-")


@contextmanager
def binary_formats_as_before() -> Iterator[None]:
    """A build's emulator is known to the kernel; here it goes again, with the root it lies in."""
    before = binary_formats("")
    try:
        yield
    finally:
        for name in binary_formats("") - before:
            binary_formats(name)


def binary_formats(forget: str) -> set[str]:
    """Names of those that this kernel knows, after one has been forgotten."""
    folder = "/proc/sys/fs/binfmt_misc"
    script = f"mount -t binfmt_misc binfmt_misc {folder} || exit 0; "
    if forget:
        script += f"echo -1 >{folder}/{shlex.quote(forget)}; "
    mount = ["unshare", "--mount", "sh", "-c", f"{script} ls {folder}"]
    shown = subprocess.run(mount, capture_output=True, text=True, check=False)
    return set(shown.stdout.split()) - {"register", "status"}


@contextmanager
def room() -> Iterator[Path]:
    """A folder for a root file system: in memory where that is large, else on the disk.

    Ten thousands of files are made and removed, which a disk with `discard` takes minutes for.
    """
    with tempfile.TemporaryDirectory(prefix="sensor-node-fresh-", dir="/var/tmp") as name:
        (kb,) = re.findall(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
        if int(kb) << 10 < 2 * ROOM_BYTES:
            Path(name).chmod(0o755)
            if shutil.disk_usage(name).free < ROOM_BYTES:
                raise NotRun(f"/var/tmp has less than {ROOM_BYTES >> 30} GB of room")
            yield Path(name)
            return
        options = f"mode=755,size={ROOM_BYTES}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", name], check=True)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "--lazy", name], check=True)


def show(results: list[Result]) -> None:
    """The table, and where to read of what failed."""
    columns = sorted({(DEBIANS[r.suite], "root" if r.who == "root" else "user") for r in results})
    heads = [f"{debian} {who}" for debian, who in columns]
    print("\n" + "".join([f"{'step':36}", *(f"{head:>16}" for head in heads)]))
    for step in dict.fromkeys(r.step for r in results):
        cells = []
        for debian, who in columns:
            found = [
                r
                for r in results
                if r.step == step
                and DEBIANS[r.suite] == debian
                and ("root" if r.who == "root" else "user") == who
            ]
            word = (
                f"{'FAILED' if found[0].problem else 'ok'} {found[0].seconds:.0f} s"
                if found
                else "-"
            )
            cells.append(f"{word:>16}")
        print(f"{step:36}" + "".join(cells))
    for r in results:
        if r.problem:
            print(f"FAILED: {DEBIANS[r.suite]}, {r.who}, {r.step}: {r.problem}\n    {r.log}")


def new_folder_of_logs() -> Path:
    everything = CACHE / "fresh-logs"
    logs = everything / time.strftime("%Y-%m-%dT%H.%M.%S")
    logs.mkdir(parents=True)
    for old in sorted(everything.iterdir())[:-LOGS_KEPT]:
        shutil.rmtree(old)
    return logs


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/fresh/run", description=__doc__)
    parser.add_argument("suites", metavar="SUITE", nargs="*", help=" or ".join(DEBIANS))
    parser.add_argument("--short", action="store_true", help="at most ten minutes; one Debian")
    arguments = parser.parse_args()
    if unknown := set(arguments.suites) - set(DEBIANS):
        parser.error(f"no Debian is called {', '.join(unknown)}; there are {', '.join(DEBIANS)}")
    suites = arguments.suites or (["trixie"] if arguments.short else list(DEBIANS))
    # As after Ctrl+C: nothing is left. And in a script's background too, where it is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    logs = new_folder_of_logs()
    results: list[Result] = []
    code = 0
    try:
        with room() as work:
            a_round = Round(work, logs, results, short=arguments.short)
            for suite in suites:
                a_round.run(suite)
    except NotRun as error:
        print(f"\nNOT RUN: tests/fresh: {error}", file=sys.stderr)
        print("NOTHING WAS PROVED but what is below, if anything.", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("\ntests/fresh: interrupted", file=sys.stderr)
        code = 130
    if results:
        show(results)
    print(f"logs: {logs}")
    return code or int(any(r.problem for r in results))


if __name__ == "__main__":
    sys.exit(main())
