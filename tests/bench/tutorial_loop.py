"""What every tutorial has: read, publish retained at QoS 1, sleep.

python tutorial_loop.py PORT INTERVAL_S FILE...
"""

import json
import sys
import time

import paho.mqtt.client as mqtt

port, interval_s, files = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.connect("127.0.0.1", port)
client.loop_start()
while True:
    for number, path in enumerate(files):
        with open(path) as file:
            temperature = int(file.read()) / 1000
        payload = json.dumps({"temperature": temperature, "time": time.time()})
        client.publish(f"sensors/tutorial/s{number}/state", payload, qos=1, retain=True)
    time.sleep(interval_s)
