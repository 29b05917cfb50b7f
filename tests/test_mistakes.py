"""What people get wrong in their first configuration: each is answered with its line and a remedy.

A file that is no TOML is shown with a mark below the place, and never with a secret.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support import SENSOR_NODE

from node.config.load import ConfigError, load

MQTT = '[mqtt]\nhost = "127.0.0.1"\n'
SENSOR = MQTT + '[[sensor]]\nid = "air"\ndriver = "dht22"\n'
CHANNEL = SENSOR + "pin = 17\n[sensor.channel.temperature]\n"
SECRET = "hunter2"


def problems(folder: Path, content: str | bytes) -> ConfigError:
    file = folder / "node.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load(file)
    return caught.value


# What stands below the common beginning; its line; what the message says, the last part of it what
# to write in place.
NO_TOML = [
    (SENSOR + "interval = 30s", 6, 'is the text in quotes? interval = "30s"'),
    ("[mqtt]\nhost = 192.168.1.10", 2, 'is the text in quotes? host = "192.168.1.10"'),
    (MQTT + "[[sensor]]\nid = air", 4, 'is the text in quotes? id = "air"'),
    (MQTT + "[[sensor]]\nid = air # the air", 4, 'is the text in quotes? id = "air"'),
    (MQTT + "[[sensor]]\nid = “air”", 4, 'TOML does not accept curly quotes: write id = "air"'),
    (MQTT + "[[sensor]]\nid = ‘air’", 4, 'write id = "air"'),
    (MQTT + "[[sensor]]\nid = „air“", 4, 'write id = "air"'),
    (MQTT + '[[sensor]]\nid = "air', 4, 'the quote at the end is missing: id = "air"'),
    (MQTT + '[[sensor]]\nid = "air\ndriver = "cpu"', 4, 'quote at the end is missing: id = "air"'),
    (MQTT + "[[sensor]]\nid = 'air\npin = 4", 4, 'quote at the end is missing: id = "air"'),
    (SENSOR + "pin = GPIO4", 6, "(BCM): pin = 4"),
    (SENSOR + "pin = gpio 17", 6, "(BCM): pin = 17"),
    (SENSOR + "pin = 04", 6, "write pin = 4"),
    (SENSOR + "pin = ", 6, "the value after the = is missing"),
    (SENSOR + "pin = 4;", 6, "leave out the ; at the end: pin = 4"),
    (SENSOR + "pin = 4,", 6, "leave out the , at the end: pin = 4"),
    (SENSOR + "pin: 4", 6, 'an equals sign, not a colon: pin = "4"'),
    (SENSOR + 'pin = 4 interval = "30s"', 6, "each key stands on a line of its own"),
    (SENSOR + "pin 4", 6, "the equals sign is missing: pin = 4"),
    (SENSOR + "// pin\npin = 4", 6, "a comment begins with #"),
    (SENSOR + "; pin\npin = 4", 6, "a comment begins with #"),
    (SENSOR + "pin = null", 6, "leave the key out"),
    (SENSOR + "pin\u00a0= 4", 6, "U+00A0 (no-break space)"),
    (SENSOR + "pin =\u200b4", 6, "U+200B (zero width space)"),
    (SENSOR + "pin = 4\npin = 5", 7, "is already in the file"),
    (MQTT + MQTT, 3, "is already in the file"),
    (CHANNEL + "offset = -0,4", 8, "a decimal point, not a comma: offset = -0.4"),
    (CHANNEL + "offset = .5", 8, "write offset = 0.5"),
    (CHANNEL + "offset = -.5", 8, "write offset = -0.5"),
    (CHANNEL + "offset = 1.", 8, "write offset = 1.0"),
    (CHANNEL + "range = [-10, 50\nmedian = 3", 8, "the ] at the end is missing"),
    (CHANNEL + "range = [-10; 50]", 8, "the values of a list need commas between them"),
    (CHANNEL + "unit = °C", 8, 'is the text in quotes? unit = "°C"'),
    (MQTT + "[homeassistant]\nenabled = True", 4, "in small letters: enabled = true"),
    (MQTT + "[homeassistant]\nenabled = no", 4, "in small letters: enabled = false"),
    (MQTT + "[[sensor]\nid = 'a'", 3, "[mqtt], [[sensor]]"),
    (MQTT + "[homeassistant", 3, "[mqtt], [[sensor]]"),
    (MQTT + "base_topic = home\\pi", 3, "is the text in quotes?"),
    (MQTT + '[mqtt.tls]\nca_file = "C:\\ca.crt"', 4, "in single quotes: ca_file = '...'"),
    ("mqtt:\n  host: 127.0.0.1", 1, "an equals sign, not a colon"),
    ("- driver: dht22", 1, "this is YAML"),
]


@pytest.mark.parametrize(("content", "line", "says"), NO_TOML)
def test_a_file_that_is_no_toml_is_shown_with_a_mark_and_what_to_write(
    tmp_path, content, line, says
):
    error = problems(tmp_path, content)
    (problem,) = error.problems
    assert problem.line == line
    said, shown, mark = error.report(for_owner=True).splitlines()
    where = f"{tmp_path / 'node.toml'}:{line}: {problem.where}: not valid TOML: "
    assert said.startswith(where)
    assert says in said
    seen = content.splitlines()[line - 1].rstrip()
    assert "".join(c if c.isprintable() else " " for c in seen) == shown[4:]
    assert mark.strip() == "^"
    assert len(mark) <= len(shown) + 1
    assert error.report().startswith(where), "and nothing that stands in the file is in it"
    assert "\n" not in error.report()


@pytest.mark.parametrize(
    "content",
    [
        f"password = {SECRET}",
        f"password: {SECRET}",
        f"password {SECRET}",
        f"password = “{SECRET}”",
        f'password = "{SECRET}',
        f"password = '{SECRET}\nport = 1",
        f'password = """\n{SECRET}',
        f"password = [\n{SECRET}",
        f"password = {SECRET};",
        f'password = "\\{SECRET}"',
        f'username = "me" password = "{SECRET}',
        f"Passwort = {SECRET}",
        f'"password" = {SECRET}',
        f"psk={SECRET}",
        f"password = True{SECRET}",
        f"mqtt.password = {SECRET}",
    ],
)
def test_a_line_that_may_have_a_secret_in_it_is_not_shown(tmp_path, content):
    """What is wrong goes into the journal, and people paste it into forums."""
    error = problems(tmp_path, f"[mqtt]\nhost = 'h'\n{content}\n")
    assert SECRET not in error.report(for_owner=True)
    assert SECRET not in repr(error.problems)
    assert "not valid TOML" in error.report()


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (MQTT + '[[sensors]]\nid = "air"\n', 3, "[[sensors]]: unknown table; write [[sensor]]"),
        (MQTT + '[sensors]\nid = "air"\n', 3, "[sensors]: unknown table; write [[sensor]]"),
        (MQTT + "[buttons]\npin = 4\n", 3, "unknown table; write [button]"),
        (MQTT + "[[outboxes]]\nkeep = 4\n", 3, "[[outboxes]]: unknown table; did you mean outbox?"),
        ('[[mqtt]]\nhost = "h"\n', 1, "expected a table: write [mqtt], in single brackets"),
        (MQTT + "[[status_led]]\npin = 3\n", 3, "write [status_led], in single brackets"),
        ('host = "h"\n' + MQTT, 1, "outside of a table; move it below [mqtt] or [web]"),
        ('driver = "cpu"\n' + MQTT, 1, "outside of a table; move it below [[sensor]]"),
        ("[mqtt]\nbroker = 'h'\n", 2, "unknown key; did you mean host?"),
        (MQTT + "user = 'u'\n", 3, "unknown key; did you mean username?"),
        (SENSOR + "gpio = 4\n", 6, "unknown key of the driver dht22; did you mean pin?"),
        (MQTT + "[[sensor]]\nname = 'a'\ndriver = 'cpu'\n", 4, "did you mean id?"),
        (MQTT + "[[sensor]]\nid = 'a'\ntype = 'cpu'\n", 5, "did you mean driver?"),
        (SENSOR + "pin = 17\nevery = '5m'\n", 7, "did you mean interval?"),
        (SENSOR + 'pin = "17"\n', 6, '(it is "17"; without the quotes: 17)'),
        (MQTT + 'port = "1883"\n', 3, "without the quotes: 1883"),
        (
            MQTT + "[[sensor]]\nid = 'a'\ndriver = 'bme280'\naddress = '0x76'\n",
            6,
            '(it is "0x76"; without the quotes: 0x76)',
        ),
        (MQTT + '[homeassistant]\nenabled = "true"\n', 4, "without the quotes: true"),
        (CHANNEL + 'offset = "-0,4"\n', 8, '(it is "-0,4"; without the quotes: -0.4)'),
        (SENSOR + 'pin = "six"\n', 6, '(it is "six")'),
        (CHANNEL + 'interval = "30s"\n', 8, "put it above [sensor.channel.temperature]"),
        (CHANNEL + "pin = 4\n", 8, "belongs to the sensor, not to its channel"),
        ('[mqtt]\nhost = "[::1]"\n', 2, "without brackets"),
    ],
)
def test_a_mistake_of_habit_is_named_with_its_line(tmp_path, content, line, says):
    found = problems(tmp_path, content).problems
    assert any(p.line == line and says in f"{p.where}: {p.message}" for p in found), found


