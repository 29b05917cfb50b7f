"""The log of readings, from the filters until the broker has acknowledged them.

The loop's thread appends to `outbox` and commits it. `store` keeps a usable file under it whatever
happens to the disk. `file` is the SQLite database, and `rows` and `records` are its contents.
`chain` makes the hashes of a chained log, and `proof` checks them, for `sensor-node verify`.
`reader` reads the log from other processes (`status`, `doctor`, `plot` and the page).
"""
