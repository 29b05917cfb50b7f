"""Sensor drivers: from a wire to a measurement.

Each driver module says what it measures and how to open it (`drivers.base.DriverInfo`); it talks
to the hardware only through a board (`drivers.bus.Board`), so the same code runs on a Pi
(`drivers.hardware`) and on simulated buses (`drivers.sim`). Nothing here knows of MQTT, of the
configuration file, or of the package `node`.
"""
