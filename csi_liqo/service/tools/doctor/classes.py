"""Checks of the virtual classes, and of the real ones behind them in this cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from csi_liqo.model import errors, names, objects
from csi_liqo.service.controller import negotiation, parameters
from csi_liqo.service.tools import ports, whereabouts
from csi_liqo.service.tools.doctor import facts
from csi_liqo.service.tools.doctor.findings import Finding, Level

_OTHERS: Final = "csi.storage.k8s.io/"
"""Prefix of the parameters that the provisioner takes for itself."""
_BUILT_IN: Final = "kubernetes.io/"
_SECRETS: Final = (
    "csi.storage.k8s.io/node-stage-secret-name",
    "csi.storage.k8s.io/node-publish-secret-name",
)


def check_classes(seen: facts.Facts) -> Iterator[Finding]:
    """Check each virtual class, and that there is one."""
    if not seen.sees(ports.CLASSES):
        return
    ours = [c for c in seen.classes if whereabouts.is_ours(c.provisioner, seen.drivers)]
    if not ours:
        yield _err(
            f"no StorageClass has provisioner {names.DEFAULT_DRIVER}: nobody can ask for a volume",
            "kubectl apply -f deploy/base/storageclass.yaml",
        )
    for virtual in ours:
        yield from _check(seen, virtual)


def _check(seen: facts.Facts, virtual: objects.StorageClass) -> Iterator[Finding]:
    if virtual.provisioner not in seen.drivers and seen.sees(ports.CSI_DRIVERS):
        yield _err(
            f"StorageClass {virtual.name} names driver {virtual.provisioner}, which is not "
            "installed",
            "install it, or make the class anew with another provisioner",
        )
    own = {k: v for k, v in virtual.parameters.items() if not k.startswith(_OTHERS)}
    try:
        read = parameters.parse(own)
    except errors.InvalidRequestError as error:
        yield _err(f"StorageClass {virtual.name}: {error}", "delete the class and make it anew")
        return
    if not virtual.waits:
        yield _warn(
            f"StorageClass {virtual.name} binds at once: its volumes are made before their pods "
            "are scheduled, always in this cluster",
            "make it anew with volumeBindingMode: WaitForFirstConsumer",
        )
    real = _real_class(seen, virtual, read.local_class)
    if isinstance(real, Finding):
        yield real
    else:
        yield from _check_real(seen, virtual, real)


def _real_class(
    seen: facts.Facts, virtual: objects.StorageClass, wanted: str
) -> objects.StorageClass | Finding:
    """Return the class that makes local volumes, or what is wrong with it."""
    if wanted:
        real = next((c for c in seen.classes if c.name == wanted), None)
        if real is None:
            return _err(
                f"StorageClass {virtual.name}: localClass {wanted} does not exist",
                f"create {wanted}, or make a virtual class that names another",
            )
    else:
        defaults = [known for known in seen.classes if known.default]
        real = max(defaults, key=lambda c: c.metadata.creation_timestamp, default=None)
        if real is None:
            return _err(
                f"StorageClass {virtual.name} uses the default class, and there is none",
                "kubectl annotate storageclass NAME "
                f"{names.DEFAULT_CLASS_ANNOTATION}=true, or name one in localClass",
            )
    if negotiation.is_virtual(real.provisioner, virtual.provisioner):
        return _err(
            f"StorageClass {virtual.name} leads to {real.name}, which is virtual itself",
            "name a real class in localClass",
        )
    return real


def _check_real(
    seen: facts.Facts, virtual: objects.StorageClass, real: objects.StorageClass
) -> Iterator[Finding]:
    what = f"StorageClass {virtual.name} uses {real.name}"
    if not virtual.waits and (real.waits or real.provisioner == names.STATIC_PROVISIONER):
        yield _err(
            f"{what}, which waits for a pod's node, and itself does not wait",
            f"make {virtual.name} anew with volumeBindingMode: WaitForFirstConsumer",
        )
    driver = next((d for d in seen.csi_drivers if d.name == real.provisioner), None)
    if driver is None:
        if not real.provisioner.startswith(_BUILT_IN) and seen.sees(ports.CSI_DRIVERS):
            yield _warn(
                f"{what} of provisioner {real.provisioner}, which has no CSIDriver object",
                "nothing, if it makes hostPath or local volumes; else install the driver",
            )
        return
    if driver.spec.attach_required and not seen.drivers.get(virtual.provisioner, False):
        yield _err(
            f"{what}, whose driver {driver.name} must attach, and {virtual.provisioner} does not",
            "kubectl apply -k deploy/attach, and use a class of csi.liqo.io-attach",
        )
    if driver.spec.token_requests:
        yield _err(
            f"{what}, whose driver {driver.name} wants service account tokens, which are not "
            "passed on",
            "name another class in localClass",
        )
    missing = [k for k in _SECRETS if k in real.parameters and k not in virtual.parameters]
    if missing:
        yield _err(
            f"{what}, which passes secrets to its driver ({missing[0]}), and itself does not",
            f"make {virtual.name} anew with the same parameters",
        )
    yield from _where_it_runs(seen, real, driver)


def _where_it_runs(
    seen: facts.Facts, real: objects.StorageClass, driver: objects.CsiDriver
) -> Iterator[Finding]:
    running = facts.entries(seen.csi_nodes, driver.name)
    without = [
        node.name
        for node in seen.nodes
        if not node.virtual and node.name in seen.schedulable and node.name not in running
    ]
    if without and seen.sees(ports.CSI_NODES):
        yield _warn(
            f"driver {driver.name} of StorageClass {real.name} does not run on "
            f"{', '.join(without[:5])}: no volumes of it there",
            f"see why CSINode {without[0]} lacks it",
        )


def _err(message: str, remedy: str) -> Finding:
    return Finding(level=Level.ERROR, check="classes", message=message, remedy=remedy)


def _warn(message: str, remedy: str) -> Finding:
    return Finding(level=Level.WARNING, check="classes", message=message, remedy=remedy)
