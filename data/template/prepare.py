r"""
NAME: a text -> train.bin, val.bin, meta.pkl, beside this file.

    python data/NAME/prepare.py                             # input.txt beside this file, one token a character
    python data/NAME/prepare.py -t corpus.txt               # another text file
    python data/NAME/prepare.py -t a.txt -v b.txt           # a validation text of its own
    python data/NAME/prepare.py --method tiktoken -e gpt2   # GPT-2's tokens
    python data/NAME/prepare.py -t "rows/*.jsonl.gz" --text_template "Q: {question}\nA: {answer}" --method tiktoken
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from pipeline.prepare import (
    inputs,
    one_line_errors,
    parse_args,
    tokenizer_of,
    write_dataset,
    writing,
)


def main():
    args = parse_args(__doc__, HERE)

    # 1) read the text: one text, or documents (several files, or the rows of tables); val_text is None without -v
    text, val_text = inputs(args)
    # edited, for example (a list of one string is one text, cut in two):
    # text = [t.lower() for t in text]
    # text = [t.strip() for t in text if "<html" not in t]
    # text = [paragraph for t in text for paragraph in t.split("\n\n")]
    # or read otherwise, for example from a folder of files, a document each:
    # text, val_text = [read_text(path) for path in sorted((HERE / "texts").glob("*.txt"))], None

    # 2) make stoi and itos, the vocabulary
    tokenizer = tokenizer_of(args, text, val_text)
    # or your own, any object with encode, decode and itos; here words, and the characters between them:
    # class Words:
    #     def __init__(self, text):
    #         self.itos = sorted(set(self.split(text)))
    #         self.stoi = {word: i for i, word in enumerate(self.itos)}
    #     def split(self, text):
    #         import re
    #         return re.findall(r"\w+|\W", text)
    #     def encode(self, text):
    #         return [self.stoi[word] for word in self.split(text)]
    #     def decode(self, ids):
    #         return "".join(self.itos[i] for i in ids)
    # tokenizer = Words("".join(text) + "".join(val_text or ""))

    # 3) tokenize, 4) split into train and val, 5) save train.bin and val.bin, 6) save meta.pkl: all of it, or nothing
    write_dataset(HERE, text, tokenizer, val_text=val_text, **writing(args))


if __name__ == "__main__":
    with one_line_errors():
        main()
