"""
MNIST as text: each digit, then its picture in ten lines of ten characters. The aligned streams
mnist_row, mnist_column and mnist_abs say where in its picture each character is.

$ bash data/mnist/get_dataset.sh
"""
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path[:0] = [str(HERE.parents[1]), os.getcwd()]  # the repo root, where `pipeline` is
from data.mnist.pictures import alphabet, read_idx, text_of
from pipeline.prepare import (
    CharTokenizer,
    dataset_parser,
    one_line_errors,
    web_files,
    write_dataset,
)

AT = "https://storage.googleapis.com/cvdf-datasets/mnist/"
IDX = [(f"{AT}train-images-idx3-ubyte.gz", 9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
       (f"{AT}train-labels-idx1-ubyte.gz", 28_881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
       (f"{AT}t10k-images-idx3-ubyte.gz", 1_648_877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
       (f"{AT}t10k-labels-idx1-ubyte.gz", 4_542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6")]


def stream(folder, doc, name):
    """Write one of the four streams. All read the files in data/mnist/downloads."""
    args = dataset_parser(doc, tokenizer=None).parse_args()
    arrays = [read_idx(path) for path in web_files(HERE, args, *IDX)]
    train, val = text_of(name, *arrays[:2]), text_of(name, *arrays[2:])
    write_dataset(folder, train, CharTokenizer(alphabet(name)), val_text=val,
                  source=f"{AT}: {name}")


def main():
    stream(HERE, __doc__, "picture")


if __name__ == "__main__":
    with one_line_errors():
        main()
