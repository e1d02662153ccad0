"""MNIST's files -> text, 112 characters a picture: a line with the digit, then ten lines of ten.

    picture            the digit, then a character for the darkness of each cell: @%#*+-:.
    row, column, abs   `_` in place of the digit, then a character for the number of each cell's
                       row, its column, or itself
"""
import gzip
import string
import zlib

import numpy as np

from pipeline.errors import UserError

LARGEST = 1 << 26  # bytes of an unpacked file; the training pictures are 47 MB
SIDE, LEVELS = 10, "@%#*+-:."
NUMBERS = [*string.digits, *string.ascii_uppercase, *string.ascii_lowercase,
           *map(chr, range(0x100, 0x126))]  # 0 to 99, one character each
PLACES = {"row": lambda row, column: row, "column": lambda row, column: column,
          "abs": lambda row, column: row * SIDE + column}


def alphabet(stream):
    """All characters that can occur in a stream, sorted."""
    if stream == "picture":
        return sorted({"\n", *LEVELS, *string.digits})
    return sorted({"\n", "_", *NUMBERS[: SIDE * SIDE if stream == "abs" else SIDE]})


def read_idx(path):
    """A .gz file of MNIST -> uint8: (n, rows, columns) for pictures, (n,) for digits."""
    try:
        with gzip.open(path) as file:
            raw = file.read(LARGEST)
        num_axes = raw[3]
        shape = np.frombuffer(raw, dtype=">i4", count=num_axes, offset=4)
        return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * num_axes).reshape(shape)
    except (OSError, EOFError, zlib.error, IndexError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}). Delete it and run the same command "
                        f"again") from None


def shrink(images):
    """(n, h, w) uint8 -> (n, SIDE, SIDE) steps of 0 to 7: the mean of each cell, by area.

    All sums are whole numbers, so that the text is the same on every machine.
    """
    def weights(size):  # (SIDE, size): how many SIDE-ths of each pixel are in each cell
        cells = np.arange(size * SIDE).reshape(size, SIDE) // size  # the cell of each SIDE-th
        return np.stack([(cells == cell).sum(1) for cell in range(SIDE)]).astype(np.float64)
    num, height, width = images.shape
    steps = np.empty((num, SIDE, SIDE), dtype=np.int64)
    for at in range(0, num, 1000):  # float64 is exact here, and fast
        sums = weights(height) @ images[at : at + 1000] @ weights(width).T
        steps[at : at + 1000] = sums.astype(np.int64) * len(LEVELS) // (256 * height * width)
    return steps


def text_of(stream, images, digits):
    """images: (n, h, w) uint8, digits: (n,) uint8 -> n * 112 characters of the stream."""
    codes = np.full((len(images), SIDE + 1, SIDE + 1), ord("\n"), dtype="<u4")
    if stream == "picture":
        codes[:, 1:, :SIDE] = np.array([ord(c) for c in LEVELS])[shrink(images)]
    else:
        place = PLACES[stream](*np.indices((SIDE, SIDE)))
        codes[:, 1:, :SIDE] = np.array([ord(c) for c in NUMBERS])[place]
    codes[:, 0, SIDE - 1] = ord("0") + digits if stream == "picture" else ord("_")
    return codes.reshape(len(images), -1)[:, SIDE - 1 :].tobytes().decode("utf-32-le")
