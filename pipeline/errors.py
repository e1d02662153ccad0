"""A user's mistake ends in one line on stderr and exit status 2, without a traceback.

Raise UserError (or FileNotFoundError) with a message that says what failed, where, and what to do.
A mistake of ours stays an ordinary exception with a traceback.
"""
import argparse
import contextlib
import difflib
import errno
import glob
import importlib
import os
import re
import shlex
import signal
import sys
import threading

REQUIRED = ("numpy", "requests", "tiktoken", "torch", "tqdm")  # requirements.txt
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# words of the field that are no flags, and what is meant by them where a program has that flag;
# after a comma, how the meaning differs
MEANT = (
    ("data dataset_name data_dir dataset_path corpus", "--dataset"),
    ("input input_file file text text_file train train_file data data_path", "--train_input"),
    ("val val_file validation test", "--val_input"),
    ("val_split val_ratio test_size split", "--percentage_train, the fraction for train"),
    ("output output_dir outdir save_dir checkpoint ckpt run run_dir log_dir model_dir",
     "--out_dir, the folder of a run"),
    ("datasets data_list", "--dataset_list"),
    ("multicontext", "--training_mode=multicontext --multicontext_datasets A B"),
    ("multidataset mixture", "--training_mode=multidataset --dataset_list A B"),
    ("mode", "--training_mode"), ("resume resume_from continue", "--init_from=resume"),
    ("model pretrained model_name model_type", "--init_from"),
    ("lr max_lr adam_lr", "--learning_rate"),
    ("min_lr lr_min", "--min_lr_share, a fraction of the highest rate"),
    ("decay_lr", "--lr_schedule, constant or one that falls"), ("scheduler", "--lr_schedule"),
    ("warmup warmup_steps", "--warmup_iters"), ("wd", "--weight_decay"),
    ("clip max_grad_norm gradient_clip", "--grad_clip"),
    ("epochs num_epochs epoch n_epochs num_train_epochs",
     "--max_iters, which counts iterations: an epoch has tokens / (batch_size * block_size)"),
    ("iters steps max_steps num_steps num_iters iterations n_iters train_steps", "--max_iters"),
    ("time budget max_minutes max_time time_limit minute", "--minutes"),
    ("seconds max_seconds", "--minutes, such as 0.5"), ("max_hours hour", "--hours"),
    ("bs batch per_device_train_batch_size", "--batch_size"),
    ("grad_accum gradient_accumulation accumulate", "--gradient_accumulation_steps"),
    ("context context_length ctx_len seq_len sequence_length max_seq_len max_length n_ctx",
     "--block_size"),
    ("layers num_layers depth num_hidden_layers", "--n_layer"),
    ("heads num_heads num_attention_heads", "--n_head"),
    ("hidden_size d_model dim width embd embedding_dim hidden_dim", "--n_embd"),
    ("gpu cuda gpus", "--device=cuda"), ("cpu", "--device=cpu"), ("mps", "--device=mps"),
    ("fp16 half", "--dtype=float16"), ("bf16 amp", "--dtype=bfloat16"),
    ("precision", "--dtype"), ("workers threads num_workers", "--num_threads"),
    ("workers threads num_threads", "--num_workers"), ("random_seed", "--seed"),
    ("seed random_seed", "--split_seed"),
    ("wandb_log", "--wandb"), ("eval_steps eval_every", "--eval_interval"),
    ("save_steps save_interval", "--eval_interval, at which checkpoints are saved"),
    ("log_every logging_steps", "--log_interval"), ("force clean", "--overwrite"),
    ("dry_run", "--plan"), ("prompt input text", "--start"),
    ("length max_length max_tokens num_tokens n_tokens tokens n", "--max_new_tokens"),
    ("topk", "--top_k"), ("topp", "--top_p"), ("samples n_samples num", "--num_samples"),
    ("tokenizer tokenizer_type", "--method, such as --method=tiktoken"),
    ("encoding_name", "--tiktoken_encoding"),
    ("tokenizer_name tokenizer_path", "--tokenizer_of"), ("split_on", "--document_separator"),
    ("template", "--text_template"), ("iteration step", "--iter"),
)
SHORT_OF_MEMORY = ("This process may have no more memory or threads (ulimit -a shows its limits). "
                   "Stop other programs, raise the limit, or use fewer workers; then run the same "
                   "command again")
