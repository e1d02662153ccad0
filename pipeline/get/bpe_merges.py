"""The rank files of tiktoken's encodings: from tiktoken's cache, else from OpenAI's host, else from a package that ships them.

    get_encoding("gpt2")     as tiktoken.get_encoding()
"""
import hashlib
import os
import tempfile
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import lock, replacing

RANKS_URL = "https://openaipublic.blob.core.windows.net/encodings/"
WHISPER = ("mlx-whisper==0.4.3", "6b82b6597a994643a3e5496c7bc229a672e5ca308458455bfe276e76ae024489")
LITELLM = ("litellm==1.80.0", "fd0009758f4772257048d74bf79bb64318859adb4ea49a8b66fdbc718cd80b6e")
RANKS = {  # file: its sha256 (as in tiktoken), a package that ships it and that wheel's sha256, its path in there
    "r50k_base": ("306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
                  WHISPER, "mlx_whisper/assets/gpt2.tiktoken"),
    "p50k_base": ("94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
                  LITELLM, "litellm/litellm_core_utils/tokenizers/ec7223a39ce59f226a68acc30dc1af2788490e15"),
    "cl100k_base": ("223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
                    LITELLM, "litellm/litellm_core_utils/tokenizers/9b5ad71b2ce5302211f9c61530b329a4922fc6a4"),
    "o200k_base": ("446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
                   LITELLM, "litellm/litellm_core_utils/tokenizers/fb374d419588a4632f3f557e76b4b70aebbca790"),
}
RANKS_OF = {"gpt2": "r50k_base", "p50k_edit": "p50k_base", "o200k_harmony": "o200k_base"}  # encodings that share a file


def get_encoding(name):
    """tiktoken's encoding, its rank file fetched first where tiktoken's cache lacks it. Raises UserError."""
    import tiktoken
    import tiktoken.registry
    if name not in tiktoken.list_encoding_names():
        raise UserError(f"tiktoken has no encoding {name!r}; it has {', '.join(tiktoken.list_encoding_names())}")
    if (ranks := RANKS_OF.get(name, name)) in RANKS:
        _fill_cache(ranks)
    if name == "gpt2":  # the same ranks and pattern as r50k_base, in one file instead of two
        constructor = tiktoken.registry.ENCODING_CONSTRUCTORS["r50k_base"]
        return tiktoken.Encoding(**{**constructor(), "name": "gpt2"})
    return tiktoken.get_encoding(name)


def _fill_cache(ranks):
    """Put a rank file where tiktoken looks first, <cache>/<sha1 of its address>: from its host, else from a package."""
    cache = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if cache == "":  # the user has turned tiktoken's cache off
        return
    url, (sha256, package, member) = f"{RANKS_URL}{ranks}.tiktoken", RANKS[ranks]
    cache = Path(cache or Path(tempfile.gettempdir()) / "data-gym-cache")
    path = cache / hashlib.sha1(url.encode()).hexdigest()
    if _is_whole(path, sha256):
        return
    cache.mkdir(parents=True, exist_ok=True)
    from pipeline.get.download import DownloadError, download, open_package
    with lock(cache, "prepare.py", wait=True):  # several folders' may want the file at once
        if _is_whole(path, sha256):
            return
        try:
            download(url, path, sha256=sha256, tries=2)
        except DownloadError as error:
            with open_package(*package, why=error, folder=cache) as wheel, replacing(path) as file:
                file.write(wheel.read(member))


def _is_whole(path, sha256):
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
