"""A trained model in Python, for notebooks and scripts.

    >>> from training.use import load
    >>> model = load("out/mydata")        # a run's folder, or published weights: load("gpt2")
    >>> model.losses("To be, or not")     # (13,) in nats, of each token; NaN for the first
    >>> model.logits("To be, or not")     # (13, ids) of what may follow each token
    >>> model.embeddings("To be, or not") # (13, n_embd), what the last layer makes of each token
    >>> model.generate("To be, or not", max_new_tokens=50)
    ' to look'

docs/python.md has an example of each.
"""
from pathlib import Path

import numpy as np
import torch

from model import GPT
from pipeline.errors import UserError
from pipeline.read.texts import Tokens
from train_args import GPT2
from training.checkpoint import best_checkpoint, empty_model, read_run, take_state
from training.device import pick_device
from training.published import load_named
from training.samples import choose_vocabulary, vocabularies_of
from training.scoring import score, slices_of


def load(name, device="auto", dataset=None):
    """The LoadedModel that `name`, a string, means: the folder of a run, a checkpoint, or published
    weights as --init_from names them.

    device: auto, cpu, cuda, mps. dataset: of a run with --multidataset_wte, whose vocabulary is
    used. Raises UserError or FileNotFoundError, whose message says what to do.
    """
    name, path = str(name), Path(name)
    # a folder of published weights has a config.json; the owner/name of a model of the hub looks
    # like a path, but its owner is no folder here
    is_run = not (path / "config.json").exists() and (
        path.exists() or best_checkpoint(path).exists() or path.parent.is_dir())
    return LoadedModel(name, is_run and name not in GPT2, pick_device(device), dataset)


class LoadedModel:
    """A model, its tokenizer, and where they are from.

    model: the GPT, in evaluation mode. vocabularies: of each dataset or stream that has its own.
    checkpoint: that of a run without its tensors, a dict, and its path; else None.
    """

    def __init__(self, name, is_run, device, dataset=None):
        self.name, self.device, self.checkpoint, self.path = name, device, None, None
        self._dataset = dataset
        if is_run:
            path, checkpoint, config = read_run(Path(name))
            model, metas = empty_model(config), checkpoint["metas"]
            take_state(checkpoint, path, model)
            starts = checkpoint.get("starts")
            self.checkpoint = {key: value for key, value in checkpoint.items()
                               if key not in ("model", "optimizer")}
            self.path, mode = path, checkpoint["args"]["training_mode"]
        else:
            model, metas, starts, mode = load_named(name)
        self.model: GPT = model.eval().to(device).requires_grad_(False)
        self.vocabularies = vocabularies_of(model.config, metas, starts)
        self.slices, self.has_streams = slices_of(model.config), mode == "multicontext"

    @property
    def args(self):
        """The arguments of a run, a dict; of published weights an empty one."""
        return self.checkpoint["args"] if self.checkpoint else {}

    def vocabulary(self):
        """The Vocabulary that texts are in. Raises UserError for aligned streams."""
        if self.has_streams:
            raise UserError(f"{self.name} is a run of aligned streams "
                            f"({', '.join(v.name for v in self.vocabularies)}), and a text alone "
                            f"is one stream. Evaluate it on its own data: python evaluate.py "
                            f"--out_dir={self.name}")
        return choose_vocabulary(self.vocabularies, self._dataset, "this is the vocabulary of")

    @property
    def tokenizer(self):
        """It has encode(text) -> ids, and decode(ids) -> text."""
        return self.vocabulary().tokenizer

    def tokens(self, text):
        """The text of each token, a list; bytes that are half a character become U+FFFD."""
        return [self.tokenizer.decode([i]) for i in self.ids(text).tolist()]

    def ids(self, text):
        """(n,) int64: the ids of a text, as the tokenizer has them."""
        return np.asarray(self.tokenizer.encode(text)).astype(np.int64)

    def losses(self, text):
        """(n,) float32: of each token the loss in nats, minus the logarithm of its probability. It
        is NaN for the first token, which nothing predicts."""
        found = [scores.losses for scores in self.scores(text)]
        return np.concatenate(found) if found else np.zeros(0, np.float32)

    def scores(self, text, likeliest=0):
        """Yield the Scores of a text (training/scoring.py): also ranks, and the likeliest tokens
        instead."""
        ids = self.ids(text)
        ones, vocabulary = np.ones(len(ids), np.int64), self.vocabulary()
        tokens = Tokens(ids, ones, ones, ones > 0, np.arange(len(ids)) == 0)
        return score(self.model, [tokens] if len(ids) else [], self.slice_of(vocabulary),
                     likeliest=likeliest)

    def slice_of(self, vocabulary):
        return [self.slices[self.vocabularies.index(vocabulary)]]

    def logits(self, text):
        """(n, ids) float32 tensor: of each token the logits of what may follow. Their softmax gives
        probabilities. Of a text longer than the context, each is as in losses()."""
        (first, size), = self.slice_of(self.vocabulary())
        head = self.model.lm_head.weight[first : first + size]
        return (self.embeddings(text) @ head.T).float()

    @torch.inference_mode()
    def embeddings(self, text):
        """(n, n_embd) float32 tensor: what the last layer makes of each token, after the norm, from
        which the head computes the logits."""
        (first, _), = self.slice_of(self.vocabulary())
        ids, found = torch.from_numpy(self.ids(text) + first).to(self.device), []
        block_size, done, start = self.model.config.block_size, 0, 0
        while done < len(ids):  # windows that advance as those of score() do
            stop = min(start + block_size, len(ids))
            x = self.model.transformer.ln_f(self.model.blocks(ids[None, start:stop]))
            found.append(x[0, done - start :].float())
            done, start = stop, start + max(1, block_size // 2)
        width = self.model.config.n_embd
        return torch.cat(found) if found else torch.zeros(0, width, device=self.device)

    def generate(self, prompt="", max_new_tokens=100, *, seed=None, **options):
        """The text with which the model continues the prompt, a string; it ends where a document
        does. options: temperature, top_k and top_p of sample_token() (model.py). seed: the same
        seed gives the same text (default: another text each time)."""
        vocabulary, rows = self.vocabulary(), []
        prompt = vocabulary.encode_prompt(prompt, "the prompt")
        generator = torch.Generator(self.device)
        generator.manual_seed(seed) if seed is not None else generator.seed()
        options = {"temperature": 0.8, "top_k": 200, **options, "generator": generator}

        def choose(logits):
            return vocabulary.sample(logits, options)[:, None] + vocabulary.first
        idx = torch.tensor([prompt], device=self.device) + vocabulary.first
        for new in self.model.generate_tokens(idx, max_new_tokens, choose):
            if (token := int(new) - vocabulary.first) == vocabulary.tokenizer.eot_token:
                break
            rows.append(token)
        # decoded together, since half a character may end the prompt
        before = vocabulary.tokenizer.decode(prompt)
        return vocabulary.tokenizer.decode(prompt + rows)[len(before) :]
