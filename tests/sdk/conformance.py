"""Runs a conformance kit against a gateway started for it.

usage: conformance.py PROGRAM KIT    (scripts/slow/conformance.sh calls it)
"""

import os
import subprocess
import sys

import gate

program, kit = sys.argv[1:3]
with gate.running(program) as running:
    settings = {
        "BASE_URL": running.base_url,
        "API_KEY": running.key,
        "MODEL": "auto",
        "RATE_LIMITED_KEY": running.new_key(limits={"requests_per_minute": 15}),
        "EXHAUSTED_KEY": running.new_key(budgets=[{"window": "total", "tokens": 1, "hard": True}]),
        "OVERSIZE_MB": "16",
        "PYTHON": sys.executable,
    }
    ended = subprocess.run([f"{kit}/run.sh", "-q", *sys.argv[3:]], env=os.environ | settings)
sys.exit(ended.returncode)
