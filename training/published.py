"""Weights that were made elsewhere -> a GPT: what --init_from names, beside scratch and resume.

    source = open_source(name, ranks)     its sizes and tokenizers; no weights are read yet
    source.refuse_other_tokens(mixture)   UserError where its ids mean something else in the data
    source.model(config, args, ranks)     a GPT with its weights
    load_named(name)                      the model itself, with what sampling needs

A name is one of GPT-2's four, the owner/name of a model of the Hugging Face hub, a checkpoint of
train.py or of nanoGPT's, or a folder: that of a run (with best.pt or ckpt.pt), or of a published
model (with config.json). layouts.py says which models can be read, and pipeline/get/models.py how
they are fetched. Reading their files needs the package safetensors.

Tokens that a dataset has in addition to those of the model get new rows in embedding and head. They
begin as the mean of the rows that the model has. By Jensen's inequality the old tokens' loss then
grows by at most ln(1 + new / old) nats. Measured, with 5 new tokens beside 65: by 0.002, and
by 0.011 with rows of zeros in the head, which a new model of --arch modern has.
"""
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from model import GPT, GPTConfig
from pipeline.errors import UserError, optional, printable
from pipeline.tokenizers import (
    TiktokenTokenizer,
    as_bytes,
    hash_of_table,
    published_table,
    read_json,
    table_hash,
    tokenizer_from_meta,
    tokenizer_meta,
)
from train_args import GPT2
from training.checkpoint import (
    best_checkpoint,
    checked,
    config_of,
    empty_model,
    is_nanogpts,
    load_run,
    read_values,
    take_state,
    vocab_sizes_of,
)
from training.layouts import config_of_json, published_views
from training.nanogpt import TABLES, nanogpt_weights
from training.plan import memory_line
from training.run_folder import near_run

# the hash of the id -> token table of tiktoken's gpt2
GPT2_TOKENS = "f1573bd1679edbb0d65b9edd171f5d26199d5d84cb6f4ee1819e1f77ccaab9ec"
# tensors of published files that are no weights: masks, and frequencies of rotary positions
NO_WEIGHTS = re.compile(r".*(\.attn\.(masked_)?bias|\.rotary_emb\.inv_freq)")


@dataclass
class Source:
    """A model to begin with. Its block_size is the number of positions that it has."""
    name: str
    config: GPTConfig
    tables: list  # of each vocabulary: {id: token}, or None if unknown, or GPT2_TOKENS
    files: object = None  # the ModelFiles of a published model
    weights: dict = field(default=None, repr=False)  # those of a run
    notes: list = field(default_factory=list)  # what is to be said before the run
    # of each vocabulary: the ids that the model has tokens for, and those that get new rows
    known: list = field(default_factory=list)
    new: list = field(default_factory=list)

    def sizes(self):
        """What parse_args() takes its sizes from."""
        return {**asdict(self.config), "is_run": self.files is None}

    def model(self, config, args, ranks):
        """A GPT with the weights, on the device of a rank. With --plan a line says what memory it
        takes, no weights are read, and those of the model are random."""
        for line in self.notes:
            ranks.say(f"note: {line}")
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
        """Copy the weights into a GPT, whose block_size may be shorter, and whose vocabularies may
        be larger. Raises UserError."""
        if self.files:
            load_published(model, self.files, self.config.vocab_size)
        else:
            held, sizes = self.weights, [vocab_sizes_of(vars(c)) for c in
                                         (self.config, model.config)]
            if model.config.arch == "gpt2":  # a shorter context uses the first positions
                name = "transformer.wpe.weight"
                held[name] = held[name][: model.config.block_size]
            for name in TABLES:
                if len(held[name]) != len(model.lm_head.weight) or sizes[0] != sizes[1]:
                    held[name] = moved_rows(held[name], *sizes)
            take_state({"model": held}, self.name, model)
            self.weights = None
        fill_new_rows(model, self.known, self.new)

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
        for number, (dataset, table) in enumerate(zip(mixture.datasets, self.tables)):
            sizes[number] = self._rows(dataset, table, sizes[number])
        return sizes

    def _rows(self, dataset, table, size):
        """How many rows a vocabulary of `size` rows must have for a dataset. Notes which are new.
        """
        if self.files is None and table is None:  # nanoGPT's; the rows beyond its ids are padding
            padding, new, why = size - dataset.vocab_size, [], ""
            fits = padding == 0 or 0 < padding < 128 and size % 64 == 0
            size = dataset.vocab_size if fits else size
        elif table is None:
            fits, new, why = dataset.vocab_size <= size, [], ""
        else:
            new, why = new_ids(table, dataset.meta, size)
            fits, new = not why, sorted({*new, *range(size, dataset.vocab_size)})
        if not fits:
            kind = dataset.meta.get("tiktoken_encoding") or dataset.meta.get("tokenizer")
            raise UserError(
                f"{dataset.folder} was prepared with another tokenizer ({kind or 'custom'}, "
                f"{dataset.vocab_size:,} ids) than --init_from {self.name} has ({size:,} "
                f"ids){why}. {self._remedy(dataset)}")
        self.known.append([i for i in (table if isinstance(table, dict) else range(size))])
        self.new.append(new)
        if new:
            self.notes.append(
                f"{dataset.name} has more tokens than {self.name}: ids {new[0]:,} to {new[-1]:,} "
                f"({len(new):,} new). Their rows in embedding and head begin as the mean of the "
                f"other {len(self.known[-1]):,}")
        return max(size, dataset.vocab_size)

    def _remedy(self, dataset):
        again = f"Prepare it again: python {dataset.folder}/prepare.py"
        if self.name in GPT2:
            return (f"{again} --method tiktoken (a dataset of the hub has --tokenizer gpt2 "
                    f"instead), or use --dataset=shakespeare")
        if self.files:
            return f"{again} --tokenizer_of {self.name}"
        return f"{again} --reuse_vocab_of NAME, with the name of the dataset of that run"


