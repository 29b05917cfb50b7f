"""The names that people know sensors by: each leads to its driver, and none to another chip."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import msgspec
import pytest
from support import SENSOR_NODE

from drivers import packages, registry
from drivers.dht import DhtOptions
from drivers.name_sentences import SENTENCES, about, spelled
from drivers.names import all_drivers, bus_kind, driver_called, suggestion
from drivers.packages import install_command, missing_package
from drivers.registry import driver_names, find_driver
from node.config.load import ConfigError, load

MQTT = '[mqtt]\nhost = "127.0.0.1"\n'
INFOS = list(all_drivers())

# What people write, and the driver that reads it.
READ_BY = {
    "dht22": "DHT22 dht-22 am2302 AM2302 am2301 dht21 rht03",
    "dht11": "DHT11 ky-015 dht12",
    "ahtx0": "dht20 aht10 AHT20 aht21 aht25 am2315c am2301b",
    "sht31d": "sht30 SHT31 sht35 sht85 gxht30 sht3x SHT31-D",
    "htu21d": "sht20 sht21 sht25 htu21 HTU21D",
    "sht4x": "sht40 sht41 sht45 SHT4x",
    "pct2075": "lm75 lm75a lm75b tmp75 tmp102 tmp1075 mcp9800 adt75 ds1775 stds75 LM75",
    "ds18b20": "DS18B20 ds18b20+ ds18s20 ds1822 dallas ds1820 max31820",
    "bme680": "bme688 BME680",
    "bme280": "BME-280 gy-bme280",
    "bmp3xx": "bmp388 bmp390",
    "bmp5xx": "bmp581",
    "scd4x": "scd40 SCD41",
    "sysfs": "iio hwmon",
    "tmp117": "tmp119",
    "adt7410": "adt7420",
    "mlx90614": "gy-906",
    "amg88xx": "amg8833",
    "ina23x": "ina238",
    "mcp9600": "mcp9601",
    "hdc302x": "hdc3022",
    "am2320": "AM2321",
    "cpu": "CPU processor",
    "ble": "LYWSD03MMC bthome RuuviTag H5075 SwitchBot TP357 IBS-TH xiaomi bluetooth qingping",
}
# Words that are no single driver's, and what the sentence about them says.
TOLD = {
    "tmp36": ("mcp3008", "ads1115", 'sensor = "tmp36"'),
    "TMP35": ("mcp3008", 'sensor = "tmp35"'),
    "tmp37": ("ads1115", 'sensor = "tmp37"'),
    "lm35": ("mcp3008", 'sensor = "lm35"'),
    "ntc": ("mcp3008", "ads1115", 'sensor = "thermistor"'),
    "thermistor": ("mcp3008", 'sensor = "thermistor"'),
    "mcp9700": ("mcp3008", 'sensor = "tmp36"'),
    "pt100": ("max31865", "nominal_ohms"),
    "PT1000": ("max31865",),
    "rtd": ("max31865",),
    "thermocouple": ("max31855", "max31856", "mcp9600"),
    "type K": ("max31855", "max31856", "mcp9600"),
    "k-type": ("max31855",),
    "1wire": ("ds18b20",),
    "1-Wire": ("ds18b20",),
    "onewire": ("ds18b20",),
    "w1": ("ds18b20",),
    "dht": ("dht22", "dht11"),
    "sense hat": ("hts221", "lps25"),
    "Sense-HAT": ("hts221",),
    "enviro+": ("bme280",),
    "bmp180": ("dtoverlay=i2c-sensor,bmp180", "sysfs"),
    "BMP085": ("dtoverlay=i2c-sensor,bmp085", "sysfs"),
    "max6675": ("dtoverlay=maxtherm", "sysfs"),
    "hdc1080": ("dtoverlay=i2c-sensor,hdc100x", "sysfs"),
    "ms5611": ("new_device", "sysfs"),
    "sts3x": ("new_device", "sysfs"),
    "ds1621": ("dtoverlay=i2c-sensor,ds1621", "sysfs"),
    "XY-MD02": ('driver = "modbus"', 'model = "xy-md02"'),
    "max6675 ": ("maxim_thermocouple",),
    "TCA9548A": ("mux = { address = 0x70",),
    "DS9490R": ('driver = "ds18b20"',),
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SENSOR_NODE, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def written(folder: Path, keys: str) -> Path:
    file = folder / "node.toml"
    file.write_text(f'{MQTT}[[sensor]]\nid = "air"\n{keys}\n')
    return file


@pytest.mark.parametrize(
    ("word", "driver"), [(word, name) for name, words in READ_BY.items() for word in words.split()]
)
def test_a_name_that_people_know_leads_to_its_driver(word, driver):
    assert driver_called(word) == driver


@pytest.mark.parametrize(("word", "says"), TOLD.items())
def test_a_kind_a_board_or_a_chip_of_the_kernels_is_answered_in_a_sentence(tmp_path, word, says):
    assert driver_called(word) is None
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, f'driver = "{word}"'))
    (problem,) = caught.value.problems
    assert problem.message.startswith(f'unknown driver "{word}"; it ')
    for part in says:
        assert part in problem.message
    assert "did you mean" not in problem.message


def test_every_driver_in_a_sentence_exists_with_the_keys_that_stand_there():
    for _, sentence in SENTENCES:
        named = [find_driver(name) for name in re.findall(r'driver = "(\w+)"', sentence)]
        for sensor in re.findall(r'sensor = "(\w+)"', sentence):
            for info in named:
                assert sensor in str(info.options.__annotations__) + str(
                    [msgspec.inspect.type_info(info.options)]
                )
        if "nominal_ohms" in sentence:
            assert "nominal_ohms" in find_driver("max31865").options.__struct_fields__


def test_no_name_is_given_twice():
    """Neither by two drivers, nor by a driver and a sentence; and each is as it is looked up."""
    given = [spelled(info.name) for info in INFOS]
    given += [alias for info in INFOS for alias in info.aliases]
    given += [word for words, _ in SENTENCES for word in words.split()]
    assert sorted(given) == sorted(set(given))
    assert given == [spelled(name) for name in given]


def test_every_chip_in_the_summary_of_a_row_is_found_by_its_name():
    """The summaries name the chips; what people read there they write."""
    for info in INFOS:
        for chip in re.findall(r"\b[A-Z]{2,}\d[A-Z0-9]{2,}\b", info.summary.partition(":")[0]):
            if not about(chip):  # TMP36 at a converter
                assert driver_called(chip) is not None, chip


def test_an_alias_is_accepted_with_a_remark_and_is_the_driver_everywhere(tmp_path):
    config = load(written(tmp_path, 'driver = "AM2302"\npin = 17'))
    (sensor,) = config.sensors
    assert (sensor.driver, sensor.info.name) == ("dht22", "dht22")
    assert config.remarks == ('[[sensor]] air driver: "AM2302" is read by dht22: driver = "dht22"',)
    assert config.notes == ()
    right = load(written(tmp_path, 'driver = "dht22"\npin = 17'))
    assert right.remarks == ()


def test_a_value_of_an_earlier_version_is_accepted_with_a_remark(tmp_path):
    """An update must not stop a node whose configuration was right before."""
    config = load(written(tmp_path, 'driver = "dht22"\npin = 17\nbackend = "bitbang"'))
    assert config.sensors[0].options == DhtOptions(pin=17, backend="auto")
    assert config.remarks == (
        '[[sensor]] air backend: "bitbang" is no longer there: read as backend = "auto"',
    )


def test_check_shows_the_remark_and_a_simulated_node_reads_by_the_alias(tmp_path):
    file = str(written(tmp_path, 'driver = "DHT20"'))
    checked = run("check", "--config", file)
    assert checked.returncode == 0, checked.stderr
    assert 'note: [[sensor]] air driver: "DHT20" is read by ahtx0: driver = "ahtx0"' in (
        checked.stdout
    )
    read = run("read", "--simulate", "--json", "--config", file)
    assert read.returncode == 0, read.stderr
    assert json.loads(read.stdout)[0]["driver"] == "ahtx0"


def test_the_driver_of_another_package_goes_before_an_alias(monkeypatch):
    """Who has installed a driver called tmp102 means that one."""
    own = msgspec.structs.replace(find_driver("cpu"), name="tmp102", aliases=())
    monkeypatch.setattr(registry, "_third_party", lambda _name: own)
    assert find_driver("tmp102") is own


@pytest.mark.parametrize(
    ("word", "keys", "first"),
    [
        ("dht23", "", "dht22"),
        ("dht2", "pin = 17", "dht22"),
        ("am2305", "pin = 17", "dht22"),
        ("am2305", "address = 0x5c", "am2320"),
        ("bme28", "address = 0x76", "bme280"),
        ("ds18b2", 'address = "28-0316a2795bff"', "ds18b20"),
        ("mx31865", "select = 0", "max31865"),
        ("mpc3008", "", "mcp3008"),
    ],
)
def test_a_misspelt_name_leads_to_the_nearest_on_the_same_bus(tmp_path, word, keys, first):
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, f'driver = "{word}"\n{keys}'))
    (problem,) = caught.value.problems
    assert f"did you mean {first}?" in problem.message
    bus = bus_kind(find_driver(first))
    others = re.search(r"near it: ([\w, ]+)", problem.message)
    for other in others[1].split(", ") if others else ():
        assert bus_kind(find_driver(other)) == bus


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("dht22", "GPIO"),
        ("ds18b20", "1-Wire"),
        ("bme280", "I2C"),
        ("ads1115", "I2C"),
        ("max31855", "SPI"),
        ("mcp3008", "SPI"),
        ("sysfs", ""),
        ("cpu", ""),
    ],
)
def test_the_bus_of_a_driver(name, kind):
    assert bus_kind(find_driver(name)) == kind


@pytest.mark.parametrize("word", ["sht99", "frobnicator", "xyzzy", "?", "temprature", "bmp999"])
def test_an_unknown_word_is_answered_with_a_few_names_and_how_to_list_all(word):
    said = suggestion(word)
    assert "sensor-node drivers lists all" in said
    assert sum(name in said for name in driver_names()) <= 4
    assert "did you mean" not in said


@pytest.mark.parametrize(
    ("word", "listed"),
    [
        ("tmp36", ["ads1115", "mcp3008"]),
        ("thermocouple", ["max31855", "max31856", "mcp9600"]),
        ("pt100", ["max31865"]),
        ("infrared", ["mlx90614", "mlx90632", "tmp006"]),
        ("sense hat", ["hts221", "lps25"]),
        ("co2", ["scd30", "scd4x"]),
        ("CO2", ["scd30"]),
        ("sht", ["sht31d", "sht4x", "shtc3", "htu21d"]),
        ("1-wire", ["ds18b20"]),
    ],
)
def test_drivers_looks_a_word_up_in_names_aliases_and_summaries(word, listed):
    done = run("drivers", *word.split())
    assert done.returncode == 0, done.stderr
    found = [line.split()[0] for line in done.stdout.splitlines() if line and line[0] != " "]
    for name in listed:
        assert name in found
    as_json = run("drivers", "--json", word)
    assert set(listed) <= {info["name"] for info in json.loads(as_json.stdout)}


def test_drivers_shows_the_driver_of_an_alias_in_full():
    done = run("drivers", "AM2302")
    assert done.returncode == 0
    assert done.stdout.startswith("dht22\n")
    assert "Known as: AM2302, AM2301" in done.stdout
    assert done.stderr == '"AM2302" is read by dht22\n'
    assert json.loads(run("drivers", "am2302", "--json").stdout)["name"] == "dht22"


def test_drivers_answers_an_unknown_word_in_a_line_and_with_2():
    done = run("drivers", "frobnicator")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert len(done.stderr) < 160


# -- packages ---------------------------------------------------------------------------------


def test_a_package_that_is_there_is_not_missing(monkeypatch):
    assert missing_package(find_driver("bme280")) == ""
    assert missing_package(find_driver("cpu")) == ""
    monkeypatch.setattr(packages, "is_installed", lambda _module: False)
    assert missing_package(find_driver("sht31d")) == "adafruit-circuitpython-sht31d"
    assert missing_package(find_driver("dht22")) == ""


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A Python environment in `tmp_path`, as `install_command` sees it."""
    for folder in ("bin", "lib"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path / "lib"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    return tmp_path


SHT31D = next(
    shlex.quote(line.partition(";")[0])
    for line in importlib.metadata.requires("pi-sensor-node") or []
    if line.startswith("adafruit-circuitpython-sht31d")
)


def test_the_command_is_that_of_the_environments_own_pip(environment, monkeypatch):
    wanted = SHT31D
    python = environment / "bin" / "python"
    assert install_command("sht31d") == f"{python} -m pip install {wanted}"
    pip = environment / "bin" / "pip"
    pip.touch()
    assert install_command("sht31d") == f"{pip} install {wanted}"
    monkeypatch.setattr(shutil, "which", lambda _name: str(pip))
    assert install_command("sht31d") == f"pip install {wanted}"  # the environment is activated
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert install_command("sht31d") == f"sudo {pip} install {wanted}"


def test_the_command_where_the_distribution_manages_python_or_there_is_no_pip(
    environment, monkeypatch
):
    wanted = SHT31D
    python = environment / "bin" / "python"
    monkeypatch.setattr(sys, "base_prefix", str(environment))
    assert install_command("sht31d") == f"{python} -m pip install {wanted}"
    (environment / "lib" / "EXTERNALLY-MANAGED").touch()
    assert install_command("sht31d") == f"{python} -m pip install --break-system-packages {wanted}"
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert install_command("sht31d").startswith(f"{python} -m ensurepip && ")
    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/uv")
    assert install_command("sht31d") == f"uv pip install --python {python} {wanted}"
    monkeypatch.setattr(sys, "prefix", "/home/pi/.local/share/pipx/venvs/node")
    assert install_command("sht31d") == f"pipx inject node {wanted}"


def test_the_command_never_asks_an_index_for_the_project_by_its_name():
    """Anyone may register it. An extra that is made of others brings what each of them does."""
    names = {
        found[1]
        for line in importlib.metadata.requires("pi-sensor-node") or []
        if (found := re.search(r'extra == "(\w+)"', line))
    }
    assert {"demo", "chips", "web"} <= names
    for extra in names:
        command = install_command(extra)
        assert "pi-sensor-node" not in command
        assert extra not in ("demo", "web") or "waitress<4" in command


def test_the_command_of_a_project_that_is_not_installed_names_the_checkout(monkeypatch):
    def requires(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    checkout = Path(packages.__file__).parents[1]
    assert install_command("web").endswith(f"pip install '{checkout}[web]'")
