"""
Write a trained model in the formats that other programs read, with its tokenizer and a model card.

    python export.py                               # the newest run in out/, to out/<run>/export/
    python export.py --out_dir=out/mydata --dtype=bfloat16
    python export.py --gguf=q8_0                   # model.gguf too, for llama.cpp and Ollama

best.pt is exported if there is one, else ckpt.pt. docs/export.md shows how transformers, llama.cpp,
Ollama, vLLM and lm-evaluation-harness use the folder.
"""
import argparse
import hashlib
import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path

from pipeline.threads import set_environment, take_threads

if __name__ == "__main__":
    set_environment()  # before numpy and torch, which read it as they are imported

import torch

from model import CHUNK_LOGITS, GPT
from pipeline.errors import Parser, UserError, optional
from pipeline.files import lock, scratch_folder
from pipeline.tokenizers import PublishedTokenizer
from train_args import boolean
from training.checkpoint import read_run, take_state
from training.export_tokenizer import is_equal, table_to_publish, tokenizer_json
from training.gguf_file import KINDS, write_gguf
from training.layouts import class_of, config_json, published_views
from training.run_folder import newest_run
from training.samples import SampleArgs, choose_vocabulary, vocabularies_of

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # their names in safetensors
USED = {"format", "model", "model_args", "args", "metas", "starts", "data", "iter_num",
        "best_val_loss"}  # keys of a checkpoint; the others concern the training alone
UNUSED = {"optimizer", "scaler", "order_version", "evaluated", "seconds"}
GREEDY = 200  # tokens that --verify compares
CARD = """---
library_name: transformers
pipeline_tag: text-generation
license: other  # fill in
---
# {name}

A GPT of {parameters:,} parameters ({arch}, {architecture}), trained on {data}.

| | |
|---|---|
| context length | {block_size:,} tokens |
| vocabulary | {vocab_size:,} tokens ({tokenizer}) |
| iterations | {iter_num:,} |
| val loss | {val_loss} |
| licence | fill in |

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
prompt = tokenizer({prompt!r}, return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=100)[0]))
```
"""


