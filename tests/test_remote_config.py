"""The configuration from afar: what is shown and what may be changed, and how it is tried."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.base import Options
from drivers.registry import driver_names, find_driver, is_built_in
from node.commands import run
from node.config import load as configuration
from node.config.afar import answer as answering
from node.config.afar import rules
from node.config.afar.hide import CannotHide, hide, restore
from node.config.afar.place import PlaceRequest, Refused, carry_out, request_placing
from node.config.afar.request import Answer, Request
from node.config.afar.rules import GUARDED_OPTIONS, refusals
from node.config.afar.trial import Baseline, Reply, Trial, TrialFile
from node.config.afar.values import scan
from node.config.reader import fields_of
from node.mqtt.events import Arrived, Outgoing
from node.remote_config import RemoteConfig
from node.system.clock import SystemClock

PRESENT = """\
# The greenhouse. pw of the Wi-Fi: sesame-1
[node]
name = "greenhouse"

[mqtt]
host = "192.168.1.10"  # the Pi in the cellar
username = "token-sesame-2"
password = "sesame-3"  # was: sesame-4 until May

[commands]
config = true

[homeassistant]
configuration_url = "http://ali:sesame-5@greenhouse/"

[web]
enabled = true
password = 'sesame-6'

[[sensor]]
id = "air"  # by the door
driver = "ble"
address = "A4:C1:38:00:00:01"
key = "5e5a3e00000000000000000000000007"

# sesame-3 again
[[sensor.channel.temperature.alarm]]
above = 30
exec = [
  "/usr/local/bin/on-alarm",  # a remark
  "--token=sesame-8",
]

