"""What every client written in Python is asked, and how its answers are judged.

A client's file holds one function for each ability, written as its users would write it, and ends with
`report`. Questions and judgement are the same for all of them; `checks.mjs` says them for JavaScript.
"""

import importlib.metadata
import json
import math
import os
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from pydantic import BaseModel

BASE_URL = os.environ["BASE_URL"]
# What clients of Anthropic's API call the base URL has no /v1.
ANTHROPIC_URL = BASE_URL.removesuffix("/v1")
API_KEY = os.environ["API_KEY"]
MODEL = os.environ["MODEL"]
DIMENSIONS = int(os.environ["DIMENSIONS"])

QUESTION = "Write one sentence about the sea."
ASK_WEATHER = "What is the weather in Paris?"
WEATHER = "Sunny, 21 degrees."
ASK_FRUIT = "Describe a banana."
TEXTS = ["The sea is salty.", "A boat leaves the harbour.", "The sea is salty."]

City = Literal["Paris", "Rome", "Oslo"]
Unit = Literal["celsius", "fahrenheit"]


class Fruit(BaseModel):
    """A fruit."""

    colour: Literal["red", "green", "yellow"]
    ripe: bool


# The tool and its parameters, for clients that take a schema as it stands.
TOOL = "get_weather"
TOOL_SAYS = "Tells the weather in a city."
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Rome", "Oslo"]},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}


def said(text: object) -> None:
    """It is a text with something in it."""
    assert isinstance(text, str) and text.strip(), f"no text: {text!r}"


def in_pieces(pieces: Iterable[str | None]) -> None:
    """A stream's text came in more than one piece."""
    texts = [piece for piece in pieces if piece]
    assert len(texts) > 1, f"the stream came in {len(texts)} pieces: {texts}"
    said("".join(texts))


def counted(prompt: object, answer: object) -> None:
    """The tokens of the prompt and of the answer are told."""
    for name, tokens in (("prompt", prompt), ("answer", answer)):
        assert isinstance(tokens, int) and tokens > 0, f"tokens of the {name}: {tokens!r}"


def called(name: object, arguments: object) -> None:
    """It is a call of the tool, with arguments that fit its schema."""
    assert name == TOOL, f"called {name!r}"
    given = json.loads(arguments) if isinstance(arguments, str) else dict(arguments)
    assert given.keys() == PARAMETERS["properties"].keys(), given
    for member, schema in PARAMETERS["properties"].items():
        assert given[member] in schema["enum"], given


def fits(fruit: object) -> None:
    """It is a fruit, or the JSON of one."""
    text = fruit if isinstance(fruit, str) else json.dumps(fruit if isinstance(fruit, dict) else fruit.model_dump())
    Fruit.model_validate_json(text)


def embedded(vectors: Sequence[Sequence[float]]) -> None:
    """They are the vectors of `TEXTS`: of the model's dimension, of length 1, equal for equal texts."""
    assert len(vectors) == len(TEXTS), len(vectors)
    for vector in vectors:
        assert len(vector) == DIMENSIONS, len(vector)
        assert math.isclose(math.hypot(*vector), 1, abs_tol=1e-3), math.hypot(*vector)
    likeness = lambda other: sum(a * b for a, b in zip(vectors[0], vectors[other]))
    assert likeness(2) > 0.999 > likeness(1), (likeness(2), likeness(1))


def report(package: str, *abilities: Callable[[], None]) -> None:
    """Tries each ability of a package and prints a JSON line about it, for clients.py."""
    print(json.dumps({"version": importlib.metadata.version(package)}), flush=True)
    for ability in abilities:
        try:
            ability()
            wrong = None
        except Exception:
            wrong = traceback.format_exc()
        print(json.dumps({"ability": ability.__name__, "wrong": wrong}), flush=True)
