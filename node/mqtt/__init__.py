"""The connection to the broker, and what is on its way there.

`client` is paho's client and its thread, which only puts `events` into the loop's queue.
`guarded_socket` stands between the network and paho, and lets pass what `sieve` does: whole packets
that a broker may send, within bounds. `client` names the two hooks into paho that this takes, and
goes on by its public methods where a newer one lacks them.
`connection` connects again, chooses the version of MQTT and says why there is no broker;
`publisher` keeps the window, and the newest message of each retained topic. Both are used on the
loop's thread.
"""
