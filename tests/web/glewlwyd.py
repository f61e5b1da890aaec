"""Debian's glewlwyd as an OpenID provider, with people in groups: on this machine only, and set up by its own API."""

from __future__ import annotations

import re
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
from authlib.jose import JsonWebKey

from tools.lab.patience import Patience

SETTINGS = Path("/etc/glewlwyd/glewlwyd.conf")
WEBAPP = Path("/usr/share/glewlwyd/webapp")
TABLES = Path("/usr/share/dbconfig-common/data/glewlwyd/install/sqlite3")
PASSWORD = "password"  # of its admin, as its tables come
CLIENT, SECRET = "signage", "a secret of 1 and 2"


class Glewlwyd:
    """One that runs at `address`; its issuer is `issuer`."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.folder = folder
        self.address = f"http://127.0.0.1:{self.port}"
        self.issuer = f"{self.address}/api/oidc"
        self._http = httpx.Client(base_url=f"{self.address}/api", timeout=30, trust_env=False)

    @contextmanager
    def running(self) -> Iterator[Glewlwyd]:
        process = subprocess.Popen(["/usr/bin/glewlwyd", "-c", self._written()])
        try:
            patience = Patience(30)
            while not self._answers():
                assert process.poll() is None and not patience.is_over, "it does not start"
                time.sleep(0.05)
            self._do("POST", "/auth/", username="admin", password=PASSWORD)
            yield self
        finally:
            process.terminate()
            process.wait(30)
            self._http.close()

    def set_up(self, callback: str) -> None:
        """It lets people sign in to the console, and says their groups."""
        key = JsonWebKey.generate_key("EC", "P-256", {"kid": "one", "alg": "ES256"}, is_private=True)
        claims = [
            {"name": name, "user-property": of, "type": "string", "mandatory": True, "scope": []}
            for name, of in (("preferred_username", "username"), ("groups", "groups"))
        ]
        parameters = {
            "iss": self.issuer,
            "jwks-private": f'{{"keys": [{key.as_json(is_private=True)}]}}',
            "default-kid": "one",
            "access-token-duration": 3600,
            "refresh-token-duration": 3600,
            "code-duration": 600,
            "allow-non-oidc": False,
            "auth-type-code-enabled": True,
            "auth-type-token-enabled": False,
            "auth-type-id-token-enabled": False,
            "auth-type-password-enabled": False,
            "auth-type-client-enabled": False,
            "auth-type-refresh-enabled": True,
            "pkce-allowed": True,
            "pkce-required": True,
            "pkce-required-public-client": True,
            "subject-type": "public",
            "service-documentation": self.address,
            "op-policy-uri": self.address,
            "op-tos-uri": self.address,
            "jwks-show": True,
            "jwks-x5c": [],
            "claims": claims,
        }
        names = {"module": "oidc", "name": "oidc", "display_name": "OpenID Connect"}
        self._do("POST", "/mod/plugin/", **names, parameters=parameters)
        self._do(
            "POST",
            "/client/",
            client_id=CLIENT,
            name="The screens",
            confidential=True,
            password=SECRET,
            client_secret=SECRET,
            enabled=True,
            redirect_uri=[callback],
            authorization_type=["code"],
            token_endpoint_auth_method=["client_secret_post"],
            scope=["openid"],
        )

    def add_user(self, name: str, *groups: str) -> None:
        """With the same password as everybody. He has allowed already that the console hears of him."""
        about = {"username": name, "name": name, "password": PASSWORD, "enabled": True}
        self._do("POST", "/user/", **about, groups=list(groups), scope=["openid"])
        with httpx.Client(base_url=f"{self.address}/api", timeout=30, trust_env=False) as http:
            http.post("/auth/", json={"username": name, "password": PASSWORD}).raise_for_status()
            http.put(f"/auth/grant/{CLIENT}", json={"scope": "openid"}).raise_for_status()

    def put_into(self, name: str, *groups: str) -> None:
        """These, and no other ones."""
        self._do("PUT", f"/user/{name}", name=name, enabled=True, groups=list(groups), scope=["openid"])

    def _do(self, method: str, path: str, **content: object) -> None:
        answer = self._http.request(method, path, json=content)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.address}/config/", trust_env=False).is_success
        except httpx.TransportError:
            return False

    def _written(self) -> Path:
        """Its own settings but for the place, and a database that keeps groups of users."""
        database = self.folder / "glewlwyd.sqlite3"
        with closing(sqlite3.connect(database)) as db, db:
            db.executescript(TABLES.read_text("utf-8"))
            kept = '{"use-glewlwyd-connection": true, "data-format": {"groups": {"multiple": true, "read": true,'
            kept += ' "write": true}}}'
            db.execute("UPDATE g_user_module_instance SET gumi_parameters = ?", (kept,))
        # In the package the pages' settings are a link to a folder, where they want a file.
        shutil.copytree(WEBAPP, self.folder / "webapp", ignore=shutil.ignore_patterns("config.json"))
        shutil.copy("/etc/glewlwyd/config-2.7.json/config.json", self.folder / "webapp/config.json")
        settings = SETTINGS.read_text("utf-8")
        for name, value in {
            "port": str(self.port),
            "external_url": f'"{self.address}/"',
            "log_mode": '"console"',
            "log_level": '"WARNING"',
        }.items():
            settings = re.sub(rf"(?m)^{name}=.*$", f"{name}={value}", settings)
        settings = re.sub(r"(?m)^@include.*$", f'database = {{ type = "sqlite3"; path = "{database}"; }};', settings)
        settings += f'\nbind_address="127.0.0.1"\nstatic_files_path="{self.folder}/webapp"\n'
        written = self.folder / "glewlwyd.conf"
        written.write_text(settings)
        return written
