"""Settings of reasoning-gym's generators that lie beyond their defaults: what the ood split is made of.

Only generators with a plain knob (more terms, longer words, larger boards) are here; the others have no ood split.
"""

from __future__ import annotations

from collections.abc import Mapping


def _span(knob: str, low: int, high: int) -> dict[str, int]:
    return {f"min_{knob}": low, f"max_{knob}": high}


HARDER: Mapping[str, Mapping[str, int]] = {
    "base_conversion": _span("value", 1_001, 10_000),
    "basic_arithmetic": _span("terms", 7, 9),
    "binary_matrix": _span("n", 11, 14),
    "bitwise_arithmetic": {"difficulty": 3},
    "caesar_cipher": _span("words", 21, 30),
    "chain_sum": _span("terms", 7, 9),
    "circuit_logic": _span("terms", 6, 8),
    "coin_flip": _span("trials", 16, 25),
    "count_primes": _span("n", 10_001, 20_000),
    "decimal_chain_sum": _span("terms", 7, 9),
    "fraction_simplification": _span("value", 1_001, 10_000),
    "gcd": _span("numbers", 3, 4),
    "isomorphic_strings": _span("string_length", 11, 15),
    "lcm": _span("numbers", 3, 4),
    "leg_counting": _span("animals", 11, 15),
    "letter_counting": _span("words", 16, 25),
    "needle_haystack": _span("num_statements", 101, 200),
    "number_filtering": _span("numbers", 11, 15),
    "number_sorting": _span("numbers", 11, 15),
    "palindrome_generation": _span("length", 11, 16),
    "prime_factorization": _span("value", 1_001, 10_000),
    "products": _span("terms", 3, 4),
    "rotate_matrix": _span("n", 11, 14),
    "shortest_path": {**_span("rows", 9, 12), **_span("cols", 9, 12)},
    "simple_equations": _span("terms", 5, 6),
    "spiral_matrix": _span("n", 11, 14),
    "string_insertion": _span("string_length", 21, 30),
    "tower_of_hanoi": _span("disks", 8, 9),
    "word_sequence_reversal": _span("words", 9, 14),
    "word_sorting": _span("words", 11, 15),
}
