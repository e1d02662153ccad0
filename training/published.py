"""Weights that were made elsewhere -> a GPT: what --init_from names, beside scratch and resume.

    source = open_source(name, ranks)     its sizes and tokenizers; no weights are read yet
    source.refuse_other_tokens(mixture)   UserError where its ids mean something else in the data
    source.model(config, args, ranks)     a GPT with its weights
    load_named(name)                      the model itself, with what sampling needs

A name is one of GPT-2's four, the owner/name of a model of the Hugging Face hub, or a folder: that
of a run (with best.pt or ckpt.pt), or of a published model (with config.json). layouts.py says
which models can be read, and pipeline/get/models.py how they are fetched. Reading the files needs
the package safetensors.
"""
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from model import GPT, GPTConfig
from pipeline.errors import UserError, optional, printable
from pipeline.tokenizers import (
    TiktokenTokenizer,
    hash_of_table,
    published_table,
    read_json,
    table_hash,
)
from train_args import GPT2
from training.checkpoint import (
    best_checkpoint,
    empty_model,
    load_run,
    read_run,
    take_state,
    vocab_sizes_of,
)
from training.layouts import config_of_json, published_views
from training.plan import memory_line

# the hash of the id -> token table of tiktoken's gpt2
GPT2_TOKENS = "f1573bd1679edbb0d65b9edd171f5d26199d5d84cb6f4ee1819e1f77ccaab9ec"
# tensors of published files that are no weights: masks, and frequencies of rotary positions
TABLES = re.compile(r".*(\.attn\.(masked_)?bias|\.rotary_emb\.inv_freq)")


@dataclass
class Source:
    """A model to begin with. Its block_size is the number of positions that it has."""
    name: str
    config: GPTConfig
    tables: list  # of each vocabulary: the hash of its id -> token table, or None if unknown
    files: object = None  # the ModelFiles of a published model
    checkpoint: dict = field(default=None, repr=False)  # of a run

    def model(self, config, args, ranks):
        """A GPT with the weights, on the device of a rank. With --plan a line says what memory it
        takes, no weights are read, and those of the model are random."""
        if config.block_size > self.config.block_size:  # of rotary positions there is no end
            ranks.say(f"note: --block_size {config.block_size:,} is beyond the "
                      f"{self.config.block_size:,} positions that {self.name} was trained on")
        if args.plan:
            ranks.say(memory_line(config, args, self, ranks.device))
            return GPT(config).to(ranks.device)
        if self.files:
            ranks.from_first(self.files.weights)  # downloads them, and the others wait
        model = empty_model(config, ranks.device)
        self.load(model)
        return model

    def load(self, model):
        """Copy the weights into a GPT, whose block_size may be shorter. Raises UserError."""
        if self.checkpoint:
            held = self.checkpoint["model"]
            if model.config.arch == "gpt2":  # a shorter context uses the first positions
                name = "transformer.wpe.weight"
                held[name] = held[name][: model.config.block_size]
            take_state(self.checkpoint, self.name, model)
            self.checkpoint = None
        else:
            load_published(model, self.files)

    def download_size(self):
        """The bytes of weights that are still to be downloaded."""
        return self.files.weights_to_download() if self.files else 0

    def refuse_other_tokens(self, mixture):
        """Raise UserError if the ids of a mixture do not mean what they mean to the model.

        Returns the sizes of its vocabularies: a table may have more rows than its tokenizer ids.
        """
        sizes = vocab_sizes_of(vars(self.config))
        metas = list(mixture.metas.values())
        if len(metas) != len(sizes):
            raise UserError(f"--init_from {self.name} has {len(sizes)} vocabularies, and the data "
                            f"has {len(metas)}. Name the datasets of that run, in their order")
        for dataset, table, size in zip(mixture.datasets, self.tables, sizes):
            kind = dataset.meta.get("tiktoken_encoding") or dataset.meta.get("tokenizer")
            if table not in (None, hash_of_table(dataset.meta)) or dataset.vocab_size > size:
                raise UserError(
                    f"{dataset.folder} was prepared with another tokenizer ({kind or 'custom'}, "
                    f"{dataset.vocab_size:,} ids) than --init_from {self.name} has ({size:,} "
                    f"ids). {self._remedy(dataset)}")
        return sizes

    def _remedy(self, dataset):
        again = f"Prepare it again: python {dataset.folder}/prepare.py"
        if self.name in GPT2:
            return (f"{again} --method tiktoken (a dataset of the hub has --tokenizer gpt2 "
                    f"instead), or use --dataset=shakespeare")
        if self.files:
            return f"{again} --tokenizer_of {self.name}"
        return f"{again} --reuse_vocab_of NAME, with the name of the dataset of that run"


