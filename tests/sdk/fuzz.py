"""Runs schemathesis against a gateway started for it: first the data plane, then the admin plane.

usage: fuzz.py PROGRAM STANDIN [SECONDS]    (scripts/slow/schemathesis.sh calls it)

SECONDS, 90 unless said otherwise, is what each plane gets. What it sends follows from a fixed seed and from
how much fits into that time.
"""

import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile

import gate

CONFIG = (
    """
[server]
listen = "127.0.0.1:0"
data_dir = "{folder}/data"
output_tokens_default = 4
[limits]
failed_auth_per_minute = 1000000
[ledger]
low_water_mib = 1
[guard]
enabled = false
[responses]
store = true
[policy]
shipped = "edge-first"
[routes.edge]
kind = "local"
file = "{model}"
model = "SmolLM2-135M-Instruct"
usd_per_hour = "0.05"
slots = 4
context_tokens = 512
"""
    + gate.CLOUD_ROUTE
)
# Whether what fits its schema is taken cannot be asked: a schema cannot say that a tool that is chosen must be
# among those that are offered, or that a route must be able to serve an image. What is deleted is revoked or
# disabled and stays there to be seen, since entries name it.
UNASKED = "positive_data_acceptance,use_after_free"
ADMINS = "^/(admin|metrics|v1/organization)"
# These would take away the admin key that the rest is asked with, or the model.
DESTRUCTIVE = "/(rotate-admin|unload|swap)$"

program, cloud, seconds = sys.argv[1], sys.argv[2], (sys.argv[3:] or ["90"])[0]


def schemathesis(running: gate.Gate, key: str, *which: str) -> int:
    arguments = [
        *("run", f"http://{running.address}/openapi.json", "--header", f"Authorization: Bearer {key}"),
        *("--exclude-checks", UNASKED, *which),
        *("--seed", "20261126", "--max-time", seconds, "--request-timeout", "60", "--continue-on-failure"),
        *("--no-color", "--suppress-health-check", "all", "--generation-database", "none"),
    ]
    # It keeps notes beside where it runs.
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"SCHEMATHESIS_HOOKS": "fuzz_hooks"}
        command = [sys.executable, "-m", "schemathesis.cli", *arguments]
        return subprocess.run(command, cwd=folder, env=environment).returncode


with contextlib.ExitStack() as stack:
    base_url = stack.enter_context(gate.standin(cloud))
    running = stack.enter_context(gate.running(program, base_url, CONFIG))
    failed = [
        schemathesis(running, running.key, "--exclude-path-regex", ADMINS),
        schemathesis(
            running, running.admin_key, "--include-path-regex", ADMINS, "--exclude-path-regex", DESTRUCTIVE
        ),
    ]
sys.exit(any(failed))
