"""Pages for a browser (pipeline/pages): any text survives the way into a page as text, and what the
pages show is right. The long tests open them in a real browser.

Run: python -m pytest tests/test_pages.py      (long: chromium, and plotly for the curves)
"""
import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import browser
from helpers import TEXT, char_dataset, one_line_error, one_thread, run, says  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plot_runs import ROWS, a_run

import evaluate
import plot_runs
from data import check_dataset
from pipeline.errors import UserError
from pipeline.pages import as_json, check_page, packed, write_page
from pipeline.prepare.write import write_dataset
from pipeline.read.texts import lengths_of_tokens
from pipeline.tokenizers import ByteTokenizer, CharTokenizer, TiktokenTokenizer, tokenizer_meta
from training.text_page import LIKELIEST, RunOnText, shown_texts, write_text_page

HOSTILE = (
    "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
    "<!-- ' \" & &amp; ]]> \\ </style> \0 \x1b[31m \u202eturned\u202c \u2066in\u2069 \ufeff\u200b "
    "a\u2028b\u2029c \U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 e\u0301\n"
    "مرحبا بالعالم\nשלום hello\n")


class Parts(HTMLParser):
    """The text of each script and of the title, and which tags a page has, as a browser reads it.
    """

    def __init__(self, path):
        super().__init__()
        self.tags, self.scripts, self.title, self.csp, self.refers = [], [], "", "", []
        self.feed(Path(path).read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attrs = dict(attrs)
        self.refers += [attrs[name] for name in ("src", "href") if name in attrs]
        if tag == "script":
            self.scripts.append("")
        if attrs.get("http-equiv") == "Content-Security-Policy":
            self.csp = attrs["content"]

    def handle_endtag(self, tag):
        self.tags.append(f"/{tag}")

    def handle_data(self, text):
        if self.tags[-1:] == ["script"] and not text.isspace():
            self.scripts[-1] += text
        if self.tags[-1:] == ["title"]:
            self.title += text

    @property
    def data(self):
        return json.loads(self.scripts[0])


def unpacked(array):
    kinds = {"Uint8Array": "u1", "Uint16Array": "<u2", "Uint32Array": "<u4", "Float32Array": "<f4"}
    return np.frombuffer(base64.b64decode(array["base64"]), kinds[array["kind"]])


def run_on(text, tokenizer=None, seed=0, name="out/a", documents=("a.txt",), starts=(0,)):
    """What an invented model predicts of a text."""
    tokenizer = tokenizer or CharTokenizer.from_text(text)
    meta, ids = tokenizer_meta(tokenizer), np.asarray(tokenizer.encode(text), np.int64)
    draw, n = np.random.default_rng(seed), len(ids)
    losses = draw.exponential(1.0, n).astype(np.float32)
    losses[:1] = np.nan
    likeliest = draw.integers(0, meta["vocab_size"], (n, 5))
    return RunOnText(name, meta, ids, losses, draw.integers(1, 9, n), likeliest,
                     draw.random((n, 5)), lengths_of_tokens(meta)[0][ids], np.array(starts),
                     list(documents), "text")


def text_page(path, *runs):
    write_text_page(path, "title", list(runs), ["run", ["loss"]],
                    [[run.name, "1.5"] for run in runs])
    return path


# ---- what is written


@settings(max_examples=60)
@given(st.recursive(st.text(st.characters(codec=None)), lambda inner: st.lists(inner, max_size=4)))
def test_any_text_comes_back_from_the_data_of_a_page_and_ends_no_script(value):
    written = as_json(value)
    assert json.loads(written) == value
    assert written.isascii() and not re.search("[<>&\0\n]", written)


@settings(max_examples=60)
@given(st.text(min_size=1),
       st.sampled_from([CharTokenizer.from_text, lambda text: ByteTokenizer()]))
def test_the_parts_that_tokens_add_are_the_text(text, kind):
    tokenizer = kind(text)
    parts = shown_texts(tokenizer_meta(tokenizer), tokenizer.encode(text))
    assert len(parts) == len(tokenizer.encode(text)) and "".join(parts) == text


def test_what_is_no_utf8_is_shown_as_such():
    assert shown_texts(tokenizer_meta(ByteTokenizer()), [0xD0, 0xD0, 0x9F, 0xF0]) == [
        "", "\ufffd", "П", "\ufffd"]


@pytest.mark.parametrize("values", [[], [0, 255], [0, 256], [65_536], [0.5, float("nan"), -2]])
def test_an_array_comes_back_from_its_packed_form(values):
    assert np.array_equal(unpacked(packed(np.array(values))), np.array(values), equal_nan=True)


def test_a_page_is_one_file_whose_only_scripts_are_ours(tmp_path):
    path = text_page(tmp_path / "a.html", run_on(HOSTILE, name=HOSTILE, documents=[HOSTILE]))
    parts = Parts(path)
    assert parts.tags.count("script") == 3 and "img" not in parts.tags and not parts.refers
    assert "default-src 'none'" in parts.csp and parts.csp.count("sha256-") == 2
    assert "unsafe-eval" not in parts.csp and "http" not in parts.csp
    run = parts.data["runs"][0]
    assert "".join(run["texts"][i] for i in unpacked(run["shown"])) == HOSTILE
    assert run["name"] == HOSTILE and run["documents"] == [HOSTILE]
    write_page(tmp_path / "b.html", HOSTILE, "text.js", {})
    assert Parts(tmp_path / "b.html").title == HOSTILE


def test_a_page_holds_what_was_predicted(tmp_path):
    run = run_on("to be or not to be")
    told = Parts(text_page(tmp_path / "a.html", run)).data["runs"][0]
    labels = np.array(told["labels"], object)
    itos = run.meta["itos"]
    assert np.array_equal(unpacked(told["losses"]), run.losses, equal_nan=True)
    assert unpacked(told["ranks"]).tolist() == run.ranks.tolist()
    assert labels[unpacked(told["ids"])].tolist() == list("to be or not to be")
    assert labels[unpacked(told["likeliest"])].tolist() == [
        itos[i] for i in run.likeliest.ravel().tolist()]
    assert np.allclose(unpacked(told["chances"]) / 65535, run.chances.ravel(), atol=1e-5)


# ---- pages that cannot be written


@pytest.mark.parametrize("place, words", [
    ("there.html", ["there.html", "folder"]), ("page.png", ["page.png", ".html"]),
    ("page", ["page.html"]), ("nowhere/page.html", ["nowhere", "mkdir"])])
def test_a_page_that_cannot_be_written_is_one_line_before_the_work(
        tmp_path, capsys, monkeypatch, place, words):
    monkeypatch.chdir(tmp_path)
    Path("there.html").mkdir()
    a_run("a", ROWS)
    char_dataset(tmp_path / "mine")
    monkeypatch.setattr(check_dataset, "check", None)  # which would fail if it were reached
    monkeypatch.setattr(evaluate, "LoadedModel", None)
    for main, argv in ((check_dataset.main, ["mine/"]), (plot_runs.main, ["a"]),
                       (evaluate.main, ["--out_dir=a"])):
        says(one_line_error(capsys, main, [*argv, "--html", place]), *words)
    before = sorted(Path().rglob("*"))
    check_page("there.html/page.html")  # it leaves nothing behind
    assert sorted(Path().rglob("*")) == before


def test_a_full_or_locked_folder_is_told_with_its_reason(tmp_path, monkeypatch):
    def refuse(*args, **more):
        raise PermissionError(13, "Permission denied")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"a\.html.*Permission denied"):
        check_page(tmp_path / "a.html")


