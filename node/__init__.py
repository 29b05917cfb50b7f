"""sensor-node: reads temperature sensors on a schedule and publishes retained readings to MQTT.

README.md beside this file has the plan: which package owns what, and where to go for a change.
`loop.Node` owns everything that changes; it is built by `commands.run`.
"""

__version__ = "0.1.0"
