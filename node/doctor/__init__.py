"""`sensor-node doctor`: every step from the configuration to the buses, each with its remedy.

    our_node        the node that runs here, by its lock and its log
    system_checks   clock, disk, supply, files          users   whose permissions are checked
    board_checks    buses and pins
    alarm_checks    the programs of alarms, and their sandbox
    sensor_checks   each sensor's package and place, and what the node last read from it
    broker_checks   name, TCP, TLS, login, publish, subscribe, retained, LWT
      topic_checks  what the ACL allows, topic by topic, unseen by subscribers
      client_id     does another client use the node's id?
      broker, wire  single connections to the broker, packet by packet
    report          steps, as lines or as JSON

None of the steps disturbs a running node: the doctor uses other client ids and separate topics, and
moves no pin. Every step is bounded: a dead host takes at most `broker.NAME_S` and
`broker.CONNECT_S`.
"""
