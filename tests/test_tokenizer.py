"""Text <-> ids (pipeline/tokenizers): round trips, what meta.pkl keeps of each tokenizer, messages,
GPT-2's merge file.

Run: python -m pytest tests/test_tokenizer.py    (all of tiktoken's: add -m "long or not long")
The merge files come from tiktoken's cache, else from their address, else from the package index.
"""
import base64
import hashlib
import pickle
import random
import re
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from helpers import says
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.get.download import DownloadError
from pipeline.get.merge_files import MERGE_FILES, get_encoding
from pipeline.read.meta import load_plain
from pipeline.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    TableTokenizer,
    TiktokenTokenizer,
    TokenList,
    as_bytes,
    make_tokenizer,
    table_hash,
    tables,
    tokenizer_from_meta,
    tokenizer_meta,
)
from pipeline.tokenizers.trained import train_bpe, train_sentencepiece

ENCODINGS = ["gpt2", "r50k_base", "p50k_base", "p50k_edit", "cl100k_base", "o200k_base",
             "o200k_harmony"]
TRICKY = ["", " ", "a", "\x00", "\r\n\r\n", "\ufeffmark", "  two  spaces ", "\ttab\n",
          "It's 12345 o'clock", "naïve",
          "日本語のテキスト", "👩‍👩‍👧 🤷🏽‍♀️", "\U0010ffff", "e\u0301 é",
          "<|endoftext|>", "<|im_start|>user",
          "a<|endoftext|>b<|fim_prefix|>", "x" * 300, "\u2028\u0085\x0b", "ÿþ\xff", "مرحبا",
          "\n" * 50]


@pytest.fixture(scope="module")
def gpt2():
    return TiktokenTokenizer("gpt2")


def reopened(tokenizer):
    """The tokenizer as a reader of meta.pkl gets it, through the file's bytes."""
    return tokenizer_from_meta(load_plain(pickle.dumps(tokenizer_meta(tokenizer), protocol=4),
                                          "meta.pkl"))


