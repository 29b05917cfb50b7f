"""The configuration: from a TOML file to frozen structs, with every problem found at once.

`load` reads and checks a file, `schema` has the structs, `mqtt`, `sensors` and `simulation` the
checks of their tables, `values` the types of single keys, `toml_lines` the line of each key.
`syntax` explains a file that is not valid TOML, `last_good` keeps a copy of the last valid file,
and `tls` makes an SSL context from `[mqtt.tls]`.
Called once, before the node starts, by the commands.
"""
