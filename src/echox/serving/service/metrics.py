"""Metrics of a running server, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


class Metrics:
    """Metrics of one service, in their own registry (one process may have several services)."""

    def __init__(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        """``gauges``: name -> (help text, function that reads the current value)."""
        registry = self._registry = CollectorRegistry()
        for name, (text, read) in gauges.items():
            Gauge(name, text, registry=registry).set_function(read)
        self.refused = Counter("echox_refused_total", "Clients refused", ["reason"], registry=registry)
        self.errors = Counter("echox_errors_total", "Error events sent", ["code"], registry=registry)
        self.responses = Counter("echox_responses_total", "Responses by how they ended", ["status"], registry=registry)
        self.barge_ins = Counter("echox_interruptions_total", "Replies spoken over", registry=registry)
        self.underruns = Counter("echox_underruns_total", "Gaps between chunks of a reply", registry=registry)
        self.partial_transcripts = Counter(
            "echox_partial_transcripts_total", "Windows transcribed while users speak", registry=registry
        )
        self.speculations = Counter(
            "echox_speculations_total",
            "Replies begun before a turn was over: begun, then kept or discarded",
            ["outcome"],
            registry=registry,
        )
        self.judged_pauses = Counter(
            "echox_judged_pauses_total",
            "Pauses that the model judged: complete, incomplete, or none if it said nothing",
            ["verdict"],
            registry=registry,
        )
        self.discarded_compute_s = Counter(
            "echox_discarded_compute_seconds_total", "Compute seconds of discarded speculations", registry=registry
        )
        self.first_audio_s = Histogram(
            "echox_first_audio_seconds", "Request of a reply to its first audio", buckets=_SECONDS, registry=registry
        )
        self.rtf = Histogram(
            "echox_reply_rtf",
            "Compute seconds per second of speech",
            buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0),
            registry=registry,
        )

    def observe_response(self, status: str, underruns: int, first_audio_s: float | None, rtf: float | None) -> None:
        """Count a response that has ended."""
        self.responses.labels(status).inc()
        self.underruns.inc(underruns)
        if first_audio_s is not None:
            self.first_audio_s.observe(first_audio_s)
        if rtf is not None:
            self.rtf.observe(rtf)

    def observe_judgement(self, complete: float | None) -> None:
        """Count a judged pause, by the probability that the sentence was complete; None: the model said nothing."""
        verdict = "none" if complete is None else "complete" if complete >= 0.5 else "incomplete"
        self.judged_pauses.labels(verdict).inc()

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self._registry)