@pytest.mark.parametrize(
    ("unit", "meant"),
    [
        ("C", "°C"),
        ("F", "°F"),
        ("c", "°C"),
        ("Celsius", "°C"),
        ("degF", "°F"),
        ("k", "K"),
        ("º C", "°C"),
    ],
)
def test_a_unit_without_its_sign_is_the_unit(tmp_path, unit, meant):
    file = tmp_path / "node.toml"
    file.write_text(CHANNEL + f'unit = "{unit}"\n')
    assert load(file).sensors[0].channel["temperature"].unit == meant


def test_a_file_in_another_encoding_is_named_with_its_line_and_the_remedy(tmp_path):
    (problem,) = problems(tmp_path, (CHANNEL + 'unit = "°C"\n').encode("latin-1")).problems
    assert problem.line == 8
    assert problem.message == (
        "is not UTF-8: the byte 0xb0, perhaps meant as °, is not valid there; "
        "save the file as UTF-8"
    )
    for encoding in ("utf-16", "utf-16-le"):
        (problem,) = problems(tmp_path, MQTT.encode(encoding)).problems
        assert problem.message == "is UTF-16, not UTF-8; save the file as UTF-8"


# -- the command line ---------------------------------------------------------------------------


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SENSOR_NODE, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "words",
    [
        ("check", "FILE"),
        ("check", "-c", "FILE"),
        ("check", "--config", "FILE"),
        ("-c", "FILE", "check"),
        ("--config", "FILE", "check"),
        ("--config=FILE", "check"),
        ("--log-level", "debug", "check", "FILE"),
    ],
)
def test_the_file_is_taken_wherever_people_put_it(tmp_path, words):
    file = tmp_path / "node.toml"
    file.write_text(MQTT)
    done = run(*(word.replace("FILE", str(file)) for word in words))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{file}: valid\n")


def test_two_files_are_wrong_usage():
    done = run("check", "a.toml", "-c", "b.toml")
    assert (done.returncode, done.stderr) == (2, "name one file: FILE or --config FILE\n")


def test_help_and_version_are_answered_as_words_too():
    assert run("version").stdout == run("--version").stdout
    assert run("help").stdout == run("--help").stdout
    assert run("help", "check").stdout == run("check", "--help").stdout


@pytest.mark.parametrize(
    ("word", "hint"),
    [("reed", "did you mean read?"), ("frobnicate", "--help lists"), ("Check", "mean check?")],
)
def test_an_unknown_command_is_answered_with_the_nearest(word, hint):
    done = run(word)
    assert done.returncode == 2
    assert f'unknown command "{word}"; ' in done.stderr
    assert hint in done.stderr
