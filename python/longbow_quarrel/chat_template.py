"""Chat templates: a conversation to the text that a model was trained to continue.

A template is a Jinja program out of a model file, so it is run as untrusted code; see
:mod:`longbow_quarrel.template_sandbox`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NoReturn

from jinja2 import Template, TemplateSyntaxError

from longbow_quarrel.errors import ChatTemplateError, UsageError
from longbow_quarrel.template_sandbox import Overrun, Sandbox, TemplateLimits, instrument
from longbow_quarrel.tokenizer import Tokenizer
from longbow_quarrel.tokenizer.metadata import Metadata

__all__ = ["ChatTemplate", "TemplateLimits", "encode_chat"]

_TEMPLATE_KEY = "tokenizer.chat_template"


class ChatTemplate:
    """A compiled chat template.

    Renders as Hugging Face transformers does: same Jinja options, same extra functions
    (``raise_exception``, ``strftime_now``, ``tojson`` without HTML escapes), ``tools`` and
    ``documents`` always defined. Safe to use from several threads.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str = "",
        eos_token: str = "",
        limits: TemplateLimits | None = None,
    ) -> None:
        """Compiles a template.

        Args:
            source: Jinja source.
            bos_token: Text of the BOS token, which templates often write themselves.
            eos_token: Text of the EOS token.
            limits: What one rendering may use; ample defaults.

        Raises:
            ChatTemplateError: `source` does not compile.
        """
        self.source = source
        self._limits = limits or TemplateLimits()
        self._variables = {"bos_token": bos_token, "eos_token": eos_token}
        self._sandbox = Sandbox(self._limits)
        self._sandbox.filters["tojson"] = _tojson
        self._sandbox.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
        self._template = self._compile(source)

    @classmethod
    def from_metadata(
        cls, metadata: Metadata, tokenizer: Tokenizer, *, name: str | None = None
    ) -> ChatTemplate:
        """The template that a GGUF file carries.

        Args:
            metadata: The file's keys.
            tokenizer: The file's tokenizer, for the texts of BOS and EOS.
            name: One of the file's further templates (such as ``"tool_use"``) instead of the
                main one.

        Raises:
            ChatTemplateError: The file has no such template, or it does not compile.
        """
        key = _TEMPLATE_KEY if name is None else f"{_TEMPLATE_KEY}.{name}"
        source = metadata.get(key)
        if not isinstance(source, str) or not source.strip():
            raise ChatTemplateError(
                f"This model has no chat template ({key}); use `generate` with a plain prompt, or "
                "a chat (instruct) variant of the model."
            )
        bos, eos = (
            "" if token_id is None else tokenizer.piece(token_id)
            for token_id in (tokenizer.bos_id, tokenizer.eos_id)
        )
        return cls(source, bos_token=bos, eos_token=eos)

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool = True,
        **extra: object,
    ) -> str:
        """Text of a conversation.

        Args:
            messages: Each with a ``role`` and usually a ``content``: text, a list of parts, or
                None.
            add_generation_prompt: End with the opening of the assistant's next message.
            **extra: Further variables of the template, such as ``tools``.

        Raises:
            UsageError: `messages` has the wrong shape.
            ChatTemplateError: The template refuses the conversation, fails or exceeds its limits.
        """
        variables = {
            "tools": None,
            "documents": None,
            **self._variables,
            **extra,
            "messages": _checked(messages),
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._run(variables)
        except ChatTemplateError:
            raise
        except Overrun as error:
            raise ChatTemplateError(
                f"The chat template was stopped because {error}; use another template."
            ) from error
        except RecursionError as error:
            raise ChatTemplateError(
                "The chat template calls itself too deeply; use another template."
            ) from error
        except Exception as error:  # a template can fail in any way a program can
            raise ChatTemplateError(
                f"The chat template failed ({type(error).__name__}: {error}); check the messages "
                "or use another template."
            ) from error

    def _compile(self, source: str) -> Template:
        try:
            tree = instrument(self._sandbox.parse(source))
            code = self._sandbox.compile(tree)
        except TemplateSyntaxError as error:
            raise ChatTemplateError(
                f"The chat template does not parse (line {error.lineno}: {error.message}); use "
                "another template."
            ) from error
        except (Overrun, RecursionError, MemoryError, SyntaxError) as error:
            raise ChatTemplateError(
                f"The chat template does not compile ({error}); use another template."
            ) from error
        return Template.from_code(self._sandbox, code, self._sandbox.make_globals(None))

    def _run(self, variables: dict[str, object]) -> str:
        budget = self._sandbox.new_budget()
        pieces: list[str] = []
        size = 0
        for piece in self._template.generate(variables):
            size += len(piece)
            budget.check_size(size)
            pieces.append(piece)
        return "".join(pieces)


def encode_chat(tokenizer: Tokenizer, rendered: str) -> list[int]:
    """Token ids of a rendered conversation.

    Special tokens written by the template are read as such. BOS is added where the model wants
    one and the template has not written it; EOS never is, since the reply is still to come.

    Raises:
        UsageError: The text cannot be tokenized.
    """
    ids = tokenizer.encode(rendered, add_special=False, parse_special=True)
    bos = tokenizer.bos_id
    if tokenizer.add_bos and bos is not None and ids[:1] != [bos]:
        ids.insert(0, bos)
    return ids


def _checked(messages: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise UsageError(
            f"messages should be a list of messages, not {type(messages).__name__}; write "
            '[{"role": "user", "content": "..."}].'
        )
    if not messages:
        raise UsageError("messages is empty; give at least one message.")
    return [_checked_message(i, message) for i, message in enumerate(messages)]


def _checked_message(index: int, message: Mapping[str, object]) -> dict[str, object]:
    if not isinstance(message, Mapping):
        raise UsageError(
            f"messages[{index}] should be an object with role and content, not "
            f"{type(message).__name__}."
        )
    if not isinstance(message.get("role"), str):
        raise UsageError(f'messages[{index}] needs a role such as "user".')
    content = message.get("content")
    if isinstance(content, (list, tuple)):
        if not all(isinstance(part, Mapping) for part in content):
            raise UsageError(f"messages[{index}].content should be text or a list of objects.")
    elif content is not None and not isinstance(content, str):
        raise UsageError(f"messages[{index}].content should be text, not {type(content).__name__}.")
    return dict(message)


def _raise_exception(message: object) -> NoReturn:
    raise ChatTemplateError(f"The chat template refuses this conversation: {message}")


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
