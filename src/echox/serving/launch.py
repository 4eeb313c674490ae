"""Starts a server from options: in this process, or as replicas on Ray Serve. Both run the same application."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from echox.process_memory import freeze_loaded_objects, limit_kernel_cache
from echox.process_threads import set_threads, wait_asleep
from echox.serving.access.connections import BACKLOG, files_needed, raise_open_file_limit
from echox.serving.access.ports import bind
from echox.serving.access.security import AccessPolicy
from echox.serving.protocol.limits import Limits
from echox.serving.server import create_app, make_server
from echox.serving.service.service import Service
from echox.serving.webrtc.endpoints import is_installed
from echox.serving.webrtc.ice import IceSettings

if TYPE_CHECKING:
    from ray.serve import Application
    from starlette.types import ASGIApp


@dataclass(frozen=True)
class ServerOptions:
    """Options of a server, or of each replica of it.

    Attributes:
        model: folder, hub id, or "nano".
        name: name of the model for clients.
        device: device of the model.
        threads: threads of torch; None: see `set_threads`.
        access_policy: the access policy.
        limits: limits of the server.
        vad: voice activity detector; see `open_vad`.
        end_of_turn: path of an end-of-turn model (ONNX), for ``semantic_vad``; None: there is none.
        ends_early: whether turns that are surely complete end early also with ``server_vad``.
        dtype, quantization: names of `named_precision`.
        ice: addresses and servers for the media of calls (WebRTC); None: no calls.
    """

    model: str = "nano"
    name: str = "nano"
    device: str = "auto"
    threads: int | None = None
    access_policy: AccessPolicy = field(default_factory=AccessPolicy)
    limits: Limits = field(default_factory=Limits)
    vad: str = "silero"
    end_of_turn: str | None = None
    ends_early: bool = True
    dtype: str | None = None
    quantization: str | None = None
    ice: IceSettings | None = None

    def service(self) -> Service:
        """Load the model and prepare this process for serving (`freeze_loaded_objects`).

        Raises:
            ValueError: a part is missing or wrong.
        """
        wait_asleep()
        from transformers.utils import logging as transformers_logging

        from echox.api import EchoX
        from echox.api.precision import named_precision

        transformers_logging.disable_progress_bar()
        limit_kernel_cache()
        precision = named_precision(self.dtype, self.quantization)
        model = EchoX.from_pretrained(self.model, device=self.device, **precision)
        set_threads(self.threads, model.model)
        service = Service(model, self.name, self.limits, self.vad, self.end_of_turn, self.ends_early)
        freeze_loaded_objects()
        return service


def run_local(options: ServerOptions, host: str, port: int) -> None:
    """Serve in this process until SIGTERM or Ctrl-C.

    Raises:
        ValueError: the port is in use (reported before the model is loaded), a host for media has no address here, or a
            part is missing or wrong.
    """
    if options.ice is not None and is_installed():
        options.ice.addresses()
    with contextlib.ExitStack() as stack:  # closes the sockets, also if the model cannot be loaded
        listeners = [stack.enter_context(listener) for listener in bind(host, port)]
        port = listeners[0].getsockname()[1]
        raise_open_file_limit(files_needed(options.limits.max_connections))
        service = options.service()
        shown_host = f"[{host}]" if ":" in host else host
        address = f"http://{shown_host}:{port}"
        for listener in listeners:
            listener.listen(BACKLOG)  # who reads the next line and connects at once waits, and is not refused
        print(f"{service.name} is served at {address} (voice activity: {service.vad_name})", flush=True)
        app = create_app(service, options.access_policy, options.ice)
        make_server(app, service, host, port).run(sockets=listeners)


@dataclass(frozen=True)
class Replicas:
    """Number and resources of the replicas on Ray Serve.

    Attributes:
        min_replicas, max_replicas: bounds of their number, which follows the number of conversations.
        num_cpus, num_gpus: resources of each replica.
    """

    min_replicas: int = 1
    max_replicas: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0


def ray_application(options: ServerOptions, replicas: Replicas) -> Application:
    """The application for ``ray.serve.run``. Every replica loads the model and serves whole conversations.

    A WebSocket stays with the replica that accepted it, so a conversation never moves. Calls (WebRTC) are not taken:
    their media would have to pass by the proxy.
    """
    from ray import serve

    def build() -> ASGIApp:
        logging.basicConfig(level=logging.INFO)
        return create_app(options.service(), options.access_policy)

    limits = options.limits
    deployment = serve.deployment(
        name="echox",
        # Requests over the limit still reach the replica: it refuses them with a message, which the proxy does not.
        max_ongoing_requests=2 * (limits.max_sessions + limits.max_requests) + 2 * limits.max_waiting,
        autoscaling_config={
            "min_replicas": replicas.min_replicas,
            "max_replicas": replicas.max_replicas,
            "target_ongoing_requests": max(1, int(0.7 * limits.max_sessions)),
        },
        ray_actor_options={"num_cpus": replicas.num_cpus, "num_gpus": replicas.num_gpus},
        graceful_shutdown_timeout_s=limits.drain_s + 10,
        health_check_timeout_s=30,
    )
    return deployment(serve.ingress(build)()).bind()  # type: ignore[arg-type]  # Ray expects a class here


def run_on_ray(options: ServerOptions, replicas: Replicas, host: str, port: int, address: str | None = None) -> None:
    """Deploy on a Ray cluster (``address``; None: start one on this machine) and run until Ctrl-C.

    Raises:
        ValueError: Ray is not installed, or the port is in use.
    """
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise ValueError("expected Ray Serve, found none; pip install 'ray[serve]'") from error
    for listener in bind(host, port):  # reports a port in use before anything is started; Ray binds it again
        listener.close()
    ray.init(address=address, log_to_driver=True, include_dashboard=False if address is None else None)
    serve.start(http_options={"host": host, "port": port})
    serve.run(ray_application(options, replicas), name="echox", route_prefix="/", blocking=True)