def ids_of(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.ndim == 1 and ids.dtype.kind in "iu"
    return ids.tolist()


def refuse(*args, **kw):
    raise AssertionError("this must not be asked for")


# ---- decode(encode(text)) is text


@given(st.text(), st.data())
def test_characters_round_trip_and_so_does_every_text_over_the_same_characters(text, data):
    text += "a"
    tokenizer = CharTokenizer.from_text(text)
    other = data.draw(st.text(alphabet=sorted(set(text))))
    for t in (text, other):
        ids = ids_of(tokenizer, t)
        assert len(ids) == len(t) and tokenizer.decode(ids) == t
        assert ids_of(reopened(tokenizer), t) == ids and reopened(tokenizer).decode(ids) == t


@given(st.text())
def test_bytes_round_trip_and_are_the_text_in_utf_8(text):
    ids = ids_of(ByteTokenizer(), text)
    assert ids == list(text.encode("utf-8")) and ByteTokenizer().decode(ids) == text


@given(st.text())
def test_gpt2_tokens_round_trip_and_are_tiktokens_own(gpt2, text):
    ids = ids_of(gpt2, text)
    assert gpt2.decode(ids) == text and ids == gpt2._encoding.encode_ordinary(text)


@given(st.lists(st.text(alphabet="ab é\n😀", min_size=1, max_size=4), max_size=12),
       st.text(alphabet="ab é\n😀"))
def test_a_table_that_holds_every_character_round_trips(longer, text):
    tokenizer = TableTokenizer([*longer, *"ab é\n😀"])
    assert tokenizer.decode(ids_of(tokenizer, text)) == text
    assert ids_of(reopened(tokenizer), text) == ids_of(tokenizer, text)


@given(st.binary(max_size=40))
def test_a_table_of_bytes_round_trips_any_text_that_its_tokens_cut_inside_a_character(raw):
    text = raw.decode("utf-8", errors="replace")
    tokenizer = TableTokenizer([bytes([i]) for i in range(256)])
    assert tokenizer.decode(ids_of(tokenizer, text)) == text


@pytest.mark.parametrize("text", TRICKY)
def test_tricky_texts_round_trip_in_each_tokenizer_and_in_its_copy_from_meta(gpt2, gpt2_copy, text):
    for tokenizer, copy in [(CharTokenizer.from_text(text, "x"),) * 2, (ByteTokenizer(),) * 2,
                            (gpt2, gpt2_copy)]:
        ids = ids_of(tokenizer, text)
        assert tokenizer.decode(ids) == text and ids_of(copy, text) == ids
        assert copy.decode(ids) == text


@pytest.fixture(scope="module")
def gpt2_copy(gpt2):
    return reopened(gpt2)


# ---- characters


def test_characters_are_numbered_in_code_point_order_over_all_the_texts():
    tokenizer = CharTokenizer.from_text("cab", "é\n", "")
    assert tokenizer.to_meta() == {"tokenizer": "char", "vocab_size": 5,
                                   "stoi": {"\n": 0, "a": 1, "b": 2, "c": 3, "é": 4},
                                   "itos": {0: "\n", 1: "a", 2: "b", 3: "c", 4: "é"}}
    assert ids_of(tokenizer, "abcé\n") == [1, 2, 3, 4, 0]


@pytest.mark.parametrize("unknown", ["z", "{", "}", "\x00", "é", "\U0010ffff", "\ud800"])
def test_a_character_outside_the_vocabulary_is_named_with_its_position(unknown):
    with pytest.raises(UserError) as error:
        CharTokenizer.from_text("ab").encode("ab" * 600 + unknown + "a")
    says(str(error.value), repr(unknown), "position 1,200 ", "2-character")


@pytest.mark.parametrize("size", [2, 128, 254, 255, 256, 257, 65_537])
def test_a_text_of_any_characters_is_encoded_by_a_vocabulary_of_any_size(size):
    codes = [*range(size - 2), 0xE9 if size < 0xE9 else 0x1F600, 0x10FFFE]
    chars = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
    tokenizer, id_of = CharTokenizer(chars), {c: i for i, c in enumerate(chars)}
    for text in ("".join(chars), chars[0] * 9, chars[-1] * 9, chars[0] + chars[-2] + chars[-1]):
        assert ids_of(tokenizer, text) == [id_of[c] for c in text]
        for unknown in {"z", "\u0101", "\uFFFF", "\U0010FFFD", "\U0010FFFF"} - set(chars):
            with pytest.raises(UserError) as error:
                tokenizer.encode(text + text + unknown + text)
            says(str(error.value), f"position {2 * len(text):,} ", f" {len(chars)}-character")


def test_an_empty_text_has_no_vocabulary_and_the_message_says_so():
    with pytest.raises(UserError, match="text is empty.*vocabulary"):
        CharTokenizer.from_text("", "")


@pytest.mark.parametrize("encode", [
    CharTokenizer.from_text, ByteTokenizer().encode, TableTokenizer("ab").encode,
    lambda text: TiktokenTokenizer("gpt2").encode(text)], ids=["char", "byte", "table", "gpt2"])
def test_a_lone_surrogate_is_refused_with_its_position(encode):
    with pytest.raises(UserError) as error:
        encode("ab" * 1000 + "\udc80b")
    says(str(error.value), "surrogate", "U+DC80", "position 2,000", "UTF-8")


# ---- bytes


def test_the_byte_table_names_each_byte_once_and_keeps_those_that_are_no_text_as_bytes():
    meta = ByteTokenizer().to_meta()
    assert meta["vocab_size"] == len(meta["itos"]) == len(meta["stoi"]) == 256
    assert [as_bytes(meta["itos"][i]) for i in range(256)] == [bytes([i]) for i in range(256)]
    assert (meta["itos"][65], meta["itos"][200]) == ("A", b"\xc8")


def test_bytes_that_are_no_utf_8_decode_to_the_replacement_character():
    assert ByteTokenizer().decode(np.array([65, 200, 66])) == "A\ufffdB"


# ---- tiktoken


def test_gpt2_has_50257_ids_and_complete_tables(gpt2):
    check_tables(gpt2, gpt2.to_meta())
    assert (gpt2.vocab_size, gpt2.eot_token) == (50257, 50256)
    assert gpt2.to_meta()["itos"][50256] == "<|endoftext|>"


def check_tables(tokenizer, meta):
    """Every rank and every special token is in both tables, under its id; as bytes only where it is
    no UTF-8."""
    encoding = tiktoken_encoding(tokenizer)
    assert meta["vocab_size"] == tokenizer.vocab_size == encoding.n_vocab == max(meta["itos"]) + 1
    ids = encoding._mergeable_ranks | {token.encode(): i for token,
                                       i in encoding._special_tokens.items()}
    assert {as_bytes(token): i for token, i in meta["stoi"].items()} == ids
    assert set(meta["itos"]) == set(ids.values())
    assert all(ids[as_bytes(token)] == i and type(i) is int for i, token in meta["itos"].items())
    for token in meta["stoi"]:
        assert isinstance(token, str) or "\ufffd" in token.decode("utf-8", errors="replace")


def tiktoken_encoding(tokenizer):
    """tiktoken's own object, which a fresh machine without network can only give for r50k_base in
    gpt2's place."""
    return tiktoken.get_encoding({"gpt2": "r50k_base"}.get(tokenizer.name, tokenizer.name))


def test_the_name_of_a_special_token_in_the_text_is_text(gpt2):
    ids = ids_of(gpt2, "a<|endoftext|>b")
    assert gpt2.eot_token not in ids and gpt2.decode(ids) == "a<|endoftext|>b"


def test_an_encoding_that_tiktoken_lacks_is_an_error_that_lists_those_it_has():
    with pytest.raises(UserError) as error:
        TiktokenTokenizer("gpt5")
    says(str(error.value), "'gpt5'", ", ".join(tiktoken.list_encoding_names()))


def test_an_id_outside_the_vocabulary_is_a_plain_error(gpt2):
    with pytest.raises(UserError, match="50300.*gpt2"):
        gpt2.decode([50300])


def test_the_copy_from_meta_needs_no_merge_file(gpt2, monkeypatch):
    meta = gpt2.to_meta()
    monkeypatch.setattr("pipeline.get.merge_files.get_encoding", refuse)
    copy = tokenizer_from_meta(meta)
    assert (copy.vocab_size, copy.eot_token, copy.to_meta()) == (50257, 50256, meta)


def test_a_meta_of_another_program_that_only_names_the_encoding_is_enough(gpt2):
    foreign = {"vocab_size": 50256, "tokenizer": "tiktoken", "tiktoken_encoding": "gpt2",
               "stoi": None, "itos": None}
    assert ids_of(tokenizer_from_meta(foreign), "hello world") == ids_of(gpt2, "hello world")


@pytest.mark.long
@pytest.mark.parametrize("name", ENCODINGS)
def test_every_encoding_round_trips_is_complete_and_is_rebuilt_from_meta_alone(
        name, forbid_network_after):
    tokenizer = TiktokenTokenizer(name)
    meta = tokenizer.to_meta()
    forbid_network_after()
    copy = reopened(tokenizer)
    draw = random.Random(name)
    texts = TRICKY + ["".join(chr(draw.choice([*range(32, 127), *range(160, 0x500),
                                               *range(0x4E00, 0x4F00)]))
                              for _ in range(draw.randrange(200))) for _ in range(300)]
    for text in texts:
        ids = ids_of(tokenizer, text)
        assert ids == tiktoken_encoding(tokenizer).encode_ordinary(text) == ids_of(copy, text)
        assert tokenizer.decode(ids) == copy.decode(ids) == text
    assert (copy.vocab_size, copy.eot_token) == (tokenizer.vocab_size, tokenizer.eot_token)
    assert table_hash(copy.to_meta()["itos"]) == table_hash(meta["itos"])
    check_tables(tokenizer, meta)


@pytest.fixture
def forbid_network_after(request, monkeypatch):
    """A function: from its call on, reading a merge file or connecting anywhere fails the test."""
    def forbid():
        request.getfixturevalue("forbid_network")
        monkeypatch.setattr("pipeline.get.merge_files.get_encoding", refuse)
    return forbid


def test_the_list_of_encodings_here_is_tiktokens_own():
    assert set(tiktoken.list_encoding_names()) == set(ENCODINGS)


# ---- a list of tokens


@given(st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=12, unique=True),
       st.text(max_size=40))
