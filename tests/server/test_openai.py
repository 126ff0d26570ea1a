"""The interface, as OpenAI's own client sees it."""

from __future__ import annotations

import openai
import pytest

from longbow_quarrel import SamplingParams

CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
GREEDY = {"temperature": 0, "extra_body": {"ignore_eos": True}}


def greedy(max_tokens: int, **others: object) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True, **others)


def test_models_are_listed(client):
    [model] = client.models.list().data
    assert (model.id, model.object) == ("tiny", "model")
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="There is no model 'other'"):
        client.models.retrieve("other")


def test_a_chat_is_answered_with_the_models_template(client, server, alone):
    answer = client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=12, **GREEDY)
    prompt = server.llm.encode_chat(CHAT)
    [expected] = alone.generate([prompt], greedy(12))
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", expected.text)
    assert choice.finish_reason == "length"
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == len(prompt) + 12


def test_parts_and_developer_messages_are_the_same_chat(client):
    parts = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}],
        },
        {"role": "user", "content": "hi"},
    ]
    texts = [
        client.chat.completions.create(model="tiny", messages=m, max_tokens=8, **GREEDY)
        .choices[0]
        .message.content
        for m in (CHAT, parts)
    ]
    assert texts[0] == texts[1]


def test_a_streamed_chat_adds_up(client, alone, server):
    stream = client.chat.completions.create(
        model="tiny",
        messages=CHAT,
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
        **GREEDY,
    )
    *chunks, last = list(stream)
    [expected] = alone.generate([server.llm.encode_chat(CHAT)], greedy(20))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == expected.text
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["length"]
    assert len(chunks) > 5
    assert {c.id for c in chunks} == {last.id}
    assert last.choices == []
    assert last.usage.completion_tokens == 20


def test_texts_are_completed(client, alone):
    prompts = ["hello there", "another one"]
    answer = client.completions.create(model="tiny", prompt=prompts, max_tokens=10, **GREEDY)
    outputs = alone.generate(prompts, greedy(10))
    assert [c.text for c in answer.choices] == [o.text for o in outputs]
    assert [c.index for c in answer.choices] == [0, 1]
    assert answer.usage.prompt_tokens == sum(len(o.prompt_token_ids) for o in outputs)
    ids = outputs[0].prompt_token_ids
    for prompt in (ids, [ids]):
        again = client.completions.create(model="tiny", prompt=prompt, max_tokens=10, **GREEDY)
        assert again.choices[0].text == outputs[0].text


def test_a_streamed_completion_adds_up_for_every_text(client, alone):
    outputs = alone.generate(
        ["one", "two"],
        SamplingParams(max_tokens=16, seed=5, n=2, top_k=0, top_p=1, min_p=0, temperature=1),
    )
    stream = client.completions.create(
        model="tiny", prompt=["one", "two"], max_tokens=16, n=2, seed=5, temperature=1, stream=True
    )
    texts = [""] * 4
    ends: list[int] = []
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            ends += [choice.index] if choice.finish_reason else []
    assert texts == [o.text for o in outputs]
    assert sorted(ends) == [0, 1, 2, 3]


def test_a_seed_repeats_a_text_and_n_texts_differ(client):
    def texts(seed: int) -> list[str]:
        answer = client.chat.completions.create(
            model="tiny", messages=CHAT, max_tokens=16, n=3, seed=seed, temperature=1.3
        )
        return [c.message.content for c in answer.choices]

    assert texts(7) == texts(7)
    assert len(set(texts(7))) == 3
    assert texts(7) != texts(-1)


def test_stop_strings_end_a_text_before_them(client):
    whole = client.completions.create(model="tiny", prompt="hello", max_tokens=20, **GREEDY)
    text = whole.choices[0].text
    stop = text[3:5]
    answer = client.completions.create(
        model="tiny", prompt="hello", max_tokens=20, stop=[stop, "never"], **GREEDY
    )
    assert answer.choices[0].text == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    pieces = client.completions.create(
        model="tiny", prompt="hello", max_tokens=20, stop=stop, stream=True, **GREEDY
    )
    assert "".join(p.choices[0].text for p in pieces) == text[: text.index(stop)]


def test_logprobs_of_a_chat(client, alone, server):
    [expected] = alone.generate([server.llm.encode_chat(CHAT)], greedy(6, logprobs=3))
    arguments = {
        "model": "tiny",
        "messages": CHAT,
        "max_tokens": 6,
        "logprobs": True,
        "top_logprobs": 3,
    }
    answer = client.chat.completions.create(**arguments, **GREEDY)
    content = answer.choices[0].logprobs.content
    streamed = [
        entry
        for chunk in client.chat.completions.create(**arguments, stream=True, **GREEDY)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    for entries in (content, streamed):
        assert [e.logprob for e in entries] == [e.logprob for e in expected.logprobs]
        assert [[t.logprob for t in e.top_logprobs] for e in entries] == [
            [logprob for _, logprob in e.top] for e in expected.logprobs
        ]
    data = bytes(b for entry in content for b in entry.bytes)
    assert data.decode("utf-8", "replace") == expected.text


def test_logprobs_of_a_completion(client, alone):
    [expected] = alone.generate(["hello"], greedy(6, logprobs=2))
    answer = client.completions.create(
        model="tiny", prompt="hello", max_tokens=6, logprobs=2, **GREEDY
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs.token_logprobs == [e.logprob for e in expected.logprobs]
    assert len(logprobs.tokens) == len(logprobs.text_offset) == 6
    tops = zip(logprobs.top_logprobs, expected.logprobs, strict=True)
    assert all(list(top.values()) == [logprob for _, logprob in e.top] for top, e in tops)


def test_the_second_turn_finds_the_first_in_the_cache(client):
    turns = [{"role": "user", "content": "tell me a story about a longbow"}]
    first = client.chat.completions.create(model="tiny", messages=turns, max_tokens=24, **GREEDY)
    assert first.prefix_cache["miss_reason"] in ("empty", "diverged", "shorter", "partial_block")
    answer = first.choices[0].message.content
    turns += [{"role": "assistant", "content": answer}, {"role": "user", "content": "go on"}]
    second = client.chat.completions.create(model="tiny", messages=turns, max_tokens=4, **GREEDY)
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached >= first.usage.prompt_tokens // 16 * 16 > 0
    assert second.prefix_cache["cached_tokens"] == cached


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 3}, "temperature: "),
        ({"n": 0}, "n: "),
        ({"messages": []}, "messages: "),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
        ({"logit_bias": {"x": 1}}, "no token id"),
        ({"logit_bias": {"1000000": 1}}, "logit_bias must name token ids"),
        ({"extra_body": {"guided_json": {}}}, "guided_json is not supported"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools is not supported"),
        ({"max_tokens": 100_000}, "at most 256 tokens; ask for at most"),
        ({"messages": [{"role": "user", "content": "word " * 300}]}, "at most 255 fit"),
    ],
)
def test_what_makes_no_sense_is_refused_in_openais_form(client, change, message):
    arguments = {"model": "tiny", "messages": CHAT, "max_tokens": 2} | change
    with pytest.raises(openai.BadRequestError, match=message) as refused:
        client.chat.completions.create(**arguments)
    assert refused.value.type == "invalid_request_error"


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as refused:
        client.completions.create(model="gpt-x", prompt="a")
    assert refused.value.code == "model_not_found"


def test_nothing_is_left_in_the_cache_at_the_end(server):
    server.wait_until_idle()
    server.llm.engine.runner.cache.check_invariants()