NO_MEMORY = ("can't start new thread", "failed to map segment", "annot allocate memory")


class UserError(ValueError):
    """Something that the user can correct; the message says how."""


class MissingPackage(UserError):
    """An optional package is not installed: a fault of no input."""


def optional(package, needed_for, install=None):
    """Import a package that not everybody needs; without it, UserError says how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingPackage(f"{needed_for} needs the package {package}. "
                             f"Run: pip install {install or package}") from None


def typed(text):
    r"""The value of a flag that takes text: \n, \t, \r and \\, as typed in a shell, become those
    characters."""
    named = {"\\n": "\n", "\\t": "\t", "\\r": "\r", "\\\\": "\\"}
    return re.sub(r"\\[ntr\\]", lambda match: named[match[0]], text)


def plain(text):
    """Text from a stranger, made safe for a terminal: control characters become their codes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def printable(text, most=100):
    """plain() of the first `most` characters, for a message."""
    return plain(str(text)[:most])


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, and name the nearest flag for one that does not exist."""

    def __init__(self, **kwargs):
        # prog is the command as typed
        super().__init__(**{"prog": f"python {sys.argv[0]}", "allow_abbrev": False, **kwargs})

    def parse_args(self, args=None, namespace=None):
        args, unknown = self.parse_known_args(args, namespace)
        if wrong := self.no_flags(unknown):
            self.error("; ".join(wrong))
        return args

    def no_flags(self, words):
        """What to say of each of words that are not flags."""
        words = [word for word in words if word != "--"] or words  # of "-- flag=value"
        # a word after an unknown flag is taken for its value, which needs no message of its own
        words = [word for before, word in zip(["", *words], words)
                 if word.startswith("-") or not before.startswith("-") or "=" in before]
        texts = [word for word in words if re.fullmatch(r"[^-=][^=]*\.\w+", word)]
        if len(texts) != len(words) or "--train_input" not in self._option_string_actions:
            return [self._no_flag(word) for word in words]
        return [f"-t goes before files of text: -t {shlex.join(texts)}"] if texts else []

    def _no_flag(self, word):
        name, flags = word.split("=")[0], list(self._option_string_actions)
        near = [f"--{name}"] if f"--{name}" in flags else []
        if os.path.exists(word):  # a run, or a text
            near = [f"{flag}={shlex.quote(word)}" for flag, is_meant in (
                ("--out_dir", os.path.exists(os.path.join(word, "ckpt.pt"))),
                ("--train_input", os.path.isfile(word))) if is_meant and flag in flags]
        if word.startswith("-"):
            asked = name.lstrip("-").replace("-", "_").lower()
            near = [meant for words, meant in MEANT if asked in words.split()
                    and re.split("[=,]", meant)[0] in flags] or [
                flag for flag in flags if len(asked) > 1 and flag.startswith(name)] or (
                difflib.get_close_matches(name, flags, n=1))
        program = self.prog.split("/")[-1].removeprefix("python ")
        return f"{program} has no flag {word}" + (f" (did you mean {near[0]}?)" if near else "")

    def error(self, message):
        usage = f". {' '.join(self.format_usage().split())}" if "are required" in message else ""
        raise UserError(f"{message}{usage}. See {self.prog} --help")


@contextlib.contextmanager
def resumable():
    """Ctrl-C within the block, or the function it decorates, says that nothing is lost by it."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.args = stop.args or ("The same command goes on where this one stopped",)
        raise


class Stopped(KeyboardInterrupt):
    """SIGTERM, or the SIGHUP of a terminal that was closed; it is handled as Ctrl-C is."""
    number = None


@contextlib.contextmanager
def _stop_signals():
    """Within the block the first SIGTERM or SIGHUP raises Stopped; a second one ends the process.

    Nothing changes in a thread, and for a signal that the parent handles or ignores (nohup).
    """
    def stop(number, frame):
        signal.signal(number, signal.SIG_DFL)
        error = Stopped()
        error.number = number
        raise error

    ours = threading.current_thread() is threading.main_thread()
    with contextlib.ExitStack() as stack:
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", None)):  # Windows has no SIGHUP
            if ours and number and signal.getsignal(number) is signal.SIG_DFL:
                stack.callback(signal.signal, number, signal.SIG_DFL)
                signal.signal(number, stop)
        yield


