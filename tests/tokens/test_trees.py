"""Macro actions by phrases: sentences, trees, the walk of the source, and rows whose tokens are not the leaves'."""

from __future__ import annotations

import pickle
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rekindle.errors import InputError
from rekindle.prove.world import Spelling
from rekindle.tokens.charset import build_tokenizer
from rekindle.tokens.rollouts import Rollouts
from rekindle.tokens.trees import ParsedMacros, Tree, cut, halves, leaves, phrases, sentences
from tests.methods.made import spoken

CHARACTERS = build_tokenizer()
RUN = SimpleNamespace(tokenizer=CHARACTERS)
END = CHARACTERS.eos_token_id


def written(texts: list[str], end: bool = True, width: int = 0) -> Rollouts:
    """Rollouts that say `texts` by character, with an end token."""
    rows = [CHARACTERS(text).input_ids + [END] * end for text in texts]
    size = max(width, *map(len, rows), 1)
    ids = torch.tensor([row + [0] * (size - len(row)) for row in rows])
    mask = torch.tensor([[t < len(row) for t in range(size)] for row in rows])
    return replace(spoken(texts, lengths=[size] * len(texts)), ids=ids, mask=mask)


def pieces(text: str, below: int = 5) -> list[str]:
    return ["".join(part) for sentence in sentences(text) for part in cut(phrases(sentence), below)]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("One. Two! Three?", ["One.", " Two!", " Three?"]),
        ("1.5 is no end", ["1.5 is no end"]),
        ("a\nb\n\nc", ["a\n", "b\n\n", "c"]),
        ("Wait... what? ", ["Wait...", " what?", " "]),
        ("\n", ["\n"]),
        ("", []),
    ],
)
def test_sentences_lose_nothing(text: str, want: list[str]) -> None:
    assert sentences(text) == want and "".join(want) == text


def test_the_walk_over_a_tree() -> None:
    """Fewer than five leaves: one macro action; a single leaf joins the one before; larger nodes are opened."""
    small: Tree = ("a", ("b", "c"), "d")
    assert cut(small, 5) == [["a", "b", "c", "d"]]
    assert cut((small, "e"), 5) == [["a", "b", "c", "d", "e"]], "a single leaf is appended"
    assert cut(("x", small, "y", ("p", "q")), 5) == [["x"], ["a", "b", "c", "d", "y"], ["p", "q"]], "or stands alone"
    assert cut(("s", ("t",), "u", "v", "w"), 5) == [["s", "t", "u", "v", "w"]]
    assert cut(("s", ("t", "u")), 3) == [["s"], ["t", "u"]]
    assert cut(("s", ("t", "u")), 1) == [["s", "t", "u"]], "all are opened: only single leaves are left"
    assert cut((), 5) == [] and cut(((), ("a", ())), 5) == [["a"]]
    assert cut("word", 5) == [["word"]]


def test_trees_of_words_clauses_and_brackets() -> None:
    assert phrases("two words") == (("two", " words"),)
    assert phrases("a b, c") == ((("a", " b"), ","), " c")
    assert phrases("2*(1+2)") == ((("2", "*"), ("(", (("1", "+"), "2"), ")")),)
    assert phrases("()") == (("(", ")"),) and phrases("(1") == (("(", "1"),)
    assert phrases("([1)]") == (("(", ("[", ("1", ")"), "]")),)
    assert halves(["a", "b", "c"]) == (("a", "b"), "c")


@pytest.mark.parametrize(
    "text",
    ["(3+4)*2=14", "((1", "1))", "([1)]", "\\boxed{12}", "\\boxed{12", "a  b\n", "  ", "né, 東京 — ok!", "}{", "\\"],
)
def test_leaves_spell_the_sentence(text: str) -> None:
    for sentence in sentences(text):
        assert "".join(leaves(phrases(sentence))) == sentence
    assert "".join(pieces(text)) == text


def test_a_thousand_brackets_are_no_error() -> None:
    text = "(" * 3000 + "1" + ")" * 3000
    assert "".join(pieces(text)) == text
    assert "".join(pieces(text[:3500])) == text[:3500]


