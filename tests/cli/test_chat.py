"""``chat``: turns, what is reused of earlier ones, commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cli.running import Run
from longbow_quarrel import LLM, RequestOutput, SamplingParams
from longbow_quarrel.chat_template import ChatTemplate
from longbow_quarrel.cli.conversation import Conversation
from longbow_quarrel.errors import ContextLengthError

GREEDY = SamplingParams(max_tokens=9, temperature=0)


@pytest.fixture
def llm(tiny_llm: Callable[..., LLM]) -> LLM:
    return tiny_llm("llama3", context_length=512)


def say(
    conversation: Conversation, text: str, params: SamplingParams = GREEDY, *, n_steps: int = 10**9
) -> RequestOutput:
    stream = conversation.ask(text, params)
    with stream:
        for i, _ in enumerate(stream.steps(), start=1):
            if i == n_steps:
                break
    conversation.answered(stream.output)
    return stream.output


def starts_with(ids: Sequence[int], prefix: Sequence[int]) -> bool:
    return list(ids[: len(prefix)]) == list(prefix)


def test_a_turn_continues_the_ids_of_the_last(llm: LLM) -> None:
    conversation = Conversation(llm)
    # A random model's answers are bytes of all kinds: tokenised anew they would be other ids.
    first = say(conversation, "Hi", SamplingParams(max_tokens=30, temperature=1.5, seed=3))
    second = say(conversation, "And now?")
    third = say(conversation, "Thanks.")
    assert starts_with(second.prompt_token_ids, first.prompt_token_ids + first.token_ids[:-1])
    assert starts_with(third.prompt_token_ids, second.prompt_token_ids + second.token_ids[:-1])


def test_a_turn_reuses_the_cache_of_the_last(llm: LLM) -> None:
    conversation = Conversation(llm)
    first = say(conversation, "Hi")
    second = say(conversation, "And now?")
    # All but the last token of an answer has been computed.
    assert second.cached_tokens >= len(first.prompt_token_ids) + len(first.token_ids) - 2
    assert second.miss_reason != "diverged"


def test_an_interrupted_answer_is_kept(llm: LLM) -> None:
    conversation = Conversation(llm)
    first = say(conversation, "Hi", SamplingParams(max_tokens=200, temperature=0), n_steps=5)
    assert (first.finish_reason, len(first.token_ids)) == ("cancelled", 5)
    second = say(conversation, "Go on.")
    assert starts_with(second.prompt_token_ids, first.prompt_token_ids + first.token_ids)


def test_the_ids_say_what_the_template_writes(llm: LLM) -> None:
    conversation = Conversation(llm, "Be brief.")
    answer = say(conversation, "Hi")
    prompt = say(conversation, "And now?").prompt_token_ids
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": answer.text},
        {"role": "user", "content": "And now?"},
    ]
    expected = llm.render_chat(messages)
    assert llm.detokenize(prompt, skip_special=False) == expected


def test_a_template_that_rewrites_the_past_is_obeyed(llm: LLM) -> None:
    source = "{% for m in messages[-1:] %}{{ m.content }}{% endfor %}!"
    llm._template = ChatTemplate(source)
    conversation = Conversation(llm)
    say(conversation, "Hi")
    assert say(conversation, "Yes").prompt_token_ids == llm.tokenize("Yes!", parse_special=True)


def test_reset_forgets(llm: LLM) -> None:
    conversation = Conversation(llm)
    first = say(conversation, "Hi")
    say(conversation, "And now?")
    conversation.reset()
    assert say(conversation, "Hi").prompt_token_ids == first.prompt_token_ids


def test_a_turn_that_does_not_fit_leaves_the_conversation_as_it_was(llm: LLM) -> None:
    conversation = Conversation(llm)
    first = say(conversation, "Hi")
    with pytest.raises(ContextLengthError):
        say(conversation, "long " * 500)
    second = say(conversation, "And now?")
    assert starts_with(second.prompt_token_ids, first.prompt_token_ids + first.token_ids[:-1])


def test_every_line_of_a_pipe_is_a_turn(process: Run, llama3: Path) -> None:
    arguments = ("chat", "-m", llama3, "-n", 6, "--temp", 0, "-v")
    result = process(*arguments, input="Hi\n\nAnd now?\n/reset\nHi\n/exit\nnever said\n")
    assert result.code == 0
    turns = re.findall(r"\[(\d+) prompt tokens, (\d+) cached", result.err)
    assert len(turns) == 3
    n_prompt, n_cached = zip(*((int(a), int(b)) for a, b in turns), strict=True)
    assert n_prompt[0] == n_prompt[2] < n_prompt[1]
    assert n_cached[0] == 0
    assert n_cached[1] >= n_prompt[0]


def test_standard_output_holds_the_answers_alone(process: Run, llama3: Path) -> None:
    result = process("chat", "-m", llama3, "-n", 6, "--temp", 0, input="Hi\n")
    params = SamplingParams(max_tokens=6, temperature=0)
    answer = LLM(llama3).chat([{"role": "user", "content": "Hi"}], params)
    assert (result.code, result.out, result.err) == (0, answer.text + "\n", "")


def test_a_conversation_that_outgrows_the_context(process: Run, llama3: Path) -> None:
    result = process("chat", "-m", llama3, "-c", 64, input="long " * 100 + "\n")
    assert (result.code, result.out) == (2, "")
    assert "fit" in result.err


def test_a_model_without_template(process: Run, gemma3: Path) -> None:
    result = process("chat", "-m", gemma3, input="Hi\n")
    assert (result.code, result.out) == (1, "")
    assert "no chat template" in result.err
