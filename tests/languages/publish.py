"""Publishes one event each over HTTP (structured, binary) and AMQP (structured, binary), as upstream systems in Python do:
with the CloudEvents SDK and pika. Arguments: ingest URL, key, AMQP URL, tenant."""

import json
import sys

import pika
import requests
from cloudevents.http import CloudEvent, to_binary, to_structured

ingest, key, amqp_url, tenant = sys.argv[1:]


def event(total):
    return CloudEvent({"type": "order.paid", "source": "/python", "subject": f"order-{total}"}, {"total": total, "note": "größer"})


for total, encode in [(1, to_structured), (2, to_binary)]:
    headers, body = encode(event(total))
    answer = requests.post(f"{ingest}/v1/events", data=body, headers={**headers, "Authorization": f"Bearer {key}"}, timeout=30)
    assert answer.status_code == 202, answer.text

channel = pika.BlockingConnection(pika.URLParameters(amqp_url)).channel()
channel.confirm_delivery()
_, body = to_structured(event(3))
structured = pika.BasicProperties(content_type="application/cloudevents+json", delivery_mode=2)
channel.basic_publish("fanfare.ingest", f"{tenant}.order.paid", body, structured, mandatory=True)
headers, body = to_binary(event(4))
attributes = {f"cloudEvents_{name[3:]}": value for name, value in headers.items() if name.startswith("ce-")}
binary = pika.BasicProperties(content_type="application/json", headers=attributes, delivery_mode=2)
channel.basic_publish("fanfare.ingest", f"{tenant}.order.paid", body, binary, mandatory=True)
print(json.dumps({"published": 4}))