# ---- a dataset's page


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    """A dataset of documents with an index and a mask, with duplicates."""
    folder, tokenizer = tmp_path_factory.mktemp("stories"), TiktokenTokenizer("gpt2")
    documents = [f"a story, number {i}, of some length" for i in range(50)] + ["twice"] * 3
    masked = [[(text, False), (" and its end", True)] for text in (*documents, HOSTILE)]
    write_dataset(folder, masked, tokenizer, val_text=[[("another", True)], masked[7]])
    return folder


def dataset_page(folder, path, *argv):
    with pytest.raises(UserError):  # for the duplicate
        check_dataset.main([str(folder), "--html", str(path), *argv])
    return Parts(path)


def test_the_page_of_a_dataset_shows_what_is_printed(stories, tmp_path, capsys):
    data = dataset_page(stories, tmp_path / "a.html").data
    printed = capsys.readouterr().out
    assert "2 of its documents repeat an earlier one" in printed and "a.html" in printed
    assert "1 of 2 documents" in data["problems"][0]
    (train, tokens, _, documents, learned), (val, *_) = data["splits"]
    assert (train, val, documents) == ("train", "val", 54) and 0 < learned < tokens
    assert f"train: {learned:,} tokens are learned" in printed
    assert f"the most frequent: {data['top'][0][0]} " in printed
    assert ["<|endoftext|>", 54, 2] in data["top"]
    assert sum(number for _, number in data["occurrences"]) == 50_257
    assert sum(row[2] for row in data["lengths"]) == 54
    assert sum(row[3] for row in data["lengths"]) == 2
    assert [row[:3] for row in data["repeated"]] == [["train", 51, 3]]
    assert data["shared"][0][:2] == [2, 8]
    assert "".join(data["shared"][0][2]).startswith("a story, number 7,")
    windows = {(split, start): texts for split, start, texts, *_ in data["windows"]}
    line = "|".join(windows["train", 0][:3])
    assert f"train at 0: ‖({line.replace('|', ')|(')})" in printed
    assert len(windows["train", 0]) == 160


