"""Thermometers that advertise over Bluetooth LE: `driver = "ble"`.

`sensor.py` is the driver: its methods run on the bus worker of the adapter. `label.py` keeps what
one thermometer has sent and was not read; a radio calls it, from a thread of its own. `bluez.py`
is the radio of a real adapter, through bleak, and is imported when a Bluetooth sensor is opened;
`drivers.sim.radio` is the simulated one. `formats.py` lists the decoders: pure functions from an
advertisement to values, one file for each maker.
"""
