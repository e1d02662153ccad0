"""Published models: a folder of this disk, or a repository of the Hugging Face hub.

    ModelFiles("Qwen/Qwen3-0.6B")      what is needed of the repository, kept in
                                       out/pretrained/Qwen/Qwen3-0.6B/
    ModelFiles("models/mine")          an existing folder
    .get("config.json", ...)           those files that the model has, downloaded if they are not
                                       there
    .weights()                         its safetensors files, likewise
    .tokenizer()                       what its tokenizer.json describes

Files are downloaded once, all of the commit that the hub's branch main named at the first time, and
checked against the hashes that the hub states. A file that you put there yourself is used as it is.
HF_ENDPOINT, HF_TOKEN and proxies work as in addresses.py.
"""
import difflib
import re
from pathlib import Path

from pipeline.errors import UserError, plain
from pipeline.files import read_text
from pipeline.get.addresses import hub_endpoint, printable_address
from pipeline.get.download import DownloadError, download_all
from pipeline.get.hub import hub_files
from pipeline.tokenizers import PublishedTokenizer, read_json

KEPT = Path("out/pretrained")
GPT2 = re.compile("gpt2(-medium|-large|-xl)?")  # openai-community's, which go by their names alone
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


class ModelFiles:
    """The files of a published model. Raises UserError for a name that cannot be one."""

    def __init__(self, name):
        path = Path(name)
        self.name, self.repo, self.folder = name, None, path
        if GPT2.fullmatch(name):
            self.repo, self.folder = f"openai-community/{name}", KEPT / name
        elif path.is_file():  # a tokenizer.json of one's own
            self.folder = path.parent
        elif not path.exists():
            if re.match(r"out/|[./~\\]", name) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
                there = [str(p) for p in path.parent.glob("*") if p.is_dir()]
                near = difflib.get_close_matches(str(path), there, n=1)
                raise UserError(f"{name} not found. " + (
                    f"Did you mean {near[0]}?" if near else "Name a folder, or a model of the "
                    "Hugging Face hub by owner/name, such as Qwen/Qwen3-0.6B"))
            self.repo, self.folder = name, KEPT / name

    def get(self, *names):
        """The paths of those of `names` that the model has."""
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing and self.repo:
            self._ask_hub(lambda: download_all(
                [file for name, file in self._listed().items() if name in missing], self.folder))
        return [path for name in names if (path := self.folder / name).is_file()]

    def weights(self):
        """The paths of the safetensors files, all of which are there."""
        names = self._names_of_weights()
        found = self.get(*names)
        if len(found) < len(names):
            missing = [name for name in names if not (self.folder / name).is_file()]
            raise UserError(f"{self.folder} lacks {plain(missing[0])}, which {INDEX} names. Put it "
                            f"there")
        return found

    def weights_to_download(self):
        """The bytes of weights that are not there yet."""
        names = [name for name in self._names_of_weights() if not (self.folder / name).is_file()]
        if not names or not self.repo:
            return 0
        return sum(file.missing_bytes() for name, file in self._ask_hub(self._listed).items()
                   if name in names)

    def _names_of_weights(self):
        """One file, or the shards that an index names."""
        here = [name for name in (WEIGHTS, INDEX) if (self.folder / name).is_file()]
        if not here and self.repo:
            here = [name for name in (WEIGHTS, INDEX) if name in self._ask_hub(self._listed)]
        if not here:
            raise UserError(f"{self.folder} holds no weights as safetensors ({WEIGHTS}, or shards "
                            f"with {INDEX}). Other formats can run code, and are not read")
        if here[0] == WEIGHTS:
            return [WEIGHTS]
        path, = self.get(INDEX)
        held = read_json(path)
        shards = held.get("weight_map") if isinstance(held, dict) else None
        if not isinstance(shards, dict) or not shards or not all(
                isinstance(shard, str) and Path(shard).name == shard for shard in shards.values()):
            raise UserError(f"{path} names no shards in its weight_map. Delete it and run the same "
                            f"command again")
        return sorted(set(shards.values()))

    def _listed(self):
        """{name: RemoteFile} of the repository."""
        _, files = hub_files(self.folder, self.repo, ["*"], kind="models")
        return {file.path.relative_to(self.folder).as_posix(): file for file in files["*"]}

    def _ask_hub(self, ask):
        try:
            return ask()
        except DownloadError as error:
            page = printable_address(f"{hub_endpoint()}/{self.repo}")
            raise UserError(f"{error}. Or get the files of {page} (config.json, tokenizer.json and "
                            f"those of the weights) by other means, and put them into "
                            f"{self.folder}/") from None

    def tokenizer(self):
        """A PublishedTokenizer. Raises UserError where the model has none."""
        path = Path(self.name)
        if not path.is_file():
            found = self.get("tokenizer.json", "tokenizer_config.json", "config.json")
            path = self.folder / "tokenizer.json"
            if path not in found:
                raise UserError(f"{self.repo or self.folder} has no tokenizer.json. A tokenizer of "
                                f"another form becomes one by the package transformers: "
                                f"AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)")
        tokenizer = PublishedTokenizer(read_text(path), place=path)
        tokenizer.eot_token = self._eos(tokenizer)
        return tokenizer

    def _eos(self, tokenizer):
        """The id of the token that ends a document: as the files beside tokenizer.json state it."""
        stated = {}
        for name in ("config.json", "tokenizer_config.json"):
            if (path := self.folder / name).is_file() and isinstance(held := read_json(path), dict):
                stated |= held
        token, i = stated.get("eos_token"), stated.get("eos_token_id")
        token = token.get("content") if isinstance(token, dict) else token
        of_id = i[0] if isinstance(i, list) and i else i
        if token in tokenizer.special_tokens:
            return tokenizer.special_tokens[token]
        return of_id if of_id in tokenizer.special_tokens.values() else tokenizer.eot_token