def test_the_page_of_a_damaged_dataset_says_so(tmp_path, capsys):
    folder = char_dataset(tmp_path / "mine")
    (folder / "train.bin").write_bytes((folder / "train.bin").read_bytes()[::-1])
    data = dataset_page(folder, tmp_path / "a.html").data
    assert any("train.bin" in problem for problem in data["problems"])
    assert "windows" not in data


# ---- the page of runs


def test_the_page_of_runs_holds_their_curves(tmp_path, monkeypatch, capsys):
    pytest.importorskip("plotly", reason="the page of curves needs plotly")
    monkeypatch.chdir(tmp_path)
    a_run("one", ROWS, seed=1)
    a_run("two", [ROWS[0], "2,20,,3.1,4,.1,100,2,,"], dataset="<b>$x$</b>", seed=2)
    plot_runs.main(["one", "two", "--html", "all.html"])
    parts = Parts("all.html")
    assert "all.html" in capsys.readouterr().out and not parts.refers
    names = [(curve["name"], curve["y"]) for curve in parts.data["losses"] if curve["marked"]]
    assert names == [("seed=1", [3.5, 2.5]), ("seed=2, dataset=<b>$x$</b>", [3.1])]
    assert parts.data["losses"][0]["tokens"] == [20, 40]
    assert parts.data["runs"][0]["rate"] == [0.1, 0.1, 0.05, 0]


def test_without_plotly_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "plotly", None)
    run = a_run(str(tmp_path / "a"), ROWS)
    line = one_line_error(capsys, plot_runs.main, [str(run), "--html", str(tmp_path / "a.html")])
    says(line, "pip install plotly")
    says(one_line_error(capsys, plot_runs.main, [str(run), "--out=a.png", "--html=a.html"]),
         "--out", "--html")


# ---- evaluate.py's page


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """Runs of a character and a byte tokenizer."""
    root = tmp_path_factory.mktemp("runs")
    (root / "bytes").mkdir()
    write_dataset(root / "bytes", TEXT, ByteTokenizer())
    for name, folder in (("a", char_dataset(root / "chars")), ("b", root / "bytes")):
        run(f"--dataset={folder}", f"--out_dir={root / name}", "--max_iters=1")
    return root


