"""Carries out the steps of a plan: every actor its own, one after the other."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Sequence
from typing import Any, Final, assert_never

from lab import control_plane, templates
from lab.faults import rules
from tests.cluster import fabric
from tests.soak import account, plan, record, world

_REFUSALS: Final = {
    plan.Outage.DENYING: (401, "Unauthorized"),
    plan.Outage.FAILING: (500, "InternalError"),
    plan.Outage.THROTTLING: (429, "TooManyRequests"),
    plan.Outage.FORBIDDING: (403, "Forbidden"),
}


class Chaos:
    """Does what a plan says, and remembers when it did what and what is to come of it."""

    def __init__(self, where: world.World) -> None:
        self.log: list[str] = []
        self.wanted = account.Wanted()
        self._world = where
        self._begun = 0.0

    async def run(self, steps: Sequence[plan.Step]) -> None:
        """Do all steps. When it returns, everything is let free again.

        What an actor had no time for at its moment it does later, never less.
        """
        self._begun = time.monotonic()
        ordered = sorted(steps, key=lambda step: step.actor)
        async with asyncio.TaskGroup() as group:
            for actor, own in itertools.groupby(ordered, key=lambda step: step.actor):
                group.create_task(self._act(list(own)), name=actor)

    async def clear(self) -> None:
        """Delete all pods and claims of the users."""
        self.wanted = account.Wanted()
        async with asyncio.TaskGroup() as group:
            for name in plan.CLAIM_NAMES:
                group.create_task(self._world.users.drop(name), name=name)

    async def _act(self, steps: list[plan.Step]) -> None:
        for step in steps:
            await asyncio.sleep(self._begun + step.at_seconds - time.monotonic())
            self.log.append(f"{time.monotonic() - self._begun:7.2f} s  begins: {step}")
            match step.what:
                case plan.Verb():
                    await self._claim(step)
                case plan.Outage() as outage:
                    await self._outage(outage, step)
                case plan.Kill() as kill:
                    await self._kill(kill, step)
                case _:
                    assert_never(step.what)
            self.log.append(f"{time.monotonic() - self._begun:7.2f} s  done:   {step}")

    async def _claim(self, step: plan.Step) -> None:
        users, name = self._world.users, step.actor
        if step.what is not plan.Verb.CREATE:
            await users.drop(name)
            self.wanted.forget(name)
        if step.what is not plan.Verb.DELETE:
            if step.wish.refusal:
                self.wanted.refusals[name] = step.wish.refusal
            elif step.node:
                home = step.node if step.node in plan.PROVIDERS else record.CONSUMER
                self.wanted.homes[name] = home
            await users.consumer.create(users.claims, _forge_claim(step))
            pods = f"/api/v1/namespaces/{users.namespace}/pods"
            await users.consumer.create(pods, _forge_pod(step))

    async def _outage(self, outage: plan.Outage, step: plan.Step) -> None:
        way = self._world.ways[step.actor]
        match outage:
            case plan.Outage.DOWN:
                await way.go_down()
                await _last(step, way.come_up)
            case plan.Outage.STOPPED:
                plane = self._world.planes[step.actor]
                server = plane.components[control_plane.API_SERVER]
                server.pause()
                await _last(step, server.resume)
            case plan.Outage.CUT_WATCHES:
                way.cut_watches()
            case plan.Outage.SILENT_WATCHES:
                way.silence_watches()
                await _last(step, way.end_silence)
            case _:
                rule = _place(way, outage)
                if outage is plan.Outage.HANGING:
                    way.silence_watches()
                await _last(step, lambda: way.remove(rule))
                way.end_silence()

    async def _kill(self, kill: plan.Kill, step: plan.Step) -> None:
        replica = self._world.replicas[step.actor]
        match kill:
            case plan.Kill.POD:
                await replica.end()
                await _last(step, replica.start)
            case plan.Kill.CONTROLLER:
                await replica.controller.end()
                await _last(step, replica.controller.start)
            case plan.Kill.ASKED:
                await replica.controller.end(signal.SIGTERM)
                await _last(step, replica.controller.start)
            case plan.Kill.FROZEN:
                pid = replica.controller.pid
                os.kill(pid, signal.SIGSTOP)
                await _last(step, lambda: os.kill(pid, signal.SIGCONT))


def _place(way: Any, outage: plan.Outage) -> rules.Rule:
    placed: rules.Rule
    if outage in _REFUSALS:
        status, reason = _REFUSALS[outage]
        placed = way.fail(status=status, reason=reason, times=None)
    elif outage is plan.Outage.HANGING:
        placed = way.hang(times=None)
    elif outage is plan.Outage.LOST_ANSWERS:
        placed = way.cut(rules.WRITES, when=rules.When.AFTER, times=None)
    else:
        placed = way.fail(rules.WRITES, when=rules.When.AFTER, times=None)
    return placed


async def _last(step: plan.Step, undo: Any) -> None:
    """Let something last for as long as was drawn, and undo it in any case."""
    try:
        await asyncio.sleep(step.lasts_seconds)
    finally:
        undone = undo()
        if asyncio.iscoroutine(undone):
            await undone


def _forge_claim(step: plan.Step) -> fabric.Json:
    made = fabric.claim(step.actor)
    if step.wish is not plan.Wish.DEFAULT:
        annotations = {"liqo.io/remote-storage-class": step.wish.value}
        made["metadata"]["annotations"] = annotations
    return made


def _forge_pod(step: plan.Step) -> fabric.Json:
    made = templates.pod(step.actor, step.node)
    if step.node == plan.ANYWHERE:
        del made["spec"]["nodeSelector"]
    return made
