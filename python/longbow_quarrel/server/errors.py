"""Errors in OpenAI's form. Nothing of what went wrong inside is told to callers."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from longbow_quarrel.errors import (
    ChatTemplateError,
    ContextLengthError,
    EngineStoppedError,
    OutOfMemoryError,
    QueueFullError,
    TokenizerError,
    UsageError,
)
from longbow_quarrel.server.protocol import ErrorResponse

_log = logging.getLogger(__name__)
_INVALID = "invalid_request_error"
_CLIENT_CLOSED_REQUEST = 499  # nobody reads it


class RequestTimeoutError(Exception):
    """A request took longer than the server allows."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The request took more than {seconds:g} seconds; ask for fewer tokens.")


class ClientGoneError(Exception):
    """The caller has hung up."""


class UnknownModelError(Exception):
    """The request names a model that is not served."""


# What a caller is told: status, type and code.
_ANSWERS: dict[type[Exception], tuple[int, str, str | None]] = {
    ContextLengthError: (400, _INVALID, "context_length_exceeded"),
    OutOfMemoryError: (400, _INVALID, "context_length_exceeded"),
    UsageError: (400, _INVALID, None),
    ChatTemplateError: (400, _INVALID, "chat_template"),
    TokenizerError: (400, _INVALID, None),
    UnknownModelError: (404, _INVALID, "model_not_found"),
    QueueFullError: (429, "rate_limit_error", "queue_full"),
    EngineStoppedError: (503, "server_error", "stopping"),
    RequestTimeoutError: (503, "server_error", "timeout"),
    ClientGoneError: (_CLIENT_CLOSED_REQUEST, _INVALID, "client_gone"),
}


def error_body(
    message: str, kind: str = _INVALID, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """An error as OpenAI writes it."""
    # Half a character in a field's name must not break the answer.
    message, param = _printable(message), None if param is None else _printable(param)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def describe(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body for an exception; what is not meant for callers is only logged."""
    for kind in type(error).__mro__:
        if kind in _ANSWERS:
            status, name, code = _ANSWERS[kind]
            return status, error_body(str(error), name, None, code)
    _log.error("a request failed", exc_info=error)
    message = "The engine failed while computing this request; the server's log says why."
    return 500, error_body(message, "server_error", None, "engine_error")


def install(app: FastAPI) -> None:
    """Answer every exception of ``app`` in OpenAI's form."""
    for kind in (*_ANSWERS, Exception):
        app.add_exception_handler(kind, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses for the OpenAPI document, with those that every route may answer."""
    texts = {
        400: "The request makes no sense, or never fits.",
        401: "The key is missing or wrong.",
        404: "There is no such model.",
        413: "The request is too large.",
        408: "The request did not arrive in time.",
        429: "Too many requests wait; Retry-After says when to try again.",
        500: "The engine failed.",
        503: "The server is shutting down, or the request took too long.",
    }
    return {s: {"model": ErrorResponse, "description": texts[s]} for s in statuses}


async def _on_error(_request: Request, error: Exception) -> Response:
    status, body = describe(error)
    headers = {}
    if isinstance(error, QueueFullError):
        headers["Retry-After"] = str(error.retry_after_seconds)
    return JSONResponse(body, status, headers)


async def _on_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    path = [str(part) for part in first["loc"][1:]]
    param = ".".join(path) or None
    if first["type"] == "extra_forbidden":
        message = f"The field {param} is not supported; leave it out."
    elif first["type"] == "json_invalid":
        message, param = "The body is no valid JSON.", None
    else:
        message = f"{param or 'The body'}: {first['msg'][0].lower()}{first['msg'][1:]}."
    return JSONResponse(error_body(message, param=param), 400)


async def _on_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(error_body(str(error.detail)), error.status_code, error.headers)
