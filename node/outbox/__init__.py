"""The log of readings, from the filters until the broker has acknowledged them.

`outbox` is what the loop's thread appends to and commits; `store` keeps a usable file under it
whatever happens to the disk; `file` is the SQLite database, `rows` and `records` what is in it.
`reader` is how everybody else looks into the log (`status`, `doctor`, `plot` and the page), from
other processes.
"""
