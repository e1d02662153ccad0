r"""
NAME: a text -> train.bin, val.bin, meta.pkl, beside this file.

    python data/NAME/prepare.py                             # input.txt, one token a character
    python data/NAME/prepare.py -t corpus.txt               # another text file
    python data/NAME/prepare.py -t a.txt -v b.txt           # a validation text of its own
    python data/NAME/prepare.py --method tiktoken -e gpt2   # GPT-2's tokens
    python data/NAME/prepare.py -t "*.jsonl.gz" --text_template "Q: {question}\nA: {answer}"
    python data/NAME/prepare.py -t chats.jsonl --chat_layout plain      # learn the answers
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, which holds `pipeline`
from pipeline.prepare import (  # not found? start this file in the folder of the repository
    one_line_errors,
    parse_args,
    read_inputs,
    tokenizer_of,
    write_dataset,
    write_options,
)


def main():
    args = parse_args(__doc__, HERE)

    # 1) read the text; val_text is None without -v
    text, val_text = read_inputs(args)
    # edit it as a list of strings; a list of one string is one text, a longer one is documents:
    # text = [t.lower() for t in text]
    # text = [t.strip() for t in text if "<html" not in t]
    # text = [paragraph for t in text for paragraph in t.split("\n\n")]
    # or read something else, such as a folder of files, each of which is a document:
    # from pipeline.prepare import read_text
    # text, val_text = [read_text(path) for path in sorted((HERE / "texts").glob("*.txt"))], None

    # 2) make stoi and itos, the vocabulary
    tokenizer = tokenizer_of(args, text, val_text)
    # or use your own, any object with encode, decode and itos, such as words:
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

    # 3) tokenize, 4) split into train and val, 5) save train.bin and val.bin, 6) save meta.pkl
    write_dataset(HERE, text, tokenizer, val_text=val_text, **write_options(args))


if __name__ == "__main__":
    with one_line_errors():
        main()
