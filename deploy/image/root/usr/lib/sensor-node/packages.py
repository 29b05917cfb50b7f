"""Installs the owner's packages, wheels in the folder `packages` of the FAT partition, at a start.

    /var/lib/sensor-node-packages/1f3a5c70.../     a set of wheels, installed
    /var/lib/sensor-node-packages/current -> ...   the set in use; the node's Python looks there
    /var/lib/sensor-node-packages/trial.json       it is new, and on trial

It needs no network: what the packages need lies in the same folder. A set is only put in place if
all drivers can be loaded with it, by the node's user. Then it is on trial, and `--judge` watches
the node: if it does not stay up, or a sensor does not read any more that did before, the set before
is in place again. A set that was refused is not tried again, and status.txt says why.

Runs as root; what is in the packages runs as the node's user.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # python3 -I leaves it out

from card import BOOT, PACKAGE_PROBLEMS
from devices import settings_for
from node_watch import AS_USER, SERVICE, Before, look_before, run, systemctl, watch
from safe_files import write_file

__all__ = ["install_packages", "judge"]

# ruff: noqa: T201

FOLDER = BOOT / "packages"
STORE = Path("/var/lib/sensor-node-packages")
SETTINGS = PACKAGE_PROBLEMS.with_name("packages.conf")
"""The drop-in of sensor-node.service for the devices of the packages; its unit puts it in place."""
PYTHON = "/opt/sensor-node/bin/python3"
PIPS = Path("/usr/share/python-wheels")
_RUN = (
    "import sys; sys.path.append(sys.argv.pop(1)); from node.cli.main import main; sys.exit(main())"
)

WITHIN_S = 180.0
MOST_TRIALS = 3
"""How often a trial is begun again after a power cut."""


class Refused(Exception):
    """The wheels are not used; the message says why."""


def main() -> int:
    """Install, or with --judge end the trial; a problem is for status.txt, not for systemd."""
    problems = [judge()] if sys.argv[1:] == ["--judge"] else install_packages()
    if problems != [""]:
        for problem in problems:
            print(problem, file=sys.stderr)
        write_file(PACKAGE_PROBLEMS, json.dumps(problems).encode(), mode=0o644)
    return 0


def install_packages() -> list[str]:
    """Bring the set in use up to date with the wheels on the card. Return what is wrong."""
    problems: list[str] = []
    try:
        wheels = sorted(FOLDER.glob("*.whl"))
        digest = _digest(wheels)
        trial = _read("trial.json")
        if trial and trial["candidate"] == digest:
            _begin_again(trial)
        elif digest != _current():
            _change_to(digest, wheels)
    except Refused as refusal:
        problems.append(f"packages: {refusal}")
    except OSError as error:
        problems.append(f"packages: {error.filename or ''}: {error.strerror}")
    settings = STORE / _current() / "devices.conf"
    text = settings.read_text(encoding="utf-8") if settings.is_file() else ""
    write_file(SETTINGS, text.encode(), mode=0o644)
    return problems


def judge() -> str:
    """Watch the node with the packages on trial; return why they were taken out again, or ""."""
    trial = _read("trial.json")
    if not trial:
        return ""
    # Packages have nothing to do with the broker.
    wrong = watch(Before(trial["online"], connected=False), WITHIN_S)
    if not wrong:
        (STORE / "trial.json").unlink()
        _forget_but(_current())
        return ""
    why = _undo(trial, wrong)
    systemctl("restart", SERVICE)
    return why


def _digest(wheels: list[Path]) -> str:
    """Return a name for this set of wheels; "" for none."""
    digest = hashlib.sha256()
    for wheel in wheels:
        digest.update(f"{wheel.name}\0".encode() + wheel.read_bytes())
    return digest.hexdigest()[:16] if wheels else ""


def _current() -> str:
    try:
        return (STORE / "current").readlink().name
    except OSError:
        return ""


def _change_to(digest: str, wheels: list[Path]) -> None:
    """Put another set in place, on trial; or none, if there are no wheels any more.

    Raises:
        Refused: the set cannot be used.
    """
    (STORE / "trial.json").unlink(missing_ok=True)
    refused = _read("refused.json")
    if digest and refused.get("set") == digest:
        raise Refused(f"{refused['why']}; replace the wheels in the folder packages")
    if not digest:
        _switch_to("")
        _forget_but()
        return
    try:
        _install(STORE / digest, wheels)
    except Refused as refusal:
        _write("refused.json", {"set": digest, "why": str(refusal)})
        raise
    online = look_before().online
    trial = {"candidate": digest, "previous": _current(), "begun": 1, "online": online}
    _write("trial.json", trial)
    _switch_to(digest)


def _install(target: Path, wheels: list[Path]) -> None:
    """Install the wheels into a folder of their own, and load every driver with them."""
    new = STORE / "new"
    shutil.rmtree(new, ignore_errors=True)
    command = [*_pip(), "install", "--no-index", "--no-deps", "--no-cache-dir", "--quiet"]
    command += ["--disable-pip-version-check", "--target", str(new)]
    done = run(*command, *map(str, wheels))
    if done.returncode != 0:
        raise Refused(f"pip does not install them: {_last_line(done.stderr)}")
    # The node's user has to read it, and nobody but root may write it.
    run("chmod", "-R", "u=rwX,go=rX", str(new))
    loaded = run(*AS_USER, PYTHON, "-I", "-c", _RUN, str(new), "drivers", "--json")
    if loaded.returncode != 0:
        raise Refused(f"a driver cannot be loaded: {_last_line(loaded.stderr)}")
    try:
        settings = settings_for(json.loads(loaded.stdout))
    except ValueError as error:
        raise Refused(str(error)) from error
    write_file(new / "devices.conf", settings.encode(), mode=0o644)
    shutil.rmtree(target, ignore_errors=True)
    run("sync", "--file-system", str(new))
    new.rename(target)


def _pip() -> list[str]:
    """Return the command of Debian's pip, which python3-venv brings as a wheel."""
    wheels = sorted(PIPS.glob("pip-*.whl"))
    if not wheels:
        raise Refused("this image has no pip")
    return [PYTHON, "-I", f"{wheels[-1]}/pip"]


