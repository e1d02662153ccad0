"""Conversations and answers: rows -> documents of which only answers are learned -> ids and masks,
in chat layouts (pipeline/chats.py) and by --learn; sample.py --chat; what export.py says of turns.

Run: python -m pytest tests/test_chats.py -m "long or not long"
"""
import collections
import copy
import csv
import functools
import gzip
import io
import json
import pickle
import random
import subprocess
import sys
import types
import unicodedata

import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, child_env, one_line_error, says
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from published_models import train_tokenizer, write_tokenizer
from test_export import LlamaCpp

import export
import sample
import train
from pipeline.chats import LAYOUTS, BadChat, ids_of, messages_of, with_markers_of
from pipeline.errors import UserError
from pipeline.prepare.combine import combine
from pipeline.prepare.encode import encode_unit
from pipeline.prepare.flags import parse_args, read_inputs, tokenizer_of, write_options
from pipeline.prepare.inputs import TextFile, read_documents
from pipeline.prepare.rows import BadRow
from pipeline.prepare.templates import Template
from pipeline.prepare.units import make_units, split_text
from pipeline.prepare.write import write_dataset
from pipeline.read.folder import open_dataset
from pipeline.read.mixture import Mixture, start_tokens
from pipeline.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    Marker,
    PublishedTokenizer,
    TiktokenTokenizer,
    TokenList,
    as_bytes,
    make_tokenizer,
    plain_text,
    tokenizer_from_meta,
)
from training.chat import converse
from training.checkpoint import load_checkpoint
from training.samples import SampleArgs, Vocabulary

NAMES = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "[end]", "\n[end]\n[user]\n", "<|im_end"]
WORDS = st.sampled_from([*NAMES, "", "\n", " ", "The fox", "é世界", "😀👩\u200d🚀", "assistant\n"])
ANY = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
TEXTS = st.lists(st.one_of(WORDS, ANY), max_size=5).map("".join)
LONG = st.builds(lambda text, n: text * n, TEXTS, st.sampled_from([1] * 30 + [300]))
ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
CHATS = st.builds(
    lambda turns, last: [{"role": role, "content": said}
                         for role, said in [*turns, ("assistant", last)]],
    st.lists(st.tuples(ROLES, LONG), max_size=5), LONG)
ASKED = [{"role": "user", "content": "Hi <|im_end|>"}, {"role": "assistant", "content": "Hello!"},
         {"role": "user", "content": ""}, {"role": "assistant", "content": "世界"}]


def rows_file(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tokenizer_for(layout, kind):
    """A tokenizer of each kind that can hold any text."""
    if kind == "bpe":
        pytest.importorskip("tokenizers")
        made = make_tokenizer("bpe", train_text=["The fox said Hello! \n" * 50], vocab_size=300)
    elif kind in ("qwen", "smollm"):
        pytest.importorskip("tokenizers")
        made = PublishedTokenizer(train_tokenizer(kind).to_str())
    else:
        made = ByteTokenizer() if kind == "byte" else TiktokenTokenizer(kind)
    return with_markers_of(LAYOUTS[layout], made)


# ---- layouts


@settings(max_examples=50)
@given(messages=CHATS, layout=st.sampled_from(sorted(LAYOUTS)))
def test_what_the_assistant_says_is_learned_with_the_end_of_its_turn_and_nothing_else(
        messages, layout):
    layout = LAYOUTS[layout]
    parts = layout.parts(messages)
    learned = [text for text, learned in parts if learned]
    said = [message["content"] for message in messages if message["role"] == "assistant"]
    assert learned == [text for content in said for text in (content, layout.end)]
    written = "".join(f"{layout.start}{m['role']}{layout.after_role}{m['content']}{layout.end}\n"
                      for m in messages)
    assert "".join(text for text, _ in parts) == written
    asked = layout.prompt(messages[:-1])
    assert parts[: len(asked)] == asked  # an answer follows the prompt


def test_the_layouts_are_these_characters():
    def text_of(name):
        return "".join(f"{'!' * learned}{text}" for text, learned in LAYOUTS[name].parts(ASKED[:2]))
    assert text_of("plain") == "[user]\nHi <|im_end|>\n[end]\n[assistant]\n!Hello!!\n[end]\n"
    assert text_of("chatml") == ("<|im_start|>user\nHi <|im_end|><|im_end|>\n"
                                 "<|im_start|>assistant\n!Hello!!<|im_end|>\n")
    markers = [text for text, _ in LAYOUTS["chatml"].parts(ASKED[:2]) if isinstance(text, Marker)]
    assert markers == ["<|im_start|>", "<|im_end|>"] * 2


@settings(max_examples=25)
@given(messages=CHATS, name=st.sampled_from(sorted(LAYOUTS)))
def test_other_programs_write_the_same_text_by_the_template(messages, name):
    jinja2 = pytest.importorskip("jinja2.sandbox")
    layout = LAYOUTS[name]
    as_theirs = jinja2.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = as_theirs.from_string(layout.template)
    for asks, parts in ((False, layout.parts(messages)), (True, layout.prompt(messages))):
        assert template.render(messages=messages, add_generation_prompt=asks) == "".join(
            text for text, _ in parts)


# ---- rows


def test_a_conversation_may_stand_in_three_kinds_of_columns():
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    as_sharegpt = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]
    for row in ({"messages": [{**one, "name": None} for one in said], "id": 3},
                {"conversations": as_sharegpt, "messages": None},
                {"prompt": "Hi", "completion": "Yes"}):
        assert messages_of(row) == said


