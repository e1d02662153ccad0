"""The published weights of GPT-2 -> a GPT, for --init_from=gpt2 (-medium, -large, -xl) of train.py and sample.py.

The file (0.5, 1.5, 3.2, 6.4 GB) comes once from https://huggingface.co/openai-community/<name> into
out/pretrained/<name>/model.safetensors, checked by the hash that the hub states; one put there by hand will do. HF_ENDPOINT,
HF_TOKEN and proxies: see pipeline/get/addresses.py. Reading it needs the package safetensors.
"""
from pathlib import Path

import torch

from model import GPT, GPTConfig
from pipeline.errors import UserError, optional
from pipeline.get.addresses import hub_endpoint
from pipeline.get.download import DownloadError, RemoteFile, download_all
from pipeline.get.hub import hub_tree, unexpected_answer
from pipeline.tokenizers import hash_of_table
from train_args import GPT2, GPT2_BLOCK_SIZE

GPT2_TOKENS = "f1573bd1679edbb0d65b9edd171f5d26199d5d84cb6f4ee1819e1f77ccaab9ec"  # table_hash() of tiktoken's gpt2


def fetch(name):
    """The path of the published file, downloaded first where it is not there. Raises UserError."""
    path, repo = Path("out/pretrained") / name / "model.safetensors", f"openai-community/{name}"
    if path.exists():
        return path  # a download gets this name once its hash is checked
    api = f"{hub_endpoint()}/api/models/{repo}/tree/main"
    try:
        stated = {entry["path"]: entry for entry in hub_tree(api)}[path.name]
        url = f"{hub_endpoint()}/{repo}/resolve/main/{path.name}"
        download_all([RemoteFile(url, path, stated["size"], stated["digest"])], path.parent)
    except KeyError as error:
        raise unexpected_answer(api, error) from None
    except DownloadError as error:
        raise UserError(f"{error}. Or get {path.name} of https://huggingface.co/{repo} by other means, and put it into "
                        f"{path.parent}/") from None
    return path


@torch.no_grad()
def load_gpt2(model, name):
    """Copy the published weights into a GPT of those sizes; its block_size may be shorter. Raises UserError."""
    safetensors = optional("safetensors", f"--init_from {name}")
    path = fetch(name)
    again = "Delete it and run the same command again"
    try:
        with safetensors.safe_open(path, "pt") as file:
            prefix = "transformer." if "transformer.wte.weight" in file.keys() else ""
            for part, p in model.transformer.named_parameters():
                weight = file.get_tensor(prefix + part)
                if part.startswith("h.") and weight.dim() == 2:
                    weight = weight.T  # stored (in, out)
                if part == "wpe.weight":
                    weight = weight[: len(p)]
                if part == "wte.weight":
                    p[model.config.vocab_size :] = 0  # the padding rows
                    p = p[: model.config.vocab_size]
                if weight.shape != p.shape:
                    raise UserError(f"{path} is not the file of {name}: {part} has {tuple(weight.shape)} weights, expected "
                                    f"{tuple(p.shape)}. {again}")
                p.copy_(weight)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged, or not the file of {name} ({error}). {again}") from None


def published_gpt2(name):
    """The published model, on the CPU."""
    with torch.device("meta"):  # where no weights are drawn, which takes longer than reading them
        model = GPT(GPTConfig(**GPT2[name], block_size=GPT2_BLOCK_SIZE))
    model.to_empty(device="cpu")
    model.lm_head.weight = model.transformer.wte.weight  # which to_empty() has parted
    load_gpt2(model, name)
    return model


def refuse_other_tokens(dataset, name):
    """UserError where the ids of a dataset do not mean what they meant to GPT-2."""
    meta = dataset.meta
    if hash_of_table(meta) != GPT2_TOKENS:
        kind = meta.get("tiktoken_encoding") or meta.get("tokenizer") or "its own"
        raise UserError(f"{dataset.folder} has the tokens of another tokenizer ({kind}, {dataset.vocab_size:,} ids) than "
                        f"--init_from {name} (gpt2, 50,257 ids). Prepare it with that one: python "
                        f"{dataset.folder}/prepare.py --method tiktoken (or --tokenizer gpt2, see --help), or take "
                        f"--dataset=shakespeare")
