"""The device of this process, and what follows from it: number format, compiling, threads, memory.

    pick_device(name)                   --device -> a torch.device that has run a kernel
    settle_precision(args, device)      decides --dtype auto and --compile auto
    settle_threads(args, saved, ranks)  decides --num_threads
    estimate_mfu(model, speed, ranks)   the part of the GPUs' peak that a run uses
    memory_errors(device)               a lack of memory is one line
    compile_errors()                    and so is a compiler that does not work
"""
import contextlib
import ctypes
import os
import re
import shutil
import sys
import warnings
from pathlib import Path

import torch

from pipeline.errors import UserError, printable
from pipeline.threads import set_by_user, take_threads

# torch.compile writes C++ and has it compiled: by what, and how a person gets it
COMPILERS = {"linux": ("g++", "on Debian and Ubuntu: sudo apt install g++ python3-dev"),
             "darwin": ("clang++", "run: xcode-select --install"),
             "win32": ("cl", "Visual Studio's Build Tools for C++, and start from their prompt")}
# FLOPs of a run: about two minutes of a large GPU. Compiling takes half a minute and saves a third
WORTH_COMPILING = 1e16
# dense FLOPs a second by the makers' data sheets, in bfloat16, or in float16 on GPUs older than
# that: for the first line whose words are all in the GPU's name
PEAK_FLOPS = {
    "GB300": 2500e12, "B300": 2250e12, "GB200": 2500e12, "B200": 2250e12, "GH200": 989e12,
    "H200 NVL": 835e12, "H200": 989e12, "H100 NVL": 835e12, "H100 PCIe": 756e12, "H100": 989e12,
    "A100": 312e12, "A10G": 70e12, "A10": 125e12, "V100": 125e12, "T4": 65e12,
    "L40S": 362e12, "L40": 181e12, "L4": 121e12, "RTX 5090": 209e12, "RTX 4090 D": 147e12,
    "RTX 4090": 165e12, "RTX 3090 Ti": 80e12, "RTX 3090": 71e12,
}


def install_command(cuda):
    """What installs this version of torch for another CUDA. cu126 still has kernels for GPUs of
    2014 and later, and works with the drivers of 2023 and later."""
    version = torch.__version__.partition("+")[0]
    return (f"pip install --force-reinstall torch=={version} "
            f"--index-url https://download.pytorch.org/whl/{cuda}")


def pick_device(name, local_rank=0, num_ranks=1):
    """The torch.device for --device: of several ranks, each has a GPU of its own. Raises UserError
    for one that cannot be used here."""
    if name == "auto":
        name = "cuda" if cuda_works(local_rank) else (
            "mps" if torch.backends.mps.is_available() and num_ranks == 1 else "cpu")
    if num_ranks > 1 and re.fullmatch(r"mps|cuda:\d+", name):
        raise UserError(f"--device {name} is one device, and torchrun has started {num_ranks} "
                        f"processes. Choose --device cuda, which gives each its own GPU, or cpu")
    num_gpus = torch.cuda.device_count() if name == "cuda" else 0
    if num_gpus and local_rank >= num_gpus:
        error = UserError(f"torchrun has started more processes than this machine has GPUs "
                          f"({num_gpus}). Start it with --nproc_per_node={num_gpus}")
        error.of_one_rank = True  # the others have found theirs
        raise error
    try:
        device = torch.device(name)
        if device.type == "cuda":
            device = torch.device("cuda", local_rank if device.index is None else device.index)
            torch.cuda.set_device(device)
        run_a_kernel(device)
    except (RuntimeError, AssertionError, AttributeError) as error:
        why = (str(error).splitlines() or [""])[0].rstrip(". ")[:200]
        raise UserError(f"--device {name} cannot be used here: {why}. {advice(why)}") from None
    return device


def run_a_kernel(device):
    """Raises RuntimeError where a device is found and this torch has no kernels for it."""
    torch.zeros(1, device=device).add_(1).item()


def advice(why):
    """What to do about an error of CUDA's, given its first line."""
    if "no kernel image" in why or "PTX" in why:
        return (f"This torch was built for newer GPUs ({', '.join(torch.cuda.get_arch_list())}). "
                f"Install one that was built for older ones too: {install_command('cu126')}")
    if "driver" in why and "too old" in why:
        return f"Update the driver, or install a torch for older ones: {install_command('cu126')}"
    return ("Choose auto, cpu, cuda or mps; CUDA needs a GPU, its driver, and a torch that was "
            "built for it")


def cuda_works(local_rank):
    """Whether torch can use a GPU. Where one is there and torch cannot, rank 0 prints why: nobody
    should train on the CPU for a night without knowing it."""
    with warnings.catch_warnings(record=True) as caught:  # torch's own take several lines
        warnings.simplefilter("always")
        works = torch.cuda.is_available()
    if works or local_rank:
        return works
    if caught and torch.version.cuda:
        why = str(caught[0].message).partition(". ")[0].removeprefix("CUDA initialization: ")
        print(f"note: this run uses the CPU. CUDA says: {why}. {advice(why)}")
    elif not (torch.version.cuda or torch.version.hip) and has_nvidia_driver():
        print(f"note: this run uses the CPU, because this torch was built without CUDA. To use the "
              f"GPU: {install_command('cu126')}")
    return False