@pytest.mark.parametrize("row, facts", [
    ({"text": "x"}, ["messages", "conversations", "prompt and completion", "text"]),
    ({"messages": "Hi"}, ["messages", "'Hi'", "list"]),
    ({"messages": ["Hi"]}, ["message 1", "'Hi'", "object"]),
    ({"messages": [{"role": "user"}]}, ["message 1", "'content'", "role"]),
    ({"messages": [{"content": "Hi"}]}, ["message 1", "'role'", "content"]),
    ({"conversations": [{"role": "user", "content": "Hi"}]}, ["message 1", "'from'"]),
    ({"messages": [{"role": "bot\n", "content": "Hi"}]}, ["message 1", "bot", "assistant", "tool"]),
    ({"conversations": [{"from": ["user"], "value": "Hi"}]}, ["message 1", "user"]),
    ({"messages": [{"role": "assistant", "content": None}]}, ["message 1", "None", "text"]),
    ({"messages": [{"role": "assistant", "content": [{"text": "Hi"}]}]}, ["message 1", "text"]),
    ({"messages": [{"role": "user", "content": "Hi"}]}, ["assistant"]),
    ({"messages": []}, ["assistant"]),
    ({"messages": None}, ["messages", "null"]),
    ({"prompt": None, "completion": "Yes"}, ["prompt", "null"]),
    ({"prompt": "Hi", "completion": None}, ["message 2", "None"]),
])
def test_what_is_wrong_with_a_row_is_said_in_one_line(tmp_path, row, facts):
    with pytest.raises(BadChat) as error:
        messages_of(row)
    says(str(error.value), *facts)
    path = rows_file(tmp_path / "chats.jsonl", [{"messages": ASKED}, row])
    with pytest.raises(UserError) as error:
        list(read_documents(path, chat_layout="plain"))
    says(str(error.value), "chats.jsonl line 2", *facts)
    documents = read_documents(path, chat_layout="plain", max_bad_rows=1)
    assert list(documents) == [LAYOUTS["plain"].parts(ASKED)]


