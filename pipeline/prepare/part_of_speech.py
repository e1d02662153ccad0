"""The part of speech of each word of a text, one symbol a character, by one of two taggers.

    prepare_part_of_speech(folder, doc, text_of)   all of such a stream's prepare.py
    write_part_of_speech(folder, args, text_of)    data/<text_of>, a folder of characters, -> the folder of the stream

    spacy     the package spacy with its model en_core_web_sm, where both are installed
    textblob  the lexicon and the rules of Brill's tagger, data that the package textblob carries; fetched from the
              package index, and neither installed nor run

The characters of a word have the letter of its part of speech, as in PARTS; so have those of punctuation. A newline
stays; a space behind a word stays; any other blank is _; what no tagger took for anything is x.
"""
import functools
import importlib.util
import re

import numpy as np

from pipeline.errors import UserError, optional
from pipeline.files import read_text
from pipeline.prepare.recipes import arguments, package
from pipeline.prepare.streams import get_text, open_text, write_symbols
from pipeline.tokenizers import codes_of

PARTS = dict(zip("ADJ ADP ADV AUX CONJ CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split(),
                 "abcdefghijklmnopqr"))
ALPHABET = sorted({*PARTS.values(), "\n", " ", "_", "x"})
MODEL = "en_core_web_sm"
TEXTBLOB = ("textblob==0.20.1", "f957699169a3e7b9a03a504883111b7b6973679496b9af959db2f74ee2449977")
PIECE = 100_000  # characters tagged at once; cut at a line's end


def part_of_speech_args(doc):
    """The command line of a prepare.py for such a stream."""
    parser = arguments(doc, tokenizer=None)
    parser.add_argument("--tagger", choices=["auto", *TAGGERS], default="auto",
                        help=f"who tells (default: auto, spacy where it and its model {MODEL} are installed)")
    return parser.parse_args()


def prepare_part_of_speech(folder, doc, text_of):
    """All of such a stream's prepare.py; a text that is not prepared yet is got first."""
    args = part_of_speech_args(doc)
    get_text(text_of)
    write_part_of_speech(folder, args, text_of)


def write_part_of_speech(folder, args, text_of):
    """Write the parts of speech of the prepared folder data/<text_of> into folder, as long as the text in both splits.

    args: those of part_of_speech_args(). The key `stream` of meta.pkl holds `annotation` (not `map`: a word's part
    depends on letters that come later), the tagger with its versions, the text's name and hashes. Each split is tagged
    by itself. Raises UserError.
    """
    text, tokenizer = open_text(text_of)
    name = args.tagger
    if name == "auto":
        name = "spacy" if all(map(importlib.util.find_spec, ("spacy", MODEL))) else "textblob"
    tag, tagger = TAGGERS[name](folder, args)
    id_of = np.zeros(128, dtype=np.uint8)
    id_of[[ord(symbol) for symbol in ALPHABET]] = range(len(ALPHABET))

    def arrays(split):
        for piece in _pieces(tokenizer.decode(ids) for ids in text.chunks(split)):
            yield id_of[codes_of(symbols_of(piece, tag(piece)))]

    return write_symbols(folder, text, ALPHABET, arrays, {"annotation": "part_of_speech", "tagger": tagger},
                         what=f"part_of_speech by {tagger['name']} {tagger['version']}")


def _pieces(blocks):
    """Strings -> strings of about PIECE characters, cut behind a newline where there is one."""
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
    """The symbol of each character, a string as long as text. words: (where it begins, where it ends, its letter)."""
    symbols = list(re.sub(r"\S", "x", text))
    for begin, end, letter in words:
        symbols[begin:end] = letter * (end - begin)
    for blank in re.finditer(r"\s", text):
        at = blank.start()
        behind_word = at and not text[at - 1].isspace()
        symbols[at] = "\n" if blank[0] == "\n" else " " if blank[0] == " " and behind_word else "_"
    return "".join(symbols)


# ---- spaCy


def _spacy(folder, args):
    spacy = optional("spacy", "--tagger spacy")
    try:
        nlp = spacy.load(MODEL, exclude=["parser", "ner"])
    except OSError:
        raise UserError(f"--tagger spacy needs its model {MODEL}. Run: python -m spacy download {MODEL}") from None

    def tag(text):
        return [(token.idx, token.idx + len(token), PARTS.get(token.pos_, "x")) for token in nlp(text)
                if not token.is_space]

    return tag, {"name": "spacy", "version": spacy.__version__, "model": MODEL, "model_version": nlp.meta["version"]}


