"""No more of paho than it takes: the file's bytes are the payload, on a grid that is kept.

python paho_loop.py PORT INTERVAL_S FILE...
"""

import sys
import time

import paho.mqtt.client as mqtt

port, interval_s, files = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.connect("127.0.0.1", port)
client.loop_start()
topics = [f"sensors/paho/s{number}/state" for number in range(len(files))]
due_s = time.monotonic()
while True:
    for topic, path in zip(topics, files, strict=True):
        with open(path, "rb", buffering=0) as file:
            client.publish(topic, file.read(), qos=1, retain=True)
    due_s += interval_s
    time.sleep(max(0.0, due_s - time.monotonic()))
