"""Simulated hardware, at the level of the bus: the driver code above is real.

The simulation is part of the product, for `--simulate`, the demo and the tests. `board.py` hands
out the parts. Each part has a `before_answer` hook, which a test can make slow, stuck or failing.
"""