def test_half_a_character_makes_a_bad_row(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text('{"prompt": "\\ud800", "completion": "Yes"}\n')
    with pytest.raises(UserError, match="half a character"):
        list(read_documents(path, chat_layout="chatml"))


# ---- templates


@settings(max_examples=50)
@given(question=TEXTS, answer=TEXTS, template=st.sampled_from([
    "Q: {question}\nA: {answer}", "{answer}{question}", "{{{answer}}}", "{answer!s:>3}|{answer}",
    "{more[answer]} {{}} {question}", "{question} {n:03} {more[answer]}"]))
def test_only_what_fills_the_columns_to_learn_is_learned(question, answer, template):
    row = {"question": question, "answer": answer, "n": 7, "more": {"answer": answer}}
    learn = ["more"] if "more" in template else ["answer"]
    text = Template(template, "text").text_of(row, "jsonl")
    parts = Template(template, "text", learn).text_of(row, "jsonl")
    assert plain_text(parts) == text
    marked = template.replace("{answer", "\ud800{answer").replace("{more", "\ud800{more")
    marked = marked.replace("answer}", "answer}\ud800").replace("answer]}", "answer]}\ud800")
    marked = marked.replace("answer!s:>3}", "answer!s:>3}\ud800")
    learned = marked.format(**row).split("\ud800")[1::2]
    assert [part for part, learned in parts if learned] == learned


def test_columns_that_cannot_be_learned_are_refused_in_one_line(tmp_path, capsys):
    path = rows_file(tmp_path / "rows.jsonl", [{"q": "1", "a": "2"}])
    (tmp_path / "input.txt").write_text("a text")
    for flags, facts in [
            (["--learn=b", "--text_template={q} {a}"], ["--learn b", "{b}", "q, a"]),
            (["--learn=a"], ["--learn a", "{text}"]),
            (["--learn=a", "--text_template={a}", "-t", tmp_path / "input.txt"],
             ["--learn", "input.txt", "text"]),
            (["--chat_layout=plain", "-t", tmp_path / "input.txt"], ["--chat_layout", "input.txt"]),
            (["--chat_layout=plain", "--learn=a"], ["--learn", "--chat_layout"]),
            (["--chat_layout=plain", "--text_template={a}"], ["--text_template", "--chat_layout"]),
            (["--chat_layout=plain", "-t", tmp_path / "x.bin"], ["--chat_layout", "x.bin", "ids"]),
            (["--learn=text", "-t", tmp_path / "x.bin"], ["--learn", "x.bin"]),
            (["--chat_layout=alpaca"], ["plain", "chatml"])]:
        (tmp_path / "x.bin").write_bytes(b"")
        def main(argv):
            read_inputs(parse_args("", tmp_path, argv))
        named = [] if "-t" in flags else ["-t", str(path)]
        says(one_line_error(capsys, main, [*named, *map(str, flags)]), *facts)


@pytest.mark.parametrize("text", [
    [("a", 1)], [("a",)], ["a", "b"], [(b"a", True)], [("a", True), None], 5, {"a": True}])
def test_a_function_returns_a_string_or_parts(text):
    assert isinstance(Template(lambda row: text, "text").text_of({}, "jsonl"), BadRow)


@pytest.mark.parametrize("text", [
    "a", [], [("a", True), (Marker("<|im_end|>"), False)], [["a", False]]])
def test_a_string_and_parts_are_kept_as_they_are(text):
    assert Template(lambda row: text, "text").text_of({}, "jsonl") == text


@pytest.mark.parametrize("text", [[], [["a", True]], [["a", True], ["b", False]]])
@pytest.mark.parametrize("template", [None, "{text}"])
def test_a_list_in_a_column_is_never_a_document(text, template):
    found = Template(template, "text").text_of({"text": text}, "jsonl")
    assert isinstance(found, BadRow) and json.dumps(text) in found


def test_learn_all_learns_all(tmp_path):
    path = rows_file(tmp_path / "rows.jsonl", [{"messages": ASKED}])
    document, = read_documents(path, chat_layout="chatml", learn_all=True)
    assert document == [(text, True) for text, _ in LAYOUTS["chatml"].parts(ASKED)]


# ---- markers


@pytest.mark.parametrize("kind", [
    "gpt2", pytest.param("cl100k_base", marks=pytest.mark.long), "bpe", "qwen", "smollm"])
def test_markers_are_ids_that_no_text_becomes_and_come_back_from_meta(kind):
    made = tokenizer_for("chatml", kind)
    again = tokenizer_from_meta(pickle.loads(pickle.dumps(made.to_meta())))
    in_worker = pickle.loads(pickle.dumps(made))
    text = "".join(NAMES) * 2 + "é世"
    for tokenizer in (made, again, in_worker, made.with_markers(["<|im_end|>"])):
        start, end = (tokenizer.markers[name] for name in ("<|im_start|>", "<|im_end|>"))
        ids = tokenizer.encode(text).tolist()
        assert not {start, end, tokenizer.eot_token} & {*ids} and tokenizer.decode(ids) == text
        assert tokenizer.decode([start, end]) == "<|im_start|><|im_end|>"
        assert tokenizer.vocab_size == made.vocab_size > max(start, end)
        assert tokenizer.eot_token not in (start, end) and ids == made.encode(text).tolist()


def test_markers_get_the_ids_after_the_last_one_and_change_no_other():
    plain, made = TiktokenTokenizer("gpt2"), tokenizer_for("chatml", "gpt2")
    assert made.markers == {"<|endoftext|>": 50256, "<|im_start|>": 50257, "<|im_end|>": 50258}
    assert made.backend == plain.backend and made.eot_token == plain.eot_token
    named = TiktokenTokenizer("gpt2", additional_tokens={"<|im_end|>": 50300, "<a>": 50301})
    assert named.encode("<|im_end|><a>").tolist() == [50300, 50301]
    made = with_markers_of(LAYOUTS["chatml"], named)  # the file's id, which no text becomes now
    assert made.markers["<|im_end|>"] == 50300 and made.markers["<|im_start|>"] == 50302
    ids = made.encode("<|im_end|><a>").tolist()
    assert 50300 not in ids and ids[-1] == 50301
    assert tokenizer_from_meta(made.to_meta()).encode("<|im_end|><a>").tolist() == ids


def test_a_document_never_ends_with_the_end_of_a_turn():
    """Qwen's files name <|im_end|> as the end of a text."""
    tokenizer = PublishedTokenizer(train_tokenizer("qwen").to_str())
    tokenizer.eot_token = tokenizer.markers["<|im_end|>"]
    made = with_markers_of(LAYOUTS["chatml"], tokenizer)
    assert made.eot_token == made.markers["<|endoftext|>"]
    assert with_markers_of(LAYOUTS["plain"], tokenizer).eot_token == tokenizer.eot_token


@pytest.mark.parametrize("tokenizer, facts", [
    (ByteTokenizer(), ["--chat_layout chatml", "byte", "--method tiktoken or bpe",
                       "--tokenizer_of", "--chat_layout plain"]),
    (CharTokenizer("ab"), ["char ", "--chat_layout plain"]),
    (TokenList(["a"]), ["token_list", "--chat_layout plain"]),
    ("llama", ["<|im_start|>", "--chat_layout plain"])])
def test_a_tokenizer_without_markers_is_refused_in_one_line(tokenizer, facts):
    if isinstance(tokenizer, str):
        tokenizer = PublishedTokenizer(train_tokenizer(tokenizer).to_str())
    with pytest.raises(UserError) as error:
        with_markers_of(LAYOUTS["chatml"], tokenizer)
    says(str(error.value), *facts)
    assert with_markers_of(LAYOUTS["plain"], tokenizer).encode("a").size


def test_text_between_markers_is_encoded_as_one_text():
    tokenizer = tokenizer_for("chatml", "bpe")
    parts = [("The qu", False), ("ick", True), (Marker("<|im_end|>"), True), ("", True),
             (" fox", True)]
    assert ids_of(parts, tokenizer) == [
        *tokenizer.encode("The quick"), tokenizer.markers["<|im_end|>"], *tokenizer.encode(" fox")]


def test_a_published_tokenizer_that_reads_markers_in_texts_is_refused_for_documents_with_markers(
        tmp_path):
    tokenizer = PublishedTokenizer(train_tokenizer("qwen").to_str())
    documents = [[("Hi", False), (Marker("<|im_end|>"), True)]] * 2
    with pytest.raises(UserError) as error:
        write_dataset(tmp_path, documents, tokenizer, val_text=documents)
    says(str(error.value), "<|im_end|>", "with_markers")
    write_dataset(tmp_path, documents, tokenizer.with_markers(["<|im_end|>"]), val_text=documents)


@pytest.mark.parametrize("join", [lambda marker: marker + "user", lambda marker: "\n" + marker])
def test_a_marker_and_a_text_are_never_joined_to_a_text(join):
    with pytest.raises(UserError) as error:
        join(Marker("<|im_start|>"))
    says(str(error.value), "<|im_start|>", "two parts")


def test_what_is_done_to_a_string_says_how_it_is_done_to_parts(tmp_path):
    path = rows_file(tmp_path / "chats.jsonl", [{"messages": ASKED}])
    document, = read_documents(path, chat_layout="chatml")
    for do, told in ((lambda: document.lower(), "p.lower(...)"), (lambda: "a" in document, "any(")):
        with pytest.raises(UserError) as error:
            do()
        says(str(error.value), "parts (text, learned)", told)
    assert document[0] in document and not hasattr(document, "no such attribute")
    assert pickle.loads(pickle.dumps(document)) == copy.deepcopy(document) == document


@pytest.mark.parametrize("edit", [
    str.lower, str.strip, lambda text: unicodedata.normalize("NFC", text) + ""])
def test_documents_whose_markers_an_edit_made_text_are_refused(tmp_path, edit):
    tokenizer, layout = tokenizer_for("chatml", "bpe"), LAYOUTS["chatml"]
    whole = [layout.parts(ASKED)] * 2
    lost = [[(edit(str(text)), learned) for text, learned in parts] for parts in whole]
    more = {"chat_layout": "chatml"}
    with pytest.raises(UserError) as error:
        write_dataset(tmp_path, lost, tokenizer, val_text=lost, more=more)
    says(str(error.value), "<|im_end|>", "chatml", "isinstance(p, Marker)")
    assert not list(tmp_path.glob("*.bin*"))
    edited = [[(text if isinstance(text, Marker) else edit(text), learned)
               for text, learned in parts] for parts in whole]
    write_dataset(tmp_path, edited, tokenizer, val_text=edited, more=more)
    ids = open_dataset(f"{tmp_path}/").tokens("train").tolist()
    assert ids.count(tokenizer.markers["<|im_end|>"]) == 2 * len(ASKED)


def test_a_text_and_chats_that_end_with_different_tokens_are_not_combined(tmp_path):
    plain = PublishedTokenizer(train_tokenizer("qwen").to_str())
    chats = plain.with_markers(["<|im_end|>"])
    plain.eot_token = plain.special_tokens["<|im_end|>"]  # as tokenizer_config.json may state
    more, document = {"chat_layout": "chatml"}, LAYOUTS["chatml"].parts(ASKED)
    for name in ("text", "chats", "again", "both"):
        (tmp_path / name).mkdir()
    write_dataset(tmp_path / "text", "The fox. " * 9, plain)
    write_dataset(tmp_path / "chats", [document], chats, val_text=[document], more=more)
    write_dataset(tmp_path / "again", "The fox. " * 9, chats)
    text, chats, again = (f"{tmp_path / name}" for name in ("text", "chats", "again"))
    for names in ([text, chats], [chats, text]):
        with pytest.raises(UserError) as error:
            combine(tmp_path / "both", names)
        says(str(error.value), "different tokens", "text with --reuse_vocab_of chats")
    both = combine(tmp_path / "both", [again, chats])
    assert both["chat_layout"] == "chatml" and both["special_tokens"]["<|endoftext|>"] == both[
        "eot_token"]


def test_a_text_and_chats_of_one_published_tokenizer_talk_as_the_chats(tmp_path):
    plain = PublishedTokenizer(train_tokenizer("qwen").to_str())
    chats = plain.with_markers(["<|im_end|>"])
    end = plain.eot_token = plain.special_tokens["<|im_end|>"]
    for name in ("text", "chats"):
        (tmp_path / name).mkdir()
    write_dataset(tmp_path / "text", "The fox. <|im_end|> " * 90, plain)
    document = LAYOUTS["chatml"].parts(ASKED)
    write_dataset(tmp_path / "chats", [document] * 2, chats, val_text=[document],
                  more={"chat_layout": "chatml"})
    members = [[open_dataset(f"{tmp_path / name}")] for name in ("text", "chats")]
    mixture = Mixture(members, block_size=8, batch_size=2, own_vocabularies=False)
    tokenizer = tokenizer_from_meta(mixture.metas["text"])
    assert end not in tokenizer.encode("a <|im_end|>") and tokenizer.eot_token == chats.eot_token
    assert start_tokens(mixture) == {"text": chats.eot_token}


def test_a_name_in_a_text_is_called_text_only_where_it_is(tmp_path, capsys):
    path = tmp_path / "input.txt"
    path.write_text("One.\n<|endoftext|>\nTwo.\n" * 9)
    plain = PublishedTokenizer(train_tokenizer("qwen").to_str())
    for tokenizer in (plain, plain.with_markers(["<|im_end|>"])):
        write_dataset(tmp_path, TextFile(path), tokenizer)
        ends = (open_dataset(f"{tmp_path}/").tokens("train") == tokenizer.eot_token).sum()
        assert ("ordinary text" in capsys.readouterr().out) == (ends == 0)
    assert not ends


# ---- ids and masks


class Writer:
    """What write_dataset() puts into train.bin and train.mask.bin, without its files."""

    def __init__(self, tokenizer):
        self.tokenizer, meta = tokenizer, tokenizer.to_meta()
        self.raw = {i: as_bytes(token) for i, token in meta["itos"].items()}
        self.size = meta["vocab_size"]
        self.lengths = np.array([len(self.raw.get(i, b"")) for i in range(self.size)])
        self.special = {*getattr(tokenizer, "markers", {}).values()}

    def ids_and_mask(self, documents, unit_size):
        end = "\n" if self.tokenizer.eot_token is None else ""
        pieces = split_text(documents, ["x"], 0.9, document_end=end)
        ids, mask = [], []
        for unit in make_units(pieces, self.tokenizer.border, unit_size):
            found = encode_unit(self.tokenizer, self.size, np.dtype("u4"), self.tokenizer.eot_token,
                                self.lengths, unit).get("train")
            if found:
                ids += found.ids.tolist()
                ones = np.ones(len(found.ids), np.uint8)
                mask += (ones if found.learned is None else found.learned).tolist()
        return ids, mask

    def check(self, documents, unit_size=1000):
        """That the ids are those of the text, markers are ids and nothing else is, and a token is
        learned exactly if any byte of it is to be learned. Returns the number of tokens that stand
        for both kinds of bytes."""
        ids, mask = self.ids_and_mask(documents, unit_size)
        name, ends = self.raw.get(self.tokenizer.eot_token), self.tokenizer.eot_token is not None
        raw, learned, special = b"", [], []
        for document in documents:
            for text, is_learned in document:
                raw += text.encode()
                learned += [is_learned] * len(text.encode())
                special += [self.tokenizer.markers[text]] if isinstance(text, Marker) else []
            if ends:
                raw += name
                learned += [learned[-1]] * len(name)
                special.append(self.tokenizer.eot_token)
        assert b"".join([self.raw[i] for i in ids]) == raw
        assert [i for i in ids if i in self.special] == special
        stops = np.cumsum(self.lengths[ids])
        before = np.concatenate([[0], np.cumsum(learned)])
        num_learned = before[stops] - before[stops - self.lengths[ids]]  # bytes of each token
        assert ((num_learned > 0) == np.array(mask, bool)).all()
        return int(((num_learned > 0) & (num_learned < self.lengths[ids])).sum())


@functools.cache
def writer(layout, kind):
    return Writer(tokenizer_for(layout, kind))


def check_chats(layout, kind, num_examples):
    made, tokens = writer(layout, kind), collections.Counter()

    @settings(max_examples=num_examples)
    @given(chats=st.lists(CHATS, min_size=1, max_size=3), unit_size=st.sampled_from([20, 5000]))
    def check(chats, unit_size):
        documents = [LAYOUTS[layout].parts(messages) for messages in chats]
        if kind == "qwen":  # which normalizes
            assume(all(unicodedata.is_normalized("NFC", text) for d in documents for text, _ in d))
        tokens["spanning"] += made.check(documents, unit_size)
        tokens["chats"] += len(chats)
    check()
    return tokens


CELLS = [("chatml", "gpt2"), ("chatml", "bpe"), ("chatml", "smollm"), ("chatml", "qwen"),
         ("plain", "byte"), ("plain", "gpt2")]


@pytest.mark.parametrize("layout, kind", CELLS[1:5:3] + CELLS[:1])
def test_learned_tokens_are_those_of_answers_and_markers_are_ids(layout, kind):
    check_chats(layout, kind, 25)


@pytest.mark.long
@pytest.mark.parametrize("layout, kind", CELLS)
def test_over_10000_chats_learned_tokens_are_those_of_answers(layout, kind):
    tokens = check_chats(layout, kind, 1200)
    print(layout, kind, dict(tokens))
    assert tokens["chats"] > 1700
    if kind == "byte":
        assert not tokens["spanning"]


CHAT_ROWS = [{"prompt": f"{i} <|im_end|>, \"so\"\nto say <|endoftext|>", "completion": f"No 世 {i}"}
             for i in range(12)]


def in_messages(row):
    return {"messages": [{"role": "user", "content": row["prompt"]},
                         {"role": "assistant", "content": row["completion"]}], "more": 1}


def as_table(rows, delimiter=","):
    file = io.StringIO(newline="")
    table = csv.DictWriter(file, rows[0], delimiter=delimiter)
    table.writeheader()
    table.writerows(rows)
    return file.getvalue().encode()


def as_parquet(rows):
    pytest.importorskip("pyarrow.parquet", reason="the package pyarrow is not installed")
    import pyarrow
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


def as_jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def prepared(folder, path, *flags):
    """What the template's prepare.py makes of a file, in the new folder. Returns (meta, {name of a
    bin: ids or mask})."""
    folder.mkdir()
    args = parse_args("", folder, ["-t", str(path), *flags])
    text, val_text = read_inputs(args)
    tokenizer = tokenizer_of(args, text, val_text)
    meta = write_dataset(folder, text, tokenizer, val_text=val_text, **write_options(args))
    return meta, {path.name: np.fromfile(path, "u1" if "mask" in path.name else meta["dtype"])
                  for path in folder.glob("*.bin") if "docs" not in path.name}


@pytest.mark.parametrize("layout, flags", [
    ("chatml", ["--method=bpe", "--vocab_size=300"]), ("plain", ["--method=byte"])])
def test_every_format_gives_the_same_ids_and_masks(tmp_path, layout, flags):
    if layout == "chatml":
        pytest.importorskip("tokenizers")
    messages = [in_messages(row) for row in CHAT_ROWS]
    files = {"a.jsonl": as_jsonl(messages), "a.json": json.dumps(messages).encode(),
             "b.jsonl.gz": gzip.compress(as_jsonl(CHAT_ROWS)), "a.parquet": as_parquet(messages),
             "b.csv": as_table(CHAT_ROWS), "b.parquet": as_parquet(CHAT_ROWS)}
    found = []
    for name, raw in files.items():
        (tmp_path / name).write_bytes(raw)
        found.append(prepared(tmp_path / f"{name}-folder", tmp_path / name,
                              f"--chat_layout={layout}", "-p=0.5", *flags))
    (meta, first), *others = found
    assert len(first) == 4 and meta["chat_layout"] == layout
    for _, bins in others:
        assert bins.keys() == first.keys() and all((bins[n] == first[n]).all() for n in bins)
    tokenizer = tokenizer_from_meta(meta)
    end = LAYOUTS[layout].end
    text = "".join(tokenizer.decode(first[f"{split}.bin"]) for split in ("train", "val"))
    answers = [tokenizer.decode(first[f"{split}.bin"][first[f"{split}.mask.bin"] == 1])
               for split in ("train", "val")]
    assert sorted("".join(answers).split(end)) == sorted(
        [*(row["completion"] for row in CHAT_ROWS), ""])
    assert all(row["prompt"] in text for row in CHAT_ROWS)
    if layout == "chatml":  # what stands in a prompt is text
        ids = np.concatenate([first["train.bin"], first["val.bin"]]).tolist()
        assert [ids.count(tokenizer.markers[name]) for name in
                ("<|im_start|>", "<|im_end|>", "<|endoftext|>")] == [24, 24, 12]


def test_a_published_tokenizer_uses_its_own_markers(tmp_path):
    """Its files say that <|im_end|> ends a text, as Qwen's do."""
    pytest.importorskip("tokenizers")
    write_tokenizer(tmp_path / "model", train_tokenizer("qwen"))
    (tmp_path / "chats.jsonl").write_bytes(as_jsonl(CHAT_ROWS))
    meta, bins = prepared(tmp_path / "data", tmp_path / "chats.jsonl", "--chat_layout=chatml",
                          "-p=0.5", f"--tokenizer_of={tmp_path / 'model'}")
    tokenizer = tokenizer_from_meta(meta)
    assert tokenizer.names_are_text and meta["eot_token"] == tokenizer.markers["<|endoftext|>"]
    assert meta["vocab_size"] == PublishedTokenizer(train_tokenizer("qwen").to_str()).vocab_size
    ids = np.concatenate([bins["train.bin"], bins["val.bin"]]).tolist()
    assert [ids.count(tokenizer.markers[name]) for name in NAMES[:3]] == [24, 24, 12]
    eot = tokenizer.eot_token  # a prompt of sample.py --start still means the token
    prompt = Vocabulary("x", meta, 0, meta["vocab_size"], None).encode_prompt("a<|endoftext|>")
    assert prompt == [*tokenizer.encode("a"), eot]


@pytest.mark.parametrize("flags", [["--method=char"], ["--method=bpe", "--vocab_size=270"]])
def test_learn_changes_no_id(tmp_path, flags):
    if "--method=bpe" in flags:
        pytest.importorskip("tokenizers")
    path = tmp_path / "rows.jsonl"
    path.write_bytes(as_jsonl(CHAT_ROWS))
    flags = [*flags, "--text_template=Q: {prompt}\\nA: {completion}", "-p=0.5"]
    meta, bins = prepared(tmp_path / "all", path, *flags)
    assert sorted(bins) == ["train.bin", "val.bin"] and "mask" not in meta["splits"]["train"]
    meta, masked = prepared(tmp_path / "some", path, "--learn=completion", *flags)
    assert "chat_layout" not in meta and all((masked[name] == bins[name]).all() for name in bins)
    tokenizer = tokenizer_from_meta(meta)
    answers = tokenizer.decode(masked["train.bin"][masked["train.mask.bin"] == 1])
    end = "\n" if tokenizer.eot_token is None else "<|endoftext|>"
    answers = {answer.strip(" ") for answer in answers.split(end)}  # a token may begin with a blank
    assert {""} < answers <= {"", *(row["completion"] for row in CHAT_ROWS)}


# ---- sample.py --chat


class Scripted:
    """A model that answers with ids known before, through the choice of tokens of sample.py."""

    def __init__(self, answers, block_size, vocab_size):
        self.answers, self.prompts, self.lengths = iter(answers), [], []
        self.config = types.SimpleNamespace(
            block_size=block_size, vocab_sizes=None, vocab_size=vocab_size)

    def generate_tokens(self, idx, max_new_tokens, choose):
        self.prompts.append(idx[0].tolist())
        self.lengths.append(0)
        for i in next(self.answers)[:max_new_tokens]:
            self.lengths[-1] += 1
            logits = torch.zeros(1, self.config.vocab_size)
            logits[0, i] = 99
            yield choose(logits)


@pytest.fixture
def talk(monkeypatch, capsys):
    """talk(lines, answers, tokenizer, layout) -> (the model, stdout, the notes)."""
    def talk(lines, answers, tokenizer, layout, block_size=1000, **flags):
        model = Scripted(answers, block_size, tokenizer.vocab_size)
        meta = {**tokenizer.to_meta(), "chat_layout": layout, "eot_token": tokenizer.eot_token}
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        converse(model, {"chats": meta}, None, "single", SampleArgs(**flags), "cpu")
        captured = capsys.readouterr()
        return model, captured.out, captured.err.splitlines()
    return talk


@pytest.mark.parametrize("end", ["<|im_end|>", "<|endoftext|>", "<|im_start|>"])
def test_an_answer_ends_with_its_turn_and_the_next_prompt_holds_it(talk, end):
    tokenizer = tokenizer_for("chatml", "bpe")
    said = tokenizer.encode("Hello 世!").tolist()
    model, out, notes = talk(["Hi <|im_end|>", "And?", "", "never read"],
                             [[*said, tokenizer.markers[end], *said], said], tokenizer, "chatml")
    assert out == "Hello 世!\nHello 世!\n" and not notes and model.lengths[0] == len(said) + 1
    messages = [ASKED[0], {"role": "assistant", "content": "Hello 世!"},
                {"role": "user", "content": "And?"}]
    for prompt, count in zip(model.prompts, (1, 3), strict=True):
        parts = LAYOUTS["chatml"].prompt(messages[:count])
        assert prompt == [tokenizer.eot_token, *ids_of(parts, tokenizer)]


def test_in_the_plain_layout_a_text_ends_an_answer(talk):
    tokenizer = ByteTokenizer()
    model, out, _ = talk(["Hi", "/exit", "never read"], [[*b"A\n[en] \xc3\xa9\n[end]\n[user]"]],
                         tokenizer, "plain")
    assert out == "A\n[en] é\n" and model.lengths == [len(b"A\n[en] \xc3\xa9\n[end]")]
    assert bytes(model.prompts[0]) == b"\n[user]\nHi\n[end]\n[assistant]\n"


def test_the_oldest_turns_are_left_out_when_the_context_is_full_and_one_note_says_so(talk):
    tokenizer = ByteTokenizer()
    lines = ["one", "two", "three", "four", "a long turn " * 20]
    model, out, notes = talk(lines, [[*b"yes" * 100]] * 5, tokenizer, "plain", block_size=150)
    assert all(len(prompt) <= 75 for prompt in model.prompts)
    assert all(len(prompt) + new <= 150 for prompt, new in zip(model.prompts, model.lengths))
    assert bytes(model.prompts[3]) == b"\n[user]\nfour\n[end]\n[assistant]\n"
    assert bytes(model.prompts[4]).endswith(b"turn \n[end]\n[assistant]\n")
    says(notes[0], "150", "oldest")
    says(notes[1], "75", "turn")
    assert len(notes) == 2


def test_what_the_vocabulary_lacks_is_said_and_the_conversation_goes_on(talk):
    tokenizer = CharTokenizer.from_text("\n[end]user assistant Hiy")
    answer = tokenizer.encode("yes\n[end]").tolist()
    model, out, notes = talk(["H\u00e9", "Hi"], [answer], tokenizer, "plain")
    assert out == "yes\n" and len(model.prompts) == 1 and "\u00e9" not in out
    assert len(notes) == 1
    says(notes[0], "\u00e9", "vocabulary")


def test_an_answer_has_at_most_max_new_tokens(talk):
    _, out, _ = talk(["Hi"], [[*b"yes" * 100]], ByteTokenizer(), "plain", max_new_tokens=4)
    assert out == "yesy\n"


def test_a_run_without_chats_is_refused_in_one_line(monkeypatch):
    meta = ByteTokenizer().to_meta()
    model = Scripted([], 10, 256)
    with pytest.raises(UserError) as error:
        converse(model, {"fox": meta}, None, "single", SampleArgs(), "cpu")
    says(str(error.value), "fox", "--chat_layout", "--chat")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="alpaca.*plain, chatml"):
        converse(model, {"fox": {**meta, "chat_layout": "alpaca"}}, None, "single", SampleArgs(),
                 "cpu")
    with pytest.raises(UserError, match="chatml.*no <.im_end.>.*--chat_layout"):
        converse(model, {"fox": {**meta, "chat_layout": "chatml"}}, None, "single", SampleArgs(),
                 "cpu")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="--chat.*closed"):
        converse(model, {"fox": {**meta, "chat_layout": "plain"}}, None, "single", SampleArgs(),
                 "cpu")
    with pytest.raises(UserError, match="--chat.*aligned streams"):
        converse(model, {"fox": meta}, None, "multicontext", SampleArgs(), "cpu")


