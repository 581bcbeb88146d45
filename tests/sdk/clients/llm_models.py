"""Simon Willison's llm, with models as its extra-openai-models.yaml names them."""

import os
import pathlib
import tempfile

import checks

os.environ["LLM_USER_PATH"] = tempfile.mkdtemp(prefix="llm-")
pathlib.Path(os.environ["LLM_USER_PATH"], "extra-openai-models.yaml").write_text(f"""
- model_id: tollgate
  model_name: {checks.MODEL}
  api_base: {checks.BASE_URL}
  api_key_name: tollgate
  supports_schema: true
  supports_tools: true
""")

# Its embedding models have no address of their own.
os.environ["OPENAI_BASE_URL"] = checks.BASE_URL

import llm  # noqa: E402, after its folder is there
from llm.default_plugins.openai_models import OpenAIEmbeddingModel  # noqa: E402

model = llm.get_model("tollgate")
model.key = checks.API_KEY


def chat() -> None:
    answer = model.prompt(checks.QUESTION, stream=False, max_tokens=64, temperature=0)
    checks.said(answer.text())
    checks.counted(answer.usage().input, answer.usage().output)


def stream() -> None:
    answer = model.prompt(checks.QUESTION, max_tokens=64, temperature=0)
    checks.in_pieces(list(answer))
    checks.counted(answer.usage().input, answer.usage().output)


def tools() -> None:
    calls = []

    def get_weather(city: checks.City, unit: checks.Unit) -> str:
        """Tells the weather in a city."""
        calls.append({"city": city, "unit": unit})
        return checks.WEATHER

    # llm cannot insist on a call, and a small model would rather talk.
    says = type(model).build_kwargs
    once = lambda self, prompt, stream: says(self, prompt, stream) | (
        {"tool_choice": "none"} if calls else {"tool_choice": "required", "parallel_tool_calls": False}
    )
    tool = llm.Tool(checks.TOOL, checks.TOOL_SAYS, checks.PARAMETERS, get_weather)
    model.build_kwargs = once.__get__(model)
    try:
        answer = model.chain(checks.ASK_WEATHER, tools=[tool], options={"max_tokens": 64, "temperature": 0})
        checks.said(answer.text())
    finally:
        del model.build_kwargs
    [call] = calls
    checks.called(checks.TOOL, call)


def structured() -> None:
    checks.fits(model.prompt(checks.ASK_FRUIT, schema=checks.Fruit, max_tokens=64, temperature=0).text())


def embeddings() -> None:
    embedder = OpenAIEmbeddingModel("tollgate-embed", checks.MODEL)
    embedder.key = checks.API_KEY
    checks.embedded(list(embedder.embed_multi(checks.TEXTS)))


checks.report("llm", chat, stream, tools, structured, embeddings)