def test_the_page_of_an_evaluation_agrees_with_what_is_printed(two_runs, tmp_path, capsys):
    (tmp_path / "x.txt").write_text("the quick dog\n" * 30)
    (tmp_path / "y.txt").write_text("over the fox\n" * 9)
    capsys.readouterr()
    evaluate.main(["--out_dir", str(two_runs / "a"), str(two_runs / "b"), "--device=cpu", "--json",
                   "--files", str(tmp_path / "x.txt"), str(tmp_path / "y.txt"),
                   "--csv", str(tmp_path / "a.csv"), "--html", str(tmp_path / "a.html")])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    data = Parts(tmp_path / "a.html").data
    assert data["runs"][0]["key"] == data["runs"][1]["key"]  # they can be compared
    for one, shown in zip(told, data["runs"]):
        losses = unpacked(shown["losses"])
        assert np.isnan(losses[0]) and np.isclose(np.nanmean(losses), one["loss"], atol=1e-5)
        right = unpacked(shown["ranks"]) == 1
        assert np.isclose(right[1:].mean(), one["accuracy"])
        top = unpacked(shown["likeliest"]).reshape(len(losses), -1)[1:]
        chances = unpacked(shown["chances"]).reshape(len(losses), -1)[1:] / 65535
        assert top.shape[1] == LIKELIEST and np.all(np.diff(chances) <= 0)
        ids = unpacked(shown["ids"])[1:]
        assert np.array_equal(right[1:], ids == top[:, 0])
        assert np.allclose(np.exp(-losses[1:])[right[1:]], chances[:, 0][right[1:]], atol=1e-4)
        assert [Path(name).name for name in shown["documents"]] == ["x.txt", "y.txt"]
        assert unpacked(shown["starts"]).tolist() == [0, 420]
        text = "".join(shown["texts"][i] for i in unpacked(shown["shown"]))
        assert text == "the quick dog\n" * 30 + "over the fox\n" * 9
        assert data["summary"]["rows"][told.index(one)][1].startswith(f"{one['loss']:.4f}")


def test_a_longer_text_is_cut_to_what_all_runs_cover_and_the_page_says_so(
        two_runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "MOST_TOKENS", 100)
    (tmp_path / "x.txt").write_text("the quick dog\n" * 30)
    evaluate.main(["--out_dir", str(two_runs / "a"), "--device=cpu", "--files",
                   str(tmp_path / "x.txt"), "--html", str(tmp_path / "a.html")])
    data = Parts(tmp_path / "a.html").data
    assert len(unpacked(data["runs"][0]["losses"])) == 100 and "100" in data["notes"][-1]
    text = "a few words, and some more of them"
    runs = [run_on(text, TiktokenTokenizer("gpt2")).part(6), run_on(text, ByteTokenizer())]
    data = Parts(text_page(tmp_path / "b.html", *runs)).data
    assert ["".join(one["texts"][i] for i in unpacked(one["shown"])) for one in data["runs"]] == [
        "a few words, and some"] * 2


# ---- in a real browser


@pytest.fixture
def chromium(tmp_path):
    with browser(tmp_path / "profile") as opened:
        yield opened


def assert_quiet(chromium):
    """Nothing was complained of, and nothing but the page was loaded."""
    assert not chromium.complaints
    assert {url.split(":")[0] for url in chromium.requests} <= {"file", "data", "blob", "about"}
    assert chromium.run("document.title") != "taken"


ALL_DRAWN = "!waiting.size && chunks.every((chunk) => chunk.isDrawn)"
TEXT_SHOWN = """[...document.querySelectorAll(".pane .t")].map((e) => e.textContent).join("")"""


@pytest.mark.long
@pytest.mark.parametrize("kind", [CharTokenizer.from_text, lambda text: ByteTokenizer()])
def test_a_hostile_text_is_shown_as_text(tmp_path, chromium, kind):
    page = text_page(tmp_path / "a.html", run_on(HOSTILE, kind(HOSTILE), 0, HOSTILE, [HOSTILE]))
    chromium.open(page)
    chromium.wait_for(ALL_DRAWN)
    seen = chromium.run(TEXT_SHOWN)
    assert "</script><script>document.title='taken'</script><img src=x onerror=" in seen
    for sign in ("␀", "␛[31m", "⟨202E⟩turned⟨202C⟩", "a⟨2028⟩b⟨2029⟩c", "⟨FEFF⟩", "\U0001f600",
                 "مرحبا بالعالم↵\n", "שלום hello↵"):
        assert sign in seen, sign
    everything = chromium.run("page.innerText")  # names too
    assert not re.search("[\0\x1b\u202e\u2028\u2066\ufeff]", seen + everything)
    assert chromium.run("document.querySelectorAll('img, iframe').length") == 0
    # a line of Arabic starts at the right
    x = chromium.run("[...document.querySelectorAll('.t')].find((e) => e.textContent == 'م')"
                     "?.getBoundingClientRect().right")
    if kind is CharTokenizer.from_text:
        assert x > 1000
    assert_quiet(chromium)


