"""The parts of `deploy/update`; `deploy/release` uses those of signed bundles as well.

`releases` makes a release and switches to it, and `trial` tries it; both use `system` and `paths`.
`bundle`, `minisign`, `trust` and `take` are about signed bundles, `staged` is about what the node
asks for, `devices` about what the owner's drivers need.

They run as root on the system's Python, so they import the standard library alone. A process of
`deploy/update` has one thread.
"""
