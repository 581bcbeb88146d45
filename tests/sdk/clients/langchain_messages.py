"""LangChain over Anthropic's API: langchain-anthropic."""

import checks
from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool

model = ChatAnthropic(
    model=checks.MODEL, max_tokens=64, temperature=0, base_url=checks.ANTHROPIC_URL, api_key=checks.API_KEY, max_retries=0
)


@tool
def get_weather(city: checks.City, unit: checks.Unit) -> str:
    """Tells the weather in a city."""
    return checks.WEATHER


def chat() -> None:
    answer = model.invoke(checks.QUESTION)
    checks.said(answer.text)
    checks.counted(answer.usage_metadata["input_tokens"], answer.usage_metadata["output_tokens"])


def stream() -> None:
    chunks = list(model.stream(checks.QUESTION))
    checks.in_pieces([chunk.text for chunk in chunks])
    usage = sum(chunks[1:], chunks[0]).usage_metadata
    checks.counted(usage["input_tokens"], usage["output_tokens"])


def tools() -> None:
    messages = [("user", checks.ASK_WEATHER)]
    first = model.bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False).invoke(messages)
    [call] = first.tool_calls
    checks.called(call["name"], call["args"])
    history = [*messages, first, get_weather.invoke(call)]
    second = model.bind_tools([get_weather], tool_choice={"type": "none"}).invoke(history)
    checks.said(second.text)


def structured() -> None:
    for method in ("json_schema", "function_calling"):
        checks.fits(model.with_structured_output(checks.Fruit, method=method).invoke(checks.ASK_FRUIT))


checks.report("langchain-anthropic", chat, stream, tools, structured)
