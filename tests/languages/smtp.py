"""A mail server for tests: takes every mail and prints it as a line of JSON: {"to", "from", "headers", "body"}. Argument: its
port on 127.0.0.1."""

import email
import email.policy
import json
import sys
import threading

from aiosmtpd.controller import Controller


class Printer:
    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        headers = {name.lower(): str(value) for name, value in mail.items()}
        told = {"to": envelope.rcpt_tos, "from": envelope.mail_from, "headers": headers, "body": mail.get_content()}
        print(json.dumps(told), flush=True)
        return "250 OK"


Controller(Printer(), hostname="127.0.0.1", port=int(sys.argv[1])).start()
print("ready", flush=True)
threading.Event().wait()
