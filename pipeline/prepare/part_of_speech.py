"""The part of speech of each word of a text, as an aligned stream of one symbol a character.

    prepare_part_of_speech(folder, doc, text_of)   everything that such a stream's prepare.py does
    write_part_of_speech(folder, text_of)          data/<text_of>, prepared by characters -> folder

Two optional packages can tell: spacy with its model en_core_web_sm, else textblob.

A character has the letter of its word's part of speech, as in PARTS; a punctuation mark counts as
a word. Newlines stay, and so does a space after a word; other blanks become _. Characters that the
tagger takes for nothing become x.
"""
import importlib.metadata
import importlib.util
import re

import numpy as np

from pipeline.errors import UserError, optional
from pipeline.prepare.recipes import dataset_parser
from pipeline.prepare.streams import ensure_prepared, open_characters, write_symbols
from pipeline.tokenizers import codes_of

# the universal parts of speech (universaldependencies.org/u/pos)
NAMES = "ADJ ADP ADV AUX CONJ CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X"
PARTS = dict(zip(NAMES.split(), "abcdefghijklmnopqr"))
ALPHABET = sorted({*PARTS.values(), "\n", " ", "_", "x"})
MODEL = "en_core_web_sm"
PIECE = 100_000  # characters tagged at once; a piece ends at the end of a line


def prepare_part_of_speech(folder, doc, text_of):
    """Everything that such a stream's prepare.py does; it prepares the text first if need be."""
    parser = dataset_parser(doc, tokenizer=None, download=False)
    told = f"auto: spacy if it and its model {MODEL} are installed, else textblob (default: auto)"
    parser.add_argument("--tagger", choices=["auto", *TAGGERS], default="auto", help=told)
    args = parser.parse_args()
    ensure_prepared(text_of)
    write_part_of_speech(folder, text_of, args.tagger)


def write_part_of_speech(folder, text_of, tagger="auto"):
    """Write the stream of the prepared data/<text_of> into folder. Each split is tagged by itself.

    The key `stream` of meta.pkl holds the tagger with its versions, the text's name and hashes,
    and `annotation` in the place of `map`: since a word's part depends on letters to come,
    sample.py cannot compute it. Raises UserError.
    """
    text, tokenizer = open_characters(text_of)
    if tagger == "auto":
        tagger = "spacy" if all(map(importlib.util.find_spec, ("spacy", MODEL))) else "textblob"
    tag, tagger = TAGGERS[tagger]()
    id_of = np.zeros(128, dtype=np.uint8)
    id_of[[ord(symbol) for symbol in ALPHABET]] = range(len(ALPHABET))

    def arrays(split):
        for piece in _pieces(tokenizer.decode(ids) for ids in text.chunks(split)):
            yield id_of[codes_of(symbols_of(piece, tag(piece)))]

    made = {"annotation": "part_of_speech", "tagger": tagger}
    what = f"part_of_speech by {tagger['name']} {tagger['version']}"
    return write_symbols(folder, text, ALPHABET, arrays, made, what)


def _pieces(blocks):
    """Strings -> the same text in strings of about PIECE characters, cut after a newline if any."""
    held = ""
    for block in blocks:
        held += block
        while len(held) > PIECE:
            cut = held.rfind("\n\n", 0, PIECE) + 2
            cut = cut if cut > 1 else held.rfind("\n", 0, PIECE) + 1 or PIECE
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


def symbols_of(text, words):
    """A string of symbols as long as text. words: (begin, end, letter) of each word or mark."""
    symbols = list(re.sub(r"\S", "x", text))
    for begin, end, letter in words:
        symbols[begin:end] = letter * (end - begin)
    for blank in re.finditer(r"\s", text):
        at = blank.start()
        after_word = at and not text[at - 1].isspace()
        symbols[at] = "\n" if blank[0] == "\n" else " " if blank[0] == " " and after_word else "_"
    return "".join(symbols)


# ---- the taggers: each returns a function, text -> (begin, end, letter), and its own description


def _spacy():
    spacy = optional("spacy", "--tagger spacy")
    try:
        nlp = spacy.load(MODEL, exclude=["parser", "ner"])
    except OSError:
        raise UserError(f"--tagger spacy needs its model {MODEL}. Run: python -m spacy download "
                        f"{MODEL}") from None

    def tag(text):
        for token in nlp(text):
            if not token.is_space:
                yield token.idx, token.idx + len(token), PARTS.get(token.pos_, "x")

    made_by = {"name": "spacy", "version": spacy.__version__}
    return tag, {**made_by, "model": MODEL, "model_version": nlp.meta["version"]}


# textblob's own tokenizer does not say where in the text a word stands
TOKEN = re.compile(r"""
    n't\b | [^\W\d_]+(?=n't\b)                                     # do n't
    | (?!(?:you|she|they|who|that)')[^\W\d_]{3,}'d\b              # vex'd
    | '(?i:s|ll|re|ve|d|m|em|gainst)\b | '[tT](?=(?:is|was|were|will|would)\b)    # he 'll, 't is
    | [^\W\d_]+(?:'(?!(?:s|ll|re|ve|d|m)\b)[^\W\d_]+)?            # o'er
    | \d(?:[\d.,]*\d)? | \S                                       # 1,000; each mark by itself
    """, re.VERBOSE)
# a universal part of speech: the tags of the Penn treebank that have it
UNIVERSAL = """
    ADJ: JJ JJR JJS; ADP: IN RP; ADV: RB RBR RBS; SCONJ: WRB; AUX: MD; CCONJ: CC; DET: DT PDT WDT;
    INTJ: UH; NOUN: NN NNS; NUM: CD; PART: TO POS; PRON: PRP PRP$ WP WP$ EX; PROPN: NNP NNPS;
    SYM: SYM $ #; VERB: VB VBD VBG VBN VBP VBZ; X: FW LS"""
PENN = {tag: part for part, tags in re.findall(r"(\w+): ([^;]+)", UNIVERSAL)
        for tag in tags.split()}
AUXILIARY = """be am is are was were been being art wert 'm 're have has had having hath hast hadst
    do does did doth dost didst""".split()
SUBORDINATING = """if that because while whilst although though unless whether lest since
    till""".split()


def _textblob():
    optional("textblob", "--tagger textblob (the default if spacy is not installed)")
    from textblob.en.taggers import PatternTagger  # with the lexicon that the package contains

    def tag(text):
        tokens = list(TOKEN.finditer(text))
        # textblob takes sentences in lines; the first word of each may have a capital
        split = "".join(t[0] + ("\n" if t[0] in ".?!:" else " ") for t in tokens)[:-1]
        tags = [tag for _, tag in PatternTagger().tag(split, tokenize=False)]
        for token, tag in zip(tokens, tags):
            yield *token.span(), PARTS[part_of(token[0], tag)]

    return tag, {"name": "textblob", "version": importlib.metadata.version("textblob")}


def part_of(word, tag):
    """The universal part of speech of a word or mark that has a tag of the Penn treebank."""
    lower = word.lower()
    if not any(map(str.isalnum, word)):
        return "SYM" if word in "$#%&+=<>@^~|" else "PUNCT"
    if lower in AUXILIARY or word == "'s" and tag == "VBZ":
        return "AUX"
    if lower in ("not", "n't"):
        return "PART"
    return "SCONJ" if tag == "IN" and lower in SUBORDINATING else PENN.get(tag, "X")


TAGGERS = {"spacy": _spacy, "textblob": _textblob}