def test_a_list_of_tokens_with_byte_fallback_round_trips_any_text(tokens, text):
    tokenizer = TokenList(tokens, byte_fallback=True)
    assert tokenizer.decode(ids_of(tokenizer, text)) == text
    assert ids_of(reopened(tokenizer), text) == ids_of(tokenizer, text)
    assert tokenizer.vocab_size <= len(tokens) + 256
    assert ids_of(tokenizer, "".join(tokens)[:0]) == []


def test_a_list_of_tokens_is_numbered_in_its_order_takes_the_longest_and_keeps_spaces():
    tokenizer = TokenList(["a", " ", "ab", "ab "])
    assert ids_of(tokenizer, "ab aab") == [3, 0, 2] and isinstance(reopened(tokenizer), TokenList)
    with pytest.raises(UserError) as error:
        tokenizer.encode("ab x{y}")
    says(str(error.value), "'x{y}' at position 3")


def test_a_file_of_tokens_is_lines_with_escapes_or_a_json_list(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"the \n\\n\n\\t\r\n\n\\\\n\n x\n")
    assert list(TokenList.from_file(tmp_path / "a.txt").itos.values()) == ["the ", "\n", "\t",
                                                                           "\\n", " x"]
    (tmp_path / "a.json").write_text('["the ", "\\n"]')
    assert list(TokenList.from_file(tmp_path / "a.json").itos.values()) == ["the ", "\n"]