@pytest.mark.parametrize("flag", ["--start=Hi", "--stop=x", "--num_samples=2",
                                  "--multicontext_start=a", "--draw_all_streams"])
def test_flags_of_other_samples_are_refused_beside_chat(capsys, flag):
    told = one_line_error(capsys, sample.main, ["--chat", flag])
    says(told, flag.partition("=")[0], "--chat")


def test_a_mixture_of_texts_and_chats_can_talk(tmp_path):
    """The members share a tokenizer, of which a checkpoint holds the first one's meta.pkl."""
    byte = ByteTokenizer()
    for name, more in {"fox": None, "chats": {"chat_layout": "plain"}}.items():
        (tmp_path / name).mkdir()
        write_dataset(tmp_path / name, "The quick brown fox." * 9, byte, more=more)
    fox, chats = (open_dataset(str(tmp_path / name)) for name in ("fox", "chats"))
    for members in ([[fox], [chats]], [[chats], [fox]]):
        metas = Mixture(members, block_size=4, batch_size=2, own_vocabularies=False).metas
        assert [meta["chat_layout"] for meta in metas.values()] == ["plain"]
    assert "chat_layout" not in fox.meta
    metas = Mixture([[fox], [chats]], block_size=4, batch_size=2).metas  # each of its own
    assert "chat_layout" not in metas["fox"] and metas["chats"]["chat_layout"] == "plain"


