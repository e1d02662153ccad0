"""Tokenizers that are trained on the text: BPE and SentencePiece. Both packages are optional.

They are trained on the first SAMPLE characters of the train split: more text changes little, and
the counts of all its words must fit into memory.
"""
import io

from pipeline.errors import UserError, optional
from pipeline.tokenizers.bpe import TiktokenTokenizer
from pipeline.tokenizers.sentencepiece_model import SentencePieceTokenizer
from pipeline.tokenizers.tables import BYTE_LETTERS

SAMPLE = 100_000_000
# GPT-2's pattern, which the trainer has built in: a word with the space before it, numbers, ...
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


def train_bpe(train_text, vocab_size=4096, backend="auto"):
    """A byte-level BPE of up to vocab_size ids, of which <|endoftext|> is the last.

    train_text: an iterable of strings; a small text can give fewer ids. The package tokenizers
    trains it, tiktoken encodes with it.
    """
    package = optional("tokenizers", "--method bpe")
    import tiktoken
    if vocab_size < 257:
        raise UserError(f"--vocab_size {vocab_size} is below 257: 256 bytes and <|endoftext|>")
    level = package.pre_tokenizers.ByteLevel
    model = package.Tokenizer(package.models.BPE())
    model.pre_tokenizer = level(add_prefix_space=False)
    trainer = package.trainers.BpeTrainer(
        vocab_size=vocab_size - 1, initial_alphabet=level.alphabet(), show_progress=False)
    model.train_from_iterator(_sample(train_text), trainer)
    byte_of = {letter: byte for byte, letter in enumerate(BYTE_LETTERS)}
    in_merge_order = sorted(model.get_vocab().items(), key=lambda item: item[1])
    tokens = [bytes(byte_of[c] for c in token) for token, _ in in_merge_order]
    ids = {}
    for token in [*(bytes([i]) for i in range(256)), *tokens]:
        ids.setdefault(token, len(ids))
    end = {"<|endoftext|>": len(ids)}
    encoding = tiktoken.Encoding("bpe", pat_str=PATTERN, mergeable_ranks=ids, special_tokens=end)
    return TiktokenTokenizer("bpe", encoding, backend=backend, kind="bpe")


def train_sentencepiece(train_text, vocab_size=4096):
    """A SentencePiece BPE model of vocab_size tokens, with bytes for the characters that it lacks.

    It normalizes nothing. train_text: an iterable of strings.
    """
    sentencepiece = optional("sentencepiece", "--method sentencepiece")
    model, failed = io.BytesIO(), []

    def lines():
        try:
            for text in _sample(train_text):
                yield from (line[:4000] for line in text.split("\n") if line)
        except Exception as error:  # the trainer would make a RuntimeError of it, with a traceback
            failed.append(error)
            raise
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines(), model_writer=model, vocab_size=vocab_size, model_type="bpe",
            byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False,
            remove_extra_whitespaces=False, user_defined_symbols=["\n"], bos_id=-1, eos_id=1,
            eos_piece="<|endoftext|>", max_sentence_length=1 << 16, character_coverage=0.9995,
            num_threads=1, minloglevel=2)
    except RuntimeError as error:
        if failed:
            raise failed[0] from None
        raise UserError(f"sentencepiece cannot train {vocab_size:,} tokens on this text: "
                        f"{str(error)[-200:]!r}") from None
    return SentencePieceTokenizer(model.getvalue())


def _sample(train_text, size=1_000_000):
    """The first SAMPLE characters of the text, in strings of up to `size`."""
    left = SAMPLE
    for text in train_text:
        for start in range(0, min(left, len(text)), size):
            yield text[start : min(left, start + size)]
        if (left := left - len(text)) <= 0:
            return
