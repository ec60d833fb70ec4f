"""A frozen base in 8 or 4 bits by bitsandbytes, under adapters that train (QLoRA, arXiv 2305.14314)."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig

from rekindle.errors import InputError

Quantize = Literal["none", "8bit", "4bit"]


def quantization(quantize: Quantize, place: torch.device, dtype: torch.dtype) -> Any:
    """What transformers is told at loading, None for "none"; InputError where bitsandbytes cannot run.

    4 bits: NormalFloat with double quantisation, as in the paper; products in `dtype`.
    """
    if quantize == "none":
        return None
    wish = f"lora.quantize={quantize}"
    if not installed():
        raise InputError(
            f"{wish} needs bitsandbytes, which is not installed: pip install bitsandbytes, or set it to none"
        )
    if place.type != "cuda":
        raise InputError(f"{wish} computes on a CUDA device, and the device is '{place}': set --device cuda, or none")
    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def installed() -> bool:
    """Whether bitsandbytes is there."""
    try:
        return importlib.util.find_spec("bitsandbytes") is not None
    except ValueError:  # a package that is marked as missing
        return False
