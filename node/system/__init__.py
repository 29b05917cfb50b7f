"""What the node asks of the operating system: clock, signals, systemd, files, ids, terminal.

Small modules that know nothing of sensors or of MQTT; every other package may use them. `clock`
is the only source of time, `state_dir` of the folder that is the node's own, `lean_imports` of
what libraries are kept from importing. Each says on which thread it may be called.
"""
