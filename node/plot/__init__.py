"""Plots of a channel as SVG: buckets of readings, scales, labels. Pure.

Used by the page and by `sensor-node plot`, on whatever thread they draw.
"""
