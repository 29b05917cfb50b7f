"""The sensors of a node: when they are read, by whom, and which of their values are believed.

`scheduler` reads what is due on the grid of `timetable`, through the threads of `workers`;
`state` knows of one sensor whether it is online and why not, `node.filters` make of a raw value one
worth publishing, and `supply` switches a sensor's power. The scheduler and the states live on the
loop's thread; `port` and the workers are the only code that runs on the threads of the buses.
"""
