r"""Layouts of conversations: which text and which special tokens stand around what each role says.

    layout_named(name)              a Layout; LAYOUTS has all of them
    layout.parts(messages)          the document of a conversation: a list of (text, learned)
    layout.prompt(messages)         the same, and the header after which the assistant answers
    layout.template                 the same as the Jinja text that other programs read
    messages_of(row)                the conversation in a row of a table
    ids_of(parts, tokenizer)        their ids

What the assistant says is learned, with the end of its turn, by which it stops. A message is a dict
of role and content. prepare.py, sample.py --chat and export.py read the layouts here, so that all
three write a conversation alike.
"""
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from pipeline.errors import UserError, printable
from pipeline.tokenizers import Marker, tokenizer_meta

ROLES = ("system", "user", "assistant", "tool")
SHAREGPT = {"human": "user", "gpt": "assistant"}  # what rows with `conversations` call them


@dataclass(frozen=True)
class Layout:
    """A turn is: start, the role, after_role, the content, end, after_end. Each is a text, or the
    name of a special token (a Marker)."""
    name: str
    start: str
    after_role: str
    end: str  # with this the assistant ends its turn
    after_end: str

    @property
    def markers(self):
        """The names of the special tokens that the layout needs."""
        return [name for name in (self.start, self.end) if isinstance(name, Marker)]

    def header(self, role):
        return [(self.start, False), (role + self.after_role, False)]

    def parts(self, messages):
        """Messages -> [(text or Marker, learned), ...]."""
        found = []
        for message in messages:
            learned = message["role"] == "assistant"
            found += [*self.header(message["role"]), (message["content"], learned),
                      (self.end, learned), (self.after_end, False)]
        return found

    def prompt(self, messages):
        return self.parts(messages) + self.header("assistant")

    def end_id(self, tokenizer):
        """The id that ends a turn; None where a text does."""
        return tokenizer.markers[self.end] if isinstance(self.end, Marker) else None

    def ends_of_answer(self, tokenizer):
        """The ids at which an answer is over: the end of a document, or of the turn, or another."""
        ends = [tokenizer.eot_token, self.end_id(tokenizer)]
        ends += [tokenizer.markers[name] for name in self.markers]
        return [i for i in dict.fromkeys(ends) if i is not None]

    @property
    def template(self):
        """Jinja, as `chat_template` of transformers and llama.cpp has it."""
        start, after_role, end = map(_in_jinja, (self.start, self.after_role,
                                                 f"{self.end}{self.after_end}"))
        return (f"{{% for message in messages %}}{{{{ {start} + message['role'] + {after_role} + "
                f"message['content'] + {end} }}}}{{% endfor %}}{{% if add_generation_prompt %}}"
                f"{{{{ {start} + 'assistant' + {after_role} }}}}{{% endif %}}")


def _in_jinja(text):
    return "'" + text.replace("\n", "\\n") + "'"


LAYOUTS = {layout.name: layout for layout in (
    Layout("plain", "[", "]\n", "\n[end]", "\n"),  # text that any tokenizer takes
    Layout("chatml", Marker("<|im_start|>"), "\n", Marker("<|im_end|>"), "\n"))}


