"""LlamaIndex's OpenAILike, which is what it calls everything that speaks OpenAI's API."""

import checks
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

at = {"api_base": checks.BASE_URL, "api_key": checks.API_KEY, "max_retries": 0}
model = OpenAILike(
    model=checks.MODEL, max_tokens=64, temperature=0, is_chat_model=True, is_function_calling_model=True, **at
)
QUESTION = [ChatMessage(role="user", content=checks.QUESTION)]


def get_weather(city: checks.City, unit: checks.Unit) -> str:
    """Tells the weather in a city."""
    return checks.WEATHER


def chat() -> None:
    answer = model.chat(QUESTION)
    checks.said(answer.message.content)
    checks.counted(answer.raw.usage.prompt_tokens, answer.raw.usage.completion_tokens)


def stream() -> None:
    answers = list(model.stream_chat(QUESTION, stream_options={"include_usage": True}))
    checks.in_pieces([answer.delta for answer in answers])
    usage = answers[-1].raw.usage
    checks.counted(usage.prompt_tokens, usage.completion_tokens)


def tools() -> None:
    tool = FunctionTool.from_defaults(get_weather)
    asked = [ChatMessage(role="user", content=checks.ASK_WEATHER)]
    first = model.chat_with_tools([tool], chat_history=asked, tool_required=True)
    [call] = model.get_tool_calls_from_response(first)
    checks.called(call.tool_name, call.tool_kwargs)
    result = ChatMessage(
        role="tool", content=tool(**call.tool_kwargs).content, additional_kwargs={"tool_call_id": call.tool_id}
    )
    second = model.chat_with_tools([tool], chat_history=[*asked, first.message, result], tool_choice="none")
    checks.said(second.message.content)


def structured() -> None:
    checks.fits(model.structured_predict(checks.Fruit, PromptTemplate(checks.ASK_FRUIT)))


def embeddings() -> None:
    embedder = OpenAILikeEmbedding(model_name=checks.MODEL, **at)
    checks.embedded(embedder.get_text_embedding_batch(checks.TEXTS))


def completions() -> None:
    plain = OpenAILike(model=checks.MODEL, max_tokens=16, temperature=0, **at)
    checks.said(plain.complete("The sea is").text)
    checks.in_pieces([answer.delta for answer in plain.stream_complete("The sea is")])


checks.report("llama-index-llms-openai-like", chat, stream, tools, structured, embeddings, completions)
