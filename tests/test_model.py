"""The model (model.py): fresh loss, causality, padding rows, generate() against forward passes.

Run: python -m pytest tests/test_model.py
The reference of generate() is a dozen lines below: no cache, every token from a whole forward pass.
"""
import math

import pytest
import torch
from helpers import one_thread  # noqa: F401
from torch.nn import functional as F

from model import GPT, GPTConfig, NormOnCPU, sample_token

SIZES = dict(block_size=16, vocab_size=65, n_layer=2, n_head=2, n_kv_head=2, n_embd=32)
KINDS = {"modern": dict(arch="modern"), "grouped": dict(arch="modern", n_kv_head=1),
         "gpt2": dict(arch="gpt2"), "gpt2-bias": dict(arch="gpt2", bias=True)}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def make_model(seed=0, wild=True, **kw):
    """A small model in eval mode. wild: its weights are far from their start, its choices sharp."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(**{**SIZES, **kw})).eval()
    if wild:
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p) * 0.2)
    return model


def some_ids(batch=2, length=16, vocab_size=65, seed=1):
    return torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def generate_slowly(model, idx, max_new_tokens, choose):
    """generate() without a cache: a forward pass a token. A full context keeps its last half."""
    T = model.config.block_size
    context = idx[:, -T:]
    for _ in range(max_new_tokens):
        if context.size(1) > T:
            context = idx[:, -max(1, T // 2):]
        # the logits of every position, of which the last
        logits = model(context, targets=context)[0][:, -1]
        new = choose(logits)
        idx, context = torch.cat((idx, new), 1), torch.cat((context, new), 1)
    return idx


# ---- its parts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_of_the_cpu_is_the_norm_of_torch_and_so_is_its_gradient(dtype):
    x = torch.randn(3, 5, 2, 32, dtype=dtype, requires_grad=True)
    weight, grad = torch.randn(32, requires_grad=True), torch.randn(3, 5, 2, 32)
    gradients = []
    for y in (NormOnCPU.apply(x, weight, 1e-6), F.rms_norm(x.float(), (32,), weight, 1e-6)):
        gradients.append((y.float(), *torch.autograd.grad(y, (x, weight), grad.to(y.dtype))))
    for ours, reference in zip(*gradients):
        assert torch.allclose(ours.float(), reference.float(),
                              atol=1e-5 if dtype == torch.float32 else 1e-1)


# ---- forward


@pytest.mark.parametrize("vocab_size", [2, 65, 1000])
def test_a_fresh_model_knows_nothing(kind, vocab_size):
    model = make_model(wild=False, vocab_size=vocab_size, **kind)
    ids = some_ids(64, 17, vocab_size)
    logits, loss = model(ids[:, :-1], ids[:, 1:])
    assert logits.shape == (64, 16, vocab_size)
    assert abs(loss.item() - math.log(vocab_size)) < 0.1


def test_the_loss_is_the_mean_cross_entropy_of_the_logits(kind):
    model, ids = make_model(**kind), some_ids(3, 17)
    logits, loss = model(ids[:, :-1], ids[:, 1:])
    expected = F.cross_entropy(logits.reshape(-1, 65), ids[:, 1:].reshape(-1))
    assert torch.allclose(loss, expected)


def test_a_token_changes_no_logits_before_it_and_all_from_it_on(kind):
    model, ids = make_model(**kind), some_ids(1)
    before = model(ids, ids)[0]
    for t in (0, 1, 7, 15):
        other = ids.clone()
        other[0, t] = (other[0, t] + 1) % 65
        change = (model(other, ids)[0] - before).abs().amax(-1)[0]
        assert change[:t].max() < 1e-6 if t else True
        assert (change[t:] > 1e-6).all()


def test_without_targets_only_the_last_logits_are_given(kind):
    model, ids = make_model(**kind), some_ids()
    logits, loss = model(ids)
    assert loss is None and logits.shape == (2, 1, 65)
    assert torch.allclose(logits[:, 0], model(ids, ids)[0][:, -1], atol=1e-5)


def test_a_sequence_longer_than_block_size_is_refused_with_the_numbers(kind):
    with pytest.raises(AssertionError, match="0 \\+ 17 tokens exceed block_size 16"):
        make_model(**kind)(some_ids(1, 17))


def test_dropout_acts_in_training_and_not_in_evaluation(kind):
    model, ids = make_model(dropout=0.5, **kind), some_ids()
    assert torch.equal(model(ids, ids)[1], model(ids, ids)[1])
    model.train()
    assert not torch.equal(model(ids, ids)[1], model(ids, ids)[1])
    torch.manual_seed(5)
    one = model(ids, ids)[1]
    torch.manual_seed(5)
    assert torch.equal(model(ids, ids)[1], one)


def test_equal_seeds_make_equal_weights(kind):
    a, b, c = (make_model(seed, wild=False, **kind).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)


# ---- the padding rows of the vocabulary


def padding_rows(model):
    weight = model.lm_head.weight
    assert weight.shape[0] % 64 == 0 and weight.shape[0] > model.config.vocab_size
    return weight[model.config.vocab_size :]


def test_padding_rows_are_not_in_the_loss_and_get_no_gradient(kind):
    model, ids = make_model(**kind), some_ids()
    logits, loss = model(ids, ids)
    with torch.no_grad():
        padding_rows(model).fill_(1e3)  # were they counted, they would win
    again, loss_again = model(ids, ids)
    assert torch.equal(loss, loss_again) and torch.equal(logits, again)
    loss_again.backward()
    size = model.lm_head.weight.grad.abs()
    assert size[65:].max() == 0 and size[:65].max() > 0


def test_padding_rows_are_never_sampled(kind):
    model = make_model(**kind)
    with torch.no_grad():
        padding_rows(model).fill_(1e3)
    for temperature in (0, 1.0, 1000.0):
        out = model.generate(some_ids(64, 4), 50, temperature=temperature,
                             generator=torch.Generator().manual_seed(0))
        assert out.max() < 65
    assert len(out.unique()) == 65  # near uniform, so each of the others does occur


def test_num_params_counts_neither_padding_nor_positions(kind):
    def count(**kw):
        return make_model(wild=False, **{**kind, **kw}).num_params()

    a_token = count(vocab_size=66) - count(vocab_size=65)  # both are padded to 128 rows
    assert a_token == count(vocab_size=129) - count(vocab_size=128)
    assert a_token in (32, 64)  # n_embd, once more where the head is not tied to the embedding
    assert count(block_size=64) == count(block_size=16)
    assert count(n_layer=3) - count(n_layer=2) == count(n_layer=2) - count(n_layer=1) > 8 * 32 * 32


# ---- generate


@pytest.mark.parametrize("prompt", [1, 5, 15, 16, 17, 40])
@pytest.mark.parametrize("block_size", [16, 7, 1])
def test_greedy_generation_with_the_cache_equals_whole_forward_passes(kind, block_size, prompt):
    model, ids = make_model(block_size=block_size, **kind), some_ids(2, prompt)
    fast = model.generate(ids, 45, temperature=0)
    assert fast.shape == (2, prompt + 45) and torch.equal(fast[:, :prompt], ids)
    assert torch.equal(fast, generate_slowly(model, ids, 45,
                                             lambda logits: logits.argmax(-1, keepdim=True)))


@pytest.mark.parametrize("temperature, top_k", [(1.0, None), (0.5, None), (2.0, 5), (1.0, 1),
                                                (1.0, 500)])
def test_sampling_draws_from_the_distribution_of_whole_forward_passes(kind, temperature, top_k):
    def choose(logits):
        logits = logits / temperature
        if top_k:
            least = logits.topk(min(top_k, 65)).values[:, -1:]
            logits = torch.where(logits < least, -math.inf, logits)
        return torch.multinomial(F.softmax(logits, -1), 1, generator=generator)

    model, ids = make_model(**kind), some_ids(3, 4)
    generator = torch.Generator().manual_seed(9)
    slow = generate_slowly(model, ids, 40, choose)
    fast = model.generate(ids, 40, temperature=temperature, top_k=top_k,
                          generator=torch.Generator().manual_seed(9))
    assert torch.equal(fast, slow)


def test_top_k_draws_only_among_the_k_likeliest(kind):
    model, ids = make_model(**kind), some_ids(1, 6).expand(500, 6)
    likeliest = set(model(ids[:1])[0][0, -1].topk(3).indices.tolist())
    drawn = model.generate(ids, 1, temperature=50.0, top_k=3,
                           generator=torch.Generator().manual_seed(0))[:, -1]
    assert set(drawn.tolist()) == likeliest


def test_equal_seeds_draw_equal_samples_and_global_randomness_is_not_touched(kind):
    model, ids = make_model(**kind), some_ids(2, 3)
    def draw(seed):
        return model.generate(ids, 30, generator=torch.Generator().manual_seed(seed))

    state = torch.get_rng_state()
    one, same, other = draw(1), draw(1), draw(2)
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_samples_drawn_together_differ_and_greedy_ones_do_not(kind):
    model, ids = make_model(**kind), some_ids(1, 3).expand(4, 3)
    drawn = model.generate(ids, 30, generator=torch.Generator().manual_seed(1))
    assert len(drawn.unique(dim=0)) == 4
    assert len(model.generate(ids, 30, temperature=0).unique(dim=0)) == 1


@pytest.mark.parametrize("temperature", [1e-320, 1e-46, 1e-38])
def test_temperatures_that_float32_rounds_to_0_take_the_likeliest(temperature):
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sample_token(logits, temperature), logits.argmax(-1, keepdim=True))


def test_no_new_tokens_leave_the_prompt_as_it_is(kind):
    ids = some_ids(2, 40)
    assert torch.equal(make_model(**kind).generate(ids, 0), ids)


def test_generation_works_under_autocast(kind):
    model, ids = make_model(**kind), some_ids(2, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.generate(ids, 40, temperature=0).shape == (2, 45)


@pytest.mark.parametrize("top_p, kept", [(0.3, {3}), (0.5, {3}), (0.51, {3, 1}), (0.8, {3, 1}),
                                         (0.9, {3, 1, 0}), (1.0, {0, 1, 2, 3})])
def test_top_p_keeps_the_fewest_likeliest_tokens_that_have_that_much_probability(top_p, kept):
    logits = torch.tensor([[0.15, 0.3, 0.05, 0.5]]).log().expand(2000, 4)
    drawn = sample_token(logits, top_p=top_p, generator=torch.Generator().manual_seed(0))
    assert set(drawn.flatten().tolist()) == kept and drawn.shape == (2000, 1)


# ---- the loss in chunks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 65 * 7, 65 * 48])
def test_the_loss_in_chunks_is_the_loss_and_its_gradient(kind, chunk, dtype, monkeypatch):
    model, ids = make_model(**kind), some_ids(3, 17)
    autocast = torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32)
    results = []
    for limit in (1 << 25, chunk):
        monkeypatch.setattr("model.CHUNK_LOGITS", limit)
        model.zero_grad()
        with autocast:
            logits, loss = model(ids[:, :-1], ids[:, 1:])
        (loss * 3).backward()
        results.append((logits is None, loss.item(), [p.grad.clone() for p in model.parameters()]))
    (whole, loss, grads), (in_chunks, chunk_loss, chunk_grads) = results
    assert not whole and in_chunks == (chunk < 65 * 48)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert abs(loss - chunk_loss) < tolerance
    for grad, chunk_grad in zip(grads, chunk_grads):
        assert (grad - chunk_grad).norm() <= tolerance * grad.norm() + 1e-7
    with torch.no_grad():
        assert abs(model(ids[:, :-1], ids[:, 1:])[1].item() - chunk_loss) < tolerance
