"""The subscriber's view: what any client of the broker can know of all nodes.

`session` connects and feeds `model`, which remembers what was heard of each sensor; `screen`
draws it as a live table, `lines` prints it. Used by `sensor-node watch` and `demo`, in a process
of their own.
"""
