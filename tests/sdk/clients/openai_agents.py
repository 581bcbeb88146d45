"""OpenAI's Agents SDK, by the Responses API as it does unasked, and by chat completions."""

import asyncio
import dataclasses
import sys

import checks
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

set_tracing_disabled(True)
client = AsyncOpenAI(base_url=checks.BASE_URL, api_key=checks.API_KEY, max_retries=0)
by_chat = "chat" in sys.argv
model = (OpenAIChatCompletionsModel if by_chat else OpenAIResponsesModel)(checks.MODEL, client)
BRIEF = ModelSettings(max_tokens=64, temperature=0, include_usage=True)
# One event loop for all: the client keeps its connections in it.
run = asyncio.Runner().run


def agent(**fields: object) -> Agent:
    return Agent(name="Helper", instructions="Be brief.", model=model, **{"model_settings": BRIEF} | fields)


def chat() -> None:
    ran = run(Runner.run(agent(), checks.QUESTION))
    checks.said(ran.final_output)
    usage = ran.context_wrapper.usage
    checks.counted(usage.input_tokens, usage.output_tokens)


def stream() -> None:
    async def pieces() -> list[str]:
        ran = Runner.run_streamed(agent(), checks.QUESTION)
        return [
            event.data.delta
            async for event in ran.stream_events()
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
        ]

    checks.in_pieces(run(pieces()))


def tools() -> None:
    calls = []

    # Offered until it was called: a small model would call it again and again.
    @function_tool(is_enabled=lambda *_: not calls)
    def get_weather(city: checks.City, unit: checks.Unit) -> str:
        """Tells the weather in a city."""
        calls.append({"city": city, "unit": unit})
        return checks.WEATHER

    insisting = dataclasses.replace(BRIEF, tool_choice="required", parallel_tool_calls=False)
    ran = run(Runner.run(agent(tools=[get_weather], model_settings=insisting), checks.ASK_WEATHER))
    [call] = calls
    checks.called(checks.TOOL, call)
    checks.said(ran.final_output)


def structured() -> None:
    checks.fits(run(Runner.run(agent(output_type=checks.Fruit), checks.ASK_FRUIT)).final_output)


checks.report("openai-agents", chat, stream, tools, structured)
