"""GPT-2's published weights -> a GPT, for --init_from=gpt2 (-medium, -large, -xl).

The file (0.5, 1.5, 3.2 or 6.4 GB) is downloaded once, from
https://huggingface.co/openai-community/<name> to out/pretrained/<name>/model.safetensors, and is
checked against the hash that the hub states. A file that you put there yourself is used as it is.
HF_ENDPOINT, HF_TOKEN and proxies work as in pipeline/get/addresses.py. Reading the file needs the
package safetensors.
"""
from pathlib import Path

import torch

from model import GPT, GPTConfig
from pipeline.errors import UserError, optional
from pipeline.tokenizers import hash_of_table
from train_args import GPT2, GPT2_BLOCK_SIZE

# the hash of the id -> token table of tiktoken's gpt2
GPT2_TOKENS = "f1573bd1679edbb0d65b9edd171f5d26199d5d84cb6f4ee1819e1f77ccaab9ec"


def fetch(name):
    """The path of the published file, which is downloaded if it is missing. Raises UserError."""
    # imported here, since most runs never download
    from pipeline.get.addresses import hub_endpoint
    from pipeline.get.download import DownloadError, RemoteFile, download_all
    from pipeline.get.hub import hub_tree, unexpected_answer
    repo = f"openai-community/{name}"
    path = Path("out/pretrained") / name / "model.safetensors"
    if path.exists():
        return path  # a download has another name until its hash is checked
    api = f"{hub_endpoint()}/api/models/{repo}/tree/main"
    try:
        stated = {entry["path"]: entry for entry in hub_tree(api)}[path.name]
        url = f"{hub_endpoint()}/{repo}/resolve/main/{path.name}"
        download_all([RemoteFile(url, path, stated["size"], stated["digest"])], path.parent)
    except KeyError as error:
        raise unexpected_answer(api, error) from None
    except DownloadError as error:
        raise UserError(f"{error}. Or get {path.name} of https://huggingface.co/{repo} by other "
                        f"means, and put it into {path.parent}/") from None
    return path


@torch.no_grad()
def load_gpt2(model, name):
    """Copy the published weights into a GPT of their sizes, whose block_size may be shorter.

    Raises UserError.
    """
    safetensors = optional("safetensors", f"--init_from {name}")
    path, vocab_size = fetch(name), model.config.vocab_size
    again = "Delete it and run the same command again"
    try:
        with safetensors.safe_open(path, "pt") as file:
            prefix = "transformer." if "transformer.wte.weight" in file.keys() else ""
            for part, p in model.transformer.named_parameters():
                weight = file.get_tensor(prefix + part)
                if part.startswith("h.") and weight.dim() == 2:
                    weight = weight.T  # the published matrices are stored (in, out), ours (out, in)
                if part == "wpe.weight":
                    weight = weight[: len(p)]  # a shorter context uses the first positions
                if part == "wte.weight":
                    p[vocab_size:] = 0  # the padding rows
                    p = p[:vocab_size]
                if weight.shape != p.shape:
                    raise UserError(f"{path} is not the file of {name}: {part} has "
                                    f"{tuple(weight.shape)} weights, expected {tuple(p.shape)}. "
                                    f"{again}")
                p.copy_(weight)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged, or not the file of {name} ({error}). "
                        f"{again}") from None


def published_gpt2(name):
    """The published model, on the CPU."""
    with torch.device("meta"):  # draws no initial weights, which would take longer than reading
        model = GPT(GPTConfig(**GPT2[name], block_size=GPT2_BLOCK_SIZE))
    model.to_empty(device="cpu")
    model.lm_head.weight = model.transformer.wte.weight  # to_empty() has made two tables of the one
    load_gpt2(model, name)
    return model


def refuse_other_tokens(dataset, name):
    """Raise UserError if the ids of a dataset do not mean what they meant to GPT-2."""
    meta = dataset.meta
    if hash_of_table(meta) != GPT2_TOKENS:
        kind = meta.get("tiktoken_encoding") or meta.get("tokenizer") or "custom"
        raise UserError(f"{dataset.folder} was prepared with another tokenizer ({kind}, "
                        f"{dataset.vocab_size:,} ids) than --init_from {name} (gpt2, 50,257 ids). "
                        f"Prepare it again: python {dataset.folder}/prepare.py --method tiktoken "
                        f"(a dataset of the hub has --tokenizer gpt2 instead), or use "
                        f"--dataset=shakespeare")