def parse_args(argv=None):
    parser = Parser(prog="python export.py", usage="python export.py [--flag=value ...]",
                    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flag = parser.add_argument
    flag("--out_dir", help="folder of the run (default: the newest run in out/)")
    flag("--dtype", choices=DTYPES, default="float32",
         help="type of the numbers in model.safetensors (default: float32)")
    flag("--gguf", choices=KINDS, help="write model.gguf too, with numbers of this type")
    flag("--dataset", help="with --multidataset_wte: the dataset whose vocabulary is exported "
                           "(default: the first of the run)")
    flag("--verify", type=boolean, metavar="X",
         help="true: load the folder in transformers, and compare logits and the likeliest tokens "
              "with ours; false: do not (default: true where transformers is installed)")
    return parser.parse_args(argv)


def write_safetensors(path, views, dtype):
    """The format is a length, JSON, and the numbers: one tensor at a time needs little memory."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, view in views.items():
        start, end = end, end + view.numel() * dtype.itemsize
        header[name] = {"dtype": DTYPES[str(dtype)[6:]], "shape": [*view.shape],
                        "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with open(path, "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for name, view in views.items():
            part = view.to(dtype).contiguous()
            if not torch.stack(part.aminmax()).isfinite().all():
                raise UserError(f"{name} has numbers that float16 cannot hold. Use "
                                f"--dtype=bfloat16")
            file.write(part.flatten().view(torch.uint8).numpy())


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_export(folder, args, views, config, vocabulary):
    """The weights, the sizes and the tokenizer, into a folder. Returns the Published, or None."""
    tokenizer = vocabulary.tokenizer
    published = table_to_publish(tokenizer)
    ids = {"bos": vocabulary.start, "eos": tokenizer.eot_token}
    stated = {f"{name}_token_id": i for name, i in ids.items()}
    write_safetensors(folder / "model.safetensors", views, getattr(torch, args.dtype))
    write_json(folder / "config.json", {**config_json(config), **stated, "dtype": args.dtype})
    # as sample.py draws
    write_json(folder / "generation_config.json", {
        **stated, "do_sample": True, "temperature": SampleArgs.temperature,
        "top_k": SampleArgs.top_k})
    if isinstance(tokenizer, PublishedTokenizer):  # it goes out as it came in
        (folder / "tokenizer.json").write_text(tokenizer.text, encoding="utf-8")
        write_tokenizer_config(folder, config, tokenizer.special_tokens, tokenizer.eot_token)
    elif published is None:
        print(f"note: the tokenizer of {vocabulary.name} is known to this program alone, so the "
              f"export holds the weights without it")
    elif published.model:
        (folder / "tokenizer.model").write_bytes(published.model)
        if not is_equal(published, tokenizer):
            print("note: tokenizer.json cannot give the ids of this SentencePiece model, which is "
                  "exported as tokenizer.model alone")
            published = None
    if published is not None:
        write_json(folder / "tokenizer.json", tokenizer_json(published))
        write_tokenizer_config(folder, config, published.special, published.eot_token)
    if args.gguf:
        if published is None:
            raise UserError("--gguf needs a tokenizer that llama.cpp knows. Leave --gguf out")
        write_gguf(folder / "model.gguf", config, views, published, args.gguf, ids)
    return published


def write_tokenizer_config(folder, config, special, eot_token):
    end = {i: text for text, i in special.items()}.get(eot_token)
    of_end = {"bos_token": end, "eos_token": end} if end else {}
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config.block_size,
        "clean_up_tokenization_spaces": False, **of_end})


def write_card(path, folder, checkpoint, views, config, vocabulary):
    meta, loss = vocabulary.meta, checkpoint["best_val_loss"]
    path.write_text(CARD.format(
        name=folder.parent.name, folder=folder, arch=config.arch, architecture=class_of(config),
        parameters=sum(view.numel() for view in views.values()),
        data=", ".join(checkpoint.get("data") or checkpoint["metas"]),
        block_size=config.block_size, vocab_size=config.vocab_size,
        tokenizer=meta.get("tiktoken_encoding") or meta.get("tokenizer") or "char",
        iter_num=checkpoint["iter_num"], val_loss=f"{loss:.4f} nats a token",
        prompt=vocabulary.tokenizer.decode([vocabulary.start])), encoding="utf-8")


def refuse_foreign(folder):
    """Raise UserError if folder holds anything that no export.py has written there."""
    if not folder.exists():
        return
    listed = folder / "SHA256SUMS"
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
    for path in sorted(folder.iterdir()):
        if path != listed and f"{sha256_of(path)}  {path.name}" not in lines:
            raise UserError(f"{path} is not as export.py wrote it. Move {folder} away, then run "
                            f"the same command again")


def sha256_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put_in_place(new, folder, scratch):
    """List the files of `new` with their hashes (sha256sum -c reads them), and make it `folder`."""
    sums = "".join(f"{sha256_of(path)}  {path.name}\n" for path in sorted(new.iterdir()))
    (new / "SHA256SUMS").write_text(sums, encoding="utf-8")
    for path in new.iterdir():
        with open(path, "r+b") as file:
            os.fsync(file.fileno())
    if folder.exists():
        folder.rename(scratch / "old")  # removed with scratch
    new.rename(folder)


@torch.inference_mode()
def verify(folder, path, checkpoint, config, vocabulary, dtype):
    """Compare the folder, as transformers computes it in float32, with our model of the same
    weights. Prints the differences; raises UserError where they are more than rounding."""
    transformers = optional("transformers", "--verify")
    transformers.utils.logging.disable_progress_bar()
    ours = GPT(config).eval()
    take_state(checkpoint, path, ours)
    for p in ours.parameters():
        p.copy_(p.to(dtype).float())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    first, size = vocabulary.first, vocabulary.size
    T = max(1, min(config.block_size, 256, CHUNK_LOGITS // config.vocab_size))
    ids = torch.randint(size, (1, T), generator=torch.Generator().manual_seed(0))
    logits = ours(ids + first, ids + first)[0][..., first : first + size]
    difference = (logits - theirs(ids).logits).abs().max().item()
    num_new = min(GREEDY, config.block_size - 1)
    start = torch.tensor([[vocabulary.start]])

    def choose(logits):
        return vocabulary.sample(logits, {"temperature": 0})[:, None] + first
    a = ours.generate(start + first, num_new, choose=choose)[0, 1:] - first
    theirs.generation_config = transformers.GenerationConfig(
        do_sample=False, max_new_tokens=num_new, pad_token_id=0)
    b = theirs.generate(start)[0, 1:]
    print(f"transformers {transformers.__version__} reads it: its logits differ from ours by at "
          f"most {difference:.1e}, and {(a == b).sum():,} of {num_new:,} greedy tokens are equal")
    if not difference < 1e-3 * max(1, logits.abs().max().item()):
        raise UserError("transformers computes other logits, so nothing was written")
    if (folder / "tokenizer.json").exists():
        text = vocabulary.tokenizer.decode(
            [i for i in a.tolist() if i != vocabulary.tokenizer.eot_token])
        given = transformers.AutoTokenizer.from_pretrained(folder)(
            text, add_special_tokens=False)["input_ids"]
        if given != vocabulary.tokenizer.encode(text).tolist():
            raise UserError(f"transformers encodes {text[:50]!r} differently, so nothing was "
                            f"written")


def main(argv=None):
    args = parse_args(argv)
    take_threads()
    out_dir = Path(args.out_dir) if args.out_dir else newest_run()
    path, checkpoint, config = read_run(out_dir)
    if unknown := checkpoint.keys() - USED - UNUSED:
        raise UserError(f"{path} holds {', '.join(sorted(unknown))}, which this export.py does "
                        f"not know")
    if checkpoint["args"]["training_mode"] == "multicontext":
        raise UserError(f"{out_dir} is a run of aligned streams, which no other program can run: "
                        f"it cannot be exported. Its samples: python sample.py --out_dir={out_dir}")
    vocabulary = choose_vocabulary(
        vocabularies_of(config, checkpoint["metas"], checkpoint.get("starts")), args.dataset,
        "this exports the vocabulary of")
    single = replace(config, vocab_size=vocabulary.size, vocab_sizes=())
    views = published_views(single, checkpoint["model"], vocabulary.first)
    folder = out_dir / "export"
    with lock(out_dir, "export.py"), scratch_folder(out_dir / "export.tmp") as scratch:
        refuse_foreign(folder)
        new = scratch / "export"
        new.mkdir()
        write_export(new, args, views, single, vocabulary)
        write_card(new / "README.md", folder, checkpoint, views, single, vocabulary)
        if args.verify or args.verify is None and importlib.util.find_spec("transformers"):
            verify(new, path, checkpoint, config, vocabulary, getattr(torch, args.dtype))
        put_in_place(new, folder, scratch)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{path} exported to {folder}/: {class_of(config)}, {size / 1e6:,.1f} MB. Its README.md "
          f"shows how to use it; fill in the licence there")


if __name__ == "__main__":
    from pipeline.errors import one_line_errors
    with one_line_errors():
        main()
