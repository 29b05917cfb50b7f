"""The parts of `deploy/update`, which `deploy/release` uses as well: signed bundles.

They run as root on the system's Python, so they import the standard library alone.
"""
