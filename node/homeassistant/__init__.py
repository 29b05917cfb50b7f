"""Home Assistant: the discovery message, and when it is sent.

`discovery` makes the message, as pure functions; `announcer` sends it, again when that is needed,
and takes back what is gone, on the loop's thread; `sensor_keys` remembers by which keys Home
Assistant knows the sensors, in the state directory.
"""
