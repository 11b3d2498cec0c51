"""Metrics of the API for Prometheus."""

from __future__ import annotations

from perception_encoder.errors import MissingExtraError


class ApiMetrics:
    """Counts, times and sizes since the server started."""

    def __init__(self) -> None:
        try:
            import prometheus_client
        except ImportError:
            raise MissingExtraError("prometheus_client", "search") from None
        self._registry = prometheus_client.CollectorRegistry()
        self._write = prometheus_client.generate_latest
        self.requests = prometheus_client.Counter(
            "pe_requests",
            "Requests for embeddings, by the status of their answer.",
            ["status"],
            registry=self._registry,
        )
        self.seconds = prometheus_client.Histogram(
            "pe_request_seconds", "Seconds from a request to its answer.", registry=self._registry
        )
        self.batch_sizes = prometheus_client.Histogram(
            "pe_batch_inputs", "Inputs encoded together.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=self._registry
        )
        self.waiting = prometheus_client.Gauge("pe_waiting_inputs", "Inputs that wait.", registry=self._registry)

        self.chat_requests = prometheus_client.Counter(
            "pe_chat_requests",
            "Requests for chat completions, by the status of their answer.",
            ["status"],
            registry=self._registry,
        )
        self.chat_tokens = prometheus_client.Counter(
            "pe_chat_tokens", "Tokens of conversations: read, and answered.", ["of"], registry=self._registry
        )
        self.chat_waiting = prometheus_client.Gauge(
            "pe_chat_waiting", "Conversations that wait or are answered.", registry=self._registry
        )

    def text(self) -> str:
        """Return the metrics in Prometheus' text format."""
        return self._write(self._registry).decode("utf-8")
