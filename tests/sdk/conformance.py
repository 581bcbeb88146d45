"""Runs a conformance kit against a gateway started for it.

usage: conformance.py KIT PROGRAM [STANDIN]    (scripts/conformance.sh calls it)

With STANDIN, the program of the stand-in cloud, the answers come from a cloud route to it. A failed
*should* fails the run, as a failed *must* does.
"""

import contextlib
import os
import subprocess
import sys

import gate

kit, program, *cloud = sys.argv[1:4]
with contextlib.ExitStack() as stack:
    base_url = stack.enter_context(gate.standin(cloud[0])) if cloud else ""
    running = stack.enter_context(gate.running(program, base_url))
    settings = {
        "BASE_URL": running.base_url,
        "API_KEY": running.key,
        "MODEL": "auto",
        "RATE_LIMITED_KEY": running.new_key(limits={"requests_per_minute": 15}),
        "EXHAUSTED_KEY": running.new_key(budgets=[{"window": "total", "tokens": 1, "hard": True}]),
        "OVERSIZE_MB": "16",
        "STRICT": "1",
        "PYTHON": sys.executable,
    }
    if cloud:
        # A prompt that surely does not fit the cloud route's context: 128 characters a token.
        settings["CTX_CHARS"] = "600000"
    ended = subprocess.run([f"{kit}/run.sh", "-q"], env=os.environ | settings)
sys.exit(ended.returncode)
