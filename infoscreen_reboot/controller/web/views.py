"""Searches of the fleet that somebody keeps under a name, and takes away again."""

from __future__ import annotations

from urllib.parse import urlencode

from fastapi import APIRouter, Response

from infoscreen_reboot.controller.api import models, views
from infoscreen_reboot.controller.api.problems import checked
from infoscreen_reboot.controller.web import shell
from infoscreen_reboot.controller.web.session import Sent, Viewer

router = APIRouter()


@router.post("/views")
def keep(call: Viewer, sent: Sent) -> Response:
    """As the search is now. One of the same name is replaced."""
    said = {name: sent.text(name) or None for name in models.ViewContent.model_fields}
    view = checked(models.View, name=sent.text("name"), **said)
    views.put_view(call, Response(), view.name, checked(models.ViewContent, **said))
    return shell.see(address_of(view))


@router.post("/views/remove")
def remove(call: Viewer, sent: Sent) -> Response:
    views.delete_view(call, sent.text("name"))
    return shell.see("/")


def address_of(view: models.ViewContent) -> str:
    """Of the fleet, searched in this way."""
    query = urlencode({name: value for name in models.ViewContent.model_fields if (value := getattr(view, name))})
    return f"/?{query}" if query else "/"