# ---- the rules of Brill's tagger

TOKEN = re.compile(r"""
    n't\b | [^\W\d_]+(?=n't\b)                                     # do n't
    | (?!(?:you|she|they|who|that)')[^\W\d_]{3,}'d\b              # vex'd
    | '(?i:s|ll|re|ve|d|m|em|gainst)\b | '[tT](?=(?:is|was|were|will|would)\b)    # he 'll, 't is
    | [^\W\d_]+(?:'(?!(?:s|ll|re|ve|d|m)\b)[^\W\d_]+)?            # o'er
    | \d(?:[\d.,]*\d)? | \S                                       # 1,000; each mark by itself
    """, re.VERBOSE)
PENN = {  # the tags of the Penn treebank -> universal ones
    **dict.fromkeys(["JJ", "JJR", "JJS"], "ADJ"), **dict.fromkeys(["IN", "RP"], "ADP"),
    **dict.fromkeys(["RB", "RBR", "RBS"], "ADV"), "WRB": "SCONJ", "MD": "AUX", "CC": "CCONJ",
    **dict.fromkeys(["DT", "PDT", "WDT"], "DET"), "UH": "INTJ", **dict.fromkeys(["NN", "NNS"], "NOUN"), "CD": "NUM",
    **dict.fromkeys(["TO", "POS"], "PART"), **dict.fromkeys(["PRP", "PRP$", "WP", "WP$", "EX"], "PRON"),
    **dict.fromkeys(["NNP", "NNPS"], "PROPN"), **dict.fromkeys(["SYM", "$", "#"], "SYM"),
    **dict.fromkeys(["VB", "VBD", "VBG", "VBN", "VBP", "VBZ"], "VERB"), **dict.fromkeys(["FW", "LS"], "X")}
OLD_WORDS = {  # and some that the lexicon has otherwise
    **dict.fromkeys("thy Thy thine Thine mine Mine".split(), "PRP$"), **dict.fromkeys("O Ay ay".split(), "UH"),
    **dict.fromkeys("shalt mayst wouldst couldst shouldst canst".split(), "MD"), "dost": "VBP", "hadst": "VBD",
    "'t": "PRP", "'T": "PRP", "'em": "PRP", "'gainst": "IN", "o'er": "IN", "ne'er": "RB", "e'er": "RB", "e'en": "RB"}
BE = frozenset("be am is are was were been being art wert 'm 're".split())
HAVE_DO = frozenset("have has had having hath hast hadst do does did doth dost didst".split())
SUBORDINATING = frozenset("if that because while whilst although though unless whether lest since till".split())
CLOSED = ("IN", "DT", "PRP", "PRP$", "CC", "MD", "WP", "WDT", "TO")  # tags of words that are no nouns, verbs, adjectives
NEAR = {  # the arguments of a rule: the tags (t) or words (w) that they are compared with, any of them, by distance
    "PREVTAG": "t-1", "PREV2TAG": "t-2", "PREV1OR2TAG": "t-1-2", "PREV1OR2OR3TAG": "t-1-2-3", "PREVBIGRAM": "t-2 t-1",
    "NEXTTAG": "t+1", "NEXT2TAG": "t+2", "NEXT1OR2TAG": "t+1+2", "NEXTBIGRAM": "t+1 t+2", "SURROUNDTAG": "t-1 t+1",
    "CURWD": "w+0", "PREVWD": "w-1", "NEXTWD": "w+1", "PREV1OR2WD": "w-1-2", "LBIGRAM": "w-1 w+0", "RBIGRAM": "w+0 w+1",
    "WDAND2AFT": "w+0 w+2", "WDAND2TAGAFT": "w+0 t+2", "WDAND2TAGBFR": "t-2 w+0", "WDNEXTTAG": "w+0 t+1",
    "WDPREVTAG": "t-1 w+0"}


