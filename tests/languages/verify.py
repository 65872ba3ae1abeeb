"""Verifies requests with the Standard Webhooks library. Reads lines of JSON: {"secret", "headers", "body"}; fails where one
is not signed as it should be, or where a changed body passes."""

import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

verified = 0
for line in sys.stdin:
    request = json.loads(line)
    Webhook(request["secret"]).verify(request["body"], request["headers"])
    try:
        Webhook(request["secret"]).verify(request["body"] + " ", request["headers"])
        sys.exit("a changed body passes")
    except WebhookVerificationError:
        verified += 1
print(json.dumps({"verified": verified}))
