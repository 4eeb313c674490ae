"""``echox serve``: the model behind the OpenAI protocols, and a page to talk to it."""

from pathlib import Path
from typing import Annotated

import typer

from echox.cli.common.options import (
    Debug,
    Device,
    Dtype,
    Quantization,
    TalkingModel,
    Threads,
    default_model,
    guarded,
    refuse_given,
)

_OF_RAY = ("ray_address", "min_replicas", "max_replicas", "gpus")
_OF_TURN = ("turn_username", "turn_password")
_OF_CALLS = ("media_host", "ice_server", *_OF_TURN)


@guarded
def serve(
    context: typer.Context,
    model: TalkingModel = None,
    host: Annotated[str, typer.Option(help="Address to listen on; other machines need a key.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, envvar="ECHOX_PORT", show_envvar=True, help="Port; 0: any free one.")
    ] = 8000,
    name: Annotated[str | None, typer.Option(help="Name of the model for clients (default: the folder's).")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="ECHOX_API_KEY", help="Key that clients must show.", show_envvar=True)
    ] = None,
    no_api_key: Annotated[bool, typer.Option("--no-api-key", help="Serve other machines without a key.")] = False,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Origin of a page that may connect, like https://example.org.")
    ] = None,
    vad: Annotated[
        str, typer.Option(help="Voice activity: silero, energy (the level alone), or a Silero ONNX file.")
    ] = "silero",
    end_of_turn: Annotated[
        str | None, typer.Option(help="ONNX file of an end-of-turn model (smart-turn v3), for semantic_vad.")
    ] = None,
    early_ends: Annotated[
        bool,
        typer.Option(help="With server_vad, end a turn before 500 ms of silence if the model is sure that it is over."),
    ] = True,
    speculate: Annotated[
        bool, typer.Option(help="Begin replies in pauses, and throw them away if the user goes on.")
    ] = True,
    max_sessions: Annotated[int, typer.Option(min=1, help="Conversations at the same time.")] = 8,
    max_session_s: Annotated[float, typer.Option(min=1, help="Longest conversation, s.")] = 3600,
    max_client_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of connections and sessions that one client address may use.")
    ] = 0.5,
    idle_s: Annotated[float, typer.Option(min=1, help="Time without an event from the client, s.")] = 600,
    drain_s: Annotated[float, typer.Option(min=0, help="At shutdown: time for replies to finish, s.")] = 20,
    webrtc: Annotated[bool, typer.Option(help="Take calls over WebRTC, if it is installed.")] = True,
    media_host: Annotated[
        list[str] | None, typer.Option(help="Address for the media of calls (default: that of --host).")
    ] = None,
    ice_server: Annotated[
        list[str] | None, typer.Option(help="STUN or TURN server for calls: stun:HOST:PORT, turn:HOST:PORT.")
    ] = None,
    turn_username: Annotated[str | None, typer.Option(help="User name for the TURN server.")] = None,
    turn_password: Annotated[
        str | None, typer.Option(envvar="ECHOX_TURN_PASSWORD", show_envvar=True, help="Password for the TURN server.")
    ] = None,
    threads: Threads = None,
    device: Device = "auto",
    dtype: Dtype = None,
    quantization: Quantization = None,
    ray: Annotated[bool, typer.Option("--ray", help="Deploy on Ray Serve instead of in this process.")] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster (default: start one on this machine).")
    ] = None,
    min_replicas: Annotated[int, typer.Option(min=1, help="With --ray: copies of the model, at least.")] = 1,
    max_replicas: Annotated[
        int | None, typer.Option(min=1, help="With --ray: copies of the model, at most (default: --min-replicas).")
    ] = None,
    gpus: Annotated[float, typer.Option(min=0, help="With --ray: GPUs of each copy.")] = 0,
    debug: Debug = False,
) -> None:
    """Serve the model: OpenAI Realtime and chat protocols, and a page to talk to it at /."""
    import logging

    from echox.files import folder_name
    from echox.serving.access.security import AccessPolicy, is_loopback
    from echox.serving.launch import Replicas, ServerOptions, run_local, run_on_ray
    from echox.serving.protocol.limits import Limits
    from echox.serving.webrtc.endpoints import is_installed
    from echox.serving.webrtc.ice import IceSettings

    if not is_loopback(host) and api_key is None and not no_api_key:
        raise ValueError(
            f"--host {host}: expected an API key for an address that others can reach, found none; use --api-key (or "
            "ECHOX_API_KEY), or --no-api-key if something else controls the access"
        )
    if not ray:
        refuse_given(context, _OF_RAY, "with --ray")
    elif max_replicas is not None and max_replicas < min_replicas:
        raise ValueError(
            f"--max-replicas: expected at least --min-replicas ({min_replicas}), found {max_replicas}; raise it"
        )
    if ray:
        refuse_given(context, _OF_CALLS, "for calls (WebRTC), which --ray does not take")
    if not webrtc:
        refuse_given(context, _OF_CALLS, "for calls, without --no-webrtc")
    if not is_installed():
        refuse_given(context, _OF_CALLS, "where calls can be taken (pip install 'echox[webrtc]', Python 3.11 or newer)")
    if not any(server.startswith("turn") for server in ice_server or ()):
        refuse_given(context, _OF_TURN, "with --ice-server turn:HOST:PORT")
    hosts = tuple(media_host or (host,))
    ice = IceSettings(hosts, tuple(ice_server or ()), turn_username, turn_password) if webrtc else None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("aioice").setLevel(logging.WARNING)  # it would log the addresses of clients
    limits = Limits(
        max_sessions=max_sessions,
        max_session_s=max_session_s,
        idle_s=idle_s,
        drain_s=drain_s,
        max_client_share=max_client_share,
        max_speculations=Limits.max_speculations if speculate else 0,
    )
    access_policy = AccessPolicy(api_key, tuple(allow_origin or ()), any_host=not is_loopback(host))
    model = model or default_model()
    shown = name or folder_name(Path(model).expanduser()) or "echox"
    options = ServerOptions(
        model, shown, device, threads, access_policy, limits, vad, end_of_turn, early_ends, dtype, quantization, ice
    )
    if ray:
        run_on_ray(
            options, Replicas(min_replicas, max_replicas or min_replicas, num_gpus=gpus), host, port, ray_address
        )
    else:
        run_local(options, host, port)
