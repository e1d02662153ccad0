"""A model and its tokenizer -> one GGUF file, for llama.cpp and what is built on it.

    write_gguf(path, config, views, published, kind, ids)

The package gguf writes the format and knows the names of the tensors; needs `pip install gguf`.
"""
from pipeline.errors import UserError, optional
from training.export_tokenizer import level
from training.layouts import CLASSES, class_of, config_json

KINDS = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
Q8_BLOCK = 32  # numbers that q8_0 scales together, all of one row


def write_gguf(path, config, views, published, kind, ids):
    """views: those of layouts.py. published: the tokenizer's. ids: {"bos" and "eos": id or None}.

    Raises UserError where llama.cpp has no equal of the tokenizer.
    """
    gguf = optional("gguf", "--gguf")
    model_type = CLASSES[class_of(config)][0]
    if model_type == "llama":  # whose rows of query and key llama.cpp wants in another order
        raise UserError("--gguf writes models with norms on query and key (qk_norm), and this one "
                        "has none. Convert the export by llama.cpp's own script")
    writer = gguf.GGUFWriter(path, model_type)
    writer.add_name(path.parent.name)
    writer.add_file_type(gguf.LlamaFileType[KINDS[kind]])
    _add_sizes(writer, config)
    _add_tokenizer(writer, gguf.TokenType, config.vocab_size, published, ids)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[model_type.upper()], config.n_layer)
    types = []
    for name, view in views.items():
        types.append(gguf.GGMLQuantizationType[_type_of(name, view, kind)])
        shape = gguf.quant_shape_to_byte_shape(_rows(name, view, config).shape, types[-1])
        full = names.get_name(name, try_suffixes=(".weight", ".bias"))
        size = view.numel() // gguf.GGML_QUANT_SIZES[types[-1]][0]
        size *= gguf.GGML_QUANT_SIZES[types[-1]][1]
        writer.add_tensor_info(full, shape, gguf.np.dtype("uint8"), size, types[-1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for (name, view), kind in zip(views.items(), types):  # one in memory at a time
        rows = _rows(name, view, config).contiguous().numpy()
        writer.write_tensor_data(gguf.quantize(rows, kind))
    writer.close()


def _type_of(name, view, kind):
    if view.dim() == 1 or name.endswith("wpe.weight"):  # small, and llama.cpp adds them in float32
        return "F32"
    return "F16" if kind == "q8_0" and view.size(-1) % Q8_BLOCK else kind.upper()


def _rows(name, view, config):
    """The tensor as GGUF has it: a row is what one output is computed from."""
    if config.arch == "gpt2" and ".h." in name and view.dim() == 2:
        return view.T
    return view


def _add_sizes(writer, config):
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_hidden)
    writer.add_head_count(config.n_head)
    writer.add_vocab_size(config.vocab_size)
    stated = config_json(config)
    if config.arch == "gpt2":
        writer.add_layer_norm_eps(stated["layer_norm_epsilon"])
        return
    writer.add_head_count_kv(config.n_kv_head)
    writer.add_key_length(stated["head_dim"])
    writer.add_value_length(stated["head_dim"])
    writer.add_rope_freq_base(stated["rope_theta"])
    writer.add_layer_norm_rms_eps(stated["rms_norm_eps"])


def _add_tokenizer(writer, types, vocab_size, published, ids):
    is_pieces, merges = published.kind == "pieces", published.merges
    token_of = {i: level(token.encode()) if published.kind == "chars" else token
                for token, i in published.vocab.items()}
    token_of |= {i: text for text, i in {**published.special, **published.additional}.items()}
    tokens = [token_of.get(i, f"[unused {i}]") for i in range(vocab_size)]
    kinds = [types.NORMAL if i in token_of else types.UNUSED for i in range(vocab_size)]
    for some, kind in ((published.special, types.CONTROL),
                       (published.additional, types.USER_DEFINED)):
        for i in some.values():
            kinds[i] = kind
    writer.add_tokenizer_model("llama" if is_pieces else "gpt2")
    if is_pieces:
        for i, token in enumerate(tokens[: len(published.scores)]):
            tokens[i] = token.replace(" ", "\u2581")
            if len(token) == 6 and token.startswith("<0x"):
                kinds[i] = types.BYTE
        writer.add_token_scores([*published.scores, *[0.0] * (vocab_size - len(published.scores))])
        writer.add_add_space_prefix(False)
    else:
        if published.kind == "chars":
            # a character of several bytes is a chain of merges; no two characters ever merge
            merges = dict.fromkeys((token[:i], token[i]) for token in tokens
                                   for i in range(1, len(token)))
        writer.add_tokenizer_pre(_words(published))
        # an empty list cannot be written; no text has the bytes FF and FE
        writer.add_token_merges([" ".join(pair) for pair in merges] or ["\u00ff \u00fe"])
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_add_bos_token(False)
    for name, i in ids.items():
        if i is not None:
            getattr(writer, f"add_{name}_token_id")(i)


def _words(published):
    """llama.cpp's name of the rule that cuts a text into words. Raises UserError."""
    if published.pattern and not published.merges:
        raise UserError("--gguf: llama.cpp has no tokenizer that is a list of tokens. Leave --gguf "
                        "out")
    if published.encoding in ("o200k_base", "o200k_harmony"):
        raise UserError(f"--gguf: llama.cpp splits words with combining marks, as in Hindi, "
                        f"otherwise than {published.encoding}. Leave --gguf out")
    return "dbrx" if published.encoding == "cl100k_base" else "gpt-2"  # dbrx has cl100k's rule
