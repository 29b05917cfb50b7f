"""The node's messages: retained states, history and health, in the order of the contract.

`reporter` commits and publishes the results of a turn of the loop; `history` sends every committed
reading and moves the cursor; `sensor_topics` sets the topics of sensors; `collect_health`
collects the health. `topic_list` names every topic without sending anything, for `check` and
`doctor`. Used on the loop's thread.
"""
