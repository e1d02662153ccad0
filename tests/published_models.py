"""Tiny published models for tests, as folders: config.json, safetensors in shards, tokenizer.json.

    write_model(folder, config)     of our own making, from a GPTConfig
    MADE_BY_TRANSFORMERS            {name: how the package transformers makes one}
"""
import json

import torch

from model import GPT
from training.layouts import config_json, published_views

TEXT = ("The quick brown fox jumps over the lazy dog, and 1234 geese don't mind.\n\n"
        "    é 世界 😀 naïve: 3.14; <|im_start|>user\nHello<|im_end|>\n") * 40
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def train_tokenizer(kind="qwen", vocab_size=400):
    """A Tokenizer of the package tokenizers, in the manner of a published one."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )
    level, alphabet = pre_tokenizers.ByteLevel, pre_tokenizers.ByteLevel.alphabet()
    if kind == "llama":  # as SentencePiece's: blanks are a letter, and one is put before the text
        tokenizer, alphabet = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>")), []
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
             decoders.Strip(" ", 1, 0)])
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = {
            "qwen": pre_tokenizers.Sequence([
                pre_tokenizers.Split(Regex(QWEN), "isolated"),
                level(add_prefix_space=False, use_regex=False)]),
            "smollm": pre_tokenizers.Sequence([
                pre_tokenizers.Digits(individual_digits=True), level(add_prefix_space=False)]),
        }[kind]
        tokenizer.normalizer = normalizers.NFC() if kind == "qwen" else None
        tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>"] if kind == "llama" else []
    bytes_ = [f"<0x{i:02X}>" for i in range(256)] if kind == "llama" else []
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet,
                                  special_tokens=special + bytes_, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    if bytes_:  # the trainer made added tokens of them, which would be found in texts
        held = json.loads(tokenizer.to_str())
        held["added_tokens"] = [t for t in held["added_tokens"] if t["content"] in special]
        return Tokenizer.from_str(json.dumps(held))
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    return tokenizer


def write_tokenizer(folder, tokenizer, eos="<|im_end|>"):
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"eos_token": eos, "tokenizer_class": "PreTrainedTokenizerFast"}))


def write_model(folder, config, dtype=torch.float32, num_shards=1):
    """A published model with random weights; returns the GPT that it is equal to."""
    from safetensors.torch import save_file
    torch.manual_seed(0)
    model = GPT(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3).copy_(p.to(dtype))
        for table in (model.transformer.wte.weight, model.lm_head.weight):
            table[config.vocab_size :] = 0
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_json(config)))
    views = {name: view.to(dtype).contiguous().clone()
             for name, view in published_views(config, model.state_dict()).items()}
    if num_shards == 1:
        save_file(views, folder / "model.safetensors")
        return model
    shards = {f"model-{i + 1:05}-of-{num_shards:05}.safetensors": list(views)[i::num_shards]
              for i in range(num_shards)}
    for shard, names in shards.items():
        save_file({name: views[name] for name in names}, folder / shard)
    index = {"weight_map": {name: shard for shard, names in shards.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return model


def _sizes(**more):
    return dict(vocab_size=512, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
                bos_token_id=None, eos_token_id=None, pad_token_id=None, **more)


def _rope(theta):
    return dict(rope_parameters={"rope_type": "default", "rope_theta": theta})


# class and config of transformers, how it is saved
MADE_BY_TRANSFORMERS = {
    "qwen3": ("Qwen3", _sizes(head_dim=16, tie_word_embeddings=True, **_rope(1e6)), "bfloat16",
              "60KB"),
    "qwen3-untied": ("Qwen3", _sizes(head_dim=12, tie_word_embeddings=False), "float32", "1GB"),
    "llama": ("Llama", _sizes(head_dim=24, tie_word_embeddings=True, rms_norm_eps=1e-5,
                              **_rope(1e5)), "float16", "60KB"),
    "llama-untied": ("Llama", _sizes(), "float32", "90KB"),
    "gpt2": ("GPT2", dict(vocab_size=512, n_embd=48, n_layer=2, n_head=4, n_positions=64),
             "float32", "60KB"),
    "gpt2-untied": ("GPT2", dict(vocab_size=512, n_embd=48, n_layer=2, n_head=4, n_positions=64,
                                 n_inner=80, tie_word_embeddings=False, layer_norm_epsilon=1e-3),
                    "float32", "1GB"),
}


def make_by_transformers(folder, name):
    """The model of the package transformers, saved in a folder."""
    import transformers
    kind, sizes, dtype, shard_size = MADE_BY_TRANSFORMERS[name]
    head = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model = getattr(transformers, f"{kind}{head}")(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard_size)
    # read again, because to() has rounded its table of rotary frequencies too
    return type(model).from_pretrained(folder, dtype=torch.float32).eval()
