"""sensor-node: reads temperature sensors on a schedule and publishes retained readings to MQTT.

README.md in this folder has the plan: which package owns what, and where to go for a change.
`loop.Node` owns everything that changes; `commands.run` builds it.
"""

__version__ = "0.1.0"
