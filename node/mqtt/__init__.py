"""The connection to the broker, and what is on its way there.

`client` is paho's client and its thread, which only puts `events` into the loop's queue.
`connection` connects again, chooses the version of MQTT and says why there is no broker;
`publisher` keeps the window, and the newest message of each retained topic. Both are used on the
loop's thread.
"""
