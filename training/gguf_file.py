"""A model and its tokenizer -> one GGUF file, for llama.cpp and what is built on it.

    write_gguf(path, config, views, table, kind, eot_token, chat)

The package gguf writes the format and knows the names of the tensors.
"""
from pipeline.errors import UserError, optional
from pipeline.tokenizers.tables import BYTE_LETTERS
from training.layouts import CLASSES, class_of
from training.samples import note

KINDS = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}


def write_gguf(path, config, views, table, kind, eot_token, chat):
    """views: those of layouts.py. table: a TokenTable, or None. chat: settings for chats, by their
    names in GGUFWriter. Raises UserError where llama.cpp lacks the tokenizer."""
    gguf = optional("gguf", "--gguf")
    model_type = CLASSES[class_of(config)][0]
    writer = gguf.GGUFWriter(path, model_type)
    writer.add_file_type(gguf.LlamaFileType[KINDS[kind]])
    for what, value in {**_sizes(config), **chat}.items():
        getattr(writer, f"add_{what}")(value)
    _add_tokenizer(writer, gguf.TokenType, config.vocab_size, table, eot_token)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[model_type.upper()], config.n_layer)
    types = []
    for name, view in views.items():
        rows = _rows(config, name, view)
        types.append(gguf.GGMLQuantizationType[_type_of(name, rows, kind)])
        block, size = gguf.GGML_QUANT_SIZES[types[-1]]  # numbers, bytes
        writer.add_tensor_info(names.get_name(name, (".weight", ".bias")),
                               gguf.quant_shape_to_byte_shape(rows.shape, types[-1]),
                               gguf.np.dtype("uint8"), rows.numel() // block * size, types[-1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for (name, view), kind in zip(views.items(), types):  # one of them in memory at a time
        rows = _rows(config, name, view).float().contiguous()
        writer.write_tensor_data(gguf.quantize(rows.numpy(), kind))
    writer.close()


def _type_of(name, rows, kind):
    if rows.dim() == 1 or name.endswith("wpe.weight"):  # small, and added in float32
        return "F32"
    # q8_0 scales 32 numbers of a row together
    return "F16" if kind == "q8_0" and rows.size(-1) % 32 else kind.upper()


def _rows(config, name, view):
    """The tensor as GGUF has it, where a row is what one output is computed from."""
    if config.arch == "gpt2" and ".h." in name and view.dim() == 2:
        return view.T
    if not config.qk_norm and name.endswith(("q_proj.weight", "k_proj.weight")):
        # llama.cpp turns neighbours of a Llama's head together, others channels i and i + hs/2
        return view.view(-1, 2, config.head_dim // 2, view.size(1)).transpose(1, 2).reshape_as(view)
    return view


def _sizes(config):
    sizes = {"name": "model", "block_count": config.n_layer, "context_length": config.block_size,
             "embedding_length": config.n_embd, "feed_forward_length": config.n_hidden,
             "head_count": config.n_head, "vocab_size": config.vocab_size}
    if config.arch == "gpt2":
        return {**sizes, "layer_norm_eps": config.norm_eps}
    return {**sizes, "head_count_kv": config.n_kv_head, "key_length": config.head_dim,
            "value_length": config.head_dim, "rope_dimension_count": config.head_dim,
            "rope_freq_base": config.rope_theta, "layer_norm_rms_eps": config.norm_eps}


def _add_tokenizer(writer, types, vocab_size, table, eot_token):
    letters = set(table.vocab) & set(BYTE_LETTERS) if table else set()
    # where a letter began a longer token alone, llama.cpp's search for the longest would never end
    is_safe = table and letters >= {token[0] for token in table.vocab}
    # o200k_base and o200k_harmony have words that llama.cpp splits otherwise
    if not table or (table.name or "").startswith("o200k") or table.is_list and not is_safe:
        raise UserError("--gguf: llama.cpp has no tokenizer that gives the ids of "
                        f"{table.name if table else 'this one'} for every text. Leave --gguf out")
    texts = {i: token for token, i in table.vocab.items()}
    kinds = dict.fromkeys(texts, types.NORMAL)
    for names, kind in ((table.special, types.CONTROL), (table.additional, types.USER_DEFINED)):
        texts |= {i: name for name, i in names.items()}
        kinds |= dict.fromkeys(names.values(), kind)
    merges = table.merges
    if table.model:
        model, ids = "llama", range(table.model.get_piece_size())
        texts |= {i: table.model.id_to_piece(i) for i in ids}
        kinds |= {i: types.BYTE for i in ids if table.model.is_byte(i)}
        scores = [table.model.get_score(i) for i in ids]
        writer.add_token_scores(scores + [0.0] * (vocab_size - len(scores)))
        writer.add_add_space_prefix(False)
    elif not merges and is_safe:
        model = "rwkv"  # the longest token at each place, in Python's notation of bytes
        texts = {i: "".join(f"\\x{BYTE_LETTERS.index(letter):02x}" for letter in token)
                 for i, token in texts.items()}
    else:
        model = "gpt2"
        # characters of several bytes: no two of them ever merge
        merges = merges or dict.fromkeys((t[:i], t[i]) for t in table.vocab
                                         for i in range(1, len(t)))
        writer.add_token_merges([" ".join(pair) for pair in merges])
        writer.add_tokenizer_pre("dbrx" if table.name == "cl100k_base" else "gpt-2")
        if eot_token is None:
            eot_token = max(texts)
            note(f"llama.cpp needs a token that ends a text. In model.gguf it is the last one of "
                 f"the vocabulary, id {eot_token:,}")
    writer.add_tokenizer_model(model)
    writer.add_token_list([texts.get(i, f"[unused {i}]") for i in range(vocab_size)])
    writer.add_token_types([kinds.get(i, types.UNUSED) for i in range(vocab_size)])
    writer.add_add_bos_token(False)
    if eot_token is not None:
        writer.add_bos_token_id(eot_token)
        writer.add_eos_token_id(eot_token)