class Brill:
    """Brill's tagger (1992): the likeliest tag of each word, then rules that correct it by the words and tags nearby.

    folder: with en-lexicon.txt, en-morphology.txt and en-context.txt.
    """

    def __init__(self, folder):
        def rows(name):
            lines = read_text(folder / name).split("\n")
            return [row for line in lines if not line.startswith(";;;") and len(row := line.split()) > 1]
        self.lexicon = {word: tags.split("|")[0] for word, tags, *_ in rows("en-lexicon.txt")} | OLD_WORDS
        # "NN s fhassuf 1 NNS x": a noun in -s; "ly hassuf 2 RB x": anything in -ly. Those on neighbours are left out
        self.morphology = [(row[0] if row[2][0] == "f" else None, *(row[1:3] if row[2][0] == "f" else row[:2]), row[-2])
                           for row in rows("en-morphology.txt") if "good" not in row[1] + row[2]]
        self.context = [(old, new, NEAR[where].split(), near) for old, new, where, *near in rows("en-context.txt")
                        if old not in CLOSED or new in CLOSED or new in ("RB", "RP")]
        self.context += [("TO", "IN", ["t+1"], [tag]) for tag in "DT PRP PRP$ NNP NN NNS JJ CD WP".split()]
        self.first_tag = functools.lru_cache(1 << 16)(self.first_tag)

    def first_tag(self, word):
        """The tag of a word by itself."""
        if tag := self.lexicon.get(word):
            return tag
        if word.endswith("'d"):  # as in "vex'd"
            return self.first_tag(word[:-2] + "ed")
        tag = "NNP" if word[0].isupper() else "CD" if word[0].isdigit() else "NN" if word[0].isalpha() else "."
        for only, part, rule, new in self.morphology:
            if only in (None, tag) and self._applies(word, part, rule.removeprefix("f")):
                tag = new
        return tag

    def _applies(self, word, part, rule):
        return (rule == "hassuf" and word.endswith(part) or rule == "haspref" and word.startswith(part)
                or rule == "char" and part in word or rule == "addsuf" and word + part in self.lexicon
                or rule == "addpref" and part + word in self.lexicon
                or rule == "deletesuf" and word.endswith(part) and word.removesuffix(part) in self.lexicon
                or rule == "deletepref" and word.startswith(part) and word.removeprefix(part) in self.lexicon)

    def tags(self, words):
        """The tag of each word or mark of a text, given in their order."""
        found = [self.first_tag(word) for word in words]
        for i, (word, before) in enumerate(zip(words, ["."] + words)):
            if before in ".?!:" and word != "I":  # a capital that only tells where the word stands
                found[i] = self.lexicon.get(word.lower(), found[i])
        codes = {name: code for code, name in enumerate(dict.fromkeys(["", *words, *found, *(r[1] for r in self.context)]))}
        edge = [0, 0, 0]
        near = {kind: np.array(edge + [codes[x] for x in what] + edge) for kind, what in (("w", words), ("t", found))}
        tags = near["t"]
        for old, new, where, wanted in self.context:
            at = np.flatnonzero(tags == codes.get(old, -1))
            for place, what in zip(where, wanted):
                code = codes.get(what, -1)
                at = at[np.any([near[place[0]][at + int(far)] == code for far in re.findall(r"[-+]\d", place)], axis=0)]
            tags[at] = codes[new]
        names = list(codes)
        return [names[code] for code in tags[3:-3].tolist()]


def _brill(folder, args):
    requirement, sha256 = TEXTBLOB
    brill = Brill(package(folder, args, requirement, sha256) / "textblob/en")

    def tag(text):
        tokens = list(TOKEN.finditer(text))
        parts = map(part_of, (token[0] for token in tokens), brill.tags([token[0] for token in tokens]))
        return [(token.start(), token.end(), PARTS[part]) for token, part in zip(tokens, parts)]

    name, version = requirement.split("==")
    return tag, {"name": name, "version": version, "sha256": sha256}


def part_of(word, tag):
    """The universal part of speech, one of PARTS, of a word or mark with a tag of the Penn treebank."""
    lower = word.lower()
    if not any(map(str.isalnum, word)):
        return "SYM" if word in "$#%&+=<>@^~|" else "PUNCT"
    if lower in BE or lower in HAVE_DO or word == "'s" and tag == "VBZ":
        return "AUX"
    if lower in ("not", "n't"):
        return "PART"
    return "SCONJ" if tag == "IN" and lower in SUBORDINATING else PENN.get(tag, "X")


TAGGERS = {"spacy": _spacy, "textblob": _brill}