@pytest.mark.long
def test_a_line_of_a_million_characters_is_wrapped(tmp_path, chromium):
    run = run_on("x" * 1_000_000, ByteTokenizer())
    chromium.open(text_page(tmp_path / "a.html", run))
    assert chromium.run("document.documentElement.scrollWidth") <= 1200
    chromium.run("jump({pane: 0, i: 999999})")
    chromium.settle()
    assert "1,000,000 of 1,000,000" in chromium.run("card.textContent")
    assert_quiet(chromium)


def place_of(chromium, i, pane=0):
    """(x, y) of the middle of a token on the screen."""
    return chromium.run("(({x, y, width, height}) => [x + width / 2, y + height / 2])"
                        f"(elementOf({{pane: {pane}, i: {i}}}).getBoundingClientRect())")


@pytest.mark.long
def test_mouse_and_keys_show_what_was_predicted(tmp_path, chromium):
    text = "to be, or not to be, that is the question\n" * 400
    run = run_on(text)
    labels = run.meta["itos"]
    chromium.open(text_page(tmp_path / "a.html", run))
    chromium.mouse("mouseMoved", *place_of(chromium, 30))
    chromium.settle()
    said = chromium.run("card.innerText")
    assert f"rank {run.ranks[30]}, {run.losses[30]:.2f} nats" in said
    assert "token 31 of 16,800" in said
    for i in run.likeliest[30].tolist():
        assert labels[i] in said
    assert not chromium.run("card.hidden")
    # keys: to the right, to the next line and back, away
    chromium.run("text.focus()")
    chromium.click(*place_of(chromium, 30))
    chromium.press("ArrowRight")
    assert chromium.run("current.i") == 31 and "token 32 " in chromium.run("card.innerText")
    assert f"rank {run.ranks[31]}" in chromium.run("spoken.textContent")
    chromium.press("ArrowDown")
    assert chromium.run("current.i") == 31 + 42
    chromium.press("ArrowUp")
    chromium.press("ArrowLeft")
    assert chromium.run("current.i") == 30
    assert chromium.run("document.querySelectorAll('.current').length") == 1
    chromium.press("Escape")
    assert chromium.run("card.hidden")
    assert_quiet(chromium)


@pytest.mark.long
def test_the_strip_and_the_lists_lead_to_their_places(tmp_path, chromium):
    text = "".join(f"line number {i} of a long text\n" for i in range(3000))
    run = run_on(text, documents=["first", "second", "third"], starts=(0, 20_000, 70_000))
    run.losses[54_321], run.losses[70_000:] = 99, 3
    chromium.open(text_page(tmp_path / "a.html", run))
    assert chromium.run("document.querySelectorAll('.lists ol')[0].children.length") == 20
    buttons = "document.querySelectorAll('.lists ol')[{}].querySelector('button')"
    assert chromium.run(buttons.format(0) + ".innerText").startswith("99.00")
    chromium.run(buttons.format(0) + ".click()")
    chromium.settle()
    assert chromium.run("current.i") == 54_321
    assert "second" in chromium.run("card.innerText")
    assert 0 < place_of(chromium, 54_321)[1] < 800  # in sight
    hardest = chromium.run(buttons.format(1) + ".innerText")
    assert hardest.endswith(f"third ({len(text) - 70_000:,})")
    x, y, width = chromium.run("(({x, y, width}) => [x, y, width])(strip.getBoundingClientRect())")
    chromium.click(x + width / 4, y + 20)
    assert abs(chromium.run("current.i") - len(text) / 4) < len(text) / 500
    chromium.run("strip.focus()")
    chromium.press("End")
    assert chromium.run("current.i") == len(text) - 1
    assert chromium.run("Number(strip.getAttribute('aria-valuenow'))") > 0.9 * len(text)
    assert_quiet(chromium)


