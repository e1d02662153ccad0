"""A GPU that is not there: tensors of device "cuda" that compute on the CPU.

    with pretend_cuda(monkeypatch) as gpu:
        train.main([..., "--device=cuda"])
    gpu.waits      # what made the program wait for the GPU, with the place in our code

The program sees torch.device("cuda") and takes its paths for CUDA, with real numbers. An operation
on tensors of both devices raises RuntimeError, as CUDA does, and a CPU tensor's data cannot be read
from the GPU. Copies and reads that wait for the GPU are noted.
"""
import contextlib
import os
import traceback
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_iter

ROOT = Path(__file__).resolve().parent.parent
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim"}


def place(tensor):
    """The device of a tensor: a mark on its storage, which its views share."""
    return getattr(tensor.untyped_storage(), "pretended", CPU)


def mark(tensor, device):
    tensor.untyped_storage().pretended = device
    return tensor


def as_device(value):
    """The pretended device for what a caller gave as one, or None for anything else."""
    if isinstance(value, (str, torch.device)):
        return CUDA if torch.device(value).type == "cuda" else CPU
    return None


class Operations(TorchDispatchMode):
    """Sees every operation, those of backward() too: checks devices, and marks what comes out."""

    def __init__(self, wait):
        super().__init__()
        self.wait = wait
        self.inside = None  # the device of the call from Python that is at work

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # else torch imports its compiler, which takes seconds

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func._schema.name.removeprefix("aten::")
        tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)]
        places = {place(t) for t in tensors if t.dim()} or {place(t) for t in tensors}
        # a number on the CPU may meet tensors on the GPU, but not the other way round
        if CPU in places and any(place(t) == CUDA for t in tensors) and name != "copy_":
            raise RuntimeError(f"{name}: tensors on cuda:0 and on cpu: "
                               f"{[(tuple(t.shape), str(place(t))) for t in tensors]}")
        if CUDA in places and name in READS:
            self.wait(name)
        if name == "copy_" and len({place(t) for t in tensors}) == 2 and not (
                kwargs.get("non_blocking") or args[2:3] == (True,)):
            self.wait(name)
        out = func(*args, **kwargs)
        if CUDA in places or not tensors and self.inside == CUDA:
            inputs = {t.untyped_storage()._cdata for t in tensors}
            for t in tree_iter(out):
                # what is written in place stays where it is
                if isinstance(t, torch.Tensor) and t.untyped_storage()._cdata not in inputs:
                    mark(t, CUDA)
        return out


class Functions(TorchFunctionMode):
    """Sees every call from Python: devices that are asked for, and devices that are read."""

    def __init__(self, operations):
        super().__init__()
        self.wait, self.operations = operations.wait, operations

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__:
            return place(args[0])
        if func == torch.Tensor.is_cuda.__get__:
            return place(args[0]) == CUDA
        if func in (torch.Tensor.numpy, torch.Tensor.__array__) and place(args[0]) == CUDA:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func is torch.Tensor.tolist and place(args[0]) == CUDA:
            self.wait("tolist")
        if func in (torch.Tensor.cpu, torch.Tensor.cuda, torch.Tensor.to):
            return self.moved(func, *args, **kwargs)
        if device := as_device(kwargs.get("device")):
            if device == CUDA and func in (torch.tensor, torch.as_tensor):
                self.wait(func.__name__)
            return mark(func(*args, **{**kwargs, "device": CPU}), device)
        # what an operation of torch makes on its own lies where its inputs lie
        tensors = (t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor))
        before, self.operations.inside = self.operations.inside, next(map(place, tensors), None)
        try:
            return func(*args, **kwargs)
        finally:
            self.operations.inside = before

    def moved(self, func, tensor, *args, non_blocking=False, **kwargs):
        """tensor.to(...), with a copy to where it is asked for."""
        fixed = {torch.Tensor.cpu: CPU, torch.Tensor.cuda: CUDA}.get(func)
        given = [as_device(value) for value in (*args, kwargs.pop("device", None))]
        target = fixed or next(filter(None, given), None) or place(tensor)
        dtype = [value for value in args if isinstance(value, torch.dtype)]
        if target != place(tensor):
            if not (non_blocking or True in args) or target == CPU:
                self.wait(f"to({target})")
            assert not (tensor.requires_grad and torch.is_grad_enabled())
            with _disable_current_modes():
                tensor = tensor.detach().clone()
            mark(tensor, target)
        return tensor.to(*dtype, **kwargs) if dtype or kwargs else tensor


class CPUGenerator(torch.Generator):
    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu")


@contextlib.contextmanager
def pretend_cuda(monkeypatch, major=9, total_memory=80 << 30):
    waits = []

    def wait(what):
        ours = [f for f in traceback.extract_stack() if f.filename.startswith(f"{ROOT}{os.sep}")
                and f"{os.sep}tests{os.sep}" not in f.filename]
        at = f"{Path(ours[-1].filename).name}: {ours[-1].name}" if ours else "tests"
        waits.append(f"{what} in {at}")

    def on_cpu(function):
        return lambda device="cuda", *args, **kwargs: function("cpu", *args, **kwargs)
    for name, value in dict(
            is_available=True, device_count=1, set_device=None,
            get_device_properties=SimpleNamespace(major=major, total_memory=total_memory),
            get_device_name="NVIDIA H100 80GB HBM3", is_bf16_supported=True, synchronize=None,
            max_memory_allocated=1 << 30, current_device=0).items():
        monkeypatch.setattr(torch.cuda, name, lambda *a, value=value, **k: value)
    # it asks C++ for the devices, which knows the truth
    grouped = clip_grad._group_tensors_by_device_and_dtype
    monkeypatch.setattr(clip_grad, "_group_tensors_by_device_and_dtype", lambda lists: {
        (place(value[0][0][0]), dtype): value for (_, dtype), value in grouped(lists).items()})
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda *a: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    for name in ("autocast", "is_autocast_enabled", "get_autocast_dtype"):
        monkeypatch.setattr(torch, name, on_cpu(getattr(torch, name)))
    monkeypatch.setattr(torch, "Generator", CPUGenerator)
    operations = Operations(wait)
    with Functions(operations), operations:
        yield SimpleNamespace(waits=waits)
