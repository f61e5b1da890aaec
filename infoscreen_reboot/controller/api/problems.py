"""The form of every answer that is not a success: RFC 9457, with a `kind` out of a bounded list."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infoscreen_reboot.controller.orders import Kind

Content = TypeVar("Content", bound=BaseModel)

MEDIA_TYPE = "application/problem+json"
# By kind: the status, and a title that is the same for all of this kind. docs/api.md lists them all.
KINDS: dict[str, tuple[int, str]] = {
    "bad_request": (400, "The request cannot be read"),
    "not_authenticated": (401, "No valid token"),
    "forbidden": (403, "This role may not do that"),
    "not_found": (404, "There is no such thing"),
    "method_not_allowed": (405, "Not a method of this address"),
    "held": (409, "A rule holds this command"),
    "too_late": (409, "It cannot be taken back any more"),
    "exists": (409, "There is one of that name"),
    "power_refused": (409, "A rule refuses this power cycle"),
    "last_admin": (409, "Nobody else is an admin"),
    "invalid": (422, "A field breaks a rule"),
    "rows_refused": (422, "Some rows cannot be taken"),
    "too_large": (413, "The request is too large"),
    "internal": (500, "An error of ours"),
    "unavailable": (503, "The database cannot be used now"),
    Kind.NO_SUCH_CLIENT: (404, "There is no such client"),
    Kind.BAD_SELECTOR: (400, "The selector cannot be read"),
    Kind.BAD_WAIT: (422, "A wait has to end within 24 hours"),
    Kind.KEY_USED_OTHERWISE: (409, "This id or key was used for another request"),
    Kind.PREVIEW_CHANGED: (412, "Something has moved since the preview"),
    "changed_meanwhile": (412, "Somebody has changed it meanwhile"),
    Kind.COUNT_DIFFERS: (412, "The count is another one"),
    Kind.NOTHING_ELIGIBLE: (409, "No client can get this command now"),
    Kind.BAD_TERMS: (422, "How the rollout should go cannot be read"),
    Kind.WRONG_STATE: (409, "It is in a state in which that cannot be done"),
}
# What any route may answer, whatever it is about.
_ALWAYS = ("bad_request", "not_authenticated", "forbidden", "invalid", "unavailable")


class ProblemDocument(BaseModel):
    """Why a request was refused. `kind` is for programs, `detail` for people."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Something has moved since the preview",
                    "status": 412,
                    "kind": "preview_changed",
                    "detail": "what the preview has shown is not so any more: look at it again",
                }
            ]
        },
    )

    type: str = "about:blank"
    title: str
    status: int
    kind: str = Field(json_schema_extra={"enum": [*sorted(str(kind) for kind in KINDS)]})
    detail: str


class Problem(Exception):
    """Raised anywhere in a request, answered in one place."""

    def __init__(self, kind: str, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.more = more


def checked(model: type[Content], **values: Any) -> Content:
    """What a route takes, for whoever calls it in Python. Raises Problem for what breaks a rule."""
    try:
        return model(**values)
    except ValidationError as error:
        # Never what was typed: it may be a password.
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_input=False)]
        raise Problem("invalid", "; ".join(faults[:5])) from None


def answer(problem: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    status, title = KINDS[problem.kind]
    document = ProblemDocument(title=title, status=status, kind=str(problem.kind), detail=problem.detail)
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    content = document.model_dump() | problem.more
    return JSONResponse(content, status, headers, media_type=MEDIA_TYPE)


def documented(*kinds: str, well: dict[str, Any] | None = None) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: the refusals that an operation may answer with, and what 200 is where FastAPI cannot see that."""
    found: dict[int, list[str]] = {}
    for kind in (*_ALWAYS, *kinds):
        found.setdefault(KINDS[kind][0], []).append(str(kind))
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    refusals: dict[int | str, dict[str, Any]] = {
        status: {
            "description": "; ".join(f"`{kind}`: {KINDS[kind][1]}" for kind in sorted(set(of_status))),
            "model": ProblemDocument,
            "content": content,
        }
        for status, of_status in sorted(found.items())
    }
    return refusals if well is None else {200: well, **refusals}
