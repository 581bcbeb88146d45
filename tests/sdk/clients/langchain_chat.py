"""LangChain over OpenAI's API: langchain-openai."""

import checks
from langchain_core.messages import ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

at = {"base_url": checks.BASE_URL, "api_key": checks.API_KEY, "max_retries": 0}
model = ChatOpenAI(model=checks.MODEL, max_tokens=64, temperature=0, **at)


@tool
def get_weather(city: checks.City, unit: checks.Unit) -> str:
    """Tells the weather in a city."""
    return checks.WEATHER


def chat() -> None:
    answer = model.invoke(checks.QUESTION)
    checks.said(answer.text)
    checks.counted(answer.usage_metadata["input_tokens"], answer.usage_metadata["output_tokens"])


def stream() -> None:
    chunks = list(model.stream(checks.QUESTION, stream_usage=True))
    checks.in_pieces([chunk.text for chunk in chunks])
    usage = sum(chunks[1:], chunks[0]).usage_metadata
    checks.counted(usage["input_tokens"], usage["output_tokens"])


def tools() -> None:
    messages = [("user", checks.ASK_WEATHER)]
    first = model.bind_tools([get_weather], tool_choice="get_weather").invoke(messages)
    [call] = first.tool_calls
    checks.called(call["name"], call["args"])
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage), result
    second = model.bind_tools([get_weather], tool_choice="none").invoke([*messages, first, result])
    checks.said(second.text)


def structured() -> None:
    for method in ("json_schema", "function_calling"):
        checks.fits(model.with_structured_output(checks.Fruit, method=method).invoke(checks.ASK_FRUIT))


def embeddings() -> None:
    # Texts, not tokens of OpenAI's vocabulary, as LangChain asks for with every other provider.
    embedder = OpenAIEmbeddings(model=checks.MODEL, check_embedding_ctx_length=False, **at)
    checks.embedded(embedder.embed_documents(checks.TEXTS))


def responses() -> None:
    by_responses = ChatOpenAI(model=checks.MODEL, max_tokens=64, use_responses_api=True, **at)
    checks.said(by_responses.invoke(checks.QUESTION).text)
    checks.in_pieces([chunk.text for chunk in by_responses.stream(checks.QUESTION)])
    [call] = by_responses.bind_tools([get_weather], tool_choice="get_weather").invoke(checks.ASK_WEATHER).tool_calls
    checks.called(call["name"], call["args"])


checks.report("langchain-openai", chat, stream, tools, structured, embeddings, responses)
