"""sensor-node: reads temperature sensors on a schedule and publishes retained readings to MQTT.

`cli` parses the command line and runs one of `commands`. `run` builds a `loop.Node`, which owns
everything that changes; `workers` reads the sensors, `publisher` speaks to the broker through
paho, `timetable` says what is due, `pipeline` turns measurements into values worth publishing.
`web` is the status page, a process of its own over the log.
"""

__version__ = "0.1.0"
