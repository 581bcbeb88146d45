"""Anthropic's package for Python."""

import anthropic
import checks

client = anthropic.Anthropic(base_url=checks.ANTHROPIC_URL, api_key=checks.API_KEY, max_retries=0)


def ask(question: str) -> dict:
    messages = [{"role": "user", "content": question}]
    # The package no longer names the temperature itself.
    greedy = {"temperature": 0}
    return {"model": checks.MODEL, "max_tokens": 64, "messages": messages, "extra_body": greedy}


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def chat() -> None:
    message = client.messages.create(**ask(checks.QUESTION), system="Be brief.")
    checks.said(text_of(message))
    checks.counted(message.usage.input_tokens, message.usage.output_tokens)
    assert (message._request_id or "").startswith("req_"), message._request_id


def stream() -> None:
    with client.messages.stream(**ask(checks.QUESTION)) as events:
        checks.in_pieces(list(events.text_stream))
        usage = events.get_final_message().usage
    checks.counted(usage.input_tokens, usage.output_tokens)


def tools() -> None:
    tool = {"name": checks.TOOL, "description": checks.TOOL_SAYS, "input_schema": checks.PARAMETERS}
    asked = ask(checks.ASK_WEATHER) | {"tools": [tool]}
    first = client.messages.create(**asked, tool_choice={"type": "tool", "name": checks.TOOL})
    [call] = [block for block in first.content if block.type == "tool_use"]
    checks.called(call.name, call.input)
    assert first.stop_reason == "tool_use", first.stop_reason
    result = {"type": "tool_result", "tool_use_id": call.id, "content": checks.WEATHER}
    asked["messages"] += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    checks.said(text_of(client.messages.create(**asked, tool_choice={"type": "none"})))


def structured() -> None:
    message = client.messages.parse(**ask(checks.ASK_FRUIT), output_format=checks.Fruit)
    checks.fits(message.parsed_output)


def counting() -> None:
    asked = ask(checks.QUESTION)
    checks.counted(client.messages.count_tokens(model=asked["model"], messages=asked["messages"]).input_tokens, 1)


checks.report("anthropic", chat, stream, tools, structured, counting)