@contextlib.contextmanager
def one_line_errors():
    """Wrap main(): UserError, OSError and lack of memory become `error: ...` and exit status 2, and
    Ctrl-C becomes status 130, SIGTERM 143. Other exceptions are ours and keep their traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # a terminal that lacks a character shows its code instead of failing
            stream.reconfigure(errors="backslashreplace")
    try:
        with _stop_signals():
            yield
    except BrokenPipeError:  # `python sample.py | head`: nobody reads on, so nobody is told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt as stop:
        number = getattr(stop, "number", signal.SIGINT)
        what = "\ninterrupted"
        if number != signal.SIGINT:
            what = f"stopped by {signal.Signals(number).name}"
            if "TORCHELASTIC_RUN_ID" in os.environ:
                what += ", which torchrun also sends where another rank has ended: see its report"
        with contextlib.suppress(OSError):  # the terminal may be gone
            if not getattr(stop, "is_said_by_another", False):
                print(f"{what}{f'. {stop}' if str(stop) else ''}", file=sys.stderr)
        sys.exit(128 + number)
    except Exception as error:
        message = _in_one_line(error)
        silent = getattr(error, "is_said_by_another", None)  # as the ranks have agreed
        if silent is None:
            # before they know each other all fail alike, so the first speaks for all, except where
            # a rank has met an error that the others have not
            alike = isinstance(error, (UserError, OSError, TypeError))
            silent = (os.environ.get("RANK", "0") != "0" and alike
                      and not getattr(error, "of_one_rank", False))
        if message is None and not silent:
            raise
        if not silent:
            print(f"error: {printable(message, 10_000)}", file=sys.stderr)
        sys.exit(2)


def _in_one_line(error):
    """What to tell the user of an exception, or None for a mistake of ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in REQUIRED:
        return _no_package(error.name)
    if isinstance(error, OSError):
        message = str(error)
        if error.strerror:  # without its number
            message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            message += (". The disk is full: free some space and run the same command again; no "
                        "earlier result was overwritten")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            message += (". You may not read or write there: name another place, or see its rights "
                        "by ls -ld")
        return f"{message}. {SHORT_OF_MEMORY}" if error.errno == errno.ENOMEM else message
    if isinstance(error, TypeError) and re.search("'(TextFile|Documents)'", str(error)):
        return (f"{error}: inputs are read while they are written, so this is not a string yet. "
                f"Edit each text as it is read: [... for t in text]")
    if isinstance(error, TypeError) and "FileParts found" in str(error):  # by "".join(text)
        return ("a document is a list of parts (text, learned) here, not a string. Its text is "
                '"".join(p for p, learned in t)')
    if isinstance(error, MemoryError) or isinstance(error, (RuntimeError, ImportError)) and any(
            sign in str(error) for sign in NO_MEMORY):
        return f"{str(error) or 'out of memory'}. {SHORT_OF_MEMORY}"
    return None


def _no_package(name):
    """What to do where this Python lacks one of the REQUIRED packages. An environment in the repo
    root, as the README makes it, is named."""
    found = [os.path.dirname(path) for hidden in ("", ".") for path in glob.glob(
        os.path.join(ROOT, f"{hidden}*", "pyvenv.cfg"))]
    others = [shown_path(folder) for folder in found if not os.path.samefile(folder, sys.prefix)]
    command = ""
    if others:
        script = ("bin", "activate") if os.name == "posix" else ("Scripts", "activate")
        path = shlex.quote(os.path.join(others[0], *script))
        command = f": source {path}" if os.name == "posix" else f": {path}"
    python, wanted = (shlex.quote(path) for path in (
        sys.executable, shown_path(os.path.join(ROOT, "requirements.txt"))))
    command = command or " (such as: source .venv/bin/activate)"
    return (f"this Python has no package {name}. Activate the environment that has it{command}; or "
            f"run: {python} -m pip install -r {wanted}")


def shown_path(path):
    """A path as it can be typed here: relative to the working directory if it lies below it."""
    below = os.path.join(os.getcwd(), "")
    return path[len(below):] if path.startswith(below) else path


def tell_in_one_line(earlier):
    """The sys.excepthook for errors while modules are imported, before one_line_errors() is
    entered; for errors of ours it calls the earlier one."""
    def hook(kind, error, trace):
        if not isinstance(error, Exception) or _in_one_line(error) is None:
            return earlier(kind, error, trace)
        with one_line_errors():
            raise error
    return hook