def layout_named(name):
    if name not in LAYOUTS:
        raise UserError(f"the chat layout {printable(str(name))!r} is unknown; the layouts are "
                        f"{', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def layout_of(meta):
    """The layout of the conversations that a meta.pkl (its dict) is about, or None. Raises
    UserError where its tokenizer lacks what the layout needs."""
    if not meta.get("chat_layout"):
        return None
    layout = layout_named(meta["chat_layout"])
    if missing := {*layout.markers} - {*(meta.get("special_tokens") or {})}:
        raise UserError(f"meta.pkl names the chat layout {layout.name}, and its tokenizer has no "
                        f"{min(missing)}. Prepare the dataset again, with --chat_layout")
    return layout


def settings_of(meta, tokenizer):
    """What other programs are told of the layout: three dicts, for tokenizer_config.json, for
    generation_config.json and for GGUF, which are empty where there is none."""
    if not (layout := layout_of(meta)):
        return {}, {}, {}
    template, end = {"chat_template": layout.template}, layout.end_id(tokenizer)
    if end is None:  # their lists of ends hold ids alone
        return template, {}, template
    ends = {"eos_token_id": layout.ends_of_answer(tokenizer)}
    return template, ends, {**template, "eot_token_id": end}  # of a turn, which llama.cpp means


def with_markers_of(layout, tokenizer):
    """The tokenizer with the special tokens of a layout, for texts in which nobody can write them.
    Raises UserError where it can have none."""
    if hasattr(tokenizer, "with_markers"):
        try:
            return tokenizer.with_markers(layout.markers)
        except UserError as error:
            raise UserError(f"--chat_layout {layout.name}: {error}. Use --chat_layout "
                            f"plain") from None
    if layout.markers:
        raise UserError(f"--chat_layout {layout.name} needs special tokens ({layout.markers[0]}), "
                        f"and the tokenizer {tokenizer_meta(tokenizer)['tokenizer']} has none. Add "
                        f"--method tiktoken or bpe, or --tokenizer_of MODEL; or use --chat_layout "
                        f"plain")
    return tokenizer


def ids_of(parts, tokenizer):
    """Parts -> a list of ids. Parts of text that stand side by side are encoded as one text."""
    ids = []
    for is_marker, some in groupby(parts, lambda part: isinstance(part[0], Marker)):
        texts = [text for text, _ in some]
        if is_marker:
            ids += [tokenizer.markers[name] for name in texts]
        elif text := "".join(texts):
            ids += np.asarray(tokenizer.encode(text)).tolist()
    return ids


# ---- rows


class BadChat(ValueError):
    """What is wrong with a row that should hold a conversation."""


def messages_of(row):
    """[{"role", "content"}, ...] of a row, a dict: its column messages (as OpenAI and most sets
    have it), conversations (as ShareGPT has it), or prompt and completion. Raises BadChat, with
    what is wrong, for anything else."""
    if row.get("messages") is not None:
        messages = _listed(row["messages"], "messages", "role", "content")
    elif row.get("conversations") is not None:
        messages = _listed(row["conversations"], "conversations", "from", "value")
        messages = [(SHAREGPT.get(str(role), role), content) for role, content in messages]
    elif row.get("prompt") is not None and "completion" in row:
        messages = [("user", row["prompt"]), ("assistant", row["completion"])]
    else:
        if empty := [name for name in ("messages", "conversations", "prompt") if name in row
                     and row[name] is None]:
            raise BadChat(f"its column {empty[0]} holds nothing (null)")
        raise BadChat("it has no column messages, conversations, or prompt and completion (its "
                         f"columns: {printable(', '.join(map(str, row)), 200)})")
    for number, (role, content) in enumerate(messages, 1):
        if role not in ROLES:
            raise BadChat(f"message {number:,} is of the role {printable(repr(role), 40)}; it "
                             f"must be {', '.join(ROLES[:-1])} or {ROLES[-1]}")
        if not isinstance(content, str):
            raise BadChat(f"the content of message {number:,} ({role}) is "
                             f"{printable(repr(content), 40)}, not text")
    if "assistant" not in dict(messages):
        raise BadChat("it has no message of the assistant, from which a model would learn")
    return [{"role": role, "content": content} for role, content in messages]


def _listed(given, column, role, content):
    """The pairs (role, content) in a column, which is a list of dicts."""
    if not isinstance(given, (list, tuple)):
        raise BadChat(f"its {column} are {printable(repr(given), 40)}, not a list")
    for number, message in enumerate(given, 1):
        if not isinstance(message, dict):
            raise BadChat(f"message {number:,} is {printable(repr(message), 40)}, not an object")
        for key in (role, content):
            if key not in message:
                raise BadChat(f"message {number:,} has no {key!r} (it has "
                                 f"{printable(', '.join(map(str, message)), 100)})")
    return [(message[role], message[content]) for message in given]
