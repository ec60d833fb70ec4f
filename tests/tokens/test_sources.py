"""Where data lies: files, folders, what `datasets` wrote, hub ids; and data that is read as it is used."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rekindle.errors import InputError
from rekindle.tokens.rollouts import Example
from rekindle.tokens.stream import stretch
from rekindle.tokens.tasks import hub
from rekindle.tokens.tasks.files import Reading, load_files
from rekindle.tokens.tasks.lazy import FIRST, GROUPS_KEPT, LineRows, ParquetRows, Rows, Streamed, looked_at
from rekindle.tokens.tasks.sources import Source, digest, open_rows, split_files

STREAM = Reading(streaming=True)


def rows_of(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"{i}+1?", "answer": str(i + 1), "level": i} for i in range(start, start + count)]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parquet(path: Path, rows: list[dict[str, Any]], group: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


def prompts(spec: Path | str, reading: Reading | None = None) -> list[str]:
    return [example.prompt for example in load_files(spec, reading=reading).split("train")]


def refusal(spec: Path | str, reading: Reading | None = None) -> str:
    with pytest.raises(InputError) as caught:
        load_files(spec, reading=reading)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_shards_in_a_folder_are_one_data_set_and_places_name_the_file(tmp_path: Path) -> None:
    parquet(tmp_path / "d" / "part-0.parquet", rows_of(3))
    jsonl(tmp_path / "d" / "part-1.jsonl", rows_of(2, start=3))
    (tmp_path / "d" / "README.md").write_text("about this data")
    rows = load_files(tmp_path / "d").split("train")
    assert [row.prompt for row in rows] == [f"{i}+1?" for i in range(5)]
    assert [row.id for row in rows][2:4] == ["part-0.parquet:row-3", "part-1.jsonl:line-1"]
    jsonl(tmp_path / "d" / "part-2.jsonl", [{"prompt": ""}])
    assert f"{tmp_path / 'd'}, part-2.jsonl, line 1, column 'prompt': the text is empty" in refusal(tmp_path / "d")


LAID_OUT = {
    "names": ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"),
    "folders": ("data/train/a.parquet", "data/train/b.parquet", "data/test/a.parquet"),
    "words": ("my_training.set.parquet", "x-train.parquet", "evaluation 1.parquet"),
    "validation": ("train.parquet", "valid.parquet", "dev-1.parquet"),
    "none": ("a.parquet", "b.parquet", "c.parquet"),
}


@pytest.mark.parametrize("case", LAID_OUT)
def test_splits_are_told_apart_as_datasets_does(tmp_path: Path, case: str) -> None:
    data_files = pytest.importorskip("datasets.data_files")
    for i, name in enumerate(LAID_OUT[case]):
        parquet(tmp_path / name, rows_of(2, start=2 * i))
    theirs = data_files.DataFilesDict.from_patterns(data_files.get_data_patterns(str(tmp_path)), str(tmp_path))
    for split in ("train", "validation", "test"):
        wanted = sorted(Path(file).name for file in theirs.get(split, ()))
        if wanted:
            assert sorted(file.name for file in split_files(tmp_path, split)) == wanted
        else:
            with pytest.raises(InputError, match=f"unknown split of .* '{split}'"):
                split_files(tmp_path, split)


def test_a_split_is_named_by_option_or_after_a_colon(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", rows_of(3))
    jsonl(tmp_path / "test.jsonl", rows_of(2, start=50))
    task = load_files(tmp_path, heldout=f"{tmp_path}:test")
    assert [len(task.split(name)) for name in task.splits] == [3, 2]
    assert prompts(tmp_path, Reading(split="test")) == ["50+1?", "51+1?"]
    assert "unknown split of" in refusal(f"{tmp_path}:dev") and "test, train" in refusal(f"{tmp_path}:dev")
    with pytest.raises(InputError, match=f"data_heldout={tmp_path} is the training split itself: .*{tmp_path}:test"):
        load_files(tmp_path, heldout=tmp_path)


def test_training_rows_are_no_evaluation_data_by_any_name(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "d" / "train.jsonl", rows_of(3))
    test = jsonl(tmp_path / "d" / "test.jsonl", rows_of(2, start=50))
    (tmp_path / "link").symlink_to(tmp_path / "d")
    same = tmp_path / "d" / ".." / "d" / "train.jsonl"
    for held in (train, same, tmp_path / "link" / "train.jsonl"):
        with pytest.raises(InputError, match=f"data_heldout={held} holds .*train.jsonl, which the run trains on"):
            load_files(train, heldout=held)
    with pytest.raises(InputError, match=r"train\.jsonl, which the run trains on"):
        load_files(tmp_path / "d", ood=train)
    with pytest.raises(InputError, match="is the training split itself"):
        load_files(tmp_path / "d", heldout=tmp_path / "link")
    assert len(load_files(tmp_path / "d", heldout=test).split("heldout")) == 2


def test_rows_of_what_datasets_reads_are_no_evaluation_data_by_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = datasets.Dataset.from_list(rows_of(4))
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": data, "test": data.select([2])}).save_to_disk(tmp_path / "both")
    card = tmp_path / "card"
    jsonl(card / "train.jsonl", rows_of(2))
    jsonl(card / "test.jsonl", rows_of(1, start=9))
    files = "configs:\n- config_name: a\n  data_files:\n  - split: train\n    path: train.jsonl\n  - split: test\n"
    (card / "README.md").write_text(f"---\n{files}    path: test.jsonl\n---\n")
    one, both = tmp_path / "one", tmp_path / "both"
    for train, held in (
        *((one, one), (one, f"{one}:test"), (both, f"{both}:train"), (both, both / "train"), (both / "train", both)),
        *((card, card), (card, card / "train.jsonl"), (card / "train.jsonl", card), (card, f"{card}:train[:1]")),
    ):
        with pytest.raises(InputError, match=r"which the run trains on|is the training split itself"):
            load_files(train, heldout=held)
    for train, held in ((both, f"{both}:test"), (both, both / "test"), (both / "train", f"{both}:test"), (one, both)):
        assert len(load_files(train, heldout=held).split("heldout")) == (4 if train == one else 1), "apart"
    for train, held in ((card, f"{card}:test"), (card, card / "test.jsonl"), (card / "train.jsonl", f"{card}:test")):
        assert [row.prompt for row in load_files(train, heldout=held).split("heldout")] == ["9+1?"]


def test_one_saved_data_set_has_no_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(rows_of(4)).save_to_disk(tmp_path / "one")
    for spec, reading in ((f"{tmp_path / 'one'}:test", Reading()), (tmp_path / "one", Reading(split="dev"))):
        assert "it is one data set without splits: drop the split" in refusal(spec, reading)
    assert len(prompts(f"{tmp_path / 'one'}:train")) == 4
    jsonl(tmp_path / "d" / "dev.jsonl", rows_of(2, start=9))
    task = load_files(tmp_path / "d", heldout=tmp_path / "one", reading=Reading(split="validation"))
    assert [len(task.split(name)) for name in task.splits] == [2, 4], "data_split parts the folder only"


def test_a_folder_that_datasets_reads_may_be_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.csv").write_text("prompt,answer\n1+1?,2\n")
    monkeypatch.chdir(tmp_path / "d")
    assert prompts(".") == prompts("../d") == ["1+1?"]


def test_a_single_file_has_no_splits(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "d" / "train.jsonl", rows_of(3))
    test = jsonl(tmp_path / "test.jsonl", rows_of(2, start=50))
    for spec, reading in ((f"{train}:test", Reading()), (train, Reading(split="test"))):
        with pytest.raises(InputError, match=f"split 'test' of {train}, and a single file has no splits: drop"):
            load_files(spec, reading=reading)
    with pytest.raises(InputError, match="a single file has no splits"):
        load_files(train, heldout=f"{test}:train2")
    jsonl(tmp_path / "d" / "test.jsonl", rows_of(4, start=90))
    task = load_files(tmp_path / "d", heldout=test, reading=Reading(split="test"))
    assert [len(task.split(name)) for name in task.splits] == [4, 2], "data_split parts the folder, not the file"


def test_what_datasets_saved_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(rows_of(4))
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": data, "test": data.select([2])}).save_to_disk(tmp_path / "both")
    task = load_files(tmp_path / "one")
    assert [row.id for row in task.split("train")] == ["row-1", "row-2", "row-3", "row-4"]
    assert task.split("train")[1].meta == {"level": 1, "answer": "2"}
    assert len(load_files(tmp_path / "both", heldout=f"{tmp_path / 'both'}:test").split("heldout")) == 1
    assert "unknown split of" in refusal(tmp_path / "both", Reading(split="dev"))
    streamed = load_files(tmp_path / "both", reading=STREAM).split("train")
    assert isinstance(streamed, Streamed) and streamed[3].prompt == "3+1?"
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "state.json").write_text("{}")
    assert f"{tmp_path / 'broken'}: cannot be read (" in refusal(tmp_path / "broken")


def test_other_folders_are_read_as_datasets_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "csv"
    folder.mkdir()
    (folder / "train.csv").write_text("prompt,answer\n1+1?,2\n2+2?,4\n")
    assert prompts(folder) == ["1+1?", "2+2?"]
    configs = tmp_path / "configs"
    jsonl(configs / "easy" / "a.jsonl", rows_of(1))
    jsonl(configs / "hard" / "a.jsonl", rows_of(2, start=9))
    head = "configs:\n- config_name: easy\n  data_files: easy/*.jsonl\n- config_name: hard\n  data_files: hard/*.jsonl"
    (configs / "README.md").write_text(f"---\n{head}\n---\n")
    assert prompts(configs, Reading(config="hard")) == ["9+1?", "10+1?"]
    assert "has several configurations: set data_config" in refusal(configs)
    assert "has no such configuration: set data_config" in refusal(configs, Reading(config="none"))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty}: " in refusal(empty)


# --- the hub ----------------------------------------------------------------------------------------------------------


def test_a_mark_of_byte_order_and_white_lines_are_no_rows_whole_or_streamed(tmp_path: Path) -> None:
    path = tmp_path / "joined.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt":"a"}\n\xef\xbb\xbf{"prompt":"b"}\n\x0c\n\xef\xbb\xbf \r\n{"prompt":"c"}\n')
    whole, lines = load_files(path).split("train"), LineRows(path)
    assert [(row.prompt, row.id) for row in whole] == [("a", "line-1"), ("b", "line-2"), ("c", "line-5")]
    assert [(lines[i].place, lines[i].columns["prompt"]) for i in range(len(lines))] == [
        *(("line 1", "a"), ("line 2", "b"), ("line 5", "c"))
    ]


def test_a_hub_id_is_no_path() -> None:
    kinds = {spec: Source(spec).kind for spec in ("openai/gsm8k", "openai/gsm8k:test", "a/b.jsonl", "./x/y", "gsm8k")}
    assert [spec for spec, kind in kinds.items() if kind == "hub"] == ["openai/gsm8k", "openai/gsm8k:test"]
    assert set(kinds.values()) == {"hub", "file"}
    assert Source("openai/gsm8k:test").parted() == (Path("openai/gsm8k"), "test")
    assert Source("openai/gsm8k:test[:10]").parted() == (Path("openai/gsm8k"), "test[:10]")
    for spec in ("gsm8k", "./no/such", "/no/such/", "~/no/such", Path("no such")):
        assert "no such file or folder (a hub id has the form owner/name): check the path" in refusal(spec)


RAISED = {
    "offline": (ConnectionError("Couldn't reach 'a/b' on the Hub"), "cannot be reached on the hub"),
    "script": (
        RuntimeError("Dataset scripts are no longer supported, but found b.py"),
        "is a program, and none is run",
    ),
    "config": (ValueError("Config name is missing.\nPlease pick one among: ['main']"), "set data_config (Config name"),
    "no config": (ValueError("BuilderConfig 'x' not found. Available: ['main']"), "has no such configuration"),
    "split": (ValueError("Unknown split \"dev\". Should be one of ['train']."), "has no such split: set data_split"),
    "other": (ValueError("x" * 900), "cannot be read (ValueError: xxx"),
}


@pytest.mark.parametrize("case", [*RAISED, "absent", "gated"])
def test_what_the_hub_refuses_is_one_sentence(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    datasets = pytest.importorskip("datasets")
    absent = datasets.exceptions.DatasetNotFoundError
    more = {
        "absent": (absent("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed."), "no file or folder here"),
        "gated": (absent("Dataset 'a/b' is a gated dataset on the Hub."), "is gated on the hub: accept its terms"),
    }
    error, words = {**RAISED, **more}[case]

    def fails(*args: Any, **named: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fails)
    message = refusal("a/b")
    assert message.startswith("a/b: ") and words in message and len(message) < 500


def test_a_hub_id_is_loaded_with_its_configuration_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[Any] = []

    def loads(name: str, config: str | None, *, split: str, streaming: bool = False) -> Any:
        asked.append((name, config, split, streaming))
        data = datasets.Dataset.from_list([{"question": "q", "answer": "#### 7"}] * 6)
        return data.to_iterable_dataset() if streaming else data

    monkeypatch.setattr(datasets, "load_dataset", loads)
    task = load_files("openai/gsm8k", heldout="openai/gsm8k:test", reading=Reading(config="main"))
    assert asked == [("openai/gsm8k", "main", "train", False), ("openai/gsm8k", "main", "test", False)]
    assert task.layouts["train"].name == "gsm8k" and task.split("heldout")[0].answer == "7"
    del asked[:]
    windowed = load_files("openai/gsm8k", reading=Reading(split="train[:4]", streaming=True)).split("train")
    assert asked == [("openai/gsm8k", None, "train", True)]
    assert isinstance(windowed, Streamed) and len(windowed) == 4 and windowed[3].id == "row-4"
    assert "data_split='train[:10000]'" in refusal("openai/gsm8k", STREAM)


def test_the_identity_of_a_hub_data_set_is_its_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(rows_of(2))
    monkeypatch.setattr(hub, "load_set", lambda *args: data)
    data.info.download_checksums = {f"hf://datasets/a/b@{'c0' * 20}/train.parquet": {}}
    assert digest(Source("a/b")) == f"commit:{'c0' * 20}"
    data.save_to_disk(tmp_path / "d")
    data = datasets.load_from_disk(tmp_path / "d")
    data.info.download_checksums = None
    assert len(digest(Source("a/b"))) == 64, "without a commit, a hash of the files"


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'rekindle[train]'" in refusal("a/b")
    assert prompts(jsonl(tmp_path / "a.jsonl", rows_of(1))) == ["0+1?"], "files need no library"


# --- identity ---------------------------------------------------------------------------------------------------------


def test_the_digest_of_a_folder_follows_its_files(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "d" / "a.jsonl", rows_of(2))
    before = digest(Source(str(tmp_path / "d")))
    assert before == digest(Source(str(tmp_path / "d"))) != digest(Source(str(one)))
    (tmp_path / "d" / ".cache").mkdir()
    (tmp_path / "d" / ".cache" / "x").write_text("y")
    assert digest(Source(str(tmp_path / "d"))) == before
    jsonl(tmp_path / "d" / "b.jsonl", rows_of(1))
    assert digest(Source(str(tmp_path / "d"))) != before
    with pytest.raises(InputError, match="no such file"):
        digest(Source(str(tmp_path / "none.jsonl")))


# --- streaming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "folder"])
def test_streamed_rows_are_the_rows(tmp_path: Path, ending: str) -> None:
    if ending == "folder":
        path = tmp_path / "folder"
        jsonl(path / "a.jsonl", rows_of(7))
        parquet(path / "b.parquet", rows_of(40, start=7), group=4)
    else:
        path = (jsonl if ending == "jsonl" else parquet)(tmp_path / f"data.{ending}", rows_of(47))
    whole, streamed = load_files(path).split("train"), load_files(path, reading=STREAM).split("train")
    assert isinstance(streamed, Streamed) and isinstance(streamed.rows, Rows)
    assert list(streamed) == list(whole) and len(streamed) == 47
    assert streamed[-1] == whole[-1] and streamed[3:5] == list(whole[3:5])
    for start in (0, 40, 90):
        assert stretch(streamed, start, 12, seed=3) == stretch(whole, start, 12, seed=3), "one shuffle"
    with pytest.raises(IndexError):
        streamed[47]
    assert pickle.loads(pickle.dumps(streamed))[5] == whole[5]


def test_offsets_skip_blank_lines_and_marks_and_keep_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n   \n{"prompt": "b\xe2\x80\xa8c"}')
    rows = LineRows(path)
    assert [(rows[i].place, rows[i].columns["prompt"]) for i in range(len(rows))] == [
        ("line 1", "a"),
        ("line 4", "b\u2028c"),
    ]


def test_streamed_examples_are_named_by_their_place_and_bad_rows_are_found_when_read(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "data.jsonl", [{"prompt": "a", "id": "x"}, {"prompt": "b", "id": "x"}, {"prompt": ""}])
    assert "duplicate id 'x'" in refusal(path)
    rows = LineRows(path)
    streamed = Streamed(rows, STREAM.reader(path, rows[0], streamed=True))  # not through a call whose types are sampled
    assert [streamed[0].id, streamed[1].id] == ["line-1", "line-2"]
    with pytest.raises(InputError, match="line 3, column 'prompt': the text is empty"):
        streamed[2]


def test_a_check_is_made_of_every_row_that_is_read(tmp_path: Path) -> None:
    seen: list[str] = []

    def check(example: Example) -> None:
        seen.append(example.id)

    streamed = load_files(jsonl(tmp_path / "data.jsonl", rows_of(1500)), reading=STREAM).split("train")
    assert isinstance(streamed, Streamed)
    again = streamed.checked(check)
    assert again[7].id == "line-8" and again[2:4] and seen == ["line-8", "line-3", "line-4"]
    assert sum(1 for _ in looked_at(streamed)) == FIRST
    assert sum(1 for _ in looked_at(tuple(streamed))) == 1500


def test_what_cannot_stream_is_refused(tmp_path: Path) -> None:
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps(rows_of(2)))
    assert "a JSON list must be read whole: write one object a line, or drop streaming" in refusal(listed, STREAM)
    assert "no such file" in refusal(tmp_path / "none.jsonl", STREAM)
    assert "not a readable parquet file" in refusal(jsonl(tmp_path / "bad.parquet", rows_of(1)), STREAM)
    assert "holds no rows" in refusal(jsonl(tmp_path / "empty.jsonl", []), STREAM)
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    assert "holds no rows" in refusal(tmp_path / "empty.parquet", STREAM)


def test_few_row_groups_are_kept(tmp_path: Path) -> None:
    rows = ParquetRows(parquet(tmp_path / "data.parquet", rows_of(100), group=5))
    assert [rows[i].columns["level"] for i in (0, 99, 50, 5, 0, 98)] == [0, 99, 50, 5, 0, 98]
    for i in range(100):
        assert rows[i].columns["prompt"] == f"{i}+1?"
        assert len(rows.kept) <= GROUPS_KEPT


def test_memory_stays_flat_whatever_the_number_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    line = json.dumps({"prompt": "x" * 300, "answer": "1"}) + "\n"
    path.write_text(line * 200_000)
    assert path.stat().st_size > 60_000_000
    tracemalloc.start()
    try:
        streamed = load_files(path, reading=STREAM).split("train")
        for i in range(0, 200_000, 997):
            assert streamed[i].answer == "1"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(streamed) == 200_000
    assert peak < 10_000_000, "offsets and line numbers, 16 bytes a row, and what growing them takes"


def test_evaluation_data_is_read_whole(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", rows_of(3))
    task = load_files(path, heldout=jsonl(tmp_path / "b.jsonl", rows_of(3)), reading=STREAM)
    assert isinstance(task.split("train"), Streamed) and isinstance(task.split("heldout"), tuple)
    assert len(open_rows(Source(str(path)))) == 3
