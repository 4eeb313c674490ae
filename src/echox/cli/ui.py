"""``echox ui``: the Gradio page."""

from typing import Annotated

import typer

from echox.cli.common.options import Debug, Device, Dtype, Model, Quantization, Threads, guarded, load_model


@guarded
def ui(
    model: Model = "nano",
    host: Annotated[
        str | None, typer.Option(help="Address to listen on (default: this machine only; 0.0.0.0: all).")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port (default: first free from 7860).")] = None,
    auth: Annotated[str | None, typer.Option(help="USER:PASSWORD that every visitor must enter.")] = None,
    threads: Threads = None,
    device: Device = "auto",
    dtype: Dtype = None,
    quantization: Quantization = None,
    debug: Debug = False,
) -> None:
    """Talk to a model in the browser, in a Gradio page: speech or text in, text and streamed speech out."""
    user, colon, password = (auth or "").partition(":")
    if auth is not None and not (user and colon and password):
        raise ValueError("--auth: expected USER:PASSWORD, found something else")
    from echox.serving.access.ports import bind
    from echox.serving.gradio_page import build_page, launch

    if port is not None:
        for listener in bind(host or "127.0.0.1", port):  # checked before the model is loaded
            listener.close()

    page = build_page(load_model(model, device, threads, dtype, quantization), model)
    launch(page, host, port, (user, password) if auth is not None else None)
