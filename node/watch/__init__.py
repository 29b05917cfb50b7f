"""The subscriber's view: everything that a client of the broker can learn about all nodes.

`subscriber` connects, `session` feeds `model`, which keeps the latest messages about each sensor.
`discovery` has what the nodes' device discovery adds. `screen` draws them as a live table, `lines`
prints them. Used by `sensor-node watch` and `demo`, each in a separate process. The page of all
nodes (`node.web.fleet`) shows the same model.
"""