@pytest.mark.parametrize("name, raw, fact", [
    ("a.txt", "a\nb\na\n", "'a' twice"), ("a.txt", "\n", "empty"),
    ("a.json", '{"a": 1}', "a.json must hold a JSON list"), ("a.json", "[1", "valid JSON"),
    ("a.json", "[" * 200_000, "valid JSON"), ("a.json", '["\\ud83d"]', "surrogate")])
def test_a_file_that_is_no_list_of_tokens_is_one_line(tmp_path, name, raw, fact):
    (tmp_path / name).write_text(raw)
    with pytest.raises(UserError) as error:
        TokenList.from_file(tmp_path / name)
    says(str(error.value), fact)


def test_what_is_wrong_with_a_text_is_said_when_sentencepiece_learns_from_it():
    pytest.importorskip("sentencepiece", reason="the package sentencepiece is not installed")

    def rows():
        yield "abc"
        raise UserError("a.jsonl line 2: no JSON")
    with pytest.raises(UserError, match="^a.jsonl line 2: no JSON$"):
        train_sentencepiece(rows(), 300)


def test_blanks_that_tiktoken_cannot_encode_are_named_with_their_position():
    tokenizer = TiktokenTokenizer("gpt2", backend="tiktoken")
    with pytest.raises(UserError) as error:
        tokenizer.encode("a  b" + " " * 1_500_000 + "c")
    says(str(error.value), "1,500,000 blanks", "position 4.", "--backend gigatoken")


# ---- more tokens on top of tiktoken's


def test_additional_tokens_are_tokens_everywhere_and_survive_meta():
    tokenizer = TiktokenTokenizer("gpt2", additional_tokens={"<|user|>": 50257, "§": 50300})
    ids = ids_of(tokenizer, "<|user|>hi §<|endoftext|>")
    assert ids[0] == 50257 and 50300 in ids and tokenizer.eot_token not in ids
    assert tokenizer.vocab_size == 50301 and tokenizer.decode(ids) == "<|user|>hi §<|endoftext|>"
    copy = reopened(tokenizer)
    assert ids_of(copy, "<|user|>hi §<|endoftext|>") == ids
    assert copy.to_meta() == tokenizer.to_meta()
    assert pickle.loads(pickle.dumps(tokenizer)).to_meta() == tokenizer.to_meta()


@pytest.mark.parametrize("tokens, facts", [
    ({"<x>": 50256}, ["'<x>' has id 50256", "50,257"]),
    ({"<x>": 2**32}, ["'<x>' has id 4294967296", "2**32"]), ({"<x>": "7"}, ["'<x>' has id '7'"]),
    ({"<x>": 60000, "<y>": 60000}, ["has id 60000"]),
    ({"<x": 60000, "<x>": 60001}, ["'<x' is the beginning of '<x>'"])])
