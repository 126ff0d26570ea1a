"""A conversation that never computes a token twice.

Token ids of a new turn are appended to those of the turns before, answers as they were generated.
Writing the whole conversation anew and tokenising it could give other ids for the same text, and
the cache would hold nothing of use from the first such place on.
"""

from __future__ import annotations

from longbow_quarrel import LLM, RequestOutput, SamplingParams, TextStream
from longbow_quarrel.errors import ChatTemplateError


class Conversation:
    """Turns of a user and a model, after an optional system message.

    Raises:
        ChatTemplateError: from :meth:`check` and :meth:`ask`: the model has no template, or it
            refuses the conversation.
    """

    def __init__(self, llm: LLM, system: str | None = None) -> None:
        self._llm = llm
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self.reset()

    def reset(self) -> None:
        """Forget all but the system message."""
        self._messages: list[dict[str, str]] = list(self._system)
        self._ids: list[int] = []  # of prompts and answers so far
        self._skeleton = ""  # the last prompt's text, with marks in place of answers

    def check(self) -> None:
        """See whether the model can chat at all."""
        if not self._llm.has_chat_template:
            raise ChatTemplateError(
                "This model has no chat template; use `generate`, or an instruct model."
            )

    def ask(self, text: str, params: SamplingParams) -> TextStream:
        """Begin the answer to ``text``; :meth:`answered` must be told when it is over.

        A conversation that cannot be asked stays as it was.

        Raises:
            ContextLengthError: the conversation leaves no room for an answer.
        """
        messages = [*self._messages, {"role": "user", "content": text}]
        skeleton = self._llm.render_chat(_with_marks(messages))
        prompt = self._continued(messages, skeleton) or self._llm.encode_chat(messages)
        stream = self._llm.stream(prompt, params)
        self._messages, self._skeleton = messages, skeleton
        return stream

    def answered(self, output: RequestOutput) -> None:
        """Keep an answer, complete or interrupted."""
        self._messages.append({"role": "assistant", "content": output.text})
        ids = output.token_ids
        if ids and ids[-1] in self._llm.engine.tokenizer.eog_ids:
            ids = ids[:-1]  # the template writes the end of a turn
        self._ids = output.prompt_token_ids + ids

    def _continued(self, messages: list[dict[str, str]], skeleton: str) -> list[int] | None:
        """Ids so far and those of what the template adds, or None where it rewrites the past."""
        head, mark, tail = skeleton.rpartition(_mark(len(messages) - 2))
        if not self._ids or not mark or head != self._skeleton:
            return None
        text = self._llm.render_chat(messages)
        if text not in (_filled(skeleton, messages), _filled(skeleton, messages, strip=True)):
            return None
        added = self._llm.tokenize(tail, add_special=False, parse_special=True)
        return self._ids + added


def _mark(index: int) -> str:
    """Stands for the answer at ``index`` of the messages; no template changes such a word."""
    return f"quarrel-answer-{index}-mark"


def _with_marks(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    return [
        m | {"content": _mark(i)} if m["role"] == "assistant" else m for i, m in enumerate(messages)
    ]


def _filled(skeleton: str, messages: list[dict[str, str]], *, strip: bool = False) -> str:
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            content = message["content"].strip() if strip else message["content"]
            skeleton = skeleton.replace(_mark(i), content)
    return skeleton
