"""The trial of a release: switch to it, watch the node, keep the release or go back.

    /opt/sensor-node/trial.json     a trial is under way, or will be
    /opt/sensor-node/verdict.json   the result of the newest one

`deploy/update` begins it and waits; `deploy/update --judge` judges it, in a process of its own that
systemd starts, starts again after a crash, and starts after a power cut. The two share these files.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from typing import Any

from update_parts import paths
from update_parts.releases import current, forget_releases_but, open_devices, switch_to
from update_parts.staged import drop_request, write_report
from update_parts.system import (
    JUDGE,
    PAGE,
    SERVICE,
    Impossible,
    as_user,
    say,
    service_state,
    sync_folder,
    systemctl,
    write,
)

__all__ = ["LOOK_EVERY_S", "MOST_TRIALS", "begin", "judge", "last_verdict"]

MOST_RESTARTS = 3
MOST_TRIALS = 3
"""How often a trial is started again after the computer or the judge has died during it."""
LOOK_EVERY_S = 3.0


def begin(name: str, *, within_s: int, settle_s: int, request: str = "") -> int:
    """Put the release on trial, and wait for the verdict; return the exit code.

    It has to be healthy after `within_s`, and to stay so for `settle_s`. `request`: the id of the
    node's request, if there is one.
    """
    before = current()
    if not before or systemctl("is-active", SERVICE).strip() != "active":
        switch_to(name)
        forget_releases_but(name, before)
        why_not = ", but is untested: the service is not running" if before else ""
        say(f"{name} is in place{why_not}")
        if request:
            drop_request(paths.STATE)
            write_report(paths.STATE, request, "kept", f"{name} is in place{why_not}", name)
        return 0
    check_configuration(name)
    health = health_by(before) or {}
    online = [name for name, sensor in health.get("sensors", {}).items() if sensor["online"]]
    trial = {
        "candidate": name,
        "previous": before,
        "needs_reading": not health or bool(online),
        "online": online,
        "needs_broker": bool(health.get("connected")),
        "within_s": within_s,
        "settle_s": settle_s,
        "begun": 0,
        "undo": "",
        "request": request,
    }
    paths.VERDICT.unlink(missing_ok=True)
    write(paths.TRIAL, json.dumps(trial))
    if request:
        drop_request(paths.STATE)
        write_report(paths.STATE, request, "trial", f"{name} is on trial", name)
    wanted = ["the service up"]
    wanted += ["a reading committed"] if trial["needs_reading"] else []
    wanted += ["a value of each sensor that is read"] if online else []
    wanted += ["the broker reached"] if trial["needs_broker"] else []
    say(f"{name} is on trial for at most {within_s} s: {', '.join(wanted)}")
    say("(the trial continues if this session ends)")
    if subprocess.run(["systemctl", "start", JUDGE], check=False).returncode != 0:
        paths.TRIAL.unlink()
        raise Impossible(f"{JUDGE} cannot be started; {before} runs on")
    while paths.TRIAL.exists():
        time.sleep(0.2)
    verdict = json.loads(paths.VERDICT.read_text(encoding="utf-8"))
    say(verdict["text"])
    return 0 if verdict["kept"] else 1


def check_configuration(name: str) -> None:
    """Raise Impossible if the new version rejects the configuration."""
    program = str(paths.RELEASES / name / "bin" / "sensor-node")
    answer = as_user([program, "check", "--config", str(paths.CONFIG)])
    if answer.returncode != 0:
        raise Impossible(
            f"{name} rejects the configuration, so it was not put in place:\n"
            + (answer.stderr or answer.stdout).strip()
            + f"\n(a driver in a package of your own: name the package in {paths.PACKAGES})"
            * ("unknown driver" in answer.stderr)
        )


def judge() -> None:
    """Run the trial for sensor-node-update.service, or resume an interrupted one."""
    if not paths.TRIAL.exists():
        return
    trial = json.loads(paths.TRIAL.read_text(encoding="utf-8"))
    candidate, previous = trial["candidate"], trial["previous"]
    if not trial["undo"]:
        trial["begun"] += 1
        write(paths.TRIAL, json.dumps(trial))
        if trial["begun"] > MOST_TRIALS:
            trial["undo"] = f"its trial was interrupted {MOST_TRIALS} times"
        else:
            with contextlib.suppress(OSError):
                paths.NOTICE.unlink(missing_ok=True)
            run_release(candidate)
            trial["undo"] = watch(trial)
    if not trial["undo"]:
        forget_releases_but(candidate, previous)
        end_trial(trial, f"{candidate} is healthy, and stays", stays=True)
        return
    write(paths.TRIAL, json.dumps(trial))
    text = f"the update to {candidate} was undone: {trial['undo']}; {previous} runs again"
    write_notice(text)
    run_release(previous, wait=True)
    forget_releases_but(previous)
    end_trial(trial, text, stays=False)


def run_release(name: str, *, wait: bool = False) -> None:
    """Switch to the release, and start it; with `wait`, until it is up."""
    if current() != name:
        systemctl("stop", SERVICE)
        switch_to(name)
    else:
        open_devices(name)
    systemctl("reset-failed", SERVICE)
    systemctl("start", *(() if wait else ("--no-block",)), SERVICE)
    systemctl("try-restart", "--no-block", PAGE)


def watch(trial: dict[str, Any]) -> str:
    """Wait until the candidate stays healthy. Return "", or why it must not be kept."""
    end_s = time.monotonic() + trial["within_s"]
    healthy_since_s, process, restarts = 0.0, "", int(service_state()["NRestarts"])
    ended = ""
    while True:
        state = service_state()
        wrong = illness(trial, state)
        now_s = time.monotonic()
        if state["Result"] != "success":
            ended = wrong
        if state["ActiveState"] == "failed" or int(state["NRestarts"]) - restarts >= MOST_RESTARTS:
            return ended or f"the service does not stay up (restarted {MOST_RESTARTS} times)"
        if wrong or state["MainPID"] != process:
            healthy_since_s, process = now_s, state["MainPID"]
        if not wrong and now_s - healthy_since_s >= trial["settle_s"]:
            return ""
        if wrong and now_s >= end_s:
            return wrong
        time.sleep(LOOK_EVERY_S)


def illness(trial: dict[str, Any], state: dict[str, str]) -> str:
    """Return what is wrong with the running node; "" if nothing is."""
    if (state["ActiveState"], state["SubState"]) != ("active", "running"):
        if state["Result"] == "success":
            return "the service does not come up"
        how = f"{state['Result']}, exit code {state['ExecMainStatus']}"
        return f"the service does not stay up ({how})"
    health = health_by(trial["candidate"])
    if health is None or str(health.get("process")) != state["MainPID"]:
        return "it does not report its state (sensor-node status)"
    if trial["needs_reading"] and not health.get("committed"):
        return "it has not committed a reading"
    for name in trial.get("online", ()):  # an older `update` may have begun the trial
        sensor = health.get("sensors", {}).get(name, {})
        if sensor.get("failed") and not sensor.get("ok"):
            return f"the sensor {name} does not read any more ({sensor.get('last_error')})"
    if trial["needs_broker"] and not health.get("connected"):
        return f"it does not reach the broker ({health.get('broker')})"
    return ""


def health_by(name: str) -> dict[str, Any] | None:
    """Return the running node's health, from that release's `sensor-node status`."""
    program = str(paths.RELEASES / name / "bin" / "sensor-node")
    try:
        answer = as_user([program, "status", "--json", "--state-dir", str(paths.STATE)])
        health = json.loads(answer.stdout)["health"]
    except (subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return None
    return health if isinstance(health, dict) else None


def end_trial(trial: dict[str, Any], text: str, *, stays: bool) -> None:
    say(text)
    request = trial.get("request", "")  # an older `update` may have begun the trial
    write(paths.VERDICT, json.dumps({"kept": stays, "text": text, "request": request}))
    if request:
        state = "kept" if stays else "undone"
        write_report(paths.STATE, request, state, text, trial["candidate"])
    paths.TRIAL.unlink()
    sync_folder(paths.ROOT)


def last_verdict() -> dict[str, Any]:
    try:
        verdict: dict[str, Any] = json.loads(paths.VERDICT.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return verdict


def write_notice(text: str) -> None:
    try:
        write(paths.NOTICE, text + "\n")
    except OSError as error:
        say(f"{paths.NOTICE} cannot be written: {error}")
