"""The paths for CUDA, walked without a GPU: tests/pretend_cuda.py gives train.py and sample.py a
device "cuda" that computes on the CPU and refuses what a GPU refuses.

Run: python -m pytest tests/test_cuda.py
"""
import csv

import pytest
import torch
from helpers import TEXT, TINY, char_dataset, one_thread  # noqa: F401
from pretend_cuda import CUDA, mark, pretend_cuda

import model as model_module
import sample
import train
from model import GPT, GPTConfig, head_loss, rms_norm, rows_at_once
from pipeline.read.batches import Batch, to_xy

FLAGS = [*TINY, "--n_layer=1", "--n_head=4", "--max_iters=2", "--eval_interval=2",
         "--log_interval=1", "--gradient_accumulation_steps=2", "--dropout=0.1",
         "--max_sample_tokens=4"]
KINDS = [  # flags, and the largest relative difference to the CPU's loss: float16 rounds by 5e-4
    (["--dtype=float32", "--n_kv_head=2"], 1e-5),
    (["--dtype=bfloat16", "--first_block_size=8"], 1e-2),
    (["--dtype=float16", "--arch=gpt2", "--optimizer=adamw"], 2e-3),
]


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def fox(tmp_path_factory):
    return char_dataset(tmp_path_factory.mktemp("data") / "fox")


def losses(out_dir):
    with open(f"{out_dir}/log.csv", newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)
                for name in ("batch_loss", "train_loss", "val_loss") if row[name]]


@pytest.mark.parametrize("flags, limit", KINDS, ids=[kind[0][0][8:] for kind in KINDS])
def test_training_evaluation_and_a_sample_on_cuda_are_those_of_the_cpu(
        fox, monkeypatch, capsys, flags, limit):
    """Every tensor is on the right device, the losses are the CPU's, and a training step waits for
    the GPU nowhere (float16's scaler must: it asks whether a gradient has overflown)."""
    monkeypatch.setattr(model_module, "CHUNK_LOGITS", 200)  # the head works in chunks
    flags = [f"--dataset={fox}", *FLAGS, *flags]
    train.main([*flags, "--dtype=float32", "--out_dir=cpu"])
    with pretend_cuda(monkeypatch, total_memory=1 << 12) as gpu:
        train.main([*flags, "--device=cuda", "--out_dir=gpu"])
    assert losses("gpu") == pytest.approx(losses("cpu"), rel=limit)
    waits = [wait for wait in gpu.waits if wait.endswith("train_step")]
    assert "--dtype=float16" in flags or not waits, waits
    # what did wait reads losses and weights, or brings the model there
    assert {wait.partition(": ")[2] for wait in gpu.waits} <= {
        "make_model", "set_up", "finite_loss", "_totals", "save", "pack", "speak_text",
        "run_a_kernel", "train_step"}
    assert "on cuda in" in capsys.readouterr().out


def test_a_checkpoint_of_the_cpu_goes_on_and_is_sampled_on_cuda(fox, monkeypatch, capsys):
    train.main([f"--dataset={fox}", *FLAGS, "--out_dir=x"])
    with pretend_cuda(monkeypatch):
        train.main(["--init_from=resume", "--out_dir=x", "--device=cuda", "--max_iters=4"])
        capsys.readouterr()
        sample.main(["--out_dir=x", "--device=cuda", "--max_new_tokens=20", "--start=fox",
                     "--num_samples=2", "--top_p=0.9"])
    assert capsys.readouterr().out.count("fox") >= 2
    assert len(losses("x")) == 4 + 2 * 2  # four batches, two evaluations


def test_a_run_goes_on_where_it_began_unless_told_otherwise(fox, monkeypatch, capsys):
    with pretend_cuda(monkeypatch):
        train.main([f"--dataset={fox}", *FLAGS, "--device=cuda:0", "--out_dir=x"])
        for more, device in ((["--max_iters=4"], "on cuda in"),
                             (["--max_iters=6", "--device=cpu"], "on cpu in")):
            capsys.readouterr()
            train.main(["--init_from=resume", "--out_dir=x", *more])
            assert device in capsys.readouterr().out


