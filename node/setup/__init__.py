"""The first configuration: asks what cannot be found out, tries it, and writes the file.

`dialog` asks on the terminal, `brokers` finds a broker and tries what was typed, `sensors` finds
out what is attached and on which pins, and `configuration_file` turns the answers into a
commented `node.toml`. Called by `sensor-node init`, on its only thread; nothing is written before
everything has been answered.
"""
