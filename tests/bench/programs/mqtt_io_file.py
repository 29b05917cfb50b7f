"""A sensor module of mqtt-io: the number in a file, in thousandths.

Is copied into mqtt_io/modules/sensor/ of mqtt-io's own environment: that is where it looks.
"""

from mqtt_io.modules.sensor import GenericSensor
from mqtt_io.types import ConfigType, SensorValueType

CONFIG_SCHEMA: dict[str, object] = {}


class Sensor(GenericSensor):  # type: ignore[misc]
    """Each `sensor_inputs` entry names its `path`."""

    SENSOR_SCHEMA = {"path": {"type": "string", "required": True}}  # noqa: RUF012

    def get_value(self, sens_conf: ConfigType) -> SensorValueType:
        with open(sens_conf["path"]) as file:
            return int(file.read()) / 1000