def test_mixtures_and_streams_train_on_cuda_as_on_the_cpu(fox, monkeypatch, tmp_path):
    jugs = char_dataset(tmp_path / "jugs", "pack my box with five dozen liquor jugs, " * 200)
    upper = char_dataset(tmp_path / "upper", TEXT.upper())  # character for character beside fox
    for mode, *flags in (
            ("multidataset", "--multidataset_wte", "--dataset_list", fox, jugs),
            ("multicontext", "--multicontext_datasets", fox, upper)):
        flags = [*FLAGS, f"--training_mode={mode}", *map(str, flags)]
        train.main([*flags, f"--out_dir=cpu_{mode}"])
        with pretend_cuda(monkeypatch):
            train.main([*flags, "--device=cuda", f"--out_dir={mode}"])
        assert losses(mode) == pytest.approx(losses(f"cpu_{mode}"), rel=1e-5), mode


# ---- the pretended device itself: it notices what a GPU would


MISTAKES = {
    "targets stay on the CPU": ("train.to_xy", lambda plain: lambda batch, device, length=None: (
        plain(batch, device, length)[0], plain(batch, "cpu", length)[1], {})),
    "a mask is made on the CPU": ("model.others", lambda plain: lambda targets, vocabulary: (
        torch.ones(len(targets), len(vocabulary), dtype=torch.bool))),
    "rotary tables stay on the CPU": ("model.rotate", lambda plain: lambda x, cos, sin: plain(
        x, mark(cos.clone(), torch.device("cpu")), sin)),
    "the optimizer's state is made on the CPU": (
        "optim.Optimizer._new_state", lambda plain: staticmethod(lambda p, rule: {
            name: torch.zeros(tensor.shape) for name, tensor in plain(p, rule).items()})),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_tensor_on_the_wrong_device_fails(fox, monkeypatch, mistake, tmp_path):
    other = char_dataset(tmp_path / "other", "pack my box with five dozen liquor jugs, " * 200)
    name, wrong = MISTAKES[mistake]
    owner, _, attribute = name.rpartition(".")
    found = {"train": train, "model": model_module, "optim.Optimizer": train.Optimizer}[owner]
    monkeypatch.setattr(found, attribute, wrong(getattr(found, attribute)))
    with pretend_cuda(monkeypatch), pytest.raises(RuntimeError, match="cuda:0 and on cpu"):
        train.main([*FLAGS, "--training_mode=multidataset", "--multidataset_wte", "--dataset_list",
                    str(fox), str(other), "--device=cuda", "--out_dir=x"])


def test_what_waits_for_the_gpu_is_noted(monkeypatch):
    with pretend_cuda(monkeypatch) as gpu:
        x = torch.zeros(3, device="cuda")
        assert gpu.waits == [] and (x + 1).is_cuda
        torch.tensor(1.0, device="cuda")
        torch.ones(2).to("cuda")
        torch.ones(2).to("cuda", non_blocking=True)  # this one does not
        x.sum().item(), x.cpu(), x.nonzero()
        assert [wait.split()[0] for wait in gpu.waits] == [
            "tensor", "to(cuda:0)", "_local_scalar_dense", "to(cpu)", "nonzero"]


# ---- what is different on CUDA


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda"])
def test_only_cuda_copies_ids_without_waiting(device):
    """On Apple's GPUs such a copy may read memory that has been freed."""
    class Windows:
        dtype = torch.int64

        def to(self, device, non_blocking):
            assert non_blocking == (torch.device(device).type == "cuda")
            return torch.arange(6).view(2, 3)
    x, y, _ = to_xy(Batch(Windows()), torch.device(device))
    assert x.tolist() == [[0, 1], [3, 4]] and y.tolist() == [[1, 2], [4, 5]]


@pytest.mark.long
def test_windows_of_many_lengths_are_all_compiled(fox, monkeypatch):
    """torch gives up at eight graphs of one function, and computes the rest without compiling: here
    there are seven lengths in training and seven in evaluation."""
    import torch._dynamo

    graphs, plain = [], torch.compile

    def counted(graph, inputs):
        graphs.append(graph)
        return graph.forward
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: plain(
        model, dynamic=dynamic, backend=counted))
    monkeypatch.setattr("training.device.shutil.which", lambda name: name)
    torch._dynamo.reset()
    train.main([f"--dataset={fox}", *TINY, "--n_layer=1", "--compile=true", "--block_size=64",
                "--first_block_size=1", "--max_iters=14", "--eval_interval=1", "--out_dir=x"])
    assert len(graphs) == 14

