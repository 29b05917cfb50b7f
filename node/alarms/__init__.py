"""Alarms of a channel: what the configuration says, when one is on, and what it switches.

`table` is a table of `[[sensor.channel.NAME.alarm]]` with its checks. `rule` decides, from values
and times that are passed in. `report.alarms` keeps the state of all, on the loop's thread, and
calls `rule`. The loop hands those that sound to `outputs`, which has pins, and a thread for
programs.
"""
