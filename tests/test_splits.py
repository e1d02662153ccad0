"""How documents are split between train and val (units.choose_splits): by a hash, or where they are
few by their sizes; wherever both can have a document, both have one.

Run: python -m pytest tests/test_splits.py
"""
import itertools
import random

import pytest
from helpers import says

from pipeline.errors import UserError
from pipeline.prepare.inputs import read_documents
from pipeline.prepare.units import FEW, choose_splits, split_text
from pipeline.prepare.write import write_dataset
from pipeline.tokenizers import ByteTokenizer


def written(folder, documents, **kw):
    folder.mkdir()
    return write_dataset(folder, documents, ByteTokenizer(), **kw)


def splits_of(documents, share, seed=0):
    """{split: the documents that it gets}."""
    text, chosen = choose_splits(documents, None, share, seed)
    found = {"train": [], "val": []}
    for piece in split_text(text, None, share, seed, chosen=chosen):
        found[piece.split].append(piece.raw.decode())
    return found


def nearest(sizes, share):
    """How near the sum of some of the sizes, neither none nor all, comes to its share: a slow
    reference."""
    sums = (sum(some) for n in range(1, len(sizes)) for some in itertools.combinations(sizes, n))
    return min(abs(number - share * sum(sizes)) for number in sums)


def random_documents(draw, count):
    sizes = [int(10 ** draw.uniform(0, 4)) for _ in range(count)]
    return [f"{number} ".ljust(size + 3, "x") for number, size in enumerate(sizes)]


def test_no_split_fails_that_could_be_and_few_documents_come_as_near_as_can_be():
    draw = random.Random(5)
    for case in range(1000):
        count = draw.choice([2, 3, 5, 10, 18, 19, 20, 25, 60])
        documents = random_documents(draw, count)
        documents += draw.choices(documents, k=draw.choice([0, 0, 1, 4]))  # copies
        share, seed = draw.choice([0.9, 0.5, 0.99, 0.9995, draw.uniform(0.001, 0.999)]), case
        found = splits_of(documents, share, seed)
        assert found["train"] and found["val"]
        assert sorted(found["train"] + found["val"]) == sorted(documents)
        assert not {*found["train"]} & {*found["val"]}
        if count <= 10:
            together = [len(text) * documents.count(text) for text in {*documents}]
            got = abs(sum(map(len, found["train"])) - share * sum(together))
            assert got == pytest.approx(nearest(together, share), abs=1e-6)


@pytest.mark.parametrize("count", [FEW - 1, 3])
def test_the_seed_decides_among_equal_choices_and_the_order_of_the_files_nothing(count):
    documents = [f"{number:05}" for number in range(count)]
    found = {tuple(sorted(splits_of(documents, 0.9, seed)["val"])) for seed in range(30)}
    assert len(found) > 2
    assert all(len(val) == max(1, round(0.1 * count)) for val in found)
    backwards = splits_of(documents[::-1], 0.9)
    assert {*backwards["val"]} == {*splits_of(documents, 0.9)["val"]}


def test_a_generator_is_read_once_and_a_long_text_only_as_far_as_is_needed():
    documents = random_documents(random.Random(1), 500)
    assert splits_of(iter(documents), 0.9) == splits_of(documents, 0.9)
    assert splits_of(iter(documents[:4]), 0.9) == splits_of(documents[:4], 0.9)
    read = []
    text, chosen = choose_splits((read.append(d) or d for d in documents), None, 0.9)
    assert not chosen and len(read) < 60
    assert list(text) == documents


def test_what_was_done_is_said_and_stands_in_meta(tmp_path, capsys):
    for number, size in enumerate((500, 700, 90)):
        (tmp_path / f"{number}.txt").write_text(str(number) * size)
    text = read_documents(str(tmp_path / "*.txt"))
    meta = written(tmp_path / "few", text)
    assert meta["split_rule"] == "documents by size"
    assert meta["splits"]["val"]["bytes"] == 91  # and a newline
    note = capsys.readouterr().out.splitlines()[1]
    says(note, "3 documents", "1 of them", "7.0%", "10.0% asked for")
    meta = written(tmp_path / "many", [str(n) for n in range(40)])
    assert meta["split_rule"] == "documents by hash"
    # 25 documents, of which by their hashes none would be in val
    meta = written(tmp_path / "some", [str(n) for n in range(25)], percentage_train=0.9999)
    assert meta["split_rule"] == "documents by size" and meta["splits"]["val"]["documents"] == 1


@pytest.mark.parametrize("documents", [["one", "one"], ["one", ""], []])
def test_one_document_cannot_be_split(tmp_path, documents):
    with pytest.raises(UserError) as error:
        written(tmp_path / "x", documents)
    says(str(error.value), *(["-v FILE"] if documents else []))


def test_the_bins_are_those_of_a_run_that_was_never_stopped(tmp_path):
    """The choice is made again, and is the same, when a killed run continues."""
    documents = random_documents(random.Random(3), 7)
    first = written(tmp_path / "a", documents)
    again = written(tmp_path / "b", documents, unit_size=50)
    assert first["splits"] == again["splits"]