@pytest.mark.long
def test_two_runs_of_two_tokenizers_are_compared_piece_by_piece(tmp_path, chromium):
    text = "the quick brown fox — jumps; über the lazy dog\n" * 30
    left, right = run_on(text, TiktokenTokenizer("gpt2")), run_on(text, ByteTokenizer(), 1, "out/b")
    left.losses[0] = right.losses[0] = 1
    chromium.open(text_page(tmp_path / "a.html", left, right))
    # each difference is summed once for each run, so the totals agree
    totals = chromium.run("panes.map(({starts, values}) => "
                          "Array.from(starts, (i) => values[i]).reduce((a, b) => a + b))")
    expected = float(left.losses.sum() - right.losses.sum())
    assert np.allclose(totals, [expected, -expected], atol=1e-2)
    chromium.wait_for(ALL_DRAWN)
    shown = chromium.run("['first', 'last'].map((which) => [...document.querySelectorAll("
                         "`.pane:${which}-child .t`)].map((e) => e.textContent).join(''))")
    assert shown == [text.replace("\n", "↵\n")] * 2
    # " quick": one token of GPT-2, six bytes
    chromium.mouse("mouseMoved", *place_of(chromium, 1))
    chromium.settle()
    said = chromium.run("card.innerText")
    assert "out/a" in said and "out/b" in said and " q u i c k" in " ".join(said.split())
    # the same run on both sides differs nowhere
    chromium.run("(view.right = view.left, renew())")
    assert chromium.run("panes[0].values.every((v) => v === 0)")
    chromium.wait_for(ALL_DRAWN)
    assert chromium.run("document.querySelectorAll('.worse:not(.legend *)').length") == 0
    assert_quiet(chromium)


@pytest.mark.long
def test_two_hundred_thousand_tokens_open_and_scroll_without_lag(tmp_path, chromium):
    draw = np.random.default_rng(0)
    words = [f"{'bcdfghkl'[i % 8]}{'aeiou'[i % 5]}{i % 97} " for i in range(300)]
    text = "".join(words[i] + "\n" * (n % 9 == 0)
                   for n, i in enumerate(draw.integers(0, 300, 60_000)))[:200_000]
    runs = [run_on(text, ByteTokenizer(), seed, f"out/{seed}") for seed in range(2)]
    seconds = chromium.open(text_page(tmp_path / "a.html", *runs))
    # 7,000 pixels a second
    frames = chromium.run("""new Promise((done) => {
        const times = [];
        let last = performance.now();
        const step = (now) => {
          times.push(now - last);
          last = now;
          scrollBy(0, 120);
          if (times.length < 600) requestAnimationFrame(step);
          else done(times.slice(5).sort((a, b) => a - b));
        };
        requestAnimationFrame(step);
    })""")
    middle, slow = frames[len(frames) // 2], frames[int(0.99 * len(frames))]
    elements = chromium.run("document.querySelectorAll('*').length")
    print(f"opened in {seconds:.2f} s; a frame takes {middle:.0f} ms, 1% over {slow:.0f} ms; "
          f"{elements:,} elements")
    assert seconds < 20 and middle < 100 and slow < 500 and elements < 50_000
    assert_quiet(chromium)


@pytest.mark.long
def test_the_pages_of_a_dataset_and_of_runs_open(tmp_path, stories, chromium):
    dataset_page(stories, tmp_path / "a.html")
    chromium.open(tmp_path / "a.html")
    shown = chromium.run("document.body.innerText")
    for words in ("Lengths of documents", "Duplicates", "50,257", "document.title='taken'"):
        assert words in shown, words
    assert chromium.run("document.querySelectorAll('.token.unlearned').length") > 50
    assert chromium.run("document.querySelectorAll('.token.first').length") > 10
    assert_quiet(chromium)


@pytest.mark.long
def test_curves_can_be_read_off_with_the_mouse(tmp_path, chromium):
    pytest.importorskip("plotly", reason="the page of curves needs plotly")
    runs = [a_run(str(tmp_path / "one"), ROWS, seed=1),
            a_run(str(tmp_path / "two"), ROWS, seed=2, dataset="<img src=x>$x$")]
    plot_runs.main([*map(str, runs), "--html", str(tmp_path / "a.html")])
    chromium.open(tmp_path / "a.html")
    x, y, height = chromium.run("(({x, y, height}) => [x, y, height])(document.querySelector("
                                "'.draglayer .xy .nsewdrag').getBoundingClientRect())")
    chromium.mouse("mouseMoved", x + 150, y + height / 2)
    chromium.wait_for("document.querySelector('.hoverlayer').textContent.includes('3.5')")
    said = chromium.run("document.querySelector('.hoverlayer').textContent")
    assert "seed=1" in said and "<img src=x>$x$" in said
    chromium.resize(400, 800)
    chromium.settle()
    assert chromium.run("document.documentElement.scrollWidth") <= 400
    chromium.scheme("dark")
    chromium.settle()
    assert_quiet(chromium)
