"""Who the broker is, who we are, and what an operator reads when one of them is not believed."""

from __future__ import annotations

import json
import logging
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from infoscreen_reboot.mqtt.tls import TlsSettings, tls_context
from tests.broker.conftest import Authority, Broker, MakeBroker, Run, tls_listener
from tests.broker.inbox import COMMANDS, Client, plain, secure, trouble_of


def test_an_authority_made_as_mosquittos_manual_says_is_good_on_every_release(
    tls_broker: Broker, authority: Authority, run: Run
) -> None:
    async def story() -> None:
        client = Client(secure(tls_broker, authority))
        async with client.connected():
            tls_broker.publish(COMMANDS, "reboot")
            assert await client.received() == b"reboot"

    run(story())


def test_certificate_and_host_name_are_verified_whatever_the_settings(authority: Authority) -> None:
    ours = authority.issue("screen")
    for tls in (
        TlsSettings(None, None, None),
        TlsSettings(authority.certificate, None, None),
        TlsSettings(authority.certificate, ours.certificate, ours.key),
    ):
        context = tls_context(tls)
        assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("certificate", "trouble"),
    [
        (
            {"alternative": "DNS:other.example"},
            "IP address mismatch, certificate is not valid for '127.0.0.1'",
        ),
        ({"expired": True}, "certificate has expired"),
    ],
    ids=["other-host", "expired"],
)
def test_a_certificate_that_is_no_proof_is_refused(
    make_broker: MakeBroker, authority: Authority, run: Run, certificate: dict[str, object], trouble: str
) -> None:
    async def story() -> None:
        broker = make_broker(listener=tls_listener(authority.issue("broker", **certificate)))  # type: ignore[arg-type]
        assert f"the broker's certificate is not accepted: {trouble}; next" in await trouble_of(
            secure(broker, authority)
        )

    run(story())


def test_a_certificate_of_an_unknown_authority_is_refused(
    tls_broker: Broker, authority: Authority, run: Run, tmp_path: Path
) -> None:
    async def story() -> None:
        settings = secure(tls_broker, authority)
        for tls in (
            TlsSettings(Authority(tmp_path).certificate, None, None),
            TlsSettings(None, None, None),  # the system's authorities do not know ours either
        ):
            trouble = await trouble_of(replace(settings, tls=tls))
            assert "the broker's certificate is not accepted: " in trouble
            assert "issuer certificate" in trouble or "self-signed certificate in certificate chain" in trouble

    run(story())


def test_tls_on_a_plain_port_and_plain_on_a_tls_port_are_told_apart(
    tls_broker: Broker, authority: Authority, run: Run
) -> None:
    async def story() -> None:
        settings = secure(tls_broker, authority)
        for wrong in (replace(settings, port=tls_broker.port), replace(settings, tls=None)):
            trouble = await trouble_of(wrong)
            assert trouble.startswith(f"cannot connect to 127.0.0.1:{wrong.port}: ")
            assert "is TLS expected on this port?; next attempt in" in trouble

    run(story())


def test_a_client_certificate_opens_the_door_that_is_closed_without(
    make_broker: MakeBroker, authority: Authority, run: Run
) -> None:
    async def story() -> None:
        demand = f"\ncafile {authority.certificate}\nrequire_certificate true"
        broker = make_broker(listener=tls_listener(authority.issue("broker")) + demand)
        ours = authority.issue("screen")
        settings = secure(broker, authority)
        trouble = await trouble_of(settings)
        assert "certificate required" in trouble or "closed" in trouble, trouble
        tls = TlsSettings(authority.certificate, ours.certificate, ours.key)
        async with Client(replace(settings, tls=tls)).connected():
            pass

    run(story())


def test_a_file_that_is_no_good_is_named(tls_broker: Broker, authority: Authority, run: Run, tmp_path: Path) -> None:
    good = authority.issue("screen")
    other, missing, junk, locked = (
        authority.issue("other"),
        tmp_path / "no.pem",
        tmp_path / "junk",
        tmp_path / "locked",
    )
    junk.write_text("not a certificate")
    subprocess.run(
        ["openssl", "pkey", "-in", good.key, "-out", locked, "-aes256", "-passout", "pass:secret"], check=True
    )
    for tls, words in (
        (TlsSettings(missing, None, None), f"cannot read {missing}: No such file or directory"),
        (TlsSettings(junk, None, None), f"cannot use {junk} as certificate authority: TLS: no certificate"),
        (TlsSettings(None, good.certificate, missing), f"cannot read {missing}: No such file"),
        (
            TlsSettings(None, good.certificate, other.key),
            f"cannot use {good.certificate} with the key in {other.key}: ",
        ),
        (
            TlsSettings(None, good.certificate, locked),
            f"cannot use {good.certificate} with the key in {locked}: ",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{words}"):
            tls_context(tls)

    async def story() -> None:
        settings = replace(secure(tls_broker, authority), tls=TlsSettings(missing, None, None))
        assert f": cannot read {missing}: No such file or directory; next attempt in" in await trouble_of(settings)

    run(story())


def test_a_wrong_password_is_refused_and_no_password_is_ever_shown(
    make_broker: MakeBroker, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def story() -> None:
        users = tmp_path / "users"
        subprocess.run(["mosquitto_passwd", "-b", "-c", users, "screen", "right-secret"], check=True)
        broker = make_broker(f"allow_anonymous false\npassword_file {users}")
        settings = replace(plain(broker), username="screen", password="wrong-secret")
        trouble = await trouble_of(settings)
        assert f"cannot connect to 127.0.0.1:{broker.port}: not authorised; next attempt in" in trouble
        client = Client(replace(settings, password="right-secret"))
        async with client.connected():
            assert client.session.trouble is None
        assert "secret" not in f"{settings!r} {trouble} {caplog.text}"

    run(story())


def test_a_refused_subscription_is_shown_and_the_session_stays(
    make_broker: MakeBroker, run: Run, tmp_path: Path
) -> None:
    async def story() -> None:
        plugin = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"))
        rules = {
            "defaultACLAccess": {"publishClientSend": True, "publishClientReceive": True, "subscribe": False},
            "anonymousGroup": "everyone",
            "groups": [{"groupname": "everyone", "roles": [{"rolename": "screen"}]}],
            "roles": [
                {
                    "rolename": "screen",
                    "acls": [{"acltype": "subscribeLiteral", "topic": COMMANDS, "priority": 0, "allow": True}],
                }
            ],
        }
        (tmp_path / "rules.json").write_text(json.dumps(rules))
        broker = make_broker(f"plugin {plugin}\nplugin_opt_config_file {tmp_path / 'rules.json'}")
        client = Client(plain(broker), COMMANDS, "secrets/#")
        async with client.connected():
            assert client.session.trouble == "the broker refuses the subscription to secrets/#: not authorised"
            broker.publish(COMMANDS, "reboot")
            assert await client.received() == b"reboot"

    run(story())
