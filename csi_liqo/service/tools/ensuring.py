"""Creating what should exist, so that a command that was interrupted can be repeated."""

from __future__ import annotations

from typing import Any

from csi_liqo.model import errors, names
from csi_liqo.service.tools import ports


async def ensure(
    server: ports.Server,
    kind: ports.Kind,
    manifest: ports.Manifest,
    *,
    mark: str,
    dry_run: bool = False,
) -> tuple[ports.Manifest, bool]:
    """Make an object be as described; returns it, and whether anything was written.

    ``mark`` is a label that the manifest carries: an object of that name whose label
    says otherwise belongs to somebody else. Fields that the manifest does not name
    stay as they are. A dry run writes nothing, and fails as the real one would.

    Raises:
        errors.PreconditionError: it belongs to somebody else.
        errors.ApiError: the server refused, or did not answer.
    """
    manifest = {"apiVersion": kind.api_version, "kind": kind.name, **manifest}
    metadata = manifest["metadata"]
    namespace, name = metadata.get("namespace", ""), metadata["name"]
    try:
        return await server.create(kind, manifest, dry_run=dry_run), True
    except errors.ApiAlreadyExistsError:
        found = await server.find(kind, name, namespace)
    if found is None:
        raise errors.OperationPendingError(f"{ports.named(manifest)} was just deleted; try again")
    refuse_foreign(found, mark, ports.labels_of(manifest).get(mark, ""))
    if _covers(found, manifest):
        return found, False
    about = {"uid": found["metadata"]["uid"]}
    version = {"resourceVersion": found["metadata"]["resourceVersion"]}
    patch = {**manifest, "metadata": {**metadata, **about, **version}}
    return await server.merge(kind, name, namespace, patch, dry_run=dry_run), True


def refuse_foreign(found: ports.Manifest, mark: str, wanted: str) -> None:
    """Leave what somebody else made alone.

    Raises:
        errors.PreconditionError: names it, and the label that would allow it.
    """
    if ports.labels_of(found).get(mark) != wanted:
        raise errors.PreconditionError(
            f"{ports.named(found)} exists and was made by somebody else; delete it, or give it "
            f"the label {mark}={wanted} if it may be used"
        )


async def remove(server: ports.Server, kind: ports.Kind, manifest: ports.Manifest) -> str:
    """Delete exactly this object, and return its name for people."""
    about = manifest["metadata"]
    namespace = about.get("namespace", "")
    await server.delete(kind, about["name"], namespace, uid=about["uid"])
    return ports.named(manifest)


async def remove_marked(
    server: ports.Server, kind: ports.Kind, name: str, namespace: str, labels: dict[str, str]
) -> str:
    """Delete an object if it is there and has these labels; returns its name, or nothing."""
    found = await server.find(kind, name, namespace)
    if found is None or not labels.items() <= ports.labels_of(found).items():
        return ""
    return await remove(server, kind, found)


def marks(consumer_id: str, **more: str) -> dict[str, str]:
    """Return the labels of whatever a command makes."""
    own = {names.CONSUMER_LABEL: consumer_id, "app.kubernetes.io/part-of": "csi-liqo"}
    return own | more


def _covers(found: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there already; what else is there does not matter."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            _covers(found.get(key), value) for key, value in wanted.items()
        )
    return bool(found == wanted)
