"""Files of ``torch.save`` from elsewhere, looked at before they are read.

``weights_only`` keeps a pickle from running anything; it does not keep it from being large. A torch file is a zip whose
members are stored as they are. A compressed one can hold a thousand times its size, and a pickle of many instructions
makes an object of each.

Source: https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from torch import Tensor, strided

_MAX_PICKLE_BYTES = 16 * 2**20  # names and shapes; those of 8B take 0.2 MB


def check_torch_file(path: Path) -> None:
    """Check the members of a torch file; a file in the older format, which is no zip, passes.

    Raises:
        ValueError: a compressed member, a pickle that is too long, or members that hold more than the file does.
        OSError: it cannot be read.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a whole torch file, found {error}; download it again") from error
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(
                f"{path}: expected members that are stored as they are, as torch writes them, found {member.filename} "
                "compressed; save it again with torch, or use safetensors"
            )
        if member.filename.endswith(".pkl") and member.file_size > _MAX_PICKLE_BYTES:
            raise ValueError(
                f"{path}: expected at most {_MAX_PICKLE_BYTES} bytes of names and shapes, found {member.file_size}; "
                "use safetensors"
            )
    total = sum(member.file_size for member in members)
    if total > path.stat().st_size:
        raise ValueError(
            f"{path}: expected members of its size at most, found {total} bytes in them; download it again"
        )


def check_tensor(path: Path, name: str, value: Tensor) -> None:
    """Check that reading a tensor takes no more memory than it has in its file.

    Raises:
        ValueError: its shape repeats a few stored numbers, or it is no plain tensor.
    """
    if value.layout is not strided or value.is_quantized or value.is_meta:
        raise ValueError(f"{path}: {name[:99]}: expected a plain tensor, found another kind; use safetensors")
    needed, stored = value.numel() * value.element_size(), value.untyped_storage().nbytes()
    if needed > stored:
        raise ValueError(
            f"{path}: {name[:99]}: expected {needed} bytes for its shape {tuple(value.shape)}, found {stored} stored; "
            "use safetensors"
        )
