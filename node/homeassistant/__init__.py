"""Home Assistant: the discovery message, and when it is sent.

`discovery` builds the message, and `forms` divides it where each component has one of its own, as
pure functions. `announcer` sends it, repeats it when needed, and
removes former components, on the loop's thread. `sensor_keys` remembers, in the state directory,
the keys by which Home Assistant knows the sensors.
"""
