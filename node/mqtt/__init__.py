"""The connection to the broker, and the messages on their way there.

`client` is paho's client and its thread, which only puts `events` into the loop's queue.
`guarded_socket` stands between the network and paho. It passes on only packets that `sieve`
accepts: whole packets that a broker may send, within bounds. `guarded_client` names the hooks into
paho that this needs, and uses only public methods if a newer paho lacks them.
`connection` reconnects, and reports why the broker is not reached; `protocol` chooses the version
of MQTT, `spread` the pauses. `publisher` keeps the window, and the newest message of each retained
topic. These are used on the loop's thread.
"""
