"""Simulated hardware, at the level of the bus: the driver code above it is the real one.

A shipped part of the product, for `--simulate`, the demo and the tests. `board.py` hands out the
parts; each part has a `before_answer` hook that a test can make slow, stuck or failing.
"""
