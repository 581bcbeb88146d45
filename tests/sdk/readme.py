"""The README's commands and its snippet, run as they stand but for the address, the program and the id
of a request."""

import json
import pathlib
import re
import subprocess
import sys

import gate

README = pathlib.Path(__file__).parents[2] / "README.md"
SECTIONS = ["Send a request", "See what it cost"]
# Lines that are indented, and what stands between fences.
BLOCKS = re.compile(r"^((?:    [^\n]*\n)+)|^```(python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    """The language and the text of each block in those sections."""
    found = []
    for section in README.read_text().split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        if title in SECTIONS:
            found += [(language or "sh", indented or fenced) for indented, language, fenced in BLOCKS.findall(text)]
    return found


def run(program: str, running: gate.Gate) -> int:
    """Runs every block; returns how many failed."""
    program = str(pathlib.Path(program).resolve())
    found = blocks()
    assert len(found) >= 3, "the README has lost its commands, or this file its way to them"
    failed = 0
    for language, as_it_stands in found:
        text = as_it_stands.replace("127.0.0.1:8655", running.address).replace("target/release/tollgate", program)
        if "req_…" in text:
            query = [program, "ledger", "query", "--limit", "1", "--json"]
            newest = json.loads(subprocess.check_output(query, cwd=running.folder))["data"][0]["id"]
            text = text.replace("req_…", newest)
        command = [sys.executable, "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
        ended = subprocess.run(command, cwd=running.folder, capture_output=True, text=True, timeout=120)
        good = ended.returncode == 0 and ended.stdout.strip() and '"error"' not in ended.stdout
        print(f"README: {as_it_stands.strip().splitlines()[0]} {'ok' if good else 'FAILED'}")
        if not good:
            failed += 1
            print(text, ended.stdout, ended.stderr, sep="\n")
    return failed
