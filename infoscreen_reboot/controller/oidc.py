"""The only door to authlib: leads a browser to an OpenID provider, and checks what that says of whoever comes back.

It is the authorization code flow of OpenID Connect Core 1.0, with PKCE. Between the two ways the server keeps nothing:
what it has to know again is in a cookie of the browser, which may come back to another instance. Nor does it keep the
provider's keys, which change.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from infoscreen_reboot.controller.config import Oidc, is_private

if TYPE_CHECKING:
    import httpx

# For all that the provider is asked on one way. Nobody else waits meanwhile: no thread is kept.
LIMIT_S = 10.0
# Of one answer. Keys with their certificates are some kB.
_MOST_BYTES = 256 << 10
# By which the provider's clock may differ from the database's.
_LEEWAY_S = 60
# With a key that only the provider has. So not HS256, whose key would be our own secret.
_ALGORITHMS = "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
_LONGEST_SUBJECT = 255
_ENDPOINTS = "authorization_endpoint", "token_endpoint", "jwks_uri"


class Unavailable(Exception):
    """The provider is away, slow, or answers what no provider answers. The words are for the log."""


class NotProved(Exception):
    """What came back proves nothing. The words are for the log."""


@dataclass(frozen=True, slots=True)
class Trip:
    """What nobody but this browser knows until it comes back."""

    state: str
    nonce: str
    verifier: str


def new_trip() -> Trip:
    return Trip(*(secrets.token_urlsafe(32) for _ in range(3)))


class Provider:
    def __init__(self, settings: Oidc) -> None:
        self.settings = settings
        self._trust = ssl.create_default_context()
        # Python 3.13 refuses an authority without a key usage extension, as `openssl req` makes it by default.
        self._trust.verify_flags &= ~ssl.VERIFY_X509_STRICT

    @property
    def host(self) -> str:
        """By which people know it."""
        return urlsplit(self.settings.issuer).netloc

    async def address(self, trip: Trip) -> str:
        """Where the browser has to go. Raises Unavailable."""
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        async with self._asking() as http:
            found = await self._discovered(http)
        asked = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": self.settings.callback,
            "scope": self.settings.scopes,
            "state": trip.state,
            "nonce": trip.nonce,
            "code_challenge": create_s256_code_challenge(trip.verifier),
            "code_challenge_method": "S256",
        }
        address = str(found["authorization_endpoint"])
        return f"{address}{'&' if '?' in address else '?'}{urlencode(asked)}"

    async def claims(self, code: str, trip: Trip, now: datetime) -> Mapping[str, Any]:
        """What the provider says of whoever came back with this code. Raises Unavailable or NotProved."""
        async with self._asking() as http:
            found = await self._discovered(http)
            given = await self._exchanged(http, found, code, trip)
            status, keys = await _ask(http, "GET", found["jwks_uri"])
        if status != 200:
            raise Unavailable(f"it answers {status} when asked for its keys")
        return self.checked(given, keys, trip, now)

    def checked(
        self, given: Mapping[str, Any], keys: Mapping[str, Any], trip: Trip, now: datetime
    ) -> Mapping[str, Any]:
        """The claims of the ID token among what the provider gave. Raises NotProved. Times are by the database."""
        from authlib.jose import JsonWebKey, JsonWebToken
        from authlib.jose.errors import JoseError
        from authlib.oidc.core import CodeIDToken

        settings, token = self.settings, given.get("id_token")
        if not isinstance(token, str) or token.count(".") != 2:
            raise NotProved("it gave no signed ID token")
        wanted = {
            "iss": {"essential": True, "value": settings.issuer},
            "aud": {"essential": True, "value": settings.client_id},
            "nonce": {"essential": True, "value": trip.nonce},
        }
        params = {"nonce": trip.nonce, "client_id": settings.client_id, "access_token": given.get("access_token")}
        try:
            found = JsonWebToken(list(_ALGORITHMS)).decode(
                token, JsonWebKey.import_key_set(dict(keys)), CodeIDToken, wanted, params
            )
            found.validate(now=int(now.timestamp()), leeway=_LEEWAY_S)
        except (JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise NotProved(f"its ID token is of no use: {type(error).__name__} {error}") from None
        subject = found["sub"]
        if not isinstance(subject, str) or not 0 < len(subject) <= _LONGEST_SUBJECT or not subject.isprintable():
            raise NotProved("its ID token has a `sub` that cannot be one")
        return dict(found)

    async def _discovered(self, http: httpx.AsyncClient) -> Mapping[str, Any]:
        issuer = self.settings.issuer
        status, found = await _ask(http, "GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if status != 200:
            raise Unavailable(f"it answers {status} when asked for its configuration")
        if found.get("issuer") != issuer:
            raise Unavailable(f"it calls itself {str(found.get('issuer'))[:200]!r}, which is not OIDC_ISSUER")
        for name in _ENDPOINTS:
            if not isinstance(found.get(name), str) or not is_private(found[name]):
                raise Unavailable(f"its {name} is none, or not https")
        return found

    async def _exchanged(
        self, http: httpx.AsyncClient, found: Mapping[str, Any], code: str, trip: Trip
    ) -> Mapping[str, Any]:
        settings = self.settings
        sent = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": settings.callback,
            "code_verifier": trip.verifier,
        }
        ways = found.get("token_endpoint_auth_methods_supported")
        if isinstance(ways, list) and "client_secret_post" in ways:
            sent |= {"client_id": settings.client_id, "client_secret": settings.client_secret}
            status, given = await _ask(http, "POST", found["token_endpoint"], data=sent)
        else:
            # RFC 6749, 2.3.1, wants both as in a form. Some providers do not know it: so this is the second choice.
            login = quote(settings.client_id, safe=""), quote(settings.client_secret, safe="")
            status, given = await _ask(http, "POST", found["token_endpoint"], data=sent, auth=login)
        if status == 200:
            return given
        words = f"it answers {status} to the code: {str(given.get('error'))[:60]!r}"
        if given.get("error") == "invalid_grant":
            raise NotProved(words)
        raise Unavailable(words)

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[httpx.AsyncClient]:
        """Raises Unavailable for all that goes wrong within, also with time."""
        import httpx

        # What is compressed could be longer than it looks.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        try:
            async with (
                asyncio.timeout(LIMIT_S),
                httpx.AsyncClient(verify=self._trust, timeout=LIMIT_S, headers=headers, trust_env=False) as http,
            ):
                yield http
        except TimeoutError:
            raise Unavailable(f"no answer within {LIMIT_S:.0f} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Unavailable(f"cannot reach it: {type(error).__name__} {error}") from None


async def _ask(http: httpx.AsyncClient, method: str, url: str, **options: Any) -> tuple[int, dict[str, Any]]:
    """The status, and the JSON object of the answer. Raises Unavailable. No redirect is followed."""
    content = b""
    async with http.stream(method, url, **options) as answer:
        async for part in answer.aiter_raw():
            content += part
            if len(content) > _MOST_BYTES:
                raise Unavailable("its answer is too long")
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unavailable(f"it answers {answer.status_code}, and no JSON object")
    return answer.status_code, found
