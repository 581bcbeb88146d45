"""Runs the client SDKs' smoke tests against a gateway started for them.

usage: run.py PROGRAM    (scripts/sdk.sh calls it with the right PYTHONPATH)
"""

import sys

import gate
import openai_sdk

with gate.running(sys.argv[1]) as running:
    failed = openai_sdk.run(running.base_url, running.key)
sys.exit(1 if failed else 0)
