"""A conversation with a model, turn by turn, in the terminal or from a pipe (sample.py --chat).

    converse(model, metas, starts, training_mode, args, device)

Each line of the user is a turn. The conversation is written as the layout that meta.pkl names has
it, from the beginning each time, so that its ids are those that prepare.py would give.
"""
import sys

import torch

from pipeline.chats import ids_of, layout_of
from pipeline.errors import UserError
from pipeline.tokenizers import Marker
from training.samples import (
    GrowingText,
    choose_vocabulary,
    note,
    vocabularies_of,
    without_cudnn_attention,
)


def lines_of_user():
    """The lines of the user, up to an empty one, /exit, or the end of the input."""
    if sys.stdin is None:
        raise UserError("--chat reads the turns from standard input, which is closed")
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        note("an empty line, /exit or Ctrl-D ends the conversation")
    while True:
        try:
            line = input("> ") if is_terminal else input()
        except EOFError:
            print(end="\n" if is_terminal else "")
            return
        if line.strip() in ("", "/exit"):
            return
        yield line


@without_cudnn_attention()
def converse(model, metas, starts, training_mode, args, device):
    """Print an answer to each line of the user, token by token. The arguments are speak()'s.

    An answer ends with its turn, or where a document ends, or after args.max_new_tokens. Where the
    context lacks room for half of it, the oldest turns are left out, and a note says so once.
    """
    if training_mode == "multicontext":
        raise UserError("--chat is for a single stream, and this is a run of aligned streams")
    vocabulary = choose_vocabulary(vocabularies_of(model.config, metas, starts), args.dataset,
                                   "this is a conversation in the vocabulary of")
    if not (layout := layout_of(vocabulary.meta)):
        raise UserError(f"the data of this run, {vocabulary.name}, are no conversations, so its "
                        f"model knows no turns. Prepare rows of chats with --chat_layout (plain or "
                        f"chatml), and train on them; or leave --chat out")
    messages, dropped = [], False
    options = dict(temperature=args.temperature, top_k=args.top_k or None, top_p=args.top_p,
                   generator=torch.Generator(device).manual_seed(args.seed))
    block_size = model.config.block_size
    most = block_size - min(args.max_new_tokens, block_size // 2)  # tokens of a prompt
    for line in lines_of_user():
        messages.append({"role": "user", "content": line})
        try:
            prompt = prompt_of(vocabulary, layout, messages)
            while len(prompt) > most and len(messages) > 1:
                if not dropped:
                    note(f"the conversation has {len(prompt):,} tokens, and the model's context is "
                         f"{block_size:,}: from here on its oldest turns are left out")
                messages, dropped = messages[2:], True
                prompt = prompt_of(vocabulary, layout, messages)
        except UserError as error:  # a character that the vocabulary lacks
            note(f"{error}. The model knows only what its dataset contained")
            messages.pop()
            continue
        if len(prompt) > most:
            note(f"this turn has {len(prompt):,} tokens: the model reads its last {most:,}")
        answer = ""
        for text in answer_to(prompt[-most:], model, vocabulary, layout, options, args):
            print(text, end="", flush=True)
            answer += text
        print(flush=True)
        messages.append({"role": "assistant", "content": answer})


def prompt_of(vocabulary, layout, messages):
    """The ids of the turns so far and of what stands before an answer. They begin as a document
    does in train.bin: after the end of another one."""
    return [vocabulary.start, *ids_of(layout.prompt(messages), vocabulary.tokenizer)]


def answer_to(prompt, model, vocabulary, layout, options, args):
    """Yield the text of an answer as its tokens come. prompt: ids."""
    tokenizer, ends = vocabulary.tokenizer, layout.ends_of_answer(vocabulary.tokenizer)
    stop = "" if isinstance(layout.end, Marker) else layout.end
    most = min(args.max_new_tokens, model.config.block_size - len(prompt))

    def choose(logits):
        return vocabulary.sample(logits, options)[:, None] + vocabulary.first
    idx = torch.tensor([prompt], device=options["generator"].device) + vocabulary.first
    growing, text, shown = GrowingText(tokenizer), "", 0
    for new in model.generate_tokens(idx, most, choose):
        token = new.item() - vocabulary.first
        if token in ends:
            break
        growing.add(token)
        text = str(growing)
        if stop and (at := text.find(stop)) >= 0:
            yield text[shown:at]
            return
        # hold back half a character, and what may yet become the end of the turn
        ready = max(shown, len(text.rstrip("\ufffd")) - len(stop or " ") + 1)
        yield text[shown:ready]
        shown = ready
    yield text[shown:]
