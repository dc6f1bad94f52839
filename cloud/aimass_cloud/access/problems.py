"""Errors as problem details (RFC 9457) with our stable codes; give `EXCEPTION_HANDLERS` to the app.

Our own errors say what they say. Anything unforeseen is logged with its traceback and answered
without it.
"""

import logging
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap

from aimass_shared.errors import AimassError

logger = logging.getLogger(__name__)

PROBLEM = "application/problem+json"
AnyRequest = Request[Any, Any, Any]
_CODES = {
    HTTPStatus.UNAUTHORIZED: "unauthenticated",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.NOT_FOUND: "not-found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method-not-allowed",
    HTTPStatus.CONFLICT: "conflict",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "body-too-large",
    HTTPStatus.TOO_MANY_REQUESTS: "too-many-attempts",
}
_RETRY_AFTER_S = {HTTPStatus.TOO_MANY_REQUESTS: "60", HTTPStatus.SERVICE_UNAVAILABLE: "1"}


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """A problem document; `errors` says what is wrong with which field of the request."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[Any] = []


def problem_response(
    status: HTTPStatus, code: str, detail: str, *, errors: list[Any] | None = None
) -> Response[Problem]:
    """A response that carries a problem document, and the headers that its status asks for."""
    problem = Problem(
        type=f"urn:aimass:error:{code}",
        title=status.phrase,
        status=status.value,
        detail=detail,
        code=code,
        errors=errors or [],
    )
    return Response(problem, status_code=status.value, media_type=PROBLEM, headers=_headers(status))


def _headers(status: HTTPStatus) -> dict[str, str]:
    if status is HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": "Bearer"}
    wait = _RETRY_AFTER_S.get(status)
    return {"Retry-After": wait} if wait else {}


def _on_aimass_error(_request: AnyRequest, error: AimassError) -> Response[Problem]:
    return problem_response(error.status, error.code, error.detail)


def _on_http_exception(request: AnyRequest, error: HTTPException) -> Response[Problem]:
    status = HTTPStatus(error.status_code)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _on_defect(request, error)
    code = _CODES.get(status, "request")
    extra = error.extra if isinstance(error, ValidationException) else None
    response = problem_response(
        status, code, error.detail, errors=extra if isinstance(extra, list) else None
    )
    response.headers.update(error.headers or {})
    return response


def _on_defect(request: AnyRequest, error: Exception) -> Response[Problem]:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem_response(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        AimassError.code,
        "a defect of aimass: the details are in the coordinator's log",
    )


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    AimassError: _on_aimass_error,
    HTTPException: _on_http_exception,
    Exception: _on_defect,
}
