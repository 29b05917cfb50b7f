"""The subscriber's view: everything that a client of the broker can learn about all nodes.

`session` connects and feeds `model`, which keeps the latest messages about each sensor. `screen`
draws them as a live table, `lines` prints them. Used by `sensor-node watch` and `demo`, each in a
separate process.
"""
