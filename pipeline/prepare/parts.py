r"""Documents of which only some text is to be learned, such as the answers among questions.

Such a document is a list of parts, (text, learned), in order:

    [("Q: 2 + 2?\nA: ", False), ("4", True)]     one text, encoded as if it were a plain string
    [(Marker("<|im_start|>"), False), ("user\nHi", False), (Marker("<|im_end|>"), False), ...]
"""

from pipeline.tokenizers import Marker, plain_text

__all__ = ["Marker", "plain_text"]
