"""What the API server says when it refuses: a code, a reason in one word, and a sentence."""

from __future__ import annotations

from typing import Any

import msgspec

_TEXT_LIMIT = 300


class ApiError(Exception):
    """The API server answered, and the answer was no.

    ``status`` is the HTTP code, ``reason`` Kubernetes' word for it (`Conflict`; may be empty), ``message``
    the server's sentence, ``retry_after`` the seconds it asks to wait, ``details`` its `details`.
    """

    def __init__(
        self,
        status: int,
        reason: str = "",
        message: str = "",
        retry_after: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.details = details or {}
        super().__init__(f"{status} {reason}: {message}" if reason else f"{status}: {message}")

    @property
    def not_found(self) -> bool:
        """There is no such object, or no such kind."""
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """Somebody else wrote in between (409 that is not about a name taken)."""
        return self.status == 409 and self.reason != "AlreadyExists"

    @property
    def already_exists(self) -> bool:
        """The name is taken."""
        return self.reason == "AlreadyExists"


def from_status(body: Any, code: int = 0, retry_after: float | None = None) -> ApiError:
    """The error that a `Status` object says, from a response's body or from an ERROR event of a watch."""
    if not isinstance(body, dict):
        return ApiError(code or 500, "", str(body)[:_TEXT_LIMIT], retry_after)
    details = body.get("details")
    details = details if isinstance(details, dict) else {}
    seconds = details.get("retryAfterSeconds")
    if retry_after is None and isinstance(seconds, int | float) and seconds > 0:
        retry_after = float(seconds)
    said = body.get("code")
    return ApiError(
        said if isinstance(said, int) and said >= 400 else code or 500,
        str(body.get("reason") or ""),
        str(body.get("message") or ""),
        retry_after,
        details,
    )


def from_response(code: int, content: bytes, retry_after_header: str = "") -> ApiError:
    """The error of an HTTP response; a body that is no `Status` (a proxy's page) becomes the message."""
    retry_after = float(retry_after_header) if retry_after_header.isdigit() else None
    try:
        body = msgspec.json.decode(content)
    except msgspec.DecodeError:
        body = content.decode(errors="replace").strip() or "no message"
    return from_status(body, code, retry_after)