# ---- from rows to a conversation, here and in other programs


@pytest.fixture(scope="module", params=["chatml", "plain"])
def taught(request, tmp_path_factory):
    """(its layout, the folder of a run that has learned to say "Of course two." to "Say two.")."""
    tmp, flags = tmp_path_factory.mktemp("taught"), ["--method=byte"]
    if request.param == "chatml":
        pytest.importorskip("tokenizers")
        flags = ["--method=bpe", "--vocab_size=300"]
    words, draw = ["one", "two", "three", "four"], random.Random(0)
    chats = [[(role, f"{what} {word}.") for word in draw.choices(words, k=4)
              for role, what in (("user", "Say"), ("assistant", "Of course"))] for _ in range(300)]
    rows = [{"conversations": [{"from": role, "value": text} for role, text in said]}
            for said in chats]
    (tmp / "rows.jsonl").write_bytes(as_jsonl(rows))
    prepared(tmp / "talk", tmp / "rows.jsonl", f"--chat_layout={request.param}", *flags)
    train.main([*TINY, f"--dataset={tmp / 'talk'}", "--max_iters=400", "--block_size=128",
                "--batch_size=8", "--n_embd=64", f"--out_dir={tmp / 'run'}"])
    return LAYOUTS[request.param], tmp / "run"


