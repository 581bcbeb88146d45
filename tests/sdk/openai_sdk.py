"""The openai package against tollgate, as an application would use it."""

import asyncio
import traceback

import openai

PROMPT = [{"role": "user", "content": "Write one sentence about the sea."}]


def chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="auto", messages=PROMPT, max_tokens=16, temperature=0)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id
    assert answer.usage.model_extra["cost"] > 0, "usage.cost in US dollars"


def stream(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="auto", messages=PROMPT, max_tokens=16, temperature=0, seed=1)
    text, usage, finishes = "", None, []
    for chunk in client.chat.completions.create(
        model="auto", messages=PROMPT, max_tokens=16, temperature=0, seed=1, stream=True, stream_options={"include_usage": True}
    ):
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            finishes += [chunk.choices[0].finish_reason] if chunk.choices[0].finish_reason else []
        usage = chunk.usage or usage
    assert text == whole.choices[0].message.content, (text, whole)
    assert finishes == [whole.choices[0].finish_reason]
    assert usage.completion_tokens == whole.usage.completion_tokens


def stream_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="auto", messages=PROMPT, max_tokens=8) as events:
        kinds = [event.type for event in events]
        assert kinds.count("content.delta") > 1 and kinds.count("content.done") == 1, kinds
        assert events.current_completion_snapshot.choices[0].message.content


def leaving(client: openai.OpenAI) -> None:
    with client.chat.completions.create(model="auto", messages=PROMPT, max_tokens=500, stream=True) as events:
        next(iter(events))
    chat(client)


def together(client: openai.OpenAI) -> None:
    async def ask(one: openai.AsyncOpenAI, n: int) -> str:
        text = ""
        messages = [{"role": "user", "content": f"Say {n}."}]
        async for chunk in await one.chat.completions.create(model="auto", messages=messages, max_tokens=8, stream=True):
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        return text

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key=client.api_key, max_retries=0) as one:
            return await asyncio.gather(*(ask(one, n) for n in range(4)))

    assert len(asyncio.run(all_of_them())) == 4


def models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert "auto" in names and "edge" in names, names
    assert client.models.retrieve("auto").id == "auto"


def errors_typed(client: openai.OpenAI) -> None:
    def raised(kind: type[openai.APIStatusError], **fields) -> openai.APIStatusError:
        request = {"model": "auto", "messages": PROMPT, "max_tokens": 4} | fields
        try:
            client.chat.completions.create(**request)
        except kind as error:
            assert error.request_id, "an error has a request id too"
            return error
        raise AssertionError(f"no {kind.__name__} for {fields}")

    assert raised(openai.NotFoundError, model="no-such-model").code == "model_not_found"
    assert raised(openai.BadRequestError, max_tokens=-1).param == "max_tokens"
    assert raised(openai.BadRequestError, messages=[]).param == "messages"
    stranger = openai.OpenAI(base_url=client.base_url, api_key="sk-wrong", max_retries=0)
    try:
        stranger.models.list()
    except openai.AuthenticationError as error:
        assert error.code == "invalid_api_key"
    else:
        raise AssertionError("a wrong key was let in")


def raw_response(client: openai.OpenAI) -> None:
    answer = client.chat.completions.with_raw_response.create(model="auto", messages=PROMPT, max_tokens=4)
    assert answer.headers["x-tollgate-route"] == "edge"
    assert answer.headers["x-request-id"]
    assert float(answer.headers["x-tollgate-cost-usd"]) > 0
    assert answer.parse().choices


CHECKS = [chat, stream, stream_helper, leaving, together, models, errors_typed, raw_response]


def run(base_url: str, key: str) -> int:
    """Runs every check; returns how many failed."""
    client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=120)
    failed = 0
    for check in CHECKS:
        try:
            check(client)
            print(f"openai {openai.__version__}: {check.__name__} ok")
        except Exception:
            failed += 1
            print(f"openai {openai.__version__}: {check.__name__} FAILED")
            traceback.print_exc()
    return failed
