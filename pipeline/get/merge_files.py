"""BPE merge files of tiktoken's encodings: from tiktoken's cache, OpenAI's host, or a package.

    get_encoding("gpt2")     like tiktoken.get_encoding()

tiktoken's own download does not retry, and knows no second place to fetch a file from.
"""
import hashlib
import os
import tempfile
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import lock, replacing

ADDRESS = "https://openaipublic.blob.core.windows.net/encodings/"
WHISPER = ("mlx-whisper==0.4.3", "6b82b6597a994643a3e5496c7bc229a672e5ca308458455bfe276e76ae024489")
LITELLM = ("litellm==1.80.0", "fd0009758f4772257048d74bf79bb64318859adb4ea49a8b66fdbc718cd80b6e")
IN_PACKAGE = {  # the path of a merge file in there; {} is its name in tiktoken's cache
    WHISPER: "mlx_whisper/assets/gpt2.tiktoken",
    LITELLM: "litellm/litellm_core_utils/tokenizers/{}"}
MERGE_FILES = {  # name: its sha256 (as in tiktoken), a package that carries it
    "r50k_base": ("306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930", WHISPER),
    "p50k_base": ("94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069", LITELLM),
    "cl100k_base": ("223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7", LITELLM),
    "o200k_base": ("446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d", LITELLM)}
SHARED = {"gpt2": "r50k_base", "p50k_edit": "p50k_base", "o200k_harmony": "o200k_base"}


def get_encoding(name):
    """tiktoken's encoding; its merge file is fetched first if tiktoken's cache lacks it.

    Raises UserError.
    """
    import tiktoken
    import tiktoken.registry
    if name not in tiktoken.list_encoding_names():
        raise UserError(f"tiktoken has no encoding {name!r}; it has "
                        f"{', '.join(tiktoken.list_encoding_names())}")
    if (file := SHARED.get(name, name)) in MERGE_FILES:
        _fill_cache(file)
    if name == "gpt2":  # r50k_base has the same merges and pattern, in one file instead of two
        constructor = tiktoken.registry.ENCODING_CONSTRUCTORS["r50k_base"]
        return tiktoken.Encoding(**{**constructor(), "name": "gpt2"})
    return tiktoken.get_encoding(name)


def _fill_cache(name):
    """Put a merge file where tiktoken looks first: <cache>/<sha1 of the file's address>."""
    cache = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if cache == "":  # the user has turned tiktoken's cache off
        return
    url, (sha256, package) = f"{ADDRESS}{name}.tiktoken", MERGE_FILES[name]
    cache = Path(cache or Path(tempfile.gettempdir()) / "data-gym-cache")
    path = cache / hashlib.sha1(url.encode()).hexdigest()
    if _has_hash(path, sha256):
        return
    cache.mkdir(parents=True, exist_ok=True)
    # imported here, because most who tokenize have the file and need no network code
    from pipeline.get.download import DownloadError, download
    from pipeline.get.packages import open_package
    with lock(cache, "prepare.py", wait=True):  # several preparations may want the file at once
        if _has_hash(path, sha256):
            return
        try:
            download(url, path, sha256=sha256, tries=2)
        except DownloadError as error:
            with open_package(*package, why=error, folder=cache) as wheel, replacing(path) as file:
                file.write(wheel.read(IN_PACKAGE[package].format(path.name)))


def _has_hash(path, sha256):
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
