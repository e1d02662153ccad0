"""A user's mistake ends in one line on stderr and exit status 2, without a traceback.

Raise UserError (or FileNotFoundError) with a message that says what failed, where, and what to do. A mistake of
ours stays an ordinary exception, traceback and all.
"""
import argparse
import contextlib
import difflib
import errno
import importlib
import os
import re
import signal
import sys
import threading

REQUIRED = ("numpy", "requests", "tiktoken", "torch", "tqdm")  # requirements.txt

SHORT_OF_MEMORY = ("This process may have no more memory or threads (ulimit -a shows its limits). "
                   "Stop other programs, raise the limit, or take fewer workers; then run the same "
                   "command again")


class UserError(ValueError):
    """Something the user can put right; the message says how."""


def optional(package, needed_for, install=None):
    """Import a package that only some uses need; where it is missing, one line says how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(f"{needed_for} needs the package {package}. Run: pip install {install or package}") from None


def typed(text):
    r"""The value of a flag that takes text: \n, \t, \r and \\, as typed in a shell, are those characters."""
    named = {"\\n": "\n", "\\t": "\t", "\\r": "\r", "\\\\": "\\"}
    return re.sub(r"\\[ntr\\]", lambda match: named[match[0]], text)


def plain(text):
    """Text of a stranger's, for a terminal: control characters stand as their codes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def printable(text, most=100):
    """Text of a stranger's, for a message: plain(), and not long."""
    return plain(str(text)[:most])


class Parser(argparse.ArgumentParser):
    """argparse, with its errors in one line as all others, and the nearest flag for one that there is not."""

    def __init__(self, **kwargs):
        super().__init__(**{"prog": f"python {sys.argv[0]}", "allow_abbrev": False, **kwargs})  # prog: as typed

    def parse_args(self, args=None, namespace=None):
        args, unknown = self.parse_known_args(args, namespace)
        if unknown:  # a word behind an unknown flag is its value
            self.error("; ".join(self.no_flag(word) for before, word in zip(["", *unknown], unknown)
                                 if word.startswith("-") or not before.startswith("-") or "=" in before))
        return args

    def no_flag(self, word):
        """What to say of a word that is no flag."""
        name, flags = word.split("=")[0], list(self._option_string_actions)
        near = [flag for flag in flags if flag.startswith(name)] or difflib.get_close_matches(name, flags, n=1)
        if not word.startswith("-"):
            near = [f"--{name}"] if f"--{name}" in flags else []
        return f"{word} is no flag of {self.prog.split('/')[-1].removeprefix('python ')}" + (f" (did you mean {near[0]}?)" if near else "")

    def error(self, message):
        raise UserError(f"{message}. See {self.prog} --help")


@contextlib.contextmanager
def resumable():
    """Ctrl-C within the block, or the function it decorates, says that nothing is lost by it."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.args = stop.args or ("The same command goes on where this one stopped",)
        raise


class Stopped(KeyboardInterrupt):
    """SIGTERM, or SIGHUP of a terminal that was closed: to be met as Ctrl-C is."""
    number = None


@contextlib.contextmanager
def _stop_signals():
    """Within the block SIGTERM and SIGHUP raise Stopped, once; a second one ends the process.

    Not in a thread, not where the parent has chosen otherwise (nohup), and not under torchrun,
    where a rank that unwinds would wait for the others.
    """
    def stop(number, frame):
        signal.signal(number, signal.SIG_DFL)
        error = Stopped()
        error.number = number
        raise error

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread() or "RANK" in os.environ:
        numbers = []
    numbers = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in numbers:
            signal.signal(number, stop)
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def one_line_errors():
    """Wrap main(): UserError and OSError become `error: ...` and exit status 2; Ctrl-C becomes
    status 130, SIGTERM 143."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a character shows its code instead of failing
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _stop_signals():
            yield
    except ModuleNotFoundError as error:
        if error.name not in REQUIRED:
            raise
        print(f"error: this Python ({sys.executable}) has no package {error.name}. Activate the environment that has it, "
              f"or run: pip install -r requirements.txt", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `python sample.py | head`: nobody reads on, so there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (UserError, OSError, TypeError) as error:
        message = str(error)
        if isinstance(error, TypeError) and not isinstance(error, UserError):
            if not re.search("'(TextFile|Documents)'", message):  # a mistake of ours
                raise
            message += ": it is read when it is written, and is not a string yet. Edit what is read: [... for t in text]"
        if isinstance(error, OSError) and error.strerror:  # without its number
            message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        number = error.errno if isinstance(error, OSError) else None
        if number and number in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
            message += ". The disk is full: free some space and run the same command again; nothing was written over"
        if number == errno.ENOMEM:
            message += f". {SHORT_OF_MEMORY}"
        # under torchrun all ranks fail alike, and one says so, but for what one of them alone has met
        if os.environ.get("RANK", "0") == "0" or getattr(error, "of_one_rank", False):
            print(f"error: {printable(message, 10_000)}", file=sys.stderr)  # whatever it quotes
        sys.exit(2)
    except (MemoryError, RuntimeError, ImportError) as error:
        signs = "can't start new thread", "failed to map segment", "annot allocate memory"
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in signs):
            raise
        print(f"error: {f'{error}' or 'out of memory'}. {SHORT_OF_MEMORY}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        number = getattr(stop, "number", signal.SIGINT)
        what = f"stopped by {signal.Signals(number).name}"
        what = "\ninterrupted" if number == signal.SIGINT else what
        with contextlib.suppress(OSError):  # the terminal is gone
            print(f"{what}{f'. {stop}' if str(stop) else ''}", file=sys.stderr)
        sys.exit(128 + number)
