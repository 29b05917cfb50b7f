"""The node's interface to the operating system: clock, signals, systemd, files, ids, terminal.

Small modules that know nothing about sensors or MQTT; every other package may use them. `clock`
is the only source of time, `state_dir` finds the node's state folder, and `lean_imports` keeps
libraries from importing modules that the node does not need. Each module says on which thread it
may be called.
"""
