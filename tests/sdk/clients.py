"""Runs every client of tests/sdk/clients, and every snippet of docs/clients.md, against the local route
and against a cloud route to the stand-in, and prints what each of them can do.

usage: clients.py PROGRAM STANDIN ENVIRONMENTS [NAME...]    (scripts/slow/clients.sh calls it)

Each NAME is the beginning of a client's name; none: all of them.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import gate

FILES = pathlib.Path(__file__).parent.resolve() / "clients"
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "clients.md"
ONE_MAX_S = 300

# Name, file, environment, and what the file is told.
CLIENTS = [
    ("openai (Node)", "openai_node.mjs", "node", ""),
    ("anthropic (Python)", "anthropic_sdk.py", "anthropic_sdk", ""),
    ("anthropic (Node)", "anthropic_node.mjs", "node", ""),
    ("llm", "llm_models.py", "llm_models", ""),
    ("langchain-openai", "langchain_chat.py", "langchain", ""),
    ("langchain-anthropic", "langchain_messages.py", "langchain", ""),
    ("ai (openai-compatible)", "ai_sdk.mjs", "node", "compatible"),
    ("ai (openai)", "ai_sdk.mjs", "node", "openai"),
    ("ai (anthropic)", "ai_sdk.mjs", "node", "anthropic"),
    ("llama-index openai-like", "llamaindex.py", "llamaindex", ""),
    ("openai-agents (responses)", "openai_agents.py", "openai_agents", "responses"),
    ("openai-agents (chat)", "openai_agents.py", "openai_agents", "chat"),
]
# A heading of the page, or a snippet: its language, the environment it needs if not the language's
# own, its text.
SNIPPET = re.compile(r"^## ([^\n]+)$|^```(python|js|sh)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SNIPPETS_MIN = 10
USUAL = {"python": "openai_agents", "js": "node", "sh": "llm_models"}


@dataclasses.dataclass
class Run:
    """A client or a snippet: its name, how it is run, in which environment."""

    name: str
    environment: str
    command: list[str]
    # Whether it tells its abilities; a snippet only prints something.
    reports: bool = True


@dataclasses.dataclass
class Outcome:
    """What one of them did on one route."""

    name: str
    route: str
    version: str = ""
    # By ability: what went wrong, or nothing.
    wrong: dict[str, str | None] = dataclasses.field(default_factory=dict)

    def cell(self, ability: str) -> str:
        if ability not in self.wrong:
            return ""
        return "FAILED" if self.wrong[ability] else "ok"


def clients() -> list[Run]:
    runs = []
    for name, file, environment, told in CLIENTS:
        # Node looks for packages beside the path it was given, not where a link leads.
        node = ["node", "--preserve-symlinks", "--preserve-symlinks-main", f"clients/{file}"]
        command = node if file.endswith(".mjs") else [sys.executable, str(FILES / file)]
        runs.append(Run(name, environment, [*command, told]))
    return runs


def snippets() -> list[Run]:
    runs, heading = [], ""
    for title, language, environment, text in SNIPPET.findall(PAGE.read_text()):
        heading = title or heading
        if not language:
            continue
        command = {
            "python": [sys.executable, "-c", text],
            "js": ["node", "--input-type=module", "--eval", text],
            "sh": ["bash", "-euo", "pipefail", "-c", text],
        }[language]
        name = f"snippet: {heading} ({language})"
        runs.append(Run(name, environment or USUAL[language], command, reports=False))
    # Fences of another look would be found as none.
    if len(runs) < SNIPPETS_MIN:
        sys.exit(f"only {len(runs)} snippets in {PAGE}")
    return runs


def run(one: Run, route: str, gateway: gate.Gate, environments: pathlib.Path) -> Outcome:
    home = environments / one.environment
    settings = {
        "BASE_URL": gateway.base_url,
        "API_KEY": gateway.key,
        "MODEL": "auto",
        "DIMENSIONS": str(gate.DIMENSIONS[route]),
        # What docs/clients.md says to set.
        "OPENAI_BASE_URL": gateway.base_url,
        "OPENAI_API_KEY": gateway.key,
        "ANTHROPIC_BASE_URL": gateway.base_url.removesuffix("/v1"),
        "ANTHROPIC_API_KEY": gateway.key,
        "PYTHONPATH": str(home),
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
    }
    ended = subprocess.run(
        one.command,
        env=os.environ | settings,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ONE_MAX_S,
    )
    outcome = Outcome(one.name, route)
    if one.reports:
        read_report(ended.stdout, outcome)
    elif ended.stdout.strip() and '"error"' not in ended.stdout:
        outcome.wrong["snippet"] = None
    if ended.returncode or not outcome.wrong:
        outcome.wrong["snippet" if not one.reports else "start"] = (
            f"it ended with {ended.returncode}, and said {ended.stdout[-1000:]!r}\n{ended.stderr[-4000:]}"
        )
    return outcome


def read_report(text: str, outcome: Outcome) -> None:
    """Reads what `report` of checks.py and checks.mjs prints: a JSON line for each ability."""
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            match json.loads(line):
                case {"version": version}:
                    outcome.version = version
                case {"ability": ability, "wrong": wrong}:
                    outcome.wrong[ability] = wrong


def table(outcomes: list[Outcome]) -> str:
    """Client by ability, a row for each route; an empty cell is what the client has not."""
    abilities = list(dict.fromkeys(ability for outcome in outcomes for ability in outcome.wrong))
    rows = [["client", "version", "route", *abilities]]
    for outcome in outcomes:
        cells = [outcome.cell(ability) for ability in abilities]
        rows.append([outcome.name, outcome.version, outcome.route, *cells])
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def main() -> int:
    program, cloud, environments, *only = sys.argv[1:]
    runs = [one for one in clients() + snippets() if not only or one.name.startswith(tuple(only))]
    outcomes = []
    with gate.standin(cloud) as base_url, gate.running(program) as local, gate.running(program, base_url) as through:
        for one in runs:
            for route, gateway in (("local", local), ("cloud", through)):
                outcome = run(one, route, gateway, pathlib.Path(environments).resolve())
                print(f"{one.name}, {route}:", *(f"{a} {outcome.cell(a)}" for a in outcome.wrong), file=sys.stderr)
                outcomes.append(outcome)
    print(table(outcomes))
    wrong = [(one, ability, why) for one in outcomes for ability, why in one.wrong.items() if why]
    for one, ability, why in wrong:
        print(f"\n== {one.name}, {one.route}: {ability}\n{why.rstrip()}")
    tried = sum(len(one.wrong) for one in outcomes)
    print(f"\nclients: {tried - len(wrong)} passed, {len(wrong)} failed")
    return 1 if wrong or not tried else 0


if __name__ == "__main__":
    sys.exit(main())