def open_source(name, ranks=None):
    """The Source that --init_from names. What is to be downloaded for that, rank 0 downloads."""
    if name not in GPT2 and best_checkpoint(Path(name)).exists():
        _, checkpoint, config = read_run(Path(name))
        tables = [hash_of_table(meta) for meta in checkpoint["metas"].values()]
        return Source(name, config, tables, checkpoint=checkpoint)
    if name not in GPT2 and Path(name).is_dir() and not (Path(name) / "config.json").exists():
        raise UserError(f"{name} holds neither a run (ckpt.pt, best.pt) nor a published model "
                        f"(config.json)")
    from pipeline.get.models import ModelFiles  # here, since most runs never download
    files = ModelFiles(name)
    optional("safetensors", f"--init_from {name}")
    small = ["config.json"] if name in GPT2 else ["config.json", "tokenizer.json"]
    fetch = ranks.from_first if ranks else lambda make: make()
    found = {path.name: path for path in fetch(lambda: files.get(*small))}
    if "config.json" not in found:
        raise UserError(f"{files.repo or files.folder} has no config.json, which tells the sizes "
                        f"of a model")
    held, table = read_json(found["config.json"]), GPT2_TOKENS if name in GPT2 else None
    if not isinstance(held, dict):
        raise UserError(f"{found['config.json']} is damaged: it holds no JSON object")
    if path := found.get("tokenizer.json"):
        table = table_hash(published_table(path.read_text(encoding="utf-8"), path))
    elif not table:
        say = ranks.say if ranks else print
        say(f"note: {name} has no tokenizer.json, so nobody can tell whether its tokenizer made "
            f"the data")
    return Source(name, config_of_json(held, found["config.json"]), [table], files=files)


@torch.no_grad()
def load_published(model, files):
    """Copy the tensors of safetensors files into a GPT, one at a time. Raises UserError."""
    safetensors = optional("safetensors", f"--init_from {files.name}")
    config, again = model.config, "Put it there again, as it was published"
    if files.repo:
        again = "Delete it and run the same command again"
    for table in (model.transformer.wte.weight, model.lm_head.weight):
        table[config.vocab_size :] = 0  # the padding rows
    views = published_views(config, model.state_dict())
    wanted = dict.fromkeys(views)  # name: the file in which it was found
    for path in files.weights():
        try:
            with safetensors.safe_open(path, "pt") as file:
                for name in file.keys():
                    own = name if name in views else f"transformer.{name}"  # GPT-2's lack it
                    if own in views:
                        _copy(file.get_tensor(name), views[own], f"{path}: {name}", config, own)
                        wanted[own] = path
                    elif not TABLES.fullmatch(name) and name != "lm_head.weight":
                        raise UserError(f"{path} holds {printable(name)}, for which model.py has "
                                        f"no place")
        except safetensors.SafetensorError as error:
            raise UserError(f"{path} is damaged, or no safetensors file ({error}). "
                            f"{again}") from None
    if missing := [name for name, path in wanted.items() if path is None]:
        raise UserError(f"{files.folder} is not complete: its files lack {missing[0]}"
                        f"{f' and {len(missing) - 1:,} more' if missing[1:] else ''}. Delete them "
                        f"and get them again")


def _copy(tensor, view, place, config, name):
    """Copy a published tensor into the view of ours; bfloat16 becomes float32, which is exact."""
    if name.endswith(".wpe.weight"):
        tensor = tensor[: len(view)]  # a shorter context uses the first positions
    if tensor.shape != view.shape:
        raise UserError(f"{place} has {tuple(tensor.shape)} weights, and config.json tells of "
                        f"{tuple(view.shape)}. Delete both files and get them again")
    if not tensor.is_floating_point() or tensor.element_size() < 2:
        raise UserError(f"{place} has numbers of {tensor.dtype}, which is a quantized format. Take "
                        f"a model in float32, float16 or bfloat16")
    if not torch.stack(tensor.aminmax()).isfinite().all():  # both are NaN if one number is
        raise UserError(f"{place} has numbers that are not finite")
    if not config.bias and name.endswith(".bias") and tensor.any():
        raise UserError(f"{place} is not zero. model.py has biases only with the tanh formula of "
                        f"GELU, and config.json asks for the exact one")
    view.copy_(tensor)


def load_named(name):
    """What load_run() gives, of whatever --init_from names."""
    if name not in GPT2 and best_checkpoint(Path(name)).exists():
        return load_run(Path(name))
    source = open_source(name)
    tokenizer = TiktokenTokenizer("gpt2", backend="tiktoken") if name in GPT2 else (
        source.files.tokenizer())
    model = empty_model(source.config)
    source.load(model)
    return model, {name: tokenizer.to_meta()}, None, "single"
