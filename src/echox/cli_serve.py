"""``echox serve``: the model behind the OpenAI protocols, and a page to talk to it."""

from pathlib import Path
from typing import Annotated

import typer

from echox.cli_options import Debug, Device, Model, Threads, guarded, load_model


@guarded
def serve(
    model: Model = "nano",
    host: Annotated[str, typer.Option(help="Address to listen at; beyond this machine a key is needed.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="ECHOX_API_KEY", help="Key that clients must show.", show_envvar=True)
    ] = None,
    no_api_key: Annotated[bool, typer.Option("--no-api-key", help="Serve other machines without a key.")] = False,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Origin of a page that may connect, like https://example.org.")
    ] = None,
    vad: Annotated[str, typer.Option(help="Voice activity: auto, silero, energy, or Silero's ONNX file.")] = "auto",
    max_sessions: Annotated[int, typer.Option(min=1, help="Conversations at the same time.")] = 8,
    threads: Threads = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Serve the model: OpenAI Realtime and chat protocols, and a page to talk to it at /."""
    import logging

    from echox.serving.limits import Limits
    from echox.serving.security import Door, is_loopback
    from echox.serving.server import create_app, make_server
    from echox.serving.service import Service

    if not is_loopback(host) and api_key is None and not no_api_key:
        raise ValueError(
            f"--host {host}: expected an API key for an address that others can reach, found none; use --api-key (or "
            "ECHOX_API_KEY), or --no-api-key if somebody else guards it"
        )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    door = Door(api_key, tuple(allow_origin or ()), any_host=not is_loopback(host))
    service = Service(load_model(model, device, threads), Path(model).name, Limits(max_sessions=max_sessions), vad)
    typer.echo(f"echox serves {service.name} at http://{host}:{port}  (voice activity: {service.vad_name})")
    make_server(create_app(service, door), service, host, port).run()
