"""The same with the `schedule` library, as its own documentation has it: a job for each sensor.

python schedule_loop.py PORT INTERVAL_S FILE...
"""

import json
import sys
import time

import paho.mqtt.client as mqtt
import schedule

port, interval_s, files = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)


def read_and_publish(number: int, path: str) -> None:
    with open(path) as file:
        temperature = int(file.read()) / 1000
    payload = json.dumps({"temperature": temperature, "time": time.time()})
    client.publish(f"sensors/schedule/s{number}/state", payload, qos=1, retain=True)


client.connect("127.0.0.1", port)
client.loop_start()
for number, path in enumerate(files):
    schedule.every(int(interval_s)).seconds.do(read_and_publish, number, path)
schedule.run_all()
while True:
    schedule.run_pending()
    time.sleep(1)
