"""A gateway with the real model, started for a test in Python."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator

START_MAX_S = 120
# Lengths of the vectors that the default model and the stand-in cloud give.
DIMENSIONS = {"local": 576, "cloud": 8}
# An answer whose length nobody asked for is kept short: a busy machine writes a few tokens a second.
CONFIG = """
[server]
listen = "127.0.0.1:0"
data_dir = "{folder}/data"
output_tokens_default = 128
[ledger]
low_water_mib = 1
[policy]
shipped = "edge-first"
[routes.edge]
kind = "local"
file = "{model}"
model = "SmolLM2-135M-Instruct"
usd_per_hour = "0.05"
slots = 4
# On a busy machine a token may take long without anything being wrong.
prefill_token_max_us = 1000000
decode_token_max_us = 5000000
"""

CLOUD_ROUTE = """
[routes.cloud]
kind = "openai"
provider = "standin"
base_url = "{base_url}"
model = "standin-1"
context_tokens = 4096
[routes.cloud.price]
input = "1"
output = "2"
"""
CLOUD_CONFIG = (
    """
[server]
listen = "127.0.0.1:0"
data_dir = "{folder}/data"
[ledger]
low_water_mib = 1
[policy]
shipped = "cloud-only"
"""
    + CLOUD_ROUTE
)
# Long enough that a stream comes in pieces and a stop string stands in its middle.
SAYS = (
    "Waves carry old stories towards every distant shore. Gulls circle above quiet boats while morning light "
    "spreads over cold water. Nobody hears the tide leave, yet everything it touched has changed before evening."
)


@dataclasses.dataclass
class Gate:
    """A running gateway: its address, its first key, its admin key, and the folder it was started in."""

    address: str
    key: str
    admin_key: str
    folder: pathlib.Path

    @property
    def base_url(self) -> str:
        return f"http://{self.address}/v1"

    def new_key(self, **fields: object) -> str:
        """Creates a key by the admin API and returns its secret."""
        request = urllib.request.Request(
            f"http://{self.address}/admin/v1/keys",
            data=json.dumps({"label": "test"} | fields).encode(),
            headers={"authorization": f"Bearer {self.admin_key}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["secret"]


@contextlib.contextmanager
def standin(program: str) -> Iterator[str]:
    """Starts the stand-in cloud and yields its base URL."""
    arguments = ["--listen", "127.0.0.1:0", "--says", SAYS, "--between-ms", "5"]
    cloud = subprocess.Popen([pathlib.Path(program).resolve(), *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield cloud.stdout.readline().strip()
    finally:
        cloud.terminate()
        cloud.wait(60)


@contextlib.contextmanager
def running(program: str, base_url: str = "", text: str = "") -> Iterator[Gate]:
    """Starts PROGRAM and stops it in the end: with the configuration `text`, or with the model that
    TOLLGATE_MODEL names, or with a cloud route to `base_url`."""
    model = pathlib.Path(os.environ["TOLLGATE_MODEL"]).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        config = folder / "tollgate.toml"
        text = text or (CLOUD_CONFIG if base_url else CONFIG)
        config.write_text(text.format(folder=folder, model=model, base_url=base_url))
        gateway = subprocess.Popen(
            [pathlib.Path(program).resolve(), "serve", "--config", config],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
        )
        said, address = _listen(gateway)
        try:
            if not address:
                sys.exit("the gateway did not start:\n" + "".join(said))
            read = lambda file: (folder / "data" / file).read_text().strip()
            yield Gate(address[0], read("first.key"), read("admin.key"), folder)
        except BaseException:
            print("".join(said[-40:]), file=sys.stderr)
            raise
        finally:
            gateway.send_signal(signal.SIGTERM)
            ended = gateway.wait(60)
        if ended != 0:
            sys.exit(f"the gateway ended with {ended}:\n" + "".join(said[-40:]))


def _listen(gateway: subprocess.Popen) -> tuple[list[str], list[str]]:
    """Keeps what the gateway says, and waits until it says where it listens."""
    said: list[str] = []
    address: list[str] = []
    started = threading.Event()

    def keep() -> None:
        for line in gateway.stdout:
            said.append(line)
            found = re.search(r"127\.0\.0\.1:([1-9]\d*)", line)
            if found and "listen" in line.lower() and not address:
                address.append(found.group(0))
                started.set()
        started.set()

    threading.Thread(target=keep, daemon=True).start()
    started.wait(START_MAX_S)
    return said, address