@pytest.mark.parametrize("dtype, major, expected", [
    (torch.bfloat16, 8, 2), (torch.bfloat16, 7, 4), (torch.float32, 9, 4)])
def test_shared_heads_are_repeated_where_cuda_has_no_fast_kernel_for_them(
        monkeypatch, dtype, major, expected):
    seen, plain = [], torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(model_module.F, "scaled_dot_product_attention", lambda q, k, v, **options: (
        seen.append((k.size(1), options["enable_gqa"])) or plain(q, k, v, **options)))
    q, k, v = (torch.randn(2, heads, 8, 16, dtype=dtype) for heads in (4, 2, 2))
    expected_y = model_module.attention(q, k, v, is_causal=True)
    with pretend_cuda(monkeypatch, major):
        y = model_module.attention(*(mark(t.clone(), CUDA) for t in (q, k, v)), is_causal=True)
    assert seen == [(2, True), (expected, expected == 2)]
    assert torch.allclose(y.float(), expected_y.float(), atol=1e-2)


def test_gains_of_a_norm_keep_their_precision_on_cuda(monkeypatch):
    """1.003 is 1 in bfloat16."""
    x, weight = torch.randn(5, 16, dtype=torch.bfloat16), torch.full((16,), 1.003)
    with pretend_cuda(monkeypatch):
        y = rms_norm(mark(x.clone(), CUDA), mark(weight.clone(), CUDA), 1e-6)
        one = rms_norm(mark(x.clone(), CUDA), mark(torch.ones(16), CUDA), 1e-6)
    assert (y.float() / one.float()).mean().item() == pytest.approx(1.003, abs=1e-4)


def test_a_gpu_works_on_more_rows_of_logits_in_multiples_of_128_by_its_memory(monkeypatch):
    assert rows_at_once(torch.device("cpu"), 50_304) == 667
    for gigabytes, rows in ((80, 6656), (24, 1920), (8, 640)):
        with pretend_cuda(monkeypatch, total_memory=gigabytes << 30):
            assert rows_at_once(CUDA, 50_304) == rows
            assert rows_at_once(CUDA, 1 << 40) == 128
    assert rows_at_once(torch.device("cpu"), 1 << 40) == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_head_in_chunks_has_the_loss_and_gradients_of_plain_operations(monkeypatch, device):
    """Over a padded table, two vocabularies, and chunks that do not divide the rows."""
    x, weight = torch.randn(300, 16), torch.randn(64, 16)
    targets, vocabulary = torch.randint(0, 50, (300,)), (torch.arange(50) > 30).long()

    def gradients(limit, place):
        monkeypatch.setattr(model_module, "CHUNK_LOGITS", limit)
        inputs = [mark(t.clone(), place).requires_grad_() for t in (x, weight)]
        logits, loss = head_loss(*inputs, 50, mark(targets.clone(), place),
                                 mark(vocabulary.clone(), place))
        (3 * loss).backward()
        return logits, loss.detach(), *(t.grad for t in inputs)
    _, *expected = gradients(1 << 25, torch.device("cpu"))
    if device == "cuda":
        with pretend_cuda(monkeypatch, total_memory=1 << 16):  # chunks of 128 rows
            logits, *found = gradients(500, CUDA)
    else:
        logits, *found = gradients(500, torch.device("cpu"))
    assert logits is None
    for a, b in zip(found, expected):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_model_has_no_tensor_that_to_leaves_behind():
    """Buffers and parameters alone move with a model."""
    config = GPTConfig(n_layer=1, n_head=2, n_kv_head=2, n_embd=16, block_size=8, vocab_size=64,
                       vocab_sizes=(30, 34))
    gpt = GPT(config).to("meta")
    assert all(t.is_meta for t in (*gpt.parameters(), *gpt.buffers()))
    loose = [name for module in gpt.modules() for name, value in vars(module).items()
             if isinstance(value, torch.Tensor)]
    assert loose == []
