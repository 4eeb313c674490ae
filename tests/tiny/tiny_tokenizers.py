"""Tokenizers that are not ours, trained on a few texts: Llama 3's form, bytes alone, SentencePiece's form."""

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

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


def sentence_piece_like() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=pieces)
    tokenizer.train_from_iterator(ENGLISH * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


TOKENIZERS = {"llama 3": llama_3_like(700), "bytes": llama_3_like(257), "sentencepiece": sentence_piece_like()}
