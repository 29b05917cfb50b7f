"""`sensor-node store`: takes the history of all nodes at a broker into a database, exactly once.

`consumer` owns the loop: it receives batches in a persistent session of the broker, writes them in
one transaction, and acknowledges them only then, so whatever is killed in between comes again. The
`database` knows which numbers (node, stream, seq) it has, drops duplicates, and lists what is
missing; the consumer asks the node for that with the command `replay`. `influx` writes the values
to a server that takes line protocol, and keeps the numbers in SQLite. All run on the thread of the
command, except paho's and the one of the `metrics` endpoint. A process of its own, never in `run`.
"""