def has_nvidia_driver():
    return bool(shutil.which("nvidia-smi")) or Path("/proc/driver/nvidia/version").exists()


def has_fast_bfloat16(device):
    """Whether the processor has instructions that multiply bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def settle_precision(args, device):
    """Replace `auto` in args.dtype and args.compile. Both are stored in the checkpoint, so that a
    resumed run keeps them."""
    on_cuda = device.type == "cuda"
    if args.dtype == "auto":
        args.dtype = ("bfloat16" if has_fast_bfloat16(device) else
                      "float16" if on_cuda else "float32")
    if args.dtype == "float16" and not on_cuda:
        raise UserError("--dtype float16 needs a CUDA GPU. On this device choose float32 or "
                        "bfloat16")
    default, install = COMPILERS.get(sys.platform, COMPILERS["linux"])
    name = os.environ.get("CXX", default)
    compiler = shutil.which(name)
    if args.compile == "auto":  # compiling takes half a minute; a short run does not win it back
        tokens = (args.max_iters * args.batch_size * args.gradient_accumulation_steps
                  * args.block_size)
        flops = 6 * tokens * 12 * args.n_layer * args.n_embd**2  # of the blocks' products
        is_long = args.max_iters >= 2000 or flops > WORTH_COMPILING
        worth_it = on_cuda and sys.platform == "linux" and is_long and compiler
        args.compile = "true" if worth_it else "false"
    if args.compile == "true" and not compiler:
        raise UserError(f"--compile true needs a C++ compiler, and {name!r} was not found. Install "
                        f"it ({install}), name another one by the variable CXX, or use "
                        f"--compile=false")


def settle_threads(args, checkpoint, ranks):
    """Set the number of threads, and args.num_threads to it. A resumed run keeps its number,
    because a sum that is taken in another number of parts is rounded differently."""
    before = checkpoint["args"].get("num_threads") if checkpoint else None  # older ones have none
    chosen = "--num_threads" if args.num_threads else set_by_user()
    num_threads = take_threads(args.num_threads, before)
    if ranks.device.type != "cpu":
        return
    args.num_threads = num_threads
    if before not in (None, num_threads):
        ranks.say(f"note: this run has used {before} threads so far and uses {num_threads} from "
                  f"here on ({chosen or 'this machine has no more cores'}), so its weights will "
                  f"differ in the last bits from those of a run that was never stopped. To keep "
                  f"them equal, resume with --num_threads={before}")


def keep_freed_memory():
    """Have glibc keep freed memory. By default it returns large pieces to the system, and each step
    pays for getting them anew, up to a tenth of a small model's time."""
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no such settings
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD, in bytes
        libc.mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD, in bytes; the largest value allowed


def estimate_mfu(model, tokens_per_s, ranks):
    """Model FLOPs a second as a fraction, 0..1, of the GPUs' peak in 16 bits; None for a device
    whose peak is not in PEAK_FLOPS."""
    if ranks.device.type != "cuda":
        return None
    words = torch.cuda.get_device_name(ranks.device).replace("-", " ").split()
    # the same name as the desktop's GPU, and far slower; a part of a GPU, under the name of all
    if "Laptop" in words or "MIG" in words:
        return None
    peaks = [peak for name, peak in PEAK_FLOPS.items() if all(w in words for w in name.split())]
    return model.flops_per_token() * tokens_per_s / (peaks[0] * ranks.count) if peaks else None


@contextlib.contextmanager
def memory_errors(device, do="Lower --batch_size and raise --gradient_accumulation_steps by the "
                  "same factor, or choose a smaller model"):
    """Turn a lack of memory into one line that says what to change: `do`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # numpy's, CUDA's, and that of torch's CPU allocator, which has no type of its own
        if not (isinstance(error, (MemoryError, torch.OutOfMemoryError))
                or "can't allocate memory" in str(error)):
            raise
        what = (str(error) or repr(error)).splitlines()[0][:200].rstrip(". ")
        told = UserError(f"out of memory on {device.type}: {what}. {do}")
        told.of_one_rank = True  # the other ranks may have had enough
        raise told from None


@contextlib.contextmanager
def compile_errors():
    """Turn a failure of what torch.compile calls (a C++ compiler, Triton) into one line."""
    try:
        yield
    except RuntimeError as error:
        if "torch._dynamo" not in sys.modules or not isinstance(
                error, torch._dynamo.exc.BackendCompilerFailed):
            raise
        told = str(error).partition("Set TORCHDYNAMO_VERBOSE")[0]
        # of a compiler's many lines that which names its error
        why = re.search(r".*\berror: .*", told) or re.search(r".*\S.*", told)
        install = COMPILERS.get(sys.platform, COMPILERS["linux"])[1]
        raise UserError(f"torch.compile failed: {printable(why[0].strip(), 300)}. Use "
                        f"--compile=false, or install what is missing ({install})") from None
