"""The sensors of a node: when they are read, by whom, and which of their values are believed.

`scheduler` reads the sensors that are due on the grid of `timetable`, through the threads of
`workers`. `state` knows whether a sensor is online, and why not. `node.filters` turn a raw value
into one worth publishing, and `supply` switches a sensor's power. The scheduler and the states live
on the loop's thread; only `port` and the workers run on the threads of the buses.
"""
