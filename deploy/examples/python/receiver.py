"""Receives Fanfare's webhooks: checks the signature, takes each delivery once, answers.

    WEBHOOK_SECRET=whsec_... python3 receiver.py

Python 3.8 or later, its standard library alone. Put your work into `take`.
"""
import base64
import collections
import hashlib
import hmac
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ["WEBHOOK_SECRET"]
PORT = int(os.environ.get("PORT", "8000"))
TOLERANCE_SECONDS = 5 * 60
BODY_MAX_BYTES = 1024 * 1024
REMEMBERED = 100_000

taken = collections.OrderedDict()  # by webhook-id; where it must outlast a restart, a table with a unique key
one_at_a_time = threading.Lock()  # a repeat waits until it is known how the first went


def take(event):
    """What you do with it, within the 15 s that Fanfare waits. Raise, and it comes again."""
    if "entity" in event:  # Capturi's payload `full`
        print("full", event["event"], event["entity"]["uid"], flush=True)
    elif "uid" in event:  # its payload `identity`: fetch the rest by the uid
        print("identity", event["event"], event["uid"], flush=True)
    else:  # any other catalog's
        print("other", event.get("type") or event.get("event"), flush=True)


def is_signed(headers, body):
    """Whether it comes from who knows the secret, and is no recording (standardwebhooks.com)."""
    timestamp = headers.get("webhook-timestamp", "")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 12):
        return False
    if abs(time.time() - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    key = base64.b64decode(SECRET[6:]) if SECRET.startswith("whsec_") else SECRET.encode()
    signed = "{}.{}.".format(headers.get("webhook-id", ""), timestamp).encode("latin-1") + body
    expected = b"v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
    # While a secret is being rotated both sign: one that fits is enough.
    signatures = headers.get("webhook-signature", "").encode("latin-1").split(b" ")
    return any(hmac.compare_digest(expected, signature) for signature in signatures)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections
    timeout = 30  # seconds that a connection may say nothing

    def receive(self):
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 12) or int(length) > BODY_MAX_BYTES:
            self.close_connection = True
            return self.answer(413)
        body = self.rfile.read(int(length))
        if not is_signed(self.headers, body):
            return self.answer(401)
        with one_at_a_time:
            delivery = self.headers["webhook-id"]
            if delivery not in taken:
                try:
                    take(json.loads(body))
                except Exception as error:
                    print("not taken:", repr(error), flush=True)
                    return self.answer(500)
                taken[delivery] = True
                if len(taken) > REMEMBERED:
                    taken.popitem(last=False)
        self.answer(200)

    do_POST = do_PUT = do_PATCH = do_DELETE = receive

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", PORT), Receiver)  # behind what speaks TLS
    print("listening on", PORT, flush=True)
    server.serve_forever()