def _begin_again(trial: dict[str, Any]) -> None:
    """Go on with a trial that a power cut has interrupted, or give it up.

    Raises:
        Refused: it was interrupted too often.
    """
    if trial["begun"] >= MOST_TRIALS:
        raise Refused(_undo(trial, f"the trial was interrupted {MOST_TRIALS} times"))
    _write("trial.json", {**trial, "begun": trial["begun"] + 1})
    _switch_to(trial["candidate"])


def _undo(trial: dict[str, Any], wrong: str) -> str:
    why = f"they were taken out again: {wrong}"
    _write("refused.json", {"set": trial["candidate"], "why": why})
    _switch_to(trial["previous"])
    (STORE / "trial.json").unlink(missing_ok=True)
    _forget_but(trial["previous"])
    return f"packages: {why}"


def _switch_to(digest: str) -> None:
    """Switch in one step; "" is no set."""
    link, new = STORE / "current", STORE / ".current-new"
    if not digest:
        link.unlink(missing_ok=True)
        return
    new.unlink(missing_ok=True)
    new.symlink_to(digest)
    new.replace(link)


def _forget_but(*kept: str) -> None:
    for folder in STORE.iterdir():
        if folder.is_dir() and not folder.is_symlink() and folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def _read(name: str) -> dict[str, Any]:
    try:
        found = json.loads((STORE / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(name: str, content: dict[str, Any]) -> None:
    write_file(STORE / name, json.dumps(content).encode(), mode=0o600)


def _last_line(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it does not say why"


if __name__ == "__main__":
    sys.exit(main())
