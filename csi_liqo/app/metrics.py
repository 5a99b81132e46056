"""What a role counts, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable

import prometheus_client
from prometheus_client import exposition

from csi_liqo.app import http


class Metrics:
    """One role's registry; more collectors may be registered in ``registry``.

    ``csi_liqo_rpc_seconds`` has a count, a sum and buckets for each method and status
    code: calls, failures and their durations are all in it.
    """

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        self._calls = prometheus_client.Histogram(
            "csi_liqo_rpc_seconds",
            "Duration of CSI calls by method and gRPC status code.",
            ("method", "code"),
            buckets=(0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
            registry=self.registry,
        )

    def observe(self, *, method: str, code: str, seconds: float) -> None:
        """Count a finished call (``rpc.interceptors.Observer``)."""
        self._calls.labels(method, code).observe(seconds)

    def watch_leading(self, is_leading: Callable[[], bool]) -> None:
        """Show whether this replica is the one that runs the reconcilers."""
        gauge = prometheus_client.Gauge(
            "csi_liqo_leading",
            "1 on the replica that runs the reconcilers, 0 on the others.",
            registry=self.registry,
        )
        gauge.set_function(lambda: float(is_leading()))

    async def page(self) -> http.Page:
        """Return all of it for a scraper."""
        return http.Page(
            body=exposition.generate_latest(self.registry),
            content_type=exposition.CONTENT_TYPE_LATEST,
        )
