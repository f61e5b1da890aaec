"""Searches of the fleet that people keep: each sees and changes his own."""

from __future__ import annotations

import pytest

from infoscreen_reboot.controller.api import views
from infoscreen_reboot.controller.auth import Role
from tests.controller.web import Web, kind

SEARCH = {"condition": "offline", "selector": "site=alpine", "text": None}


def test_views_are_kept_replaced_and_removed_by_whose_they_are(web: Web) -> None:
    assert web.call("GET", "/views", Role.VIEWER).json() == []
    for status in (201, 200):
        assert web.call("PUT", "/views/a/b", Role.VIEWER, json=SEARCH).status_code == status
    assert web.call("PUT", "/views/Bars", Role.VIEWER, json={"text": "bar"}).status_code == 201
    assert web.call("PUT", "/views/a/b", Role.OPERATOR, json={}).status_code == 201
    assert web.call("GET", "/views", Role.VIEWER).json() == [
        {"name": "a/b", **SEARCH},
        {"name": "Bars", "condition": None, "selector": None, "text": "bar"},
    ]
    assert web.call("DELETE", "/views/a/b", Role.VIEWER).status_code == 204
    assert kind(web.call("DELETE", "/views/a/b", Role.VIEWER)) == (404, "not_found")
    assert [each["name"] for each in web.call("GET", "/views", Role.OPERATOR).json()] == ["a/b"]


def test_what_cannot_be_searched_for_cannot_be_kept(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kind(web.call("PUT", "/views/x", json={"selector": "a,,b"})) == (400, "bad_selector")
    assert kind(web.call("PUT", "/views/x", json={"condition": "fine"})) == (422, "invalid")
    assert kind(web.call("PUT", "/views/x%00", json={})) == (422, "invalid")
    assert kind(web.call("PUT", f"/views/{'x' * 129}", json={})) == (422, "invalid")
    monkeypatch.setattr(views, "MOST", 1)
    assert web.call("PUT", "/views/one", json={}).status_code == 201
    assert kind(web.call("PUT", "/views/two", json={})) == (422, "invalid")
    assert web.call("PUT", "/views/one", json=SEARCH).status_code == 200
    assert len(web.call("GET", "/views").json()) == 1
