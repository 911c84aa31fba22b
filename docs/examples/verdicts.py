"""
A web hook that refuses mail to one person, and marks what comes without TLS.
"""

import hashlib
import hmac
import json
import time

from twisted.web.resource import Resource

SECRET = b"change me, change me"


def is_signed(headers, body, now):
    """Say whether a request is of our mail server, and of the last five minutes."""
    stamp = headers.getRawHeaders("X-Smtpsvc-Timestamp", [""])[0]
    signature = headers.getRawHeaders("X-Smtpsvc-Signature", [""])[0]
    expected = hmac.new(SECRET, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(signature.encode(), f"sha256={expected}".encode()):
        return False
    return abs(now - int(stamp)) < 300


class Verdicts(Resource):
    isLeaf = True

    def render_POST(self, request):
        body = request.content.read()
        if not is_signed(request.requestHeaders, body, time.time()):
            request.setResponseCode(403)
            return b""
        return json.dumps(judge(json.loads(body))).encode()


def judge(told):
    if told.get("recipient") == "nobody@y.example":
        return {"action": "reject", "code": 550, "enhanced": "5.1.1", "text": "Nobody is not here any more"}
    if told["client"]["tls"] is None:
        return {"action": "tag", "headers": {"X-Plain": "yes"}}
    return {"action": "accept"}
