"""``echox convert``: the official release written as a model folder of this package."""

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from echox.cli.common.options import Debug, guarded, set_up_torch

Part = str | None


@guarded
def convert(
    source: Annotated[str, typer.Argument(help="The official release: folder or hub id.")],
    target: Annotated[Path, typer.Argument(help="Folder to write.")],
    audio_tower: Annotated[Part, typer.Option(help="Whisper: folder or hub id (default: what SOURCE names).")] = None,
    vocoder: Annotated[Part, typer.Option(help="Unit vocoder: folder or hub id (default: in SOURCE).")] = None,
    peft: Annotated[Part, typer.Option(help="LoRA to merge: folder or hub id.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16, bfloat16 (default: as stored).")] = None,
    debug: Debug = False,
) -> None:
    """Write the official release as one folder that loads like any other model. All parts are checked first."""
    set_up_torch(None)
    import torch

    from echox.api import EchoX
    from echox.api.model import OFFICIAL_SETTINGS
    from echox.files import folder_bytes
    from echox.models.conversion.load import load_official
    from echox.models.conversion.official import is_official

    dtypes = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, None: None}
    if dtype not in dtypes:
        raise ValueError(f"--dtype: expected float32, float16 or bfloat16, found {dtype!r}")
    if target.exists():
        raise ValueError(f"{target}: expected a new folder, found an existing one; name another or remove it")
    if not is_official(source):
        raise ValueError(f"{source}: expected the official release, found another model; it needs no conversion")
    model, processor = load_official(source, audio_tower, vocoder, peft, dtypes[dtype])
    # Under another name until it is complete: a full disk or Ctrl-C leaves no incomplete model.
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        EchoX(model, processor, OFFICIAL_SETTINGS).save_pretrained(partial, card={"name": target.name})
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    size_gb = folder_bytes(target) / 1e9
    typer.echo(json.dumps({"folder": str(target), "gigabytes": round(size_gb, 3), "dtype": str(model.dtype)}))
