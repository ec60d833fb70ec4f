r"""A tokenizer of single characters, with `\boxed{` as one token, for the models that Rekindle trains from scratch."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN, BOX = "<pad>", "<eos>", "<unk>", "\\boxed{"
CHARACTERS = "0123456789+-*=()[]{};,:> \n"


def build_tokenizer(context: int = 256) -> PreTrainedTokenizerFast:
    """The tokenizer; decoding gives back the exact text. `context`: the longest sequence, in tokens."""
    vocabulary = {token: i for i, token in enumerate((PAD, EOS, UNKNOWN, BOX, *CHARACTERS))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\\boxed\{|[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=context,
    )
