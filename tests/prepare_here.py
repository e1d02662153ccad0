"""A prepare.py that runs in this process: the time that Python takes to start is saved."""
import contextlib
import io
import runpy
import subprocess
import sys
from unittest import mock


def prepare_here(folder, *argv, cwd="/"):
    """What `python prepare.py argv` gives, run from cwd: exit status, stdout and stderr."""
    argv, status = [str(folder / "prepare.py"), *map(str, argv)], 0
    out, err = io.StringIO(), io.StringIO()
    with (mock.patch.object(sys, "argv", argv), mock.patch.object(sys, "path", sys.path[:]),
          contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(cwd)):
        try:
            runpy.run_path(argv[0], run_name="__main__")
        except SystemExit as exit:
            status = exit.code
    return subprocess.CompletedProcess(argv, status, out.getvalue(), err.getvalue())