def test_additional_tokens_that_clash_are_one_line(tokens, facts):
    with pytest.raises(UserError) as error:
        TiktokenTokenizer("gpt2", additional_tokens=tokens)
    says(str(error.value), *facts)


# ---- trained here: bpe, SentencePiece


LESSON = ("The quick brown fox jumps over the lazy dog, and isn't it 1984?\n" * 30 +
          "naïve “quotes” 日本語\n") * 5


def test_a_bpe_is_trained_to_the_size_asked_for_and_rebuilt_from_meta_alone(forbid_network):
    pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    tokenizer = train_bpe([LESSON], 300)
    assert tokenizer.vocab_size == 300 and tokenizer.eot_token == 299
    copy = reopened(tokenizer)
    for text in [*TRICKY, LESSON]:
        ids = ids_of(tokenizer, text)
        assert tokenizer.decode(ids) == text and max(ids, default=0) < 299
        assert ids_of(copy, text) == ids
    assert len(ids_of(tokenizer, LESSON)) < len(LESSON) / 2
    assert copy.to_meta() == tokenizer.to_meta()
    assert train_bpe([LESSON[:500], LESSON[500:]], 300).to_meta() == tokenizer.to_meta()
    with pytest.raises(UserError, match="--vocab_size.* 256.* 257"):
        train_bpe([LESSON], 256)


@pytest.fixture(scope="module")
def pieces():
    pytest.importorskip("sentencepiece", reason="the package sentencepiece is not installed")
    return train_sentencepiece([LESSON], 400)


@pytest.mark.parametrize("text", TRICKY)
def test_sentencepiece_gives_tricky_texts_back_and_so_does_its_copy(pieces, text):
    ids = ids_of(pieces, text)
    assert pieces.decode(ids) == text and ids_of(reopened(pieces), text) == ids


@given(st.text(alphabet=st.sampled_from("ab \n\r\u2581\u2582é\0😀\u3000\ufb01①"), max_size=60) |
       st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sentencepiece_round_trips_any_text(pieces, text):
    assert pieces.decode(ids_of(pieces, text)) == text


def test_sentencepiece_is_trained_to_the_size_asked_for_and_ends_documents(pieces):
    assert pieces.vocab_size == 400
    assert pieces.to_meta()["itos"][pieces.eot_token] == "<|endoftext|>"
    assert len(ids_of(pieces, LESSON)) < len(LESSON) / 2
    assert pickle.loads(pickle.dumps(pieces)).to_meta() == pieces.to_meta()
    assert reopened(pieces).to_meta() == train_sentencepiece([LESSON], 400).to_meta()


def test_a_given_sentencepiece_model_that_would_change_the_text_is_refused_there(pieces, tmp_path):
    import io

    import sentencepiece
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LESSON.split("\n")), model_writer=model, vocab_size=120,
        model_type="bpe", minloglevel=2)
    (tmp_path / "a.model").write_bytes(model.getvalue())
    given_model = make_tokenizer("sentencepiece", spm_model_file=tmp_path / "a.model")
    text = "The quick brown fox and  isn't it 1984?"
    assert given_model.decode(ids_of(given_model, text)) == text  # two spaces and all
    for bad, at in (("The lazy dog\n", 12), ("fox \ufb01x", 4), ("zебра", 1)):
        with pytest.raises(UserError, match=f"SentencePiece model.* at position {at}$"):
            given_model.encode(bad)


def test_a_model_that_cannot_be_trained_is_one_line():
    pytest.importorskip("sentencepiece", reason="the package sentencepiece is not installed")
    with pytest.raises(UserError, match="sentencepiece.* 99,999"):
        train_sentencepiece(["abc " * 100], 99_999)


# ---- the merge files: cache, address, package


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    """The address of the merge files cannot be reached; tiktoken's cache is an empty folder, which
    is returned."""
    def fail(url, path, **kw):
        raise DownloadError(f"{url}: no such host, or no network")
    monkeypatch.setattr("pipeline.get.download.download", fail)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


ADDRESS = "https://openaipublic.blob.core.windows.net/encodings/r50k_base.tiktoken"
CACHED = hashlib.sha1(ADDRESS.encode()).hexdigest()


