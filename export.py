"""
Write a trained model in the formats that other programs read, with its tokenizer and a model card.

    python export.py                               # the newest run in out/, to out/<run>/export/
    python export.py --out_dir=out/mydata --dtype=bfloat16
    python export.py --gguf=q8_0                   # model.gguf too, for llama.cpp and Ollama

best.pt is exported if there is one, else ckpt.pt. docs/export.md shows how transformers, llama.cpp,
Ollama, vLLM and lm-evaluation-harness use the folder.
"""
import argparse
import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path

from pipeline.threads import set_environment, take_threads

if __name__ == "__main__":
    set_environment()  # before numpy and torch, which read it as they are imported

import torch

from model import CHUNK_LOGITS
from pipeline.chats import settings_of
from pipeline.errors import Parser, UserError, one_line_errors, optional
from pipeline.files import lock, read_text, scratch_folder
from pipeline.get.download import file_sha256
from pipeline.tokenizers import PublishedTokenizer, SentencePieceTokenizer
from train_args import boolean
from training.checkpoint import empty_model, read_run, take_state
from training.export_tokenizer import is_equal, token_table, tokenizer_json
from training.gguf_file import KINDS, write_gguf
from training.layouts import class_of, config_json, published_views
from training.run_folder import newest_run
from training.samples import SampleArgs, choose_vocabulary, note, vocabularies_of

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # their names in safetensors
USED = {"format", "model", "model_args", "args", "metas", "starts", "data", "iter_num",
        "best_val_loss"}  # keys of a checkpoint; the others concern the training alone
UNUSED = {"optimizer", "scaler", "order_version", "batch", "history", "evaluated", "unevaluated",
          "since", "stale", "seconds"}
SUMS = "SHA256SUMS"  # which sha256sum -c reads


