"""What schemathesis cannot know: which models there are, and that answers take time.

What is wrong stays as wrong as it was.
"""

import json
import zlib

import schemathesis

MODELS = ["auto", "edge", "cloud"]
CAPS = ["max_tokens", "max_completion_tokens", "max_output_tokens"]
CAP_MAX = 2**32 - 1


@schemathesis.hook
def before_call(context, case, kwargs):
    # A deadline that is over is a 504, and rightly so. Here, since not every phase asks `map_headers`.
    deadline = str((case.headers or {}).get("x-tollgate-deadline-ms"))
    if deadline.isdecimal() and 1 <= int(deadline) <= 86_400_000:
        case.headers["x-tollgate-deadline-ms"] = "86400000"


@schemathesis.hook
def map_body(context, body):
    if not isinstance(body, dict) or "model" not in body:
        return body
    draw = zlib.crc32(json.dumps(body, sort_keys=True, default=str).encode())
    changed = dict(body)
    if isinstance(body["model"], str) and 1 <= len(body["model"]) <= 64:
        changed["model"] = MODELS[draw % len(MODELS)]
    for cap in CAPS:
        asked = body.get(cap)
        if type(asked) is int and 8 < asked <= CAP_MAX:
            changed[cap] = 1 + asked % 8
    if type(body.get("n")) is int and 2 < body["n"] <= 128:
        changed["n"] = 2
    return changed