@pytest.mark.long
def test_gpt2s_merges_come_from_a_package_where_their_address_is_out_of_reach(
        unreachable, capsys, monkeypatch, gpt2):
    encoding = get_encoding("gpt2")
    assert encoding.encode_ordinary("hello world") == ids_of(gpt2, "hello world")
    printed = capsys.readouterr()
    assert printed.err == ""
    says(printed.out.removesuffix("\n"), ADDRESS, "mlx-whisper==0.4.3")
    cached = hashlib.sha256((unreachable / CACHED).read_bytes()).hexdigest()
    assert cached == MERGE_FILES["r50k_base"][0]
    # and it is quiet where the file is there, for gpt2 and r50k_base alike
    monkeypatch.setattr("pipeline.get.download.download", refuse)
    monkeypatch.setattr("pipeline.get.packages.open_package", refuse)
    assert get_encoding("gpt2").n_vocab == get_encoding("r50k_base").n_vocab == 50257
    assert capsys.readouterr() == ("", "")


def test_a_damaged_file_in_tiktokens_cache_is_replaced(monkeypatch, tmp_path, gpt2):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    (tmp_path / CACHED).write_bytes(b"<html>404</html>")
    asked = []

    def fetch(url, path, sha256, **kw):
        asked.append((url, sha256))
        lines = sorted(gpt2._encoding._mergeable_ranks.items(), key=lambda item: item[1])
        path.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(raw), i) for raw, i in lines))
    monkeypatch.setattr("pipeline.get.download.download", fetch)
    assert get_encoding("gpt2").n_vocab == 50257
    assert [sha256 for _, sha256 in asked] == [MERGE_FILES["r50k_base"][0]]
    cached = hashlib.sha256((tmp_path / CACHED).read_bytes()).hexdigest()
    assert cached == MERGE_FILES["r50k_base"][0]


# ---- tables, and tokenizers of one's own


def test_a_table_takes_the_longest_match_and_keeps_spaces():
    tokenizer = TableTokenizer(["a", "ab", " ", "abc", "c"])
    assert ids_of(tokenizer, "abcab ac") == [3, 1, 2, 0, 4]


def test_text_that_no_token_matches_is_an_error_with_the_character_position():
    tokenizer = TableTokenizer(["é", " "])
    with pytest.raises(UserError) as error:
        tokenizer.encode("é " * 600 + "xyz" * 10)
    says(str(error.value), "'xyzxyzxyzx' at position 1,200")


def test_a_table_may_have_gaps_and_an_id_in_a_gap_is_a_plain_error():
    tokenizer = TableTokenizer({0: "a", 7: "b"})
    assert tokenizer.vocab_size == 8 and ids_of(tokenizer, "ba") == [7, 0]
    with pytest.raises(UserError, match="^id .*3.*itos"):
        tokenizer.decode([3])


def test_tables_have_the_largest_id_plus_one_and_the_first_of_equal_tokens():
    assert tables({5: "x", 2: b"\xff", 9: "x"}) == {"vocab_size": 10, "stoi": {"x": 5, b"\xff": 2},
                                                    "itos": {5: "x", 2: b"\xff", 9: "x"}}
    assert tables(["a", "b"]) == {"vocab_size": 2, "stoi": {"a": 0, "b": 1},
                                  "itos": {0: "a", 1: "b"}}


@given(st.dictionaries(st.integers(0, 50), st.one_of(st.text(max_size=3), st.binary(max_size=3)),
                       min_size=1),
       st.dictionaries(st.integers(0, 50), st.one_of(st.text(max_size=3), st.binary(max_size=3)),
                       min_size=1))
@settings(max_examples=200)
def test_the_table_hash_is_equal_exactly_when_the_ids_mean_the_same(one, two):
    same = {i: as_bytes(t) for i, t in one.items()} == {i: as_bytes(t) for i, t in two.items()}
    assert (table_hash(one) == table_hash(two)) == same
    assert table_hash(dict(reversed(one.items()))) == table_hash(one)


class Words:
    """A tokenizer of one's own, as small as it may be."""
    itos = ["the ", "cat ", "sat "]

    def encode(self, text):
        return [self.itos.index(word + " ") for word in text.split()]

    def decode(self, ids):
        return "".join(self.itos[i] for i in ids)