def new_ids(table, meta, size):
    """(the ids that the tokenizer of a meta.pkl has in addition to a table of a Source, words on
    where the two differ, or ""). size: of the model's vocabulary."""
    if table == GPT2_TOKENS:  # of which nothing but the hash is known
        own = own_table(meta)
        cut = {i: token for i, token in own.items() if i < size}
        return [i for i in own if i >= size], (
            "" if table_hash(cut) == table else f". Its first {size:,} tokens are others")
    if hash_of_table(meta) == table_hash(table):
        return [], ""
    own = own_table(meta)
    for i in sorted(table):
        if i not in own or as_bytes(own[i]) != as_bytes(table[i]):
            ours = f"is {own[i]!r:.40}" if i in own else "has no token"
            return [], (f". The first id that differs is {i:,}, which {ours} in the data and "
                        f"{table[i]!r:.40} in the model")
    return sorted(own.keys() - table.keys()), ""


def own_table(meta):
    """{id: token} of the tokenizer that a meta.pkl (its dict) describes."""
    if "table_sha256" in meta:  # then it was compared with its itos
        return meta["itos"]
    return tokenizer_meta(tokenizer_from_meta(meta))["itos"]


def open_source(name, ranks=None):
    """The Source that --init_from names. What is to be downloaded for that, rank 0 downloads."""
    path = best_checkpoint(Path(name))
    if name not in GPT2 and path.exists():
        values, instead = read_values(path, mapped=True)
        if not is_nanogpts(values):
            held = checked(values, instead, path)
            tables = [own_table(meta) for meta in held["metas"].values()]
            return Source(name, config_of(held, path), tables, weights=held["model"])
        weights, config = nanogpt_weights(values, path)
        trained_on = values["config"].get("dataset") if type(values["config"]) is dict else None
        return Source(name, config, [None], weights=weights, notes=[
            f"{name} is of nanoGPT's train.py, which keeps no tokenizer (its dataset was "
            f"{printable(str(trained_on))}), so nobody can tell whether its tokenizer made the "
            f"data"])
    if name not in GPT2 and Path(name).is_dir() and not (Path(name) / "config.json").exists():
        near = near_run(Path(name))
        raise UserError(f"{name} holds neither a run (ckpt.pt, best.pt) nor a published model "
                        f"(config.json){f'. Did you mean {near}?' if near else ''}")
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
        table = published_table(path.read_text(encoding="utf-8"), path)
    elif not table:
        say = ranks.say if ranks else print
        say(f"note: {name} has no tokenizer.json, so nobody can tell whether its tokenizer made "
            f"the data")
    return Source(name, config_of_json(held, found["config.json"]), [table], files=files)


def moved_rows(table, sizes, new_sizes):
    """The rows of several vocabularies, one after the other, where each has another size now."""
    new = table.new_zeros(-(-sum(new_sizes) // 64) * 64, table.size(1))
    for part, room in zip(table[: sum(sizes)].split(sizes),
                          new[: sum(new_sizes)].split(new_sizes)):
        room[: len(part)] = part[: len(room)]
    return new


@torch.no_grad()
def fill_new_rows(model, known, new):
    """Set the rows of new ids to the mean of the known ones, in each vocabulary."""
    first = 0
    for size, ids, added in zip(vocab_sizes_of(vars(model.config)), known, new):
        for table in (model.transformer.wte.weight, model.lm_head.weight) if added else ():
            rows = table[first : first + size]
            rows[added] = rows[ids].mean(0)
        first += size


@torch.no_grad()
def load_published(model, files, vocab_size):
    """Copy the tensors of safetensors files into a GPT, one at a time. vocab_size: the rows of
    their tables, of which the GPT may have more. Raises UserError."""
    safetensors = optional("safetensors", f"--init_from {files.name}")
    config, again = model.config, "Put it there again, as it was published"
    if files.repo:
        again = "Delete it and run the same command again"
    for table in (model.transformer.wte.weight, model.lm_head.weight):
        table[vocab_size:] = 0  # the padding rows
    views = published_views(replace(config, vocab_size=vocab_size), model.state_dict())
    wanted = dict.fromkeys(views)  # name: the file in which it was found
    for path in files.weights():
        try:
            with safetensors.safe_open(path, "pt") as file:
                for name in file.keys():
                    own = name if name in views else f"transformer.{name}"  # GPT-2's lack it
                    if own in views:
                        _copy(file.get_tensor(name), views[own], f"{path}: {name}", config, own)
                        wanted[own] = path
                    elif not NO_WEIGHTS.fullmatch(name) and name != "lm_head.weight":
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
