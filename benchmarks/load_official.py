"""Peak memory of loading the official release at its real size.

Writes a folder in the official layout with all names and shapes of the 3B (or 8B) model, Whisper large-v3 and the
public vocoder inside. The files are sparse: full length, all weights zero, next to nothing on disk; what is read from
them is real memory all the same. A fresh process then loads the folder and reports ``VmHWM``, the most memory it ever
held, libraries included. Our reader maps no files (a mapped page would count twice while both it and its copy are
held), so that this number is what the load takes.

python benchmarks/load_official.py                  # a tiny layout, to try it
python benchmarks/load_official.py --layout 3b      # about 11 GB of memory
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from harness import Measured, fresh_process, run
from transformers import WhisperConfig

from echox.files import folder_bytes
from echox.models.conversion.materialise import materialise
from echox.models.conversion.official import official_config, official_name, open_official
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.vocoder.configuration_vocoder import CodeHiFiGANConfig
from echox.process_memory import peak_resident_bytes

AUDIO_TOKEN_ID = 128256
ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
COMMON = {
    "model_type": "EchoX",
    "vocab_size": 128258,
    "head_dim": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": ROPE,
    "max_position_embeddings": 131072,
    "bos_token_id": 128000,
    "eos_token_id": 128009,
    "audio_tower": "whisper",
    "unit_output": "finetune_kd_online",
    "unit_vocab_size": 8500,
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "3b": {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
        "adapter_size": 1280,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
        "adapter_size": 1280,
        "unit_model": "base",
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "tie_word_embeddings": True,
        "adapter_size": 1280,
    },
}
LARGE_V3 = {
    "model_type": "whisper",
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "num_mel_bins": 128,
    "decoder_layers": 0,
}
PUBLIC_VOCODER = {
    "resblock": "1",
    "upsample_rates": [5, 4, 4, 2, 2],
    "upsample_kernel_sizes": [11, 8, 8, 4, 4],
    "upsample_initial_channel": 512,
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "num_embeddings": 1000,
    "embedding_dim": 128,
    "model_in_dim": 128,
    "sampling_rate": 16000,
    "dur_predictor_params": {"encoder_embed_dim": 128, "var_pred_hidden_dim": 128, "var_pred_kernel_size": 3},
}


def write_sparse(path: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """A safetensors file of bfloat16 zeros that takes no room on disk; returns its length in bytes."""
    header, start = {}, 0
    for name, shape in shapes.items():
        end = start + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + start)
    return path.stat().st_size


def write_layout(folder: Path, layout: str) -> None:
    """The release, with ``whisper/`` and ``vocoder/`` inside."""
    values = COMMON | LAYOUTS[layout] | {"audio_tower": str(folder / "whisper")}
    config = official_config(values, WhisperConfig(**LARGE_V3), CodeHiFiGANConfig(weight_norm=False), AUDIO_TOKEN_ID)
    with torch.device("meta"):
        state = EchoXForConditionalGeneration(config).state_dict()
    shapes: dict[str, dict[str, tuple[int, ...]]] = {"release": {}, "whisper": {}, "vocoder": {}}
    for name, value in state.items():
        shape = tuple(value.shape)
        if name.startswith("s2t.audio_tower."):
            shapes["whisper"]["model.encoder." + name.removeprefix("s2t.audio_tower.")] = shape
        elif name.startswith("vocoder."):
            shapes["vocoder"][name.removeprefix("vocoder.")] = shape
        elif value.numel() and not (config.tie_word_embeddings and name.endswith("lm_head.weight")):
            shapes["release"][official_name(name)] = shape
    for part in ("whisper", "vocoder"):
        (folder / part).mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    (folder / "whisper" / "config.json").write_text(json.dumps(LARGE_V3), encoding="utf-8")
    (folder / "vocoder" / "config.json").write_text(json.dumps(PUBLIC_VOCODER), encoding="utf-8")
    names = list(shapes["release"])
    shards = {
        "model-00001-of-00002.safetensors": names[: len(names) // 2],
        "model-00002-of-00002.safetensors": names[len(names) // 2 :],
    }
    index = {name: shard for shard, held in shards.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")
    for shard, held in shards.items():
        write_sparse(folder / shard, {name: shapes["release"][name] for name in held})
    write_sparse(folder / "whisper" / "model.safetensors", shapes["whisper"])
    torch.save(
        {"generator": {name: torch.zeros(shape) for name, shape in shapes["vocoder"].items()}},
        folder / "vocoder" / "g_00500000",
    )


def required_peak_bytes() -> int:
    """Peak memory of this process.

    Raises:
        RuntimeError: the system does not count it.
    """
    peak = peak_resident_bytes()
    if peak is None:
        raise RuntimeError("expected VmHWM in /proc/self/status, found none: this benchmark needs Linux")
    return peak


def load(folder: Path) -> dict[str, Any]:
    """What the fresh process does: load the folder, and count."""
    libraries = required_peak_bytes()
    began_s = time.perf_counter()
    opened = open_official(folder, AUDIO_TOKEN_ID)
    checked_s = time.perf_counter() - began_s
    model = materialise(opened.config, opened.tensors, opened.dtype)
    loaded_s = time.perf_counter() - began_s
    held = sum(value.nbytes for value in model.parameters())
    return {
        "libraries_gb": round(libraries / 1e9, 3),
        "peak_gb": round(required_peak_bytes() / 1e9, 3),
        "held_gb": round(held / 1e9, 3),
        "dtype": str(model.dtype),
        "check_s": round(checked_s, 3),
        "load_s": round(loaded_s, 3),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layout", choices=LAYOUTS, default="tiny")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)


def measure(options: argparse.Namespace) -> Measured:
    if options.load is not None:
        return Measured(load(options.load))
    folder = Path(tempfile.mkdtemp(prefix="echox-official-"))
    try:
        write_layout(folder / options.layout, options.layout)
        size_gb = folder_bytes(folder / options.layout) / 1e9
        found = fresh_process(["--load", str(folder / options.layout), f"--threads={options.threads}"])
    finally:
        shutil.rmtree(folder)
    return Measured(
        {
            "layout": options.layout,
            "folder_gb": round(size_gb, 3),
            **found,
            "peak_over_folder": round(found["peak_gb"] / size_gb, 3),
        }
    )


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