def parse_args(argv=None):
    parser = Parser(prog="python export.py", usage="python export.py [--flag=value ...]",
                    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flag = parser.add_argument
    flag("--out_dir", help="folder of the run (default: the newest run in out/)")
    flag("--dtype", choices=DTYPES, default="float32",
         help="type of the numbers in model.safetensors (default: float32)")
    flag("--gguf", choices=KINDS, help="write model.gguf too, with numbers of this type")
    flag("--dataset", help="the dataset whose vocabulary is exported, after --multidataset_wte")
    flag("--verify", type=boolean, metavar="X",
         help="true: compare the folder with ours in transformers (default: if it is installed)")
    return parser.parse_args(argv)


def write_safetensors(path, views, dtype):
    """The length of a JSON text, that text, the numbers. One tensor at a time is copied."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, view in views.items():
        start, end = end, end + view.numel() * dtype.itemsize
        header[name] = {"dtype": DTYPES[str(dtype).removeprefix("torch.")],
                        "shape": [*view.shape], "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with open(path, "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for name, view in views.items():
            part = view.to(dtype).contiguous()
            if not torch.stack(part.aminmax()).isfinite().all():
                raise UserError(f"{name} has numbers that {dtype} cannot hold. Use --dtype=float32")
            file.write(part.flatten().view(torch.uint8).numpy())


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tokenizer(folder, tokenizer, block_size, chat):
    """Returns the TokenTable, or None where other programs cannot encode as ours does. chat: what
    tokenizer_config.json has of a chat layout."""
    table, special = token_table(tokenizer), getattr(tokenizer, "special_tokens", {})
    if isinstance(tokenizer, SentencePieceTokenizer):
        (folder / "tokenizer.model").write_bytes(tokenizer.model)
        table = table if is_equal(table, tokenizer) else None
    if isinstance(tokenizer, PublishedTokenizer):  # it goes out as it came in
        (folder / "tokenizer.json").write_text(tokenizer.text, encoding="utf-8")
    elif table is None:
        return None
    else:
        special = table.special
        write_json(folder / "tokenizer.json", tokenizer_json(table))
    end = next((text for text, i in special.items() if i == tokenizer.eot_token), None)
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": block_size,
        "clean_up_tokenization_spaces": False, "bos_token": end, "eos_token": end, **chat})
    return table


def write_files(folder, args, views, config, vocabulary):
    """Everything but the model card."""
    tokenizer, eot_token = vocabulary.tokenizer, vocabulary.tokenizer.eot_token
    chat, ends, in_gguf = settings_of(vocabulary.meta, tokenizer)
    ids = {"bos_token_id": vocabulary.start, "eos_token_id": eot_token}
    write_safetensors(folder / "model.safetensors", views, getattr(torch, args.dtype))
    write_json(folder / "config.json", {**config_json(config), **ids, "dtype": args.dtype})
    write_json(folder / "generation_config.json", {**ids, **ends, "do_sample": True,  # as sample.py
        "temperature": SampleArgs.temperature, "top_k": SampleArgs.top_k})
    table = write_tokenizer(folder, tokenizer, config.block_size, chat)
    if args.gguf:
        write_gguf(folder / "model.gguf", config, views, table, args.gguf, eot_token, in_gguf)
    if not (folder / "tokenizer.json").exists():
        has_model = (folder / "tokenizer.model").exists()
        note(f"no tokenizer.json can give the ids of the tokenizer of {vocabulary.name}, so the "
             f"export has {'its tokenizer.model alone' if has_model else 'no tokenizer'}")


def write_card(path, folder, checkpoint, views, config, vocabulary):
    template = (Path(__file__).parent / "training/model_card.md").read_text(encoding="utf-8")
    if not path.with_name("tokenizer.json").exists():
        template = template.split("```")[0]  # without the lines that use it
    meta = vocabulary.meta
    path.write_text(template.format(
        **checkpoint, folder=folder, config=config, architecture=class_of(config),
        parameters=sum(view.numel() for view in views.values()),
        datasets=", ".join(checkpoint.get("data") or checkpoint["metas"]),
        tokenizer=meta.get("tiktoken_encoding") or meta.get("tokenizer") or "char",
        prompt=vocabulary.tokenizer.decode([vocabulary.start]),
        num_new=min(100, config.block_size - 1)), encoding="utf-8")


def sums_of(folder):
    """{a line of SHA256SUMS: the path of the file}."""
    return {f"{file_sha256(path)}  {path.name}": path
            for path in sorted(folder.iterdir()) if path.name != SUMS}


def refuse_foreign(folder):
    """Raise UserError if folder holds anything that is not as an export.py wrote it."""
    known = read_text(folder / SUMS).splitlines() if (folder / SUMS).exists() else []
    for line, path in sums_of(folder).items() if folder.exists() else ():
        if line not in known:
            raise UserError(f"{path} is not as export.py wrote it. Move {folder} away and retry")


def replace_folder(new, folder, scratch):
    (new / SUMS).write_text("".join(f"{line}\n" for line in sums_of(new)), encoding="utf-8")
    for path in new.iterdir():
        with open(path, "r+b") as file:
            os.fsync(file.fileno())
    if folder.exists():
        folder.rename(scratch / "old")  # which goes with scratch
    new.rename(folder)


@torch.inference_mode()
def verify(folder, ours, config, vocabulary):
    """Compare the folder, as transformers computes it in float32, with our model of the same
    weights. Prints the differences; raises UserError where they are more than rounding."""
    transformers = optional("transformers", "--verify true")
    transformers.utils.logging.disable_progress_bar()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    first, end = vocabulary.first, vocabulary.first + vocabulary.size
    T = max(1, min(config.block_size, 256, CHUNK_LOGITS // ours.config.vocab_size))
    ids = torch.randint(vocabulary.size, (1, T), generator=torch.Generator().manual_seed(0))
    logits = ours(ids + first, ids + first)[0][..., first:end]
    difference = (logits - theirs(ids).logits).abs().max().item()
    num_new, start = min(200, config.block_size - 1), torch.tensor([[vocabulary.start]])
    theirs.generation_config = transformers.GenerationConfig(
        do_sample=False, max_new_tokens=num_new, pad_token_id=0)
    a = ours.generate(start + first, num_new, choose=lambda logits: (
        logits[:, first:end].argmax(-1, keepdim=True) + first))[0, 1:] - first
    # without a mask, transformers would take a start with the id of the padding for padding
    equal = (a == theirs.generate(start, attention_mask=start * 0 + 1)[0, 1:]).sum()
    print(f"transformers {transformers.__version__} reads the folder: its logits differ from ours "
          f"by at most {difference:.1e}, and {equal:,} of {num_new:,} greedy tokens are equal")
    if not difference < 1e-3 * max(1, logits.abs().max().item()):
        raise UserError("transformers computes other logits, so nothing was written")
    if (folder / "tokenizer.json").exists() and (tokenizer := vocabulary.tokenizer):
        text = tokenizer.decode([i for i in a.tolist() if i != tokenizer.eot_token])
        read = transformers.AutoTokenizer.from_pretrained(  # names of special tokens are text to us
            folder, split_special_tokens=getattr(tokenizer, "names_are_text", True))
        ids = read(text, add_special_tokens=False, verbose=False)["input_ids"]
        if ids != tokenizer.encode(text).tolist():
            raise UserError(f"transformers encodes {text[:50]!r} otherwise, so nothing was written")


def main(argv=None):
    args = parse_args(argv)
    take_threads()
    out_dir = Path(args.out_dir) if args.out_dir else newest_run()
    path, checkpoint, config = read_run(out_dir)
    if unknown := checkpoint.keys() - USED - UNUSED:
        raise UserError(f"{path} holds {', '.join(sorted(unknown))}, unknown to this export.py")
    if checkpoint["args"]["training_mode"] == "multicontext":
        raise UserError(f"{out_dir} is a run of aligned streams, and no other program reads those. "
                        f"Its samples: python sample.py --out_dir={out_dir}")
    vocabulary = choose_vocabulary(
        vocabularies_of(config, checkpoint["metas"], checkpoint.get("starts")), args.dataset,
        "this exports the vocabulary of")
    single = replace(config, vocab_size=vocabulary.size, vocab_sizes=())
    views = published_views(single, checkpoint["model"], vocabulary.first)
    folder = out_dir / "export"
    with lock(out_dir, "export.py"), scratch_folder(out_dir / "export.tmp") as scratch:
        refuse_foreign(folder)
        (new := scratch / "export").mkdir()
        write_files(new, args, views, single, vocabulary)
        write_card(new / "README.md", folder, checkpoint, views, single, vocabulary)
        if args.verify or args.verify is None and importlib.util.find_spec("transformers"):
            model = empty_model(config).eval()
            take_state(checkpoint, path, model)
            for p in model.parameters():
                p.data = p.to(getattr(torch, args.dtype)).float()  # as they were written
            verify(new, model, single, vocabulary)
        replace_folder(new, folder, scratch)
    print(f"{path} was exported to {folder}/, as a {class_of(config)}. Fill in the licence in its "
          f"README.md; docs/export.md shows what can be done with it")


if __name__ == "__main__":
    with one_line_errors():
        main()
