"""From options to a running server: one process, or replicas on Ray Serve. Both run the same application."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from echox.serving.access.connections import files_for, raise_open_file_limit
from echox.serving.access.ports import bind
from echox.serving.access.security import Door
from echox.serving.protocol.limits import Limits
from echox.serving.server import create_app, make_server
from echox.serving.service.process_memory import keep_few_kernels, settle
from echox.serving.service.service import Service


@dataclass(frozen=True)
class ServerOptions:
    """What a server, or each replica of it, is made of.

    Attributes:
        model: folder, hub id, or "nano". name: as clients see it. device: of the model. threads: of torch; None: all.
        door: who may come in. limits: of everything. vad: see `open_vad`.
        end_of_turn: path of an end-of-turn model (ONNX), for ``semantic_vad``; None: none.
        dtype, quantization: names of `named_precision`.
    """

    model: str = "nano"
    name: str = "nano"
    device: str = "auto"
    threads: int | None = None
    door: Door = field(default_factory=Door)
    limits: Limits = field(default_factory=Limits)
    vad: str = "silero"
    end_of_turn: str | None = None
    dtype: str | None = None
    quantization: str | None = None

    def service(self) -> Service:
        """Load the model; the process is a server from now on (`settle`).

        Raises:
            ValueError: a part that is missing or wrong.
        """
        import torch
        from transformers.utils import logging as transformers_logging

        from echox.api import EchoX
        from echox.api.precision import named_precision

        transformers_logging.disable_progress_bar()
        keep_few_kernels()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        precision = named_precision(self.dtype, self.quantization)
        model = EchoX.from_pretrained(self.model, device=self.device, **precision)
        service = Service(model, self.name, self.limits, self.vad, self.end_of_turn)
        settle()
        return service


def run_here(options: ServerOptions, host: str, port: int) -> None:
    """Serve in this process until SIGTERM or Ctrl-C.

    Raises:
        ValueError: the port is taken (found before the model is loaded), or a part is missing or wrong.
    """
    listeners = bind(host, port)
    port = listeners[0].getsockname()[1]
    raise_open_file_limit(files_for(options.limits.max_connections))
    service = options.service()
    place = f"[{host}]" if ":" in host else host
    print(f"{service.name} is served at http://{place}:{port} (voice activity: {service.vad_name})", flush=True)
    make_server(create_app(service, options.door), service, host, port).run(sockets=listeners)


@dataclass(frozen=True)
class Replicas:
    """How many copies Ray Serve keeps.

    Attributes:
        smallest, largest: it scales between them, by the number of conversations.
        num_cpus, num_gpus: of each.
    """

    smallest: int = 1
    largest: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0


def ray_application(options: ServerOptions, replicas: Replicas) -> Any:
    """The application for ``ray.serve.run``: every replica loads the model and serves whole conversations.

    A WebSocket stays with the replica that accepted it, so a conversation never moves.
    """
    from ray import serve

    def build() -> Any:
        logging.basicConfig(level=logging.INFO)
        return create_app(options.service(), options.door)

    limits = options.limits
    deployment = serve.deployment(
        name="echox",
        # What is over the limit still reaches the replica: it refuses in words, which the proxy cannot.
        max_ongoing_requests=2 * (limits.max_sessions + limits.max_requests) + 2 * limits.max_waiting,
        autoscaling_config={
            "min_replicas": replicas.smallest,
            "max_replicas": replicas.largest,
            "target_ongoing_requests": max(1, int(0.7 * limits.max_sessions)),
        },
        ray_actor_options={"num_cpus": replicas.num_cpus, "num_gpus": replicas.num_gpus},
        graceful_shutdown_timeout_s=limits.drain_s + 10,
        health_check_timeout_s=30,
    )
    return deployment(serve.ingress(build)()).bind()  # type: ignore[arg-type]


def run_on_ray(options: ServerOptions, replicas: Replicas, host: str, port: int, address: str | None = None) -> None:
    """Deploy on a Ray cluster (``address``; None: one on this machine) and stay until Ctrl-C.

    Raises:
        ValueError: Ray is not installed, or the port is taken.
    """
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise ValueError("expected Ray Serve, found none; pip install 'ray[serve]'") from error
    for listener in bind(host, port):  # a taken port is found before anything is started; Ray binds it anew
        listener.close()
    ray.init(address=address, log_to_driver=True, include_dashboard=False if address is None else None)
    serve.start(http_options={"host": host, "port": port})
    serve.run(ray_application(options, replicas), name="echox", route_prefix="/", blocking=True)
