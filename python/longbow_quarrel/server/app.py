"""The routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool

from longbow_quarrel.config import ServerConfig
from longbow_quarrel.llm import LLM
from longbow_quarrel.server import errors, parameters, protocol
from longbow_quarrel.server.answers import ChatAnswer, TextAnswer
from longbow_quarrel.server.limits import LimitBody, RequireKey
from longbow_quarrel.server.service import Service

_VERSION = "1"  # of the HTTP interface


def create_app(llm: LLM, config: ServerConfig, *, model: str) -> FastAPI:
    """The server as an ASGI application; its lifespan runs the engine's thread.

    Args:
        model: the name by which requests call the model.
    """
    service = Service(llm, config, model)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        saving = asyncio.create_task(service.keep_saved())
        try:
            yield
        finally:
            saving.cancel()
            await run_in_threadpool(service.engine.thread.stop)
            await run_in_threadpool(llm.close)

    app = FastAPI(
        title="longbow-quarrel",
        version=_VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    _add_limits(app, config)
    errors.install(app)
    _add_completions(app, service)
    _add_tokens(app, service)
    _add_information(app, service)
    app.openapi = partial(_openapi, app)  # type: ignore[method-assign]
    return app


def _add_limits(app: FastAPI, config: ServerConfig) -> None:
    """The last one added stands first."""
    app.add_middleware(LimitBody, max_bytes=config.max_body)
    if config.api_key is not None:
        app.add_middleware(RequireKey, key=config.api_key.get_secret_value())
    if config.cors_origin is not None:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[config.cors_origin],
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )


def _add_completions(app: FastAPI, service: Service) -> None:
    llm = service.llm
    refusals = errors.documented(400, 401, 404, 408, 413, 429, 500, 503)
    streams = {"text/event-stream": {"schema": {"type": "string"}}}

    def answers(model: type[Any]) -> dict[int | str, dict[str, Any]]:
        return {200: {"model": model, "content": streams}, **refusals}

    @app.post("/v1/chat/completions", responses=answers(protocol.ChatCompletion))
    async def chat_completions(body: protocol.ChatRequest, request: Request) -> Response:
        """Answer a conversation, written with the model's own template."""
        service.check_model(body.model)
        params = parameters.of_chat(body)
        prompt = await run_in_threadpool(llm.encode_chat, [_message(m) for m in body.messages])
        service.check_length([prompt], parameters.asked_tokens(body))
        make = partial(
            ChatAnswer,
            service.name,
            llm.engine.tokenizer,
            with_logprobs=bool(body.logprobs),
            with_usage=_wants_usage(body),
            prefix="chatcmpl",
            object="chat.completion",
            chunk_object="chat.completion.chunk",
        )
        return await service.complete(request, [prompt], params, make, stream=bool(body.stream))

    @app.post("/v1/completions", responses=answers(protocol.TextCompletion))
    async def completions(body: protocol.CompletionRequest, request: Request) -> Response:
        """Continue one text or several."""
        service.check_model(body.model)
        params = parameters.of_completion(body)
        prompts = await run_in_threadpool(_encode_prompts, llm, body.prompt)
        service.check_length(prompts, parameters.asked_tokens(body))
        make = partial(
            TextAnswer,
            service.name,
            llm.engine.tokenizer,
            with_logprobs=body.logprobs is not None,
            with_usage=_wants_usage(body),
            prefix="cmpl",
            object="text_completion",
            chunk_object="text_completion",
        )
        return await service.complete(request, prompts, params, make, stream=bool(body.stream))


def _add_tokens(app: FastAPI, service: Service) -> None:
    refusals = errors.documented(400, 401, 408, 413, 500)

    @app.post("/tokenize", response_model=protocol.TokenizeResponse, responses=refusals)
    async def tokenize(body: protocol.TokenizeRequest) -> Response:
        """Token ids of a text."""
        ids = await run_in_threadpool(
            service.llm.tokenize,
            body.content,
            add_special=body.add_special,
            parse_special=body.parse_special,
        )
        return JSONResponse({"tokens": ids, "count": len(ids)})

    @app.post("/detokenize", response_model=protocol.DetokenizeResponse, responses=refusals)
    async def detokenize(body: protocol.DetokenizeRequest) -> Response:
        """Text of token ids."""
        text = await run_in_threadpool(
            service.llm.detokenize, body.tokens, skip_special=body.skip_special
        )
        return JSONResponse({"content": text})


def _add_information(app: FastAPI, service: Service) -> None:
    engine = service.llm.engine
    entry = {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "longbow-quarrel",
        "context_length": engine.runner.context_length,
        "max_prompt_tokens": engine.max_prompt_tokens,
    }

    @app.get("/v1/models", response_model=protocol.ModelList, responses=errors.documented(401))
    async def models() -> Response:
        """The model that is served."""
        return JSONResponse({"object": "list", "data": [entry]})

    @app.get(
        "/v1/models/{model:path}",
        response_model=protocol.ModelEntry,
        responses=errors.documented(401, 404),
    )
    async def model(model: str) -> Response:
        """One model."""
        service.check_model(model)
        return JSONResponse(entry)

    @app.get("/health", response_model=protocol.Health, responses=errors.documented(503))
    async def health() -> Response:
        """Whether requests are taken; asks for no key."""
        if not service.engine.thread.is_open:
            body = errors.error_body("The server is shutting down.", "server_error")
            return JSONResponse(body, 503)
        return JSONResponse({"status": "ok"})

    text: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
    }

    @app.get("/metrics", responses=errors.documented(401) | text, response_class=Response)
    def metrics() -> Response:
        """Metrics in Prometheus's text format."""
        return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Without the 422 that FastAPI documents of itself: what is invalid is a 400 here."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        app.openapi_schema = schema
    return app.openapi_schema


def _message(message: protocol.ChatMessage) -> dict[str, object]:
    content = message.content
    if not isinstance(content, str):
        content = "".join(part.text for part in content)
    # Templates know "system"; "developer" is OpenAI's newer word for it.
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": content}


def _encode_prompts(llm: LLM, prompt: Any) -> list[list[int]]:
    if isinstance(prompt, str):
        return [llm.tokenize(prompt)]
    if not prompt or isinstance(prompt[0], int):
        return [prompt]
    return [llm.tokenize(p) if isinstance(p, str) else p for p in prompt]


def _wants_usage(body: protocol.SamplingFields) -> bool:
    return body.stream_options is not None and body.stream_options.include_usage
