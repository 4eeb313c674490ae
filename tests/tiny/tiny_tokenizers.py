"""Tokenizers that are not ours: nano's and mini's; and Llama 3's form, bytes alone, SentencePiece's, of a few texts."""

from __future__ import annotations

import functools
import json

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from echox.api.loading import embedded_folder

CHINESE = "法国的首都是巴黎，它位于塞纳河畔，是欧洲最大的城市之一。"
JAPANESE = "フランスの首都はパリです。とても美しい街だと思います。"
THAI = "เมืองหลวงของฝรั่งเศสคือปารีสและเป็นเมืองที่สวยงามมาก"
ENGLISH = [
    "Sure.\n\nFrance lies in Europe.",
    "- one\n- two\n\n3. three",
    "Hello there, how are you?",
    "10\u00a0km\u202faway",
]
# The pattern of Llama 3's tokenizer (tokenizer.json of meta-llama/Meta-Llama-3-8B): punctuation takes line ends along.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
LLAMA_3 = WORDS + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def llama_3_like(size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with Llama 3's words; 257: bytes alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|end|>"], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    tokenizer.train_from_iterator([*ENGLISH, *(CHINESE + JAPANESE + THAI)] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", clean_up_tokenization_spaces=False)


def sentence_piece_like(everywhere: bool = True) -> PreTrainedTokenizerFast:
    """BPE of SentencePiece, bytes for unknown characters.

    Args:
        everywhere: a space is put before each piece between special tokens, as in Llama 2; False: before the first.
    """
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    if everywhere:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # no piece is of two words
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=pieces)
    tokenizer.train_from_iterator([*ENGLISH, "So . and ."] * 20, trainer)
    made = json.loads(tokenizer.to_str())
    made["added_tokens"] = [token for token in made["added_tokens"] if token["content"] in ("<unk>", "</s>")]
    tokenizer = Tokenizer.from_str(json.dumps(made))  # bytes are pieces, and not special
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


@functools.cache
def bundled(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a model in the package: nano or mini."""
    return AutoTokenizer.from_pretrained(embedded_folder(name))


TOKENIZERS = {
    "llama 3": llama_3_like(700),
    "bytes": llama_3_like(257),
    "sentencepiece": sentence_piece_like(),
    "metaspace": sentence_piece_like(everywhere=False),
}
