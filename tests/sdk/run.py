"""Runs the openai package's smoke tests and the README's commands against a gateway started for them.

usage: run.py PROGRAM    (scripts/sdk.sh calls it with the right PYTHONPATH)
"""

import sys

import gate
import openai_sdk
import readme

program = sys.argv[1]
with gate.running(program) as running:
    failed = openai_sdk.run(running.base_url, running.key) + readme.run(program, running)
sys.exit(1 if failed else 0)
