"""What a provider may grant a consumer: the same roles as deploy/provider has.

`csi-liqo peer add` makes them where a provider has never seen that folder, so a test
compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from csi_liqo.service.tools import ports

CONSUMERS_NAMESPACE: Final = "csi-liqo-consumers"
"""Where a provider keeps the accounts that stand for its consumers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of a role. ``names`` empty means all objects."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()

    def forge(self) -> dict[str, Any]:
        """Return the rule as RBAC writes it."""
        rule: dict[str, Any] = {
            "apiGroups": [self.group],
            "resources": [self.resource],
            "verbs": list(self.verbs),
        }
        return rule | ({"resourceNames": list(self.names)} if self.names else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Rights that are given together or not at all.

    ``everywhere``: bound in the whole provider, else in each mapped namespace.
    ``optional``: given only when it is named. ``purpose`` and ``cost`` are for
    people: what it is for, and what is missing without it.
    """

    name: str
    rules: tuple[Rule, ...]
    everywhere: bool
    optional: bool
    purpose: str
    cost: str

    @property
    def role(self) -> str:
        """The name of its ClusterRole."""
        return f"csi-liqo-consumer-{self.name}"

    def rights(self, namespace: str) -> Iterator[ports.Right]:
        """Return each right of it, in a namespace where it is not given everywhere."""
        for rule in self.rules:
            resource, _, subresource = rule.resource.partition("/")
            for verb in rule.verbs:
                for name in rule.names or ("",):
                    yield ports.Right(
                        verb=verb,
                        group=rule.group,
                        resource=resource,
                        subresource=subresource,
                        namespace="" if self.everywhere else namespace,
                        name=name,
                    )


CLAIMS: Final = Grant(
    name="claims",
    rules=(
        Rule(
            group="",
            resource="persistentvolumeclaims",
            verbs=("get", "list", "watch", "create", "patch", "delete"),
        ),
    ),
    everywhere=False,
    optional=False,
    purpose="make, mark and delete twins",
    cost="no volumes in this namespace",
)
IDENTITY: Final = Grant(
    name="identity",
    rules=(Rule(group="", resource="namespaces", verbs=("get",), names=("kube-system",)),),
    everywhere=True,
    optional=False,
    purpose="tell this cluster from another at its address",
    cost="a provider that was made anew is told by weaker signs",
)
OFFERED_CLASSES: Final = Grant(
    name="offered-classes",
    rules=(Rule(group="storage.k8s.io", resource="storageclasses", verbs=("list", "watch")),),
    everywhere=True,
    optional=True,
    purpose="read which classes are offered",
    cost="each class must be named with --class, and counts as one that waits for its pod",
)
VOLUMES: Final = Grant(
    name="volumes",
    rules=(Rule(group="", resource="persistentvolumes", verbs=("get", "list", "watch")),),
    everywhere=True,
    optional=True,
    purpose="wait until a deleted real volume is gone",
    cost="a deletion ends with the twin, whatever becomes of its volume",
)
CAPACITY: Final = Grant(
    name="capacity",
    rules=(
        Rule(group="storage.k8s.io", resource="csistoragecapacities", verbs=("list", "watch")),
        Rule(group="storage.k8s.io", resource="csidrivers", verbs=("list", "watch")),
    ),
    everywhere=True,
    optional=True,
    purpose="know how much room its classes have",
    cost="it counts as having plenty: pods are sent there and come back when it is full",
)
EVENTS: Final = Grant(
    name="events",
    rules=(Rule(group="", resource="events", verbs=("list",)),),
    everywhere=False,
    optional=True,
    purpose="say why a twin is not bound",
    cost="a claim that waits does not say for what",
)

REPAIR: Final = Grant(
    name="repair",
    rules=(Rule(group="", resource="persistentvolumes", verbs=("patch",)),),
    everywhere=True,
    optional=True,
    purpose="make a deleted twin again without losing its data (needs volumes, too)",
    cost="csi-liqo doctor --repair cannot help a twin that somebody deleted there",
)
TEARDOWN: Final = Grant(
    name="teardown",
    rules=(Rule(group="", resource="configmaps", verbs=("create", "patch")),),
    everywhere=False,
    optional=True,
    purpose="count its volumes for the policy against deleting the namespace",
    cost="the provider may delete the namespace while volumes are in it",
)

ALL: Final = (
    CLAIMS,
    IDENTITY,
    OFFERED_CLASSES,
    VOLUMES,
    CAPACITY,
    EVENTS,
    REPAIR,
    TEARDOWN,
)
OPTIONAL: Final = {grant.name: grant for grant in ALL if grant.optional}


def renewal(account: str) -> Grant:
    """Return the right of an account to the next token for itself, and for nobody else."""
    return Grant(
        name="token",
        rules=(
            Rule(
                group="",
                resource="serviceaccounts/token",
                verbs=("create",),
                names=(account,),
            ),
        ),
        everywhere=False,
        optional=False,
        purpose="renew its own token",
        cost="the token ends; csi-liqo peer rotate must come before",
    )