[[sensor]]
id = "tank"
driver = "sysfs"
path = "/sys/x"
"""
SECRETS = [f"sesame-{number}" for number in (1, 2, 3, 4, 5, 6, 8)] + ["5e5a3e"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "node.toml"
    file.write_text(PRESENT)
    file.chmod(0o640)
    return file


def get(source: Path) -> Answer:
    return answering.answer(Request(str(source)))


def set_(source: Path, text: str, base: str = "") -> Answer:
    base = base or hashlib.sha256(source.read_bytes()).hexdigest()
    return answering.answer(Request(str(source), base, text))


def changed(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


# -- secrets


def test_no_secret_is_shown_and_all_else_is(source):
    shown = get(source)
    assert shown.sha256 == hashlib.sha256(PRESENT.encode()).hexdigest()
    assert not [secret for secret in SECRETS if secret in shown.text]
    for line in ('host = "192.168.1.10"  # the Pi in the cellar', 'id = "air"  # by the door'):
        assert line in shown.text
    assert tomllib.loads(shown.text)["sensor"][0]["address"] == "A4:C1:38:00:00:01"


def test_what_is_sent_back_as_it_was_shown_is_the_present_text(source):
    back = set_(source, get(source).text)
    assert (back.text, back.problems) == (PRESENT, [])


def test_a_change_keeps_comments_and_secrets(source):
    sent = changed(get(source).text, ("above = 30", "above = 25.5"))
    assert set_(source, sent).text == changed(PRESENT, ("above = 30", "above = 25.5"))


VALUES = st.sampled_from(
    [
        *('"x"', "'x'", '"""x\ny"""', "'''x'''", '"a\\"b"', "1", "-0.5", "true", "07:32:00", '""'),
        *("[]", '["a", "b"]', "[1,\n 2, # c\n]", "{a = 1, token = '#'}", '[{pw = "]"}, {b = 2}]'),
        *('"# no comment"', "'http://a:b@c'", '"/mqtt?token=1"', "1979-05-27 07:32:00Z"),
    ]
)
KEYS = st.sampled_from(["a", "b.c", '"d e"', "'f'.g", "password", "key", "api_token", "user.x"])
LINES = st.one_of(
    st.tuples(KEYS, VALUES, st.sampled_from(["", "  # pass", "#x", "\t"])).map(
        lambda parts: f"{parts[0]} = {parts[1]}{parts[2]}"
    ),
    st.sampled_from(["", "# a remark", "[t.u]", "[[list]]", "[list.in]", "[[ list . 'deep' ]]"]),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(LINES, max_size=8))
def test_any_text_comes_back_whole_and_shows_what_it_should(lines):
    """Whatever TOML it is: the scanner and `tomllib` agree on what is where."""
    text = "\n".join(lines)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    hidden = hide(text)
    assert restore(hidden.text, hidden).text == text
    shown = dict(leaves(tomllib.loads(hidden.text)))
    for path, value in shown.items():
        if {"password", "key", "api_token", "user", "token", "pw"} & set(path):
            assert str(value).startswith("(hidden"), path
    for span in scan(text):
        assert span.is_comment == text[span.start : span.end].startswith("#")
    if "pass" in str(document):
        assert hidden.secrets


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        if isinstance(inner, dict | list):
            yield from leaves(inner, (*path, key))
        else:
            yield (*path, key), inner


def test_a_text_whose_secrets_cannot_be_found_is_not_shown(monkeypatch):
    """Though the scanner should be wrong one day: what `tomllib` finds decides."""
    monkeypatch.setattr("node.config.afar.hide.scan", lambda _text: [])
    with pytest.raises(CannotHide):
        hide('[mqtt]\npassword = "x"\n')


@pytest.mark.parametrize(
    ("shown", "instead"),
    [
        ('name = "greenhouse"', 'name = "(hidden 3)"'),  # a secret would be a topic
        ('id = "air"', 'id = "(hidden 7)"'),
        ("above = 30", 'above = 30\nname = "(hidden 7)"'),
        ("# by the door", "# (hidden 3)"),
        ('path = "/sys/x"', 'path = "/sys/x"\nkey = "(hidden 999)"'),
        ('host = "192.168.1.10"', 'host = "(hidden 0)"'),
    ],
)
def test_a_placeholder_stands_for_nothing_elsewhere(source, shown, instead):
    result = set_(source, changed(get(source).text, (shown, instead)))
    assert result.error == "the text has a problem"
    assert "hides nothing of this number here" in result.problems[0].message
    assert not result.text


def test_the_key_of_a_sensor_that_is_renamed_stays(source):
    """And of one that has another place: only its number counts."""
    sent = changed(get(source).text, ('id = "air"  #', 'id = "door"  #'), ("exec = ", "# exec = "))
    result = set_(source, sent)
    assert result.problems == []
    assert tomllib.loads(result.text)["sensor"][0]["key"].startswith("5e5a3e")


def test_problems_have_the_lines_of_the_text_that_was_sent(source):
    """Those of `check`, though a secret has more lines than its placeholder."""
    shown = get(source).text
    sent = changed(shown, ("above = 30", "abov = 30"), ('path = "/sys/x"', 'pth = "/sys/x"'))
    problems = {p.line: p.message for p in set_(source, sent).problems}
    lines = sent.splitlines()
    assert "did you mean above?" in problems[lines.index("abov = 30") + 1]
    assert "did you mean path?" in problems[lines.index('pth = "/sys/x"') + 1]


@pytest.mark.parametrize("text", ["[mqtt", "", "\0", "a = 1\n[mqtt]\n", "[mqtt]\nhost = 3\n"])
def test_what_is_no_configuration_is_refused_with_its_problems(source, text):
    result = set_(source, text)
    assert result.problems
    assert not result.text


def test_a_stale_base_is_refused_and_names_the_present_one(source):
    shown = get(source)
    source.write_text(PRESENT + "# by hand\n")
    result = set_(source, shown.text, shown.sha256)
    assert "not based on the present configuration" in result.error
    assert result.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()


def test_nothing_is_shown_of_a_file_that_is_not_valid(source):
    """What is in a wrong place may be a secret."""
    source.write_text(PRESENT + 'passwrd = "sesame-3"\n')
    for result in (get(source), set_(source, PRESENT)):
        assert "not valid itself" in result.error
        assert result.problems
        assert "sesame" not in msgspec.json.encode(result).decode()


# -- what nobody may change from afar

PLAIN = """\
[mqtt]
host = "h"
[mqtt.tls]
[commands]
config = true
[web]
[[sensor]]
id = "air"
driver = "sysfs"
path = "/run/x"
power_pin = 5
[[sensor.channel.temperature.alarm]]
above = 30
exec = ["/bin/on"]
gpio = 22
[[sensor]]
id = "bus"
driver = "modbus"
port = "/dev/ttyUSB0"
[[sensor]]
id = "own"
driver = "of_another_package"
command = "true"
"""


@pytest.fixture
def other_packages(monkeypatch):
    monkeypatch.setattr(rules, "_has_others", lambda: True)


def refused(text: str, present: str = PLAIN) -> list[str]:
    found = refusals(tomllib.loads(present), tomllib.loads(text))
    return [".".join(map(str, path)) for path, _ in found]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('host = "h"', 'host = "evil"', "mqtt.host"),
        ('host = "h"', 'host = "h"\npassword_command = ["/bin/sh"]', "mqtt.password_command"),
        ('host = "h"', 'host = "h"\npassword_file = "/etc/shadow"', "mqtt.password_file"),
        ('host = "h"', 'host = "h"\nproxy = "http://evil:1"', "mqtt.proxy"),
        ('host = "h"', 'host = "h"\nbase_topic = "x"', "mqtt.base_topic"),
        ("[mqtt.tls]", "", "mqtt.tls"),
        ("[mqtt.tls]", '[mqtt.tls]\nca_file = "evil.crt"', "mqtt.tls"),
        ("config = true", "config = true\nconfig_broker = true", "commands.config_broker"),
        ("config = true", "", "commands.config"),
        ("config = true", "config = true\nallow = []", "commands.allow"),
        ("[web]", '[web]\nenabled = true\nhost = "0.0.0.0"', "web.enabled"),
        ("[web]", "[status_led]\npin = 17", "status_led.pin"),
        ("[web]", '[update]\nurl = "http://evil"', "update.url"),
        ("[web]", "[outbox]\nchain = true", "outbox.chain"),
        ("[web]", '[homeassistant]\nprefix = "x"', "homeassistant.prefix"),
        ("[web]", '[node]\nname = "x"', "node.name"),
        ('"/run/x"', '"/etc/shadow"', "sensor.0.path"),
        ('"/run/x"', '"/sys/../etc/shadow"', "sensor.0.path"),
        ("power_pin = 5", "power_pin = 6", "sensor.0.power_pin"),
        ('["/bin/on"]', '["/bin/sh", "-c", "x"]', "sensor.0.channel.temperature.alarm.0.exec"),
        ("gpio = 22", "gpio = 23", "sensor.0.channel.temperature.alarm.0.gpio"),
        ('"/dev/ttyUSB0"', '"/dev/ttyS0"', "sensor.1.port"),
        ('port = "/dev/ttyUSB0"', 'host = "10.0.0.1"', "sensor.1.host"),
        ('command = "true"', 'command = "evil"', "sensor.2"),
        ('driver = "sysfs"', 'driver = "evil"', "sensor.0.driver"),
        ('id = "own"', 'id = "new"', "sensor.2.driver"),
    ],
)
@pytest.mark.usefixtures("other_packages")
def test_what_is_guarded_stays(old, new, key):
    assert key in refused(changed(PLAIN, (old, new)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('host = "h"', 'host = "h"\nkeepalive = "20s"\nretain_for = 0\npayload = "both"'),
        ("[web]", '[web]\n[outbox]\nkeep = "1h"\n[homeassistant]\nenabled = false'),
        ("above = 30", "above = 20"),
        ('exec = ["/bin/on"]\n', ""),
        ('"/run/x"', '"/sys/class/hwmon/hwmon0/temp1_input"'),
        ('id = "own"', 'id = "own"\ninterval = "1m"'),
        ("power_pin = 5\n", ""),
        (PLAIN[PLAIN.index("[[sensor]]") :], '[[sensor]]\nid = "new"\ndriver = "dht22"\npin = 4\n'),
        ('id = "bus"', 'id = "bus2"'),
    ],
)
@pytest.mark.usefixtures("other_packages")
def test_what_is_not_guarded_may_change(old, new):
    assert refused(changed(PLAIN, (old, new))) == []


def test_a_slip_in_a_drivers_name_is_for_the_check_to_explain(source):
    """Where no other package could be meant; its options are guarded all the same."""
    sent = changed(get(source).text, ('"sysfs"', '"sysf"'))
    (problem,) = set_(source, sent).problems
    assert "did you mean" in problem.message
    sent = changed(get(source).text, ("[web]", "[mqtt.tsl]\n[web]"))
    (problem,) = set_(source, sent).problems
    assert "did you mean tls?" in problem.message
    assert refused(changed(PLAIN, ('"sysfs"', '"SYSFS"'), ('"/run/x"', '"/etc/shadow"')))


def test_the_way_to_the_broker_opens_with_a_key_of_its_own():
    """But not what it is trusted by, nor what gives the password."""
    present = changed(PLAIN, ("config = true", "config = true\nconfig_broker = true"))
    opened = changed(
        present,
        ('host = "h"', 'host = "other"\nport = 1884\nusername = "u"\npassword = "p"'),
        ("[web]", '[web]\n[node]\nname = "x"\n[homeassistant]\nprefix = "p"'),
    )
    assert refused(opened, present) == []
    for old, new in (
        ("[mqtt.tls]\n", ""),
        ('host = "h"', 'host = "h"\npassword_file = "x"'),
        ('host = "h"', 'host = "h"\npassword_command = ["/bin/sh"]'),
        ("config_broker = true", ""),
    ):
        assert refused(changed(present, (old, new)), present)


def test_every_option_of_our_drivers_that_is_a_text_was_thought_about():
    """A new one has to be named here, or in GUARDED_OPTIONS if it leads out of the sensor."""
    harmless = {
        *("address", "backend", "format", "model", "framing", "parity", "sensor", "name", "device"),
        *("of", "registers", "inputs", "key"),
    }
    for name in driver_names():
        if not is_built_in(name):
            continue
        options: type[Options] = find_driver(name).options
        for field in fields_of(options):
            if "str" in str(field.type) or "Path" in str(field.type):
                assert field.encode_name in harmless | set(GUARDED_OPTIONS), (name, field)


@pytest.mark.parametrize("name", ["ds18b20", "bme280", "agree"])
def test_our_drivers_are_ours(name):
    assert is_built_in(name)
    assert not is_built_in(f"{name}x")


def test_a_guarded_key_is_refused_before_any_file_is_looked_at(source):
    """The check of a named file would say whether it is there, and what it is like."""
    sent = changed(get(source).text, ('password = "(hidden 3)"', 'password_file = "/etc/passwd"'))
    result = set_(source, sent)
    assert {p.where for p in result.problems} == {"[mqtt] password_file", "[mqtt] password"}
    assert all("from afar" in p.message for p in result.problems)


# -- the command


def hear(source: Path, tmp_path: Path, payload: bytes) -> None:
    """What the command does with a payload, without a broker."""
    nothing: Any = None
    remote = RemoteConfig(
        SystemClock(),
        file=TrialFile(tmp_path / "state", source),
        by_service=False,
        commands_topic="cmd/+",
        link=nothing,
        publisher=nothing,
        states={},
        heard=lambda: True,
        later=lambda _do: None,
        begin_again=lambda _why: None,
    )
    remote.hear(Arrived(1, "cmd/config", payload, retained=False), "result")


ZEROS = b"0" * 64


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"set", "its payload must be"),
        (b"put " + ZEROS, "its payload must be"),
        (b"set " + ZEROS[1:], "its payload must be"),
        (b"set " + ZEROS + b" 60 60\n", "its payload must be"),
        (b"get\nmore", "its payload must be"),
        (b"[mqtt]\n", "its payload must be"),
        (b"\xff", "not UTF-8"),
        (b"set " + ZEROS + b" 9\n", "a trial lasts 10 to 3600 seconds"),
        (b"set " + ZEROS + b" 1e3\n", "a trial lasts 10 to 3600 seconds"),
        (b"set " + ZEROS + b"\n" + b"#" * 60_000, "larger than 60000 bytes"),
    ],
)
def test_what_is_no_command_is_refused_in_words(source, tmp_path, payload, error):
    with pytest.raises(ValueError, match=error):
        hear(source, tmp_path, payload)


def test_an_open_broker_is_noted(source):
    """And `config_broker` alone has no effect, which is an error."""
    assert not [note for note in configuration.load(source).notes if "[commands]" in note]
    login = 'username = "token-sesame-2"\npassword = "sesame-3"  # was: sesame-4 until May\n'
    source.write_text(changed(PRESENT, (login, "")))
    assert any("can change most of this file" in note for note in configuration.load(source).notes)
    source.write_text(changed(PRESENT, ("config = true", "config_broker = true")))
    with pytest.raises(configuration.ConfigError) as failed:
        configuration.load(source)
    assert "has no effect unless config is true" in str(failed.value.problems)


def test_a_file_that_nobody_can_write_is_not_put_on_trial(source, tmp_path, monkeypatch):
    monkeypatch.setattr("node.remote_config.can_place", lambda _source: False)
    with pytest.raises(ValueError, match="may not write"):
        hear(source, tmp_path, b"set " + ZEROS + b"\n[mqtt]\n")


def test_nothing_else_is_done_during_a_trial(source, tmp_path):
    TrialFile(tmp_path / "state", source).save(trial(source, state="running"))
    with pytest.raises(ValueError, match="on trial"):
        hear(source, tmp_path, b"get")


# -- how it is judged


class Judged:
    """A node on trial, without a process, a broker or time."""

    def __init__(self, source: Path, tmp_path: Path, clock: Any, **baseline: Any) -> None:
        self.connected, self.denied, self.put_off, self.heard = True, False, False, True
        self.described, self.history_bytes = "connection refused", 100_000
        self.states = {
            name: SimpleNamespace(online=True, last_error=None) for name in ("air", "new")
        }
        self.began_again: list[str] = []
        self.answers: list[dict[str, Any]] = []
        self.clock = clock
        self.file = TrialFile(tmp_path / "state", source)
        wanted = {"online": ("air", "gone"), "accepted": True, "heard": True, **baseline}
        self.file.save(trial(source, state="running", baseline=Baseline(**wanted)))
        node: Any = self
        self.remote = RemoteConfig(
            clock,
            file=self.file,
            by_service=True,
            commands_topic="cmd/+",
            link=node,
            publisher=node,
            states=node.states,
            heard=lambda: self.heard,
            later=lambda _do: None,
            begin_again=self.began_again.append,
        )

    def is_denied(self, topic: str) -> bool:
        return self.denied

    def answer(self, message: Outgoing) -> None:
        self.answers.append(json.loads(message.payload))

    def after(self, seconds: float) -> str:
        """The state of the trial when the time has passed, and the loop has looked."""
        self.clock.now_s += seconds
        self.remote.look(self.clock.now_s)
        assert self.file.trial is not None
        return self.file.trial.state


@pytest.fixture
def node_clock() -> Any:
    clock = SimpleNamespace(now_s=1000.0)
    clock.monotonic = lambda: clock.now_s
    return clock


def test_it_is_kept_when_all_was_well_for_an_eighth_of_the_time(source, tmp_path, node_clock):
    """A sensor that is configured no more, and one that is new, do not count."""
    judged = Judged(source, tmp_path, node_clock)
    judged.states["new"].online = False
    assert judged.after(1) == "running"
    assert judged.remote.next_due_s == node_clock.now_s + 15
    assert judged.after(14.9) == "running"
    judged.connected = False
    assert judged.after(0.1) == "running"
    judged.connected = True
    assert judged.after(30) == "running", "it begins again"
    assert judged.after(15) == "kept"
    assert source.read_text() == "x = 1\n"
    assert [answer["state"] for answer in judged.answers] == ["kept"]
    assert judged.after(1) == "kept"
    assert (len(judged.answers), judged.began_again) == (1, [])


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ({"connected": False}, "does not reach the broker (connection refused)"),
        ({"denied": True}, "does not let the node listen to cmd/+"),
        ({"put_off": True}, "rejects what the node publishes"),
        ({"heard": False}, "does not pass on what the node publishes"),
        ({"states": {"air": SimpleNamespace(online=False, last_error="no answer")}}, "(no answer)"),
    ],
)
def test_it_is_undone_when_the_time_is_over(source, tmp_path, node_clock, fault, why):
    judged = Judged(source, tmp_path, node_clock)
    for name, value in fault.items():
        if name == "states":
            judged.states.update(value)
        else:
            setattr(judged, name, value)
    assert judged.after(119) == "running"
    assert judged.after(1) == "undone"
    assert why in judged.file.notice
    assert source.read_text() == PRESENT
    assert judged.began_again == ["back to the configuration from before the trial"]
    assert judged.answers == [], "the process that follows says it"
    assert judged.remote.next_due_s == math.inf


def test_what_did_not_work_before_need_not_work_now(source, tmp_path, node_clock):
    judged = Judged(source, tmp_path, node_clock, accepted=False, heard=False, online=())
    judged.put_off, judged.heard = True, False
    judged.states["air"].online = False
    judged.after(1)
    assert judged.after(15) == "kept"


def test_a_file_that_was_changed_during_the_trial_wins(source, tmp_path, node_clock):
    judged = Judged(source, tmp_path, node_clock)
    judged.after(1)
    source.write_text("# by hand\n")
    assert judged.after(15) == "undone"
    assert source.read_text() == "# by hand\n"


@pytest.mark.parametrize("writes", [True, False])
def test_roots_service_is_waited_for(source, tmp_path, node_clock, monkeypatch, writes):
    monkeypatch.setattr("node.remote_config.can_place", lambda _source: False)
    judged = Judged(source, tmp_path, node_clock)
    judged.after(1)
    assert judged.after(15) == "placing"
    request = tmp_path / "state/config-request.json"
    assert request.stat().st_mode & 0o777 == 0o600
    assert judged.after(59) == "placing"
    if writes:
        source.write_text("x = 1\n")
        assert judged.after(0) == "kept"
    else:
        assert judged.after(1) == "undone"
        assert "sensor-node-config.service has not written" in judged.file.notice
    assert not request.exists()


def test_an_answer_that_the_broker_does_not_take_says_so(source, tmp_path, node_clock):
    judged = Judged(source, tmp_path, node_clock)
    judged.history_bytes = 200
    judged.remote._answer(Reply("r"), ok=True, text="x" * 300)
    (answer,) = judged.answers
    assert (answer["ok"], "larger than the broker accepts" in answer["error"]) == (False, True)


def test_a_text_on_which_the_node_cannot_start_is_undone(source, tmp_path, monkeypatch):
    """Where nothing starts it again, too."""
    state = tmp_path / "state"
    TrialFile(state, source).save(trial(source, text=PRESENT + "# new\n"))
    again: list[str] = []

    def fails(*_given: Any) -> int:
        raise RuntimeError("no board")

    monkeypatch.setattr(run, "_run", fails)
    monkeypatch.setattr(run, "_begin_again", lambda: again.append("again"))
    arguments = argparse.Namespace(config=str(source), state_dir=str(state), last_good=None)
    with pytest.raises(RuntimeError):
        run.run(arguments)
    assert again
    assert "the node does not run on it (RuntimeError)" in TrialFile(state, source).notice


# -- how it is written

BASELINE = Baseline((), accepted=True, heard=True)


def trial(source: Path, **fields: Any) -> Trial:
    base = hashlib.sha256(source.read_bytes()).hexdigest()
    new = "x = 1\n"
    given = {
        "state": "staged",
        "base": base,
        "sha256": hashlib.sha256(new.encode()).hexdigest(),
        "within_s": 120.0,
        "baseline": BASELINE,
        "reply": Reply("r"),
        "text": new,
    }
    return Trial(**{**given, **fields})


def at_start(source: Path, tmp_path: Path) -> tuple[TrialFile, bytes | None]:
    file = TrialFile(tmp_path / "state", source)
    return file, file.begin()


def test_a_trial_is_begun_once(source, tmp_path):
    """A second start comes after a crash, and is on the file."""
    TrialFile(tmp_path / "state", source).save(trial(source))
    file, content = at_start(source, tmp_path)
    assert content == b"x = 1\n"
    assert (tmp_path / "state" / "config-trial.json").stat().st_mode & 0o777 == 0o600
    file, content = at_start(source, tmp_path)
    assert content is None
    assert file.notice.startswith("the configuration from afar was undone: the node ended during")
    assert file.trial is not None
    assert (file.trial.state, file.trial.text) == ("undone", "")
    file, content = at_start(source, tmp_path)
    assert content is None
    assert file.notice, "until the file is another one"
    source.write_text("# by hand\n")
    assert not at_start(source, tmp_path)[0].notice


@pytest.mark.parametrize(
    ("written", "state"), [("x = 1\n", "kept"), (PRESENT, "undone"), ("# by hand", "undone")]
)
def test_a_power_cut_while_the_file_is_written_leaves_one_of_the_two(
    source, tmp_path, written, state
):
    TrialFile(tmp_path / "state", source).save(trial(source, state="placing"))
    (tmp_path / "state" / "config-request.json").write_text("{}")
    source.write_text(written)
    file, content = at_start(source, tmp_path)
    assert content is None
    assert file.trial is not None
    assert file.trial.state == state
    assert not (tmp_path / "state" / "config-request.json").exists(), (
        "root's service comes too late"
    )


def test_a_file_that_was_changed_before_its_trial_wins(source, tmp_path):
    TrialFile(tmp_path / "state", source).save(trial(source))
    source.write_text("# by hand\n")
    file, content = at_start(source, tmp_path)
    assert content is None
    assert "was changed before" in file.notice


@pytest.mark.parametrize("state", ["staged", "running"])
def test_a_full_disk_ends_a_trial(source, tmp_path, monkeypatch, state):
    """It is not begun where that cannot be recorded: it would be begun at each start."""
    TrialFile(tmp_path / "state", source).save(trial(source, state=state))

    def full(*_given: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("node.config.afar.trial.write_file", full)
    file, content = at_start(source, tmp_path)
    assert content is None
    assert "undone" in file.notice
    monkeypatch.undo()
    assert at_start(source, tmp_path)[1] is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"state": "staged"}', random.Random(1).randbytes(99)]
)
def test_a_damaged_record_is_none(source, tmp_path, content):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "config-trial.json").write_bytes(content)
    file, begun = at_start(source, tmp_path)
    assert (file.trial, begun) == (None, None)


def placed(source: Path, tmp_path: Path, text: str, base: str = "") -> None:
    request = tmp_path / "config-request.json"
    base = base or hashlib.sha256(source.read_bytes()).hexdigest()
    request_placing(request, PlaceRequest(base, text))
    carry_out(request, source)


def test_roots_service_writes_what_may_be_changed_and_keeps_the_mode(source, tmp_path):
    new = changed(PRESENT, ("above = 30", "above = 25"))
    placed(source, tmp_path, new)
    assert source.read_text() == new
    assert source.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("pair", "why"),
    [
        (('"/usr/local/bin/on-alarm"', '"/bin/sh"'), "exec"),
        (("config = true", "config = true\nconfig_broker = true"), "config_broker"),
        (('host = "192', 'password_command = ["/bin/sh"]\nhost = "192'), "password_command"),
    ],
)
def test_roots_service_trusts_no_request(source, tmp_path, pair, why):
    """The node's user can write anything into it."""
    with pytest.raises(Refused, match=why):
        placed(source, tmp_path, changed(PRESENT, pair))
    assert source.read_text() == PRESENT


def test_roots_service_asks_the_present_file(source, tmp_path):
    closed = changed(PRESENT, ("config = true", "config = false"))
    source.write_text(closed)
    with pytest.raises(Refused, match="does not allow it"):
        placed(source, tmp_path, changed(closed, ("above = 30", "above = 25")))
    source.write_text(PRESENT)
    with pytest.raises(Refused, match="has changed since"):
        placed(source, tmp_path, changed(PRESENT, ("above = 30", "above = 25")), base="0" * 64)


def test_roots_service_follows_no_link_of_the_nodes_user(source, tmp_path):
    """It would show what root may read, or replace the file by it."""
    secret = tmp_path / "shadow"
    secret.write_bytes(msgspec.json.encode(PlaceRequest("", "x")))
    link = tmp_path / "config-request.json"
    link.symlink_to(secret)
    with pytest.raises(OSError, match="symbolic"):
        carry_out(link, source)
    link.unlink()
    link.hardlink_to(secret)
    with pytest.raises(Refused, match="not a file of its own"):
        carry_out(link, source)