def test_arithmetic_is_cut_at_brackets_and_equals_signs() -> None:
    assert pieces("2*(1+2)=6\n") == ["2*(", "1+2)=", "6\n"]
    assert pieces("3+4=7\n9-7=2\n") == ["3+4=", "7\n", "9-7=", "2\n"]
    assert pieces("9-7=2") == ["9-7=2"], "a last single leaf joins"


def test_rows_are_numbered_by_their_own_text() -> None:
    rollouts = written(["3+4=7\n9-7=2", "5", ""], width=15)
    got = ParsedMacros()(rollouts, RUN)
    assert got[0].tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2, -1, -1, -1]
    assert got[1].tolist() == [0, 0] + [-1] * 13, "the end token goes with what is before it"
    assert got[2].tolist() == [0] + [-1] * 14, "or stands alone"
    assert torch.equal(ParsedMacros()(written(["3+4=7\n9-7=2", "5", ""]), RUN), got[:, :12]), "padding moves nothing"
    alone = ParsedMacros()(rollouts.take(torch.tensor([1])), RUN)
    assert torch.equal(alone[0], got[1])


def test_numbers_cover_what_the_pieces_cover() -> None:
    text = "(3+4)*2, then 7\n1-(2*3)=5."
    text = "".join(c for c in text if c in "0123456789+-*=()[]{};,:> \n")
    got = ParsedMacros()(written([text], end=False), RUN)[0].tolist()
    assert got == [i for i, piece in enumerate(pieces(text)) for _ in piece]


def test_a_box_is_one_token() -> None:
    rollouts = written(["\\boxed{12}"])
    got = ParsedMacros()(rollouts, RUN)[0].tolist()
    assert rollouts.mask.sum() == 5 and got == [0] * 5


def test_a_row_whose_tokens_are_not_the_leaves_is_cut_by_token() -> None:
    rollouts = written(["1+2=3", "1+2=3"])
    changed = replace(rollouts, ids=rollouts.ids.clone(), text=["1+2=3", "1+2"])
    got = ParsedMacros()(changed, RUN)
    assert got[0].max() < 5 and got[1].tolist() == [0, 1, 2, 3, 4, 5], "the text is shorter than its tokens"
    other = replace(rollouts, text=["1+2=4", "1+2=3456"])
    assert ParsedMacros()(other, RUN).tolist() == [[0, 1, 2, 3, 4, 5]] * 2
    joined = SimpleNamespace(tokenizer=Spelling(("1+", "2", "1"), eos_token_id=None))
    split = replace(spoken(["1+2"], lengths=[2]), ids=torch.tensor([[0, 1]]))
    assert ParsedMacros()(split, joined).tolist() == [[0, 1]], "no leaf writes the token 1+"


def test_tokens_of_the_environment_are_in_the_text_and_in_no_macro_action() -> None:
    rollouts = written(["3+4=7\n9-7=2"])
    whole = ParsedMacros()(rollouts, RUN)
    mask = rollouts.mask.clone()
    mask[0, 1:3] = False
    assert torch.equal(ParsedMacros()(replace(rollouts, mask=mask), RUN), whole.where(mask, -1))


def by_letter(sentence: str) -> Tree:
    return tuple(sentence)


def lossy(sentence: str) -> Tree:
    return tuple(sentence.split())


def test_a_parser_of_the_users_own() -> None:
    part = ParsedMacros(parser=by_letter, below=20)
    assert part(written(["12+3\n45"]), RUN).tolist() == [[0, 0, 0, 0, 0, 1, 1, 1]], "a sentence each"
    assert pickle.loads(pickle.dumps(part)) == part
    with pytest.raises(InputError, match="lost a part of '12 3': its leaves must spell the sentence, spaces included"):
        ParsedMacros(parser=lossy)(written(["12 3"]), RUN)
    with pytest.raises(ValueError, match="from 1 up, not 0"):
        ParsedMacros(below=0)
