"use strict";
// check_dataset.py --html: what a prepared folder holds.
//
// data: {title, problems, facts: [[name, value]], splits: [[split, tokens, bytes, documents,
//   learned]], and where the files are undamaged: top: [[token, in train, in val]],
//   occurrences: [[how often, number of ids]], lengths: [[from, to, train, val]],
//   repeated: [[split, number, times, texts]], shared: [[number in val, number in train, texts]],
//   windows: [[split, start, texts, learned, first]]}. null: unknown.

const SPLITS = ["train", "val"];
const sizes = Object.fromEntries(data.splits.map(([split, tokens]) => [split, tokens]));
const known = (number) => number === null ? "" : count(number);
const section = (title, ...children) => [h("h2", {}, title), ...children];

/** Tokens in a row, each in a frame; a document begins at a double border. */
function tokensOf(texts, learned = [], first = []) {
  return h("div", {class: "window", dir: "auto"}, ...texts.map((text, i) => h("span", {
    dir: "auto", class: `token${first[i] ? " first" : ""}${
      learned[i] === false ? " unlearned" : ""}`}, text)));
}

/** A table whose last column shows, of each row, shares of two wholes as bars. */
function histogram(head, rows, wholes) {
  const shares = rows.map(([, ...numbers]) => numbers.map((n, i) => wholes[i] ? n / wholes[i] : 0));
  const most = Math.max(...shares.flat());
  const names = wholes.length > 1 ? SPLITS : ["number"];
  return h("div", {}, ...(wholes.length > 1 ? [keys(SPLITS)] : []),
    table([head, ...names.map((name) => [name]), "share"], rows.map(([label, ...numbers], i) =>
      [label, ...numbers.map((n, k) => `${count(n)}${wholes[k] ? ` (${percent(n / wholes[k])})` :
        ""}`), bars(shares[i], most)])));
}

function counts() {
  const hasMask = data.splits.some(([, , , , learned]) => learned !== null);
  const heads = ["split", ["tokens"], ["bytes of text"], ["bytes a token"], ["documents"]];
  const rows = data.splits.map(([split, tokens, bytes, documents]) => [split, count(tokens),
    known(bytes), bytes === null ? "" : (bytes / tokens).toFixed(2), known(documents)]);
  if (hasMask) {
    heads.push(["learned"], ["not learned"], "shares");
    data.splits.forEach(([, tokens, , , learned], i) => rows[i].push(
      `${count(learned)} (${percent(learned / tokens)})`,
      `${count(tokens - learned)} (${percent(1 - learned / tokens)})`,
      bars([learned, tokens - learned], tokens)));
  }
  return [table(heads, rows), ...(hasMask ? [keys(["learned", "not learned"])] : []),
    table(["about", ""], data.facts.map(([name, value]) => [name, token(value)]))];
}

function tokens() {
  const ids = data.occurrences.reduce((sum, [, number]) => sum + number, 0);
  return [...section("The most frequent tokens", histogram("token",
    data.top.map(([text, ...numbers]) => [token(text), ...numbers]),
    SPLITS.map((split) => sizes[split]))),
  ...section("How often ids occur", histogram("occurs", data.occurrences, [ids]))];
}

function documents() {
  if (!data.lengths.length)
    return section("Documents", h("p", {}, "No token ends a document, so none are counted."));
  const wholes = SPLITS.map((_, i) => data.lengths.reduce((sum, row) => sum + row[2 + i], 0));
  const parts = section("Lengths of documents", histogram("tokens", data.lengths.map(
    ([from, to, ...numbers]) => [from === to ? count(from) : `${count(from)} to ${count(to)}`,
      ...numbers]), wholes));
  parts.push(...section("Duplicates", ...(data.repeated.length || data.shared.length ? []
    : [h("p", {}, "No document occurs twice, token for token.")])));
  if (data.shared.length) parts.push(h("p", {}, "These documents of val are in train too:"),
    table([["number in val"], ["number in train"], "begins"], data.shared.map(
      ([number, other, texts]) => [count(number), count(other), tokensOf(texts)])));
  if (data.repeated.length) parts.push(h("p", {}, "These documents occur more than once:"),
    table(["split", ["first number"], ["times"], "begins"], data.repeated.map(
      ([split, number, times, texts]) => [split, count(number), count(times), tokensOf(texts)])));
  return parts;
}

function windows() {
  return section("Windows", h("p", {}, "The start of each split, and random places. ",
    "Each frame is a token; a document begins at a double border, as ",
    h("span", {class: "window"}, h("span", {class: "token first"}, "here")),
    ". A token that is not learned looks ",
    h("span", {class: "window"}, h("span", {class: "token unlearned"}, "like this")), "."),
  ...data.windows.flatMap(([split, start, texts, learned, first]) => [
    h("p", {class: "faint"}, `${split}, from token ${count(start)}`),
    tokensOf(texts, learned, first)]));
}

page.replaceChildren(h("h1", {}, visible(data.title)),
  ...data.problems.map((problem) => h("p", {class: "problem"}, visible(problem))),
  ...counts(), ...(data.top ? [...tokens(), ...documents(), ...windows()] : []));
