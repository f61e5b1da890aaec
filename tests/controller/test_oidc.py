"""Signing in by an OpenID provider: what is believed, what is not, and whom it lets in."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from authlib.jose import JsonWebKey, JsonWebSignature

from infoscreen_reboot.controller import grants, oidc, passwords
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.config import Oidc
from infoscreen_reboot.controller.oidc import Provider
from infoscreen_reboot.controller.store import people
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.web.session import COOKIE
from tests.controller.test_console import HERE, PASSWORD, Visitor
from tests.controller.web import Web

OURS = JsonWebKey.generate_key("EC", "P-256", {"kid": "one"}, is_private=True)
NOBODYS = JsonWebKey.generate_key("EC", "P-256", {"kid": "one"}, is_private=True)
NOW_S = 1_800_000_000
GRANTS = grants.parse("groups: signage-admins=admin, signage=operator")


class Played:
    """A provider that signs whatever a test wants, and remembers what it was asked."""

    def __init__(self) -> None:
        self.key: Any = OURS
        self.header = {"alg": "ES256", "kid": "one"}
        self.says: dict[str, Any] = {}
        self.document: dict[str, Any] = {}
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, dict[str, str], str]] = []
        self.lets_go = threading.Event()
        self.lets_go.set()
        self.issuer = ""
        self.nonce = ""

    def token(self, now_s: int) -> str:
        claims = {"iss": self.issuer, "sub": "17", "aud": "signage", "iat": now_s, "exp": now_s + 300}
        claims |= {"nonce": self.nonce, "preferred_username": "ann", "groups": ["signage"]} | self.says
        claims = {name: value for name, value in claims.items() if value is not None}
        signature = JsonWebSignature([self.header["alg"]])
        return str(signature.serialize_compact(self.header, json.dumps(claims), self.key), "ascii")

    def answer(self, path: str, headers: dict[str, str], body: str) -> tuple[int, Any]:
        self.asked.append((path, headers, body))
        self.lets_go.wait()
        if path in self.answers:
            return self.answers[path]  # type: ignore[no-any-return]
        if path == "/.well-known/openid-configuration":
            ends = {"authorization_endpoint": "auth", "token_endpoint": "token", "jwks_uri": "keys"}
            found = {name: f"{self.issuer}/{end}" for name, end in ends.items()}
            return 200, {"issuer": self.issuer} | found | self.document
        if path == "/token":
            return 200, {"access_token": "x", "token_type": "Bearer", "id_token": self.token(int(time.time()))}
        return 200, {"keys": [OURS.as_dict(is_private=False)]}


@contextmanager
def playing(played: Played) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            status, content = played.answer(self.path, dict(self.headers), body)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(ConnectionError):  # who has waited long enough is gone
                self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    played.issuer = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def played() -> Iterator[Played]:
    found = Played()
    with playing(found):
        yield found


@pytest.fixture
def web(sqlite: Database, played: Played) -> Web:
    provider = Provider(Oidc(played.issuer, "signage", "a secret/&", "openid groups", GRANTS, HERE))
    return Web(sqlite, provider=provider)


@pytest.fixture
def visitor(web: Web) -> Visitor:
    return Visitor(web)


def go(visitor: Visitor, played: Played, after: str = "") -> dict[str, str]:
    """To the provider; what it was given there."""
    answer = visitor.get(f"/sign-in/oidc?next={after}")
    assert answer.status_code == 303, answer.text
    address = urlsplit(answer.headers["location"])
    assert f"{address.scheme}://{address.netloc}{address.path}" == f"{played.issuer}/auth"
    given = {name: values[0] for name, values in parse_qs(address.query).items()}
    played.nonce = given["nonce"]
    return given


def come_back(visitor: Visitor, played: Played, after: str = "") -> Any:
    given = go(visitor, played, after)
    return visitor.get(f"/sign-in/oidc/back?code=c0de&state={given['state']}")


def users(web: Web) -> dict[str, Any]:
    return {each["name"]: each for each in web.call("GET", "/users", Role.ADMIN).json()}


def audit(web: Web) -> list[tuple[str, str, str, str]]:
    lines = web.call("GET", "/audit", Role.ADMIN).json()["items"]
    return [(each["who"], each["via"], each["what"], each["outcome"]) for each in lines]


# --- The way there and back


def test_somebody_signs_in_by_the_provider(visitor: Visitor, played: Played) -> None:
    assert f"Sign in with {played.issuer.removeprefix('http://')}" in visitor.get("/sign-in").text
    answer = come_back(visitor, played, "/batches%3Fx=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/batches?x=1")
    assert "signed in as operator, and may not shut down" in visitor.get("/me").text
    assert users(visitor.web)["ann"]["role"] == "operator"
    assert audit(visitor.web)[:2] == [("ann", "oidc", "sign in", "done"), ("ann", "oidc", "add user", "made")]
    [mine] = [each for each in visitor.web.call("GET", "/tokens", Role.ADMIN).json() if each["user"] == "ann"]
    assert visitor.web.call("DELETE", f"/tokens/{mine['id']}", Role.ADMIN).status_code == 204
    assert visitor.get("/").status_code == 303, "its session is revoked as any other"


def test_the_code_is_exchanged_with_proof_and_with_our_secret(visitor: Visitor, played: Played) -> None:
    given = go(visitor, played)
    assert given["redirect_uri"] == f"{HERE}/sign-in/oidc/back"
    assert (given["scope"], given["code_challenge_method"]) == ("openid groups", "S256")
    visitor.get(f"/sign-in/oidc/back?code=c0de&state={given['state']}")
    [(_, headers, body)] = [each for each in played.asked if each[0] == "/token"]
    assert headers["Authorization"] == "Basic c2lnbmFnZTphJTIwc2VjcmV0JTJGJTI2"
    sent = {name: values[0] for name, values in parse_qs(body).items()}
    assert (sent["code"], sent["redirect_uri"]) == ("c0de", given["redirect_uri"])
    assert given["code_challenge"] not in body, "the verifier, and not its digest"
    played.document = {"token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"]}
    come_back(visitor, played)
    assert "client_secret=a+secret" in played.asked[-2][2]


def test_nobody_is_led_elsewhere_afterwards(visitor: Visitor, played: Played) -> None:
    for after in ("https://evil.example", "//evil.example", "/sign-in/oidc", "x"):
        assert come_back(visitor, played, after).headers["location"] == "/"


def test_only_the_browser_that_went_comes_back(visitor: Visitor, played: Played) -> None:
    given = go(visitor, played)
    other = Visitor(visitor.web)
    address = f"/sign-in/oidc/back?code=c0de&state={given['state']}"
    for visits, path in (
        (other, address),
        (visitor, "/sign-in/oidc/back?code=c0de"),
        (visitor, "/sign-in/oidc/back?code=c0de&state=x%C3%A4"),
    ):
        answer = visits.get(path)
        assert answer.status_code == 401
        assert f"Begin again, at {HERE}" in answer.text
        assert COOKIE not in visits.http.cookies
    assert visitor.get(address).status_code == 401, "a wrong try ends it"


def test_who_is_refused_there_is_told_so(visitor: Visitor, played: Played) -> None:
    given = go(visitor, played)
    answer = visitor.get(
        f"/sign-in/oidc/back?error=access_denied&error_description=<b>call-0900&state={given['state']}"
    )
    assert answer.status_code == 401
    assert "did not sign you in" in answer.text
    assert "call-0900" not in answer.text


def test_without_a_provider_there_is_no_way_to_one(sqlite: Database) -> None:
    visitor = Visitor(Web(sqlite))
    assert visitor.get("/sign-in/oidc").status_code == 404
    assert visitor.get("/sign-in/oidc/back?code=x").status_code == 404
    assert "Sign in with" not in visitor.get("/sign-in").text.replace("Sign in with the token", "")


# --- What is believed


def said(played: Played, **given: Any) -> Any:
    """What is taken from a token that comes now, or from something else."""
    trip = oidc.new_trip()
    played.issuer, played.nonce = played.issuer or "https://idp.example", played.nonce or trip.nonce
    provider = Provider(Oidc(played.issuer, "signage", "a secret", "openid", GRANTS, HERE))
    keys = {"keys": [OURS.as_dict(is_private=False)]}
    return provider.checked(given or {"id_token": played.token(NOW_S)}, keys, trip, datetime.fromtimestamp(NOW_S, UTC))


@pytest.mark.parametrize(
    "says",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "somebody-else"},
        {"aud": "somebody-else", "azp": "signage"},
        {"aud": ["signage", "somebody-else"]},  # without azp nobody knows for whom it was
        {"aud": ["signage", "somebody-else"], "azp": "somebody-else"},
        {"aud": None},
        {"iss": "https://evil.example"},
        {"exp": NOW_S - 61},
        {"exp": None},
        {"exp": "tomorrow"},
        {"iat": NOW_S + 61},
        {"nbf": NOW_S + 61},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 256},
        {"sub": 17},
        {"sub": "1\u00007"},
    ],
    ids=str,
)
def test_claims_that_are_not_for_us_are_refused(says: dict[str, Any]) -> None:
    played = Played()
    assert said(played)["sub"] == "17"
    played = Played()
    played.says = says
    with pytest.raises(oidc.NotProved):
        said(played)


def test_a_clock_may_differ_by_a_minute() -> None:
    played = Played()
    played.says = {"exp": NOW_S - 59, "iat": NOW_S + 59}
    assert said(played)["sub"] == "17"


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ({"alg": "none"}, ""),
        ({"alg": "HS256", "kid": "one"}, "a secret"),
        ({"alg": "ES256", "kid": "one"}, NOBODYS),
        ({"alg": "ES256", "kid": "unknown"}, OURS),
        ({"alg": "ES256", "kid": None}, NOBODYS),
    ],
    ids=["none", "our secret", "another key", "unknown key", "no key"],
)
def test_only_a_key_of_the_provider_signs(header: dict[str, Any], key: Any) -> None:
    played = Played()
    played.header, played.key = header, key
    with pytest.raises(oidc.NotProved):
        said(played)


@pytest.mark.parametrize("token", [None, 1, "", "a.b.c", "a.b.c.d.e", "e30.e30.e30"])
def test_what_is_no_token_is_refused(token: Any) -> None:
    with pytest.raises(oidc.NotProved):
        said(Played(), id_token=token)


def test_who_is_not_believed_gets_no_session_and_no_user(visitor: Visitor, played: Played) -> None:
    played.says = {"nonce": "another"}
    answers = [come_back(visitor, played)]
    played.answers["/token"] = 400, {"error": "invalid_grant"}
    answers.append(come_back(visitor, played))
    for answer in answers:
        assert answer.status_code == 401, answer.text
        assert "cannot be checked" in answer.text
        assert COOKIE not in visitor.http.cookies
    assert "ann" not in users(visitor.web)


# --- A provider that is not well


def test_a_provider_that_answers_wrongly_is_said_to_and_tokens_still_work(
    visitor: Visitor, played: Played, caplog: pytest.LogCaptureFixture
) -> None:
    first = "/.well-known/openid-configuration"
    strange: list[tuple[int, Any]] = [(500, {}), (200, b"<html>"), (200, []), (200, b"x" * (1 << 20)), (302, {})]
    for answer in strange:
        played.answers[first] = answer
        away(visitor, "/sign-in/oidc")
    for document in (
        {"issuer": "https://evil.example"},
        {"token_endpoint": "http://idp.example/token"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"jwks_uri": None},
    ):
        played.answers, played.document = {}, document
        away(visitor, "/sign-in/oidc")
    played.document = {}
    worse: list[tuple[str, int, Any]] = [
        ("/token", 401, {"error": "invalid_client"}),
        ("/token", 500, b""),
        ("/keys", 404, {}),
    ]
    for path, status, content in worse:
        played.answers = {path: (status, content)}
        given = go(visitor, played)
        away(visitor, f"/sign-in/oidc/back?code=c0de&state={given['state']}")
    assert caplog.text.count("cannot sign somebody in by") == 12
    assert "its answer is too long" in caplog.text
    assert "c0de" not in caplog.text and "a secret" not in caplog.text
    visitor.sign_in(Role.VIEWER)


def test_a_provider_that_is_slow_or_away_holds_nobody_up(
    visitor: Visitor, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "LIMIT_S", 0.2)
    played.lets_go.clear()
    away(visitor, "/sign-in/oidc")
    played.lets_go.set()
    visitor.web.app.state.site.provider.settings = Oidc("http://127.0.0.1:1", "x", "x", "openid", GRANTS, HERE)
    away(visitor, "/sign-in/oidc")


def away(visitor: Visitor, path: str) -> None:
    answer = visitor.get(path)
    assert answer.status_code == 503
    assert "cannot sign you in now" in answer.text
    assert 'name="password"' in answer.text


# --- Whom it lets in, and as what


def test_a_role_that_is_given_or_taken_there_counts_from_the_next_sign_in_on(visitor: Visitor, played: Played) -> None:
    come_back(visitor, played)
    for groups, role in ((["signage", "signage-admins"], "admin"), ("signage", "operator")):
        played.says = {"groups": groups}
        assert come_back(visitor, played).status_code == 303
        assert users(visitor.web)["ann"]["role"] == role
    played.says = {"groups": ["others"]}
    first = visitor.http.cookies[COOKIE]
    answer = come_back(visitor, played)
    assert answer.status_code == 401
    assert "gives you no role here" in answer.text
    visitor.http.cookies.set(COOKIE, first)
    assert visitor.get("/").status_code == 303, "whoever has no role any more has no session either"


def test_who_is_disabled_here_stays_out_whatever_the_provider_says(visitor: Visitor, played: Played) -> None:
    come_back(visitor, played)
    with visitor.web.database.write() as tx:
        people.change_user(tx, "ann", None, None, True)
    played.says = {"groups": ["signage-admins"], "preferred_username": "another"}
    answer = come_back(visitor, played)
    assert answer.status_code == 401
    assert "ann is disabled here" in answer.text
    assert users(visitor.web)["ann"]["role"] == "operator"
    assert audit(visitor.web)[0] == ("ann", "oidc", "sign in", "refused")


def test_a_name_that_somebody_has_is_never_taken_over(visitor: Visitor, played: Played) -> None:
    name = "A Admin"
    played.says = {"preferred_username": name}
    come_back(visitor, played)
    played.says |= {"sub": "18"}
    come_back(Visitor(visitor.web), played)
    found = users(visitor.web)
    assert found["a admin"]["role"] == "admin"
    assert {f"{name} 2", f"{name} 3"} < found.keys()
    assert f"<h1>{name} 2</h1>" in visitor.get("/me").text


def test_who_changes_his_name_there_is_the_same_here(visitor: Visitor, played: Played) -> None:
    come_back(visitor, played)
    played.says = {"preferred_username": "a admin"}
    come_back(visitor, played)
    assert "<h1>ann</h1>" in visitor.get("/me").text


def test_a_name_has_to_be_one_that_can_be_here(visitor: Visitor, played: Played) -> None:
    played.says = {"preferred_username": ["ann"], "email": "x" * 65}
    answer = come_back(visitor, played)
    assert answer.status_code == 401
    assert "says no name of you" in answer.text
    assert grants.name_in({"preferred_username": "<b>", "email": "ann@site.example"}) == "ann@site.example"


@pytest.mark.parametrize(
    ("entry", "claims", "role"),
    [
        ("groups: a=viewer, b=admin, c=operator", {"groups": ["a", "b", "c"]}, Role.ADMIN),
        ("groups: a=viewer", {"groups": "a"}, Role.VIEWER),
        ("groups: a=viewer", {"groups": ["A", "ab"]}, None),
        ("groups: a=viewer, *=viewer", {}, Role.VIEWER),
        ("groups: cn=ops=admin", {"groups": ["cn=ops"]}, Role.ADMIN),
        ("realm_access.roles: a=admin", {"realm_access": {"roles": ["a"]}}, Role.ADMIN),
        ("realm_access.roles: a=admin", {"realm_access": ["a"]}, None),
        ("https://x.example/roles: a=admin", {"https://x.example/roles": ["a"]}, Role.ADMIN),
        ("groups: a=viewer", {"groups": {"a": 1}}, None),
        ("groups: 1=viewer", {"groups": [1, None, ["1"]]}, None),
    ],
)
def test_a_claim_gives_the_highest_role_that_fits(entry: str, claims: dict[str, Any], role: Role | None) -> None:
    assert grants.parse(entry).role_of(claims) is role


@pytest.mark.parametrize(
    "entry", ["", "groups", "groups: ", ": a=admin", "groups: a", "groups: a=king", "groups: =admin"]
)
def test_what_says_no_roles_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="allowed is as in"):
        grants.parse(entry)


def test_its_users_have_no_password_and_no_session_of_more_than_a_shift(visitor: Visitor, played: Played) -> None:
    played.says = {"groups": ["signage-admins"]}
    come_back(visitor, played)
    assert "by the provider" in visitor.get("/me").text
    answer = visitor.post("/me/password", password=PASSWORD, again=PASSWORD)
    assert answer.status_code == 403
    content = {"password": PASSWORD}
    assert visitor.web.call("PUT", "/users/ann/password", Role.ADMIN, json=content).status_code == 403
    with visitor.web.database.write() as tx:
        people.set_password(tx, "ann", passwords.hashed(PASSWORD))
    assert Visitor(visitor.web).post("/sign-in", name="ann", password=PASSWORD).status_code == 401
    assert "every sign-in" in visitor.get("/users/ann").text
