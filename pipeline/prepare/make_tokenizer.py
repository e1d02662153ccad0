"""The tokenizer of a --method: one that is known, or made of the text, or trained on it.

BPE and SentencePiece are trained on the text of the train split alone, on its first SAMPLE characters: more changes
little, and the counts of all words must fit into memory. Both packages are optional.
"""
import io
import itertools
from pathlib import Path

from pipeline.errors import UserError, optional
from pipeline.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    SentencePieceTokenizer,
    TiktokenTokenizer,
    TokenList,
    read_json,
)

METHODS = ("char", "byte", "tiktoken", "custom", "sentencepiece", "bpe")
SAMPLE = 100_000_000
# GPT-2's, which the trainer has built in: words with the space before them, numbers, punctuation, white space
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


def make_tokenizer(method, *texts, tiktoken_encoding="gpt2", backend="auto", additional_tokens_file=None,
                   tokens_file=None, byte_fallback=False, spm_model_file=None, vocab_size=4096, train_text=None, document_end="\n"):
    """The tokenizer of a --method. texts: all the text (char needs it); train_text: train's, for those that are trained."""
    if method == "char":
        return CharTokenizer.from_text(*texts, document_end=document_end)
    if method == "byte":
        return ByteTokenizer()
    if method == "custom":
        return TokenList.from_file(tokens_file, byte_fallback)
    if method == "sentencepiece" and spm_model_file:
        return SentencePieceTokenizer(Path(spm_model_file).read_bytes())
    if method in ("sentencepiece", "bpe"):
        return (train_bpe if method == "bpe" else train_sentencepiece)(train_text, vocab_size, backend)
    additional = read_json(additional_tokens_file) if additional_tokens_file else None
    if additional is not None and not isinstance(additional, dict):
        raise UserError(f"{additional_tokens_file} must hold a JSON object, token: id")
    return TiktokenTokenizer(tiktoken_encoding, backend=backend, additional_tokens=additional)


def train_bpe(train_text, vocab_size, backend="auto"):
    """A byte-level BPE of up to vocab_size ids, <|endoftext|> the last; trained by `tokenizers`, encoded by tiktoken.

    train_text: an iterable of strings. A small text can give fewer ids than asked for.
    """
    tokenizers = optional("tokenizers", "--method bpe")
    import tiktoken
    if vocab_size < 257:
        raise UserError(f"--vocab_size is {vocab_size}; bpe has the 256 bytes and <|endoftext|>, so 257 and more")
    level = tokenizers.pre_tokenizers.ByteLevel
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = level(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocab_size - 1, initial_alphabet=level.alphabet(),
                                             show_progress=False)
    model.train_from_iterator(_sample(train_text), trainer)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]  # the trainer writes these bytes as themselves,
    stand_ins = {chr(256 + i): byte for i, byte in enumerate(b for b in range(256) if b not in printable)}
    byte_of = {chr(b): b for b in printable} | stand_ins  # and the others, in order, as the characters from U+0100 on
    tokens = [bytes(byte_of[c] for c in token) for token, _ in sorted(model.get_vocab().items(), key=lambda t: t[1])]
    ranks = {bytes([i]): i for i in range(256)}
    for token in tokens:  # in the order of the merges, which is that of the ranks
        ranks.setdefault(token, len(ranks))
    encoding = tiktoken.Encoding("bpe", pat_str=PATTERN, mergeable_ranks=ranks,
                                 special_tokens={"<|endoftext|>": len(ranks)})
    return TiktokenTokenizer("bpe", encoding, backend=backend, kind="bpe")


def train_sentencepiece(train_text, vocab_size, backend=None):
    """A SentencePiece BPE model of vocab_size pieces, bytes for the characters it lacks; nothing is normalized."""
    sentencepiece = optional("sentencepiece", "--method sentencepiece")
    model, failed = io.BytesIO(), []

    def lines():
        try:
            yield from (line[:4000] for piece in _sample(train_text) for line in piece.split("\n") if line)
        except Exception as error:  # it makes a RuntimeError of it, with a traceback for a message
            failed.append(error)
            raise
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines(), model_writer=model, vocab_size=vocab_size, model_type="bpe", byte_fallback=True,
            normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
            user_defined_symbols=["\n"], bos_id=-1, eos_id=1, eos_piece="<|endoftext|>", max_sentence_length=1 << 16,
            character_coverage=0.9995, num_threads=1, minloglevel=2)
    except RuntimeError as error:
        if failed:
            raise failed[0] from None
        raise UserError(f"sentencepiece cannot train {vocab_size:,} pieces on this text: {str(error)[-200:]!r}") from None
    return SentencePieceTokenizer(model.getvalue())


def _sample(train_text):
    """The first SAMPLE characters, in pieces of up to a million."""
    left = SAMPLE
    for piece in itertools.chain.from_iterable(
            (text[i : i + 1_000_000] for i in range(0, len(text), 1_000_000)) for text in train_text):
        if left <= 0:
            return
        yield piece[:left]
        left -= len(piece)
