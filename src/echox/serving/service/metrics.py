"""Figures of a running server, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from echox.serving.realtime.response import Response
    from echox.serving.service.service import Service

_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


class Metrics:
    """Counters of one service, in a registry of its own (several may live in one process)."""

    def __init__(self, service: Service) -> None:
        registry = self._registry = CollectorRegistry()
        gauges = {
            "echox_sessions": ("Open realtime sessions", lambda: service.session_places.taken),
            "echox_sessions_waiting": ("Clients waiting for a session", lambda: service.session_places.waiting),
            "echox_requests": ("HTTP requests at work", lambda: service.request_places.taken),
            "echox_replies_running": ("Replies at work", lambda: service.model.scheduler.num_running),
            "echox_replies_waiting": ("Replies waiting", lambda: service.model.scheduler.num_waiting),
            "echox_requests_waiting": ("HTTP requests waiting", lambda: service.request_places.waiting),
        }
        for name, (text, read) in gauges.items():
            Gauge(name, text, registry=registry).set_function(read)
        self.refused = Counter("echox_refused_total", "Clients refused", ["reason"], registry=registry)
        self.errors = Counter("echox_errors_total", "Error events sent", ["code"], registry=registry)
        self.responses = Counter("echox_responses_total", "Responses by how they ended", ["status"], registry=registry)
        self.barge_ins = Counter("echox_interruptions_total", "Replies spoken over", registry=registry)
        self.underruns = Counter("echox_underruns_total", "Gaps between chunks of a reply", registry=registry)
        self.first_audio_s = Histogram(
            "echox_first_audio_seconds", "Request of a reply to its first audio", buckets=_SECONDS, registry=registry
        )
        self.rtf = Histogram(
            "echox_reply_rtf", "Compute seconds per second of speech",
            buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0), registry=registry,
        )  # fmt: skip

    def response(self, response: Response, rtf: float | None) -> None:
        """A response has ended."""
        self.responses.labels(response.status).inc()
        self.underruns.inc(response.clock.underruns)
        if response.first_audio_s is not None:
            self.first_audio_s.observe(response.first_audio_s)
        if rtf is not None:
            self.rtf.observe(rtf)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)
