"""Channels that are computed from others: `[sensor.derive]`.

`parts` says what a derived channel is made of. `functions` has the formulas, and is only imported
where something is derived. Both are pure. `config.derive` finds the parts, and `sensors.derived`
their values, on the loop's thread.
"""
