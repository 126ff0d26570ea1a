"""What requests and responses look like: the part of OpenAI's interface that is served.

Unknown fields are refused, so that nobody believes in an option that is not there. Fields that
only label a request are taken and ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_TOP_LOGPROBS = 20
_TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
_StopString = Annotated[str, Field(min_length=1)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Body):
    include_usage: bool = False


class SamplingFields(_Body):
    """What both kinds of completion understand; ``top_k`` and what follows are our own."""

    model: str | None = Field(None, description="A name that /v1/models lists.")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=128)
    stop: _StopString | Annotated[list[_StopString], Field(max_length=16)] | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, description="Token ids, as strings, to what is added to their logits."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="Ignored.")
    metadata: dict[str, str] | None = Field(None, description="Ignored.")
    store: bool | None = Field(None, description="Ignored.")
    service_tier: str | None = Field(None, description="Ignored.")
    top_k: int | None = Field(None, ge=0, le=2**31 - 1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    ignore_eos: bool = False
    stop_token_ids: list[_TokenId] | None = None


class TextPart(_Body):
    type: Literal["text"]
    text: str


class ChatMessage(_Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart]
    name: str | None = None


class TextFormat(_Body):
    type: Literal["text"]


class ChatRequest(SamplingFields):
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    response_format: TextFormat | None = None


class CompletionRequest(SamplingFields):
    prompt: str | list[str] | list[_TokenId] | list[list[_TokenId]]
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: None = None


class TokenizeRequest(_Body):
    content: str
    add_special: bool = Field(False, description="Add BOS and EOS where the model asks for them.")
    parse_special: bool = Field(False, description="Read special tokens in the text as such.")


class DetokenizeRequest(_Body):
    tokens: list[_TokenId]
    skip_special: bool = Field(False, description="Leave control tokens out.")


# ---- Responses, for the OpenAPI document -------------------------------------------------------


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    error: ErrorDetail


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class PrefixCache(BaseModel):
    """How much of the prompt was there already, and why it was not more."""

    cached_tokens: int
    miss_reason: str


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]


class AnswerMessage(BaseModel):
    role: Literal["assistant"]
    content: str


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class _Completion(BaseModel):
    id: str
    created: int
    model: str
    usage: Usage
    prefix_cache: PrefixCache


class ChatCompletion(_Completion):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class TextChoice(BaseModel):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: str


class TextCompletion(_Completion):
    object: Literal["text_completion"]
    choices: list[TextChoice]


class ModelEntry(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int
    max_prompt_tokens: int


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelEntry]


class TokenizeResponse(BaseModel):
    tokens: list[int]
    count: int


class DetokenizeResponse(BaseModel):
    content: str


class Health(BaseModel):
    status: Literal["ok"]


Json = dict[str, Any]
