"""The first configuration: asks for what cannot be detected, tries it, and writes the file.

`dialog` asks on the terminal, `brokers` finds a broker and tries the answer, `sensors` finds the
attached sensors and their pins, and `configuration_file` turns the answers into a commented
`node.toml`. Called by `sensor-node init`, on its only thread; nothing is written before everything
has been answered.
"""
