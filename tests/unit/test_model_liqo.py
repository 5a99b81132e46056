"""What Liqo's objects mean: namespaces, classes, kubeconfig, and what is left out."""

from __future__ import annotations

import msgspec

from csi_liqo.model import liqo, objects


def virtual_node(name: str = "milan", **spec: object) -> liqo.VirtualNode:
    document = {
        "metadata": {"name": name, "namespace": "liqo-tenant-milan"},
        "spec": {"clusterID": "milan", **spec},
    }
    return msgspec.convert(document, liqo.VirtualNode)


def namespace_map(
    mapping: dict[str, tuple[str, str]], *, replication: str = "true"
) -> liqo.NamespaceMap:
    current = {
        local: {"remoteNamespace": remote, "phase": phase}
        for local, (remote, phase) in mapping.items()
    }
    labels = {"liqo.io/replication": replication, "liqo.io/remote-cluster-id": "milan"}
    document = {
        "metadata": {"name": "milan", "namespace": "liqo-tenant-milan", "labels": labels},
        "status": {"currentMapping": current},
    }
    return msgspec.convert(document, liqo.NamespaceMap)


def describe(*parts: liqo.VirtualNode | liqo.NamespaceMap) -> liqo.Description:
    nodes = [part for part in parts if isinstance(part, liqo.VirtualNode)]
    maps = [part for part in parts if isinstance(part, liqo.NamespaceMap)]
    found = liqo.describe("milan", nodes, maps)
    assert found is not None
    assert isinstance(found.spec, liqo.Description)
    return found.spec


def test_the_kubeconfig_is_in_the_virtual_nodes_namespace() -> None:
    spec = describe(virtual_node(kubeconfigSecretRef={"name": "kubeconfig-resourceslice-milan"}))

    reference = spec.kubeconfig_secret_ref
    assert (reference.namespace, reference.name, reference.key) == (
        "liqo-tenant-milan",
        "kubeconfig-resourceslice-milan",
        "kubeconfig",
    )


def test_only_namespaces_that_exist_in_the_provider_are_mapped() -> None:
    spec = describe(
        virtual_node(),
        namespace_map(
            {
                "demo": ("demo-rome", "Accepted"),
                "late": ("late-rome", "CreationLoopBackOff"),
                "leaving": ("leaving-rome", "Terminating"),
            }
        ),
    )

    assert spec.namespace_mapping.explicit == {"demo": "demo-rome"}
    assert spec.namespace_mapping.default == "None"


def test_a_map_that_another_cluster_made_here_says_nothing_of_ours() -> None:
    copied = namespace_map({"theirs": ("theirs-milan", "Accepted")}, replication="false")

    assert describe(virtual_node(), copied).namespace_mapping.explicit == {}


def test_all_that_any_virtual_node_of_a_provider_offers_is_offered_but_virtual_classes() -> None:
    spec = describe(
        virtual_node("milan-a", storageClasses=[{"storageClassName": "fast", "default": True}]),
        virtual_node(
            "milan-b",
            storageClasses=[{"storageClassName": "liqo"}, {"storageClassName": "large"}],
        ),
    )

    assert spec.offers == (
        objects.OfferedClass(name="fast", default=True),
        objects.OfferedClass(name="large", default=False),
    )


def test_without_a_virtual_node_there_is_no_provider() -> None:
    assert liqo.describe("milan", [], [namespace_map({})]) is None


def test_a_virtual_node_that_is_being_deleted_describes_nothing() -> None:
    metadata = objects.Metadata(name="milan", deletion_timestamp="2026-01-01T00:00:00Z")
    leaving = msgspec.structs.replace(virtual_node(), metadata=metadata)

    assert liqo.describe("milan", [leaving], []) is None
