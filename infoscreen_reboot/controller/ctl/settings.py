"""The controller's address and our token: from the environment, or from the file that `login` wrote."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infoscreen_reboot.controller.ctl.outcome import Failure, Outcome

URL = "INFOSCREEN_REBOOTCTL_URL"
TOKEN = "INFOSCREEN_REBOOTCTL_TOKEN"
TOKEN_FILE = "INFOSCREEN_REBOOTCTL_TOKEN_FILE"
CA = "INFOSCREEN_REBOOTCTL_CA"
DEFAULT_URL = "http://127.0.0.1:8480"
_LOG_IN = "run: infoscreen-rebootctl login"


@dataclass(frozen=True, slots=True)
class Settings:
    """`ca` is a file with the certificates to trust in place of the system's."""

    url: str
    token: str | None = field(repr=False)
    ca: str | None = None


def config_path(environment: Mapping[str, str]) -> Path:
    base = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "/")) / ".config"
    return Path(base) / "infoscreen-rebootctl/config"


def load(environment: Mapping[str, str], url: str | None, ca: str | None) -> Settings:
    """An option is stronger than the environment, and that is stronger than the file. Raises Failure."""
    stored = read(config_path(environment))
    chosen = checked(url or environment.get(URL) or stored.get(URL) or DEFAULT_URL)
    given_ca = ca or environment.get(CA)
    token = environment.get(TOKEN) or _token_of_file(environment.get(TOKEN_FILE))
    # The token that was stored is for the address that was stored, and no other server shall see it.
    if chosen == stored.get(URL):
        token = token or stored.get(TOKEN)
        given_ca = given_ca or stored.get(CA)
    return Settings(chosen, token, given_ca)


def checked(url: str) -> str:
    """Raises Failure if this is no address."""
    if not url.startswith(("http://", "https://", "unix:/")):
        raise Failure(Outcome.USAGE, f"{url!r} is no address; it begins with http://, https:// or unix:/")
    return url.rstrip("/")


def read(path: Path) -> dict[str, str]:
    """What `login` wrote; nothing if it never did. Raises Failure if others can read the token."""
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Failure(Outcome.USAGE, f"{path} holds a token and others can read it", f"run: chmod 600 {path}")
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(Outcome.USAGE, f"cannot read {path}: {error}", _LOG_IN) from None
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def write(path: Path, settings: Settings) -> None:
    """Raises Failure. The file appears whole, and nobody else could ever read it."""
    values = {URL: settings.url, TOKEN: settings.token, CA: settings.ca}
    text = "".join(f"{name}={value}\n" for name, value in values.items() if value is not None)
    new = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        new.replace(path)
    except OSError as error:
        raise Failure(Outcome.USAGE, f"cannot write {path}: {error}") from None


def _token_of_file(name: str | None) -> str | None:
    if not name:
        return None
    try:
        return Path(name).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(Outcome.USAGE, f"cannot read the token in {name}: {error}", f"look at {TOKEN_FILE}") from None
