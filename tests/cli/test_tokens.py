"""Tokens of providers: renewed in time under the controller's own rights, and taken up."""

from __future__ import annotations

import asyncio
import base64
import logging
import time

import pytest
import yaml

from csi_liqo.kube import api, collection, resources, server
from csi_liqo.model import credentials, errors, names
from csi_liqo.reconcilers import tokens
from tests import control_planes
from tests.cli import aging, conftest
from tests.cluster import fabric

KEY = ("csi-liqo", "peer-milan")


class Renewing:
    """The reconciler with the controller's rights, its cache and a clock of its own."""

    def __init__(self, desk: conftest.Desk, now: float) -> None:
        self._desk = desk
        self._now = now

    async def __aenter__(self) -> tokens.Tokens:
        kubeconfig = self._desk.rome.kubeconfig_for(fabric.CONTROLLER_USER)
        self._calls = await api.Api.from_kubeconfig(kubeconfig)
        secrets = collection.Collection(
            self._calls,
            self._calls,
            resources.SECRETS,
            namespace="csi-liqo",
            label_selector=f"{names.RENEW_LABEL}=true",
        )
        self._keeping = asyncio.create_task(secrets.keep())
        await asyncio.wait_for(secrets.store.wait_synced(), 10)
        return tokens.Tokens(secrets, server.renew, lambda: self._now)

    async def __aexit__(self, *_: object) -> None:
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        await self._calls.close()


async def test_a_token_is_renewed_at_half_of_its_life(
    desk: conftest.Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await desk.add("--namespace=a", "--token-hours=2")
    old = await desk.token_of()

    async with Renewing(desk, time.time() + 3500) as early:
        rest = await early.reconcile(KEY)
    assert rest is not None
    assert 0 < rest < 120
    assert await desk.token_of() == old

    async with Renewing(desk, time.time() + 3601) as due:
        await due.reconcile(KEY)

    new = await desk.token_of()
    before, after = credentials.read_token(old), credentials.read_token(new)
    assert before is not None
    assert after is not None
    assert new != old
    assert after.lifetime_seconds == before.lifetime_seconds == 7200
    assert after.secret == before.secret  # a rotation makes both invalid
    assert "renewed the token in Secret csi-liqo/peer-milan" in caplog.text
    assert old not in caplog.text
    assert new not in caplog.text


async def test_a_token_that_is_refused_says_who_can_help(desk: conftest.Desk) -> None:
    await desk.add("--namespace=a")
    accounts = ("-n", "csi-liqo-consumers", "delete", "serviceaccount", "rome")
    fabric.kubectl(desk.milan, *accounts)

    async with Renewing(desk, time.time() + 4 * 86400) as renewing:
        with pytest.raises(errors.Error, match="run csi-liqo peer add again"):
            await renewing.reconcile(KEY)
    before = await desk.token_of()
    await desk.add()
    assert await desk.token_of() != before


async def test_the_controller_goes_on_with_a_rotated_token(
    driver: fabric.Fabric, desk: conftest.Desk
) -> None:
    await driver.claim_on("before", "milan")
    await driver.bound("before")
    old = await desk.token_of()

    done = await desk(
        *("peer", "rotate", "milan", "--consumer-id=rome"),
        f"--provider-kubeconfig={desk.milan.kubeconfig}",
    )

    assert done.code == 0, done.err
    await driver.claim_on("after", "milan")
    await driver.bound("after")
    await control_planes.wait_until(
        driver.consumer, fabric.REMOTE_CLUSTERS, "milan", fabric.is_ready
    )
    log = driver.controller.log.read_text()
    assert old not in log
    assert await desk.token_of() not in log


async def test_the_controller_renews_a_token_by_itself_and_no_call_is_lost(
    driver: fabric.Fabric, desk: conftest.Desk
) -> None:
    await driver.claim_on("before", "milan")
    await driver.bound("before")
    now = int(time.time())
    old = aging.aged(desk.milan, await desk.token_of(), issued_at=now - 7200, expires_at=now + 3600)
    await desk.put_token(old)

    found = await control_planes.wait_until(
        desk.consumer, fabric.SECRETS, "peer-milan", lambda secret: token_in(secret) != old
    )

    new = token_in(found)
    fresh = credentials.read_token(new)
    assert fresh is not None
    assert fresh.lifetime_seconds == 10800
    assert fresh.expires_at > now + 7200
    await driver.claim_on("after", "milan")
    await driver.bound("after")
    log = driver.controller.log.read_text()
    assert "renewed the token in Secret csi-liqo/peer-milan" in log
    for token in (old, new):
        assert token.rpartition(".")[2] not in log


def token_in(secret: fabric.Json | None) -> str:
    assert secret is not None
    text = base64.b64decode(secret["data"]["kubeconfig"]).decode()
    return str(yaml.safe_load(text)["users"][0]["user"]["token"])