def test_a_tokenizer_of_ones_own_is_kept_as_its_table():
    assert tokenizer_meta(Words()) == {"tokenizer": "custom", **tables(Words.itos)}
    assert reopened(Words()).decode(Words().encode("the cat sat ")) == "the cat sat "
    assert isinstance(reopened(Words()), TableTokenizer)


def test_a_tokenizer_without_itos_is_told_what_is_missing():
    class Silent:
        encode = decode = None
    with pytest.raises(UserError) as error:
        tokenizer_meta(Silent())
    says(str(error.value), "Silent has no itos", "sample.py")


def test_nanogpts_character_meta_makes_a_character_tokenizer():
    meta = {"vocab_size": 3, "itos": {0: "\n", 1: "a", 2: "b"}, "stoi": {"\n": 0, "a": 1, "b": 2}}
    tokenizer = tokenizer_from_meta(meta)
    assert isinstance(tokenizer, CharTokenizer) and ids_of(tokenizer, "ba\n") == [2, 1, 0]


def test_a_meta_without_itos_cannot_give_text_and_says_so():
    with pytest.raises(UserError, match="meta.pkl has no itos"):
        tokenizer_from_meta({"vocab_size": 3})


@pytest.mark.parametrize("meta", [
    {"tokenizer": "words", **tables(["a", "b"])}, {"tokenizer": "bpe", **tables(["a", "b"])},
    {"tokenizer": "char"}, {"tokenizer": "custom", "itos": {}}])
def test_an_unknown_kind_or_one_without_its_table_is_refused_and_never_taken_for_another(meta):
    with pytest.raises(UserError) as error:
        tokenizer_from_meta(meta)
    says(str(error.value), "meta.pkl")
    if meta["tokenizer"] == "words":
        says(str(error.value), "'words'", "custom")


def test_a_text_that_holds_a_placeholder_is_named_as_it_is():
    with pytest.raises(UserError) as error:
        TableTokenizer(["a"]).encode("a{position}")
    says(str(error.value), "'{position}' at position 1")


def test_a_method_names_its_tokenizer():
    assert ids_of(make_tokenizer("char", "ba", "c"), "abc") == [0, 1, 2]
    assert isinstance(make_tokenizer("byte", "ba"), ByteTokenizer)
    assert make_tokenizer("tiktoken", "ba", tiktoken_encoding="r50k_base").name == "r50k_base"


# ---- lists of documents, one's own end of a document


def test_the_characters_of_lists_of_documents_are_those_of_all_their_texts():
    # and of what documents end with
    assert CharTokenizer.from_text(["ab", "c"], "d", []).chars == list("\nabcd")
    assert CharTokenizer.from_text("ab", "d").chars == list("abd")
    assert CharTokenizer.from_text(["ab", "c"], document_end="").chars == list("abc")


def test_the_characters_of_a_generator_are_refused_for_it_could_not_be_written_afterwards():
    with pytest.raises(UserError, match="read only once.* list.* --method byte"):
        CharTokenizer.from_text(text for text in ["ab", "c"])


def test_the_end_of_a_document_of_a_tokenizer_of_ones_own_is_known_from_meta_alone():
    meta = {"tokenizer": "custom", "eot_token": 0, **tables(["<end>", "a", "b"])}
    assert tokenizer_from_meta(meta).eot_token == 0


@pytest.mark.parametrize("kind", ["byte", "gpt2", "char"])
def test_the_line_that_the_docs_give_to_nanogpts_sample_decodes_any_ids(kind):
    page = (Path(__file__).parents[1] / "docs/format.md").read_text(encoding="utf-8")
    line = re.search(r"^decode = .*$", page, re.MULTILINE)[0]
    text = "héllo 中文 😀\n"
    tokenizer = {"byte": ByteTokenizer, "char": lambda: CharTokenizer.from_text(text),
                 "gpt2": lambda: TiktokenTokenizer("gpt2", backend="tiktoken")}[kind]()
    names = {"itos": tokenizer.to_meta()["itos"]}
    exec(line, names)
    ids = ids_of(tokenizer, text)
    assert names["decode"](ids) == text
    assert names["decode"](ids[:3]) == tokenizer.decode(ids[:3])
