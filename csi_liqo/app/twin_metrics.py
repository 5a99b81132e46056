"""How many twins there are of which kind, and how many volumes are in trouble, as gauges.

They are counted when somebody asks: the caches are the only state there is.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable

from prometheus_client import core, registry

from csi_liqo.model import health
from csi_liqo.model import names as model_names
from csi_liqo.service.controller import clusters, description, inventory


class TwinGauges(registry.Collector):
    """Collects ``csi_liqo_twins`` and ``csi_liqo_volumes_in_trouble``.

    An abandoned twin holds data that nobody uses; it leaves only by command. A provider that
    is out of sight is counted as last seen.
    """

    def __init__(
        self,
        consumer: clusters.Consumer,
        everywhere: clusters.Clusters,
        listed: inventory.Inventory,
    ) -> None:
        self._consumer = consumer
        self._clusters = everywhere
        self._inventory = listed

    def describe(self) -> Iterable[core.Metric]:
        """Say what will be collected, without collecting it: caches may not be there yet."""
        return (_twins(), _volumes())

    def collect(self) -> Iterable[core.Metric]:
        counted = collections.Counter(
            (entry.cluster.id, entry.state) for entry in self._inventory.list().entries
        )
        twins = _twins()
        for cluster in self._clusters:
            for state in inventory.State:
                twins.add_metric((cluster.id, state.value), counted[cluster.id, state])
        yield twins
        troubled = collections.Counter(
            (description.home_of(volume), shown)
            for volume in self._consumer.volumes.all()
            if (shown := volume.metadata.annotations.get(model_names.HEALTH_ANNOTATION))
        )
        volumes = _volumes()
        for cluster in self._clusters:
            for kind in health.Health:
                if kind is not health.Health.HEALTHY:
                    count = troubled[cluster.id, kind.value]
                    volumes.add_metric((cluster.id, kind.value), count)
        yield volumes


def _twins() -> core.GaugeMetricFamily:
    text = "Twins by cluster and state: started, in-use, retained, abandoned."
    return core.GaugeMetricFamily("csi_liqo_twins", text, labels=("cluster", "state"))


def _volumes() -> core.GaugeMetricFamily:
    text = "Virtual volumes whose twin was deleted by others, is gone, or lost its real volume."
    return core.GaugeMetricFamily("csi_liqo_volumes_in_trouble", text, labels=("home", "health"))