TWO = [{"role": "user", "content": "Say two."}]


@pytest.mark.long
def test_a_small_model_learns_to_answer_and_to_stop(taught):
    child = subprocess.run(
        [sys.executable, ROOT / "sample.py", "--chat", f"--out_dir={taught[1]}", "--device=cpu",
         "--temperature=0"], input="Say two.\nSay three.\n", text=True, capture_output=True,
        env=child_env(), timeout=300)
    assert child.returncode == 0, child.stderr
    assert child.stdout == "Of course two.\nOf course three.\n"


@pytest.mark.long
def test_it_does_so_in_transformers_and_our_ids_are_those_of_its_chat_template(taught):
    transformers = pytest.importorskip("transformers")
    layout, run = taught
    export.main([f"--out_dir={run}"])
    theirs = transformers.AutoTokenizer.from_pretrained(run / "export")
    ours = tokenizer_from_meta(load_checkpoint(run / "ckpt.pt")["metas"]["talk"])

    def ids_by_them(messages, **options):
        return theirs.apply_chat_template(messages, return_dict=True, **options)["input_ids"]

    @settings(max_examples=1000)
    @given(messages=CHATS)
    def check(messages):
        text = "".join(message["content"] for message in messages)
        assume(not any(name in text for name in NAMES[:3]))  # there a name in a text is the token
        assert ids_by_them(messages) == ids_of(layout.parts(messages), ours)
    check()
    asked = ids_by_them(TWO, add_generation_prompt=True)
    assert asked == ids_of(layout.prompt(TWO), ours)
    model = transformers.AutoModelForCausalLM.from_pretrained(run / "export")
    stop = {} if layout.markers else {"stop_strings": layout.end, "tokenizer": theirs}
    out = model.generate(torch.tensor([asked]), max_new_tokens=40, do_sample=False, **stop)
    assert theirs.decode(out[0, len(asked):]) == f"Of course two.{layout.end}"


@pytest.mark.long
def test_it_does_so_in_llama_cpp(taught):
    pytest.importorskip("gguf")
    layout, run = taught
    export.main([f"--out_dir={run}", "--verify=false", "--gguf=f32"])
    llama = LlamaCpp(run / "export" / "model.gguf")
    ours = tokenizer_from_meta(load_checkpoint(run / "ckpt.pt")["metas"]["talk"])
    asked = llama.ask("apply-template", messages=TWO)["prompt"]
    assert llama.ask("tokenize", content=asked, add_special=False, parse_special=True)[
        "tokens"] == ids_of(layout.prompt(TWO), ours)
    stop = {} if layout.markers else {"stop": [layout.end]}
    answer, = llama.ask("v1/chat/completions", messages=TWO, max_tokens=40, temperature=0,
                        **stop)["choices"]
    assert answer["message"]["content"] == "Of course two." and answer["finish_reason"] == "stop"
