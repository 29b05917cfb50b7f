"""The configuration from afar: read and replaced by MQTT, without its secrets, and on trial first.

    values   where each value and comment of a TOML text is
    hide     secrets become placeholders, and placeholders secrets again
    rules    what nobody may change from afar
    answer   `get` and `set`, in a process of their own: it checks, and writes nothing
    trial    the file in the state directory that carries a trial over starts and power cuts
    place    writes the file of a trial that went well: the node itself, or a service of root's

`node.remote_config` starts `answer`, and judges the trial, on the loop's thread; `run` looks for a
trial at its start. No node imports any of it without `[commands] config` or a trial.
"""
