"use strict";
// evaluate.py --html: a text, its tokens shaded by their losses; one run, or two side by side.
//
// data: {title, notes: [line], summary: {heads, rows}, top_loss, runs: [run]}
// run:  {name, key, documents, labels, texts, and arrays: ids, likeliest, shown, widths, losses,
//        ranks, chances, starts}
//       key: equal for runs on the same text. documents: names; starts: the position at which
//       each begins. labels: of each token that is named, in one line; ids and likeliest are
//       numbers of labels. shown: numbers of texts, the text that each position adds to the page.
//       widths: the bytes of text that each stands for. A loss is NaN where none was predicted.

const CHUNK = 300; // tokens drawn at once, at least; a chunk ends where a line does
const LONGEST_CHUNK = 900; // or here, within a line
const HARDEST = 20;
const CONTEXT = 8; // tokens before a hard one that its line shows

// ---- the runs, as arrays

function read(run) {
  for (const name of ["ids", "shown", "losses", "ranks", "likeliest", "chances", "widths",
    "starts"])
    run[name] = unpack(run[name]);
  run.name = visible(run.name);
  run.documents = run.documents.map(visible);
  run.size = run.ids.length;
  run.near = run.size ? run.likeliest.length / run.size : 0; // tokens named for a position
  run.text = (i) => run.texts[run.shown[i]];
  run.label = (i) => run.labels[run.ids[i]];
  run.documentAt = new Map(Array.from(run.starts, (start, d) => [start, d]));
  return run;
}

/**
 * What two runs have in common: {a, b}, the positions at which a piece of text begins that both
 * cut off there. With one tokenizer these are all positions; with two, a piece is as short as the
 * borders that both have allow. Without b: all positions of a.
 */
function align(a, b) {
  const same = !b || a.size === b.size && a.shown.every((_, i) => a.text(i) === b.text(i));
  if (same) {
    const all = Uint32Array.from({length: a.size}, (_, i) => i);
    return {a: all, b: all, same};
  }
  const starts = [[], []];
  a.starts.forEach((from, d) => {
    let [i, j, atA, atB] = [from, b.starts[d] ?? b.size, 0, 0];
    const endA = a.starts[d + 1] ?? a.size, endB = b.starts[d + 1] ?? b.size;
    while (i < endA || j < endB) {
      starts[0].push(i);
      starts[1].push(j);
      do { // the one that is behind takes a token
        if (j >= endB || i < endA && atA <= atB) atA += a.widths[i++];
        else atB += b.widths[j++];
      } while (atA !== atB && (i < endA || j < endB));
    }
  });
  return {a: Uint32Array.from(starts[0]), b: Uint32Array.from(starts[1]), same};
}

/** For each position of a run, the number of the piece it lies in. */
function piecesOf(starts, size) {
  const pieces = new Uint32Array(size);
  starts.forEach((start, piece) => pieces.fill(piece, start, starts[piece + 1] ?? size));
  return pieces;
}

/** For each position of a run, its loss less the other's, by pieces. NaN where one has none. */
function differences(run, mine, other, theirs) {
  const sum = (losses, starts, piece) => {
    let total = 0;
    for (let i = starts[piece]; i < (starts[piece + 1] ?? losses.length); i++) total += losses[i];
    return total;
  };
  const result = new Float32Array(run.size);
  mine.forEach((start, piece) => result.fill(
    sum(run.losses, mine, piece) - sum(other.losses, theirs, piece),
    start, mine[piece + 1] ?? run.size));
  return result;
}

/** The value below which this share of the magnitudes lie. */
function quantile(values, share) {
  const sizes = Float32Array.from(values.filter((v) => !Number.isNaN(v)), Math.abs).sort();
  return sizes.length ? sizes[Math.min(sizes.length - 1, Math.floor(share * sizes.length))] : 0;
}

// ---- what is shown now

const runs = data.runs.map(read);
const view = {left: 0, right: null, shade: "diff"};
let panes = []; // of each run shown: {run, values, pieces, starts}
let chunks = []; // {from, to, panes, spans: [of each run shown], element, isDrawn}
let most = 1; // the value of the darkest shade
let current = null; // {pane, i}

/** The numbers of the other runs on the text of run number i. */
const others = (i) => [...runs.keys()].filter((k) => k !== i && runs[k].key === runs[i].key);

function choose() {
  const chosen = [view.left, view.right].filter((i) => i !== null).map((i) => runs[i]);
  const {a, b} = align(...chosen), starts = [a, b];
  const isDifference = view.shade === "diff" && chosen.length > 1;
  panes = chosen.map((run, p) => ({
    run, starts: starts[p], pieces: piecesOf(starts[p], run.size),
    values: isDifference
      ? differences(run, starts[p], chosen[1 - p], starts[1 - p]) : run.losses,
  }));
  most = isDifference ? Math.max(quantile(panes[0].values, 0.98), 0.01) : data.top_loss;
  view.isDifference = isDifference;
}

/** Cut the text into chunks: at the end of a line or a document, or where it gets too long. */
function cut() {
  const {run, starts} = panes[0], borders = [];
  let from = 0;
  starts.forEach((start, piece) => {
    const length = start - from;
    const ends = start && (run.text(start - 1).endsWith("\n") || run.documentAt.has(start));
    if (!piece || length >= LONGEST_CHUNK || ends && length >= CHUNK) {
      borders.push(piece);
      from = start;
    }
  });
  const at = (pane, piece) => piece < pane.starts.length ? pane.starts[piece] : pane.run.size;
  chunks = borders.map((piece, c) => ({
    from: panes.map((pane) => at(pane, piece)),
    to: panes.map((pane) => at(pane, borders[c + 1] ?? Infinity)),
    panes: panes.map(() => h("div", {class: "pane", dir: "auto"})), spans: [], isDrawn: null,
  }));
}

// ---- tokens

/** The classes of a shade: how strong, and for a difference which of the two is worse. */
function shade(value) {
  if (Number.isNaN(value)) return "t unscored";
  const strength = Math.min(9, Math.round(9 * Math.abs(value) / most));
  if (!view.isDifference) return `t hot s${strength}`;
  return value > 0 && strength ? `t hot worse s${strength}` : `t cold s${strength}`;
}

function spanOf(pane, i) {
  const text = visible(panes[pane].run.text(i));
  const span = h("span", {class: shade(panes[pane].values[i])}, text);
  if (!text) span.classList.add("part");
  span.at = {pane, i};
  return span;
}

/** The line above a document, if position i is its first one. */
function headOf(run, i) {
  const d = run.documents.length > 1 ? run.documentAt.get(i) : undefined;
  return d === undefined ? [] : [h("div", {class: "document"}, h("bdi", {}, run.documents[d]))];
}

/** Give a chunk its tokens, or only their text, by which the browser's own search finds it. */
function draw(chunk, isDrawn) {
  if (chunk.isDrawn === isDrawn) return;
  chunk.isDrawn = isDrawn;
  chunk.panes.forEach((element, p) => {
    const {run} = panes[p], children = [];
    chunk.spans[p] = [];
    for (let i = chunk.from[p]; i < chunk.to[p]; i++) {
      children.push(...headOf(run, i));
      if (isDrawn) chunk.spans[p].push(spanOf(p, i));
      children.push(isDrawn ? chunk.spans[p].at(-1) : visible(run.text(i)));
    }
    element.replaceChildren(...children);
    element.normalize();
  });
  if (isDrawn && current && chunk === chunkAt(current)) mark(current);
}

const chunkAt = ({pane, i}) => {
  let [low, high] = [0, chunks.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (chunks[middle].from[pane] <= i) low = middle;
    else high = middle - 1;
  }
  return chunks[low];
};

/** The element of a position; its chunk is drawn if it was not. */
function elementOf(at) {
  const chunk = chunkAt(at);
  draw(chunk, true);
  return chunk.spans[at.pane][at.i - chunk.from[at.pane]];
}

// ---- the card: what is known of a token

const card = h("div", {class: "card", hidden: ""});
const spoken = h("div", {class: "spoken", "aria-live": "polite"});

const nats = (value) => Number.isNaN(value) ? "not predicted" : `${value.toFixed(2)} nats`;

/** What a run predicted at a position. */
function prediction(run, i) {
  const loss = run.losses[i];
  const near = Array.from({length: run.near}, (_, k) => [run.likeliest[run.near * i + k],
    run.chances[run.near * i + k] / 65535]);
  return h("div", {}, ...(panes.length > 1 ? [h("div", {}, run.name)] : []),
    h("b", {class: "token"}, run.label(i)),
    h("div", {}, Number.isNaN(loss) ? "not predicted" :
      `probability ${percent(Math.exp(-loss))}, rank ${count(run.ranks[i])}, ${nats(loss)}`),
    ...(Number.isNaN(loss) ? [] : [h("table", {"aria-label": "the likeliest tokens"},
      ...near.map(([id, chance]) => h("tr", {},
        h("td", {}, token(run.labels[id]), id === run.ids[i] ? "\u00a0←" : ""),
        h("td", {class: "number"}, percent(chance)),
        h("td", {}, smallBar(chance)))))]));
}

function smallBar(fraction) {
  const bar = h("div", {class: "small", "aria-hidden": "true"}, h("div", {class: "bar"}));
  bar.firstChild.style.width = `${100 * fraction}%`;
  return bar;
}

/** What the other run predicted there: one token, or the tokens of the same piece of text. */
function otherRun({pane, i}) {
  const {starts, run} = panes[1 - pane], piece = panes[pane].pieces[i];
  const from = starts[piece], to = starts[piece + 1] ?? run.size;
  if (to - from === 1) return prediction(run, from);
  const range = Array.from({length: to - from}, (_, k) => from + k);
  const total = range.reduce((sum, k) => sum + run.losses[k], 0);
  return h("div", {}, h("div", {}, run.name),
    ...range.flatMap((k) => [token(run.label(k)), " "]), h("div", {}, nats(total)));
}

function showCard(at) {
  const {pane, i} = at, {run, values} = panes[pane];
  const element = elementOf(at), from = element.getClientRects()[0] ?? element.getBoundingClientRect();
  const documents = run.documents.length > 1
    ? `, ${run.documents[documentOf(run, i)]}` : "";
  const parts = [prediction(run, i)];
  if (panes.length > 1) parts.splice(pane ? 0 : 1, 0, otherRun(at));
  card.replaceChildren(h("div", {class: "two-runs"}, ...parts),
    h("div", {class: "faint"}, `token ${count(i + 1)} of ${count(run.size)}${documents}`));
  if (view.isDifference && !Number.isNaN(values[i]))
    card.append(h("div", {}, h("bdi", {}, run.name), ` is ${values[i] > 0 ? "worse" : "better"} by ${
      Math.abs(values[i]).toFixed(2)} nats`));
  card.hidden = false;
  const {width, height} = card.getBoundingClientRect();
  const below = from.bottom + 6 + height < innerHeight || from.top < height + 6;
  card.style.top = `${below ? from.bottom + 6 : from.top - height - 6}px`;
  card.style.left = `${Math.max(8, Math.min(from.left, innerWidth - width - 8))}px`;
}

const signed = (value) => (value > 0 ? "+" : "") + value.toFixed(2);

function documentOf(run, i) {
  let d = run.starts.length - 1;
  while (d > 0 && run.starts[d] > i) d--;
  return d;
}

/** Frame the current position, and with two runs what the other has there. */
function mark(at) {
  document.querySelectorAll(".current").forEach((e) => e.classList.remove("current"));
  current = at;
  elementOf(at).classList.add("current");
  if (panes.length === 1) return;
  const {starts, run} = panes[1 - at.pane], piece = panes[at.pane].pieces[at.i];
  const chunk = chunkAt(at), end = starts[piece + 1] ?? run.size; // a piece lies in one chunk
  for (let i = starts[piece]; i < end; i++)
    chunk.spans[1 - at.pane][i - chunk.from[1 - at.pane]].classList.add("current");
}

/** Make a position the current one, and show its card. */
function select(at) {
  mark(at);
  showCard(at);
}

/** Scroll to a position; its surroundings are laid out only then, which moves it. */
function jump(at) {
  const scroll = () => elementOf(at).scrollIntoView({block: "center"});
  mark(at);
  scroll();
  requestAnimationFrame(() => {
    scroll();
    requestAnimationFrame(() => { scroll(); showCard(at); });
  });
}

// ---- moving by keys: along the text, and from line to line

function step(from, by) {
  const size = panes[from.pane].run.size, i = from.i + by;
  return i < 0 || i >= size ? from : {pane: from.pane, i};
}

/** The nearest position in the next line (by: 1) or in the line before (by: -1). */
function line(from, by) {
  const middle = (at) => {
    const box = elementOf(at).getClientRects()[0];
    return box && {x: (box.left + box.right) / 2, y: (box.top + box.bottom) / 2, box};
  };
  const start = middle(from);
  let best = from, distance = Infinity, height = null, at = from;
  for (let k = 0; k < 2 * LONGEST_CHUNK; k++) {
    const next = step(at, by);
    if (next.i === at.i) break;
    at = next;
    const place = middle(at);
    if (!place || Math.abs(place.y - start.y) < start.box.height / 2) continue;
    if (height !== null && Math.abs(place.y - height) > start.box.height / 2) break;
    height = place.y;
    if (Math.abs(place.x - start.x) < distance) {
      distance = Math.abs(place.x - start.x);
      best = at;
    }
  }
  return best;
}

const MOVES = {
  ArrowRight: (at) => step(at, 1), ArrowLeft: (at) => step(at, -1),
  ArrowDown: (at) => line(at, 1), ArrowUp: (at) => line(at, -1),
};

function onKey(event) {
  if (event.key === "Escape") card.hidden = true;
  if (!MOVES[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  const at = current ? MOVES[event.key](current) : firstInSight();
  mark(at);
  elementOf(at).scrollIntoView({block: "nearest"});
  showCard(at);
  const {run} = panes[at.pane], loss = run.losses[at.i];
  spoken.textContent = `${run.label(at.i)}: ${Number.isNaN(loss) ? "not predicted" :
    `probability ${percent(Math.exp(-loss))}, rank ${run.ranks[at.i]}`}`;
}

// ---- the strip: the loss along the text

const canvas = h("canvas");
const here = h("div", {class: "here"});
const strip = h("div", {class: "strip", tabindex: 0, role: "slider",
  "aria-label": "place in the text", "aria-valuemin": 1}, canvas, here);

/** Means of values over equal parts of them; NaN for parts without one. */
function means(values, parts) {
  return Array.from({length: parts}, (_, p) => {
    const from = Math.floor(p * values.length / parts);
    const to = Math.max(from + 1, Math.floor((p + 1) * values.length / parts));
    let [sum, number] = [0, 0];
    for (let i = from; i < Math.min(to, values.length); i++)
      if (!Number.isNaN(values[i])) { sum += values[i]; number++; }
    return number ? sum / number : NaN;
  });
}

function drawStrip() {
  const scale = devicePixelRatio || 1, width = strip.clientWidth, height = strip.clientHeight;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const parts = Math.max(1, Math.floor(width)), {values, run} = panes[0];
  const lines = [means(values, parts)];
  if (panes.length > 1 && !view.isDifference) lines.push(means(panes[1].values, parts));
  const top = Math.max(...lines.flat().filter((v) => !Number.isNaN(v)).map(Math.abs), 1e-9);
  const zero = view.isDifference ? height / 2 : height - 1;
  const y = (value) => zero - value / top * (view.isDifference ? height / 2 - 1 : height - 4);
  lines[0].forEach((value, x) => {
    if (Number.isNaN(value)) return;
    pen.fillStyle = `rgb(${colour(value > 0 || !view.isDifference ? "--hot" : "--cold")})`;
    pen.fillRect(x * width / parts, Math.min(y(value), zero), width / parts + 0.5,
      Math.max(1, Math.abs(y(value) - zero)));
  });
  pen.strokeStyle = pen.fillStyle = colour("--ink");
  if (lines[1]) {
    pen.beginPath();
    lines[1].forEach((value, x) => Number.isNaN(value) || pen.lineTo(x * width / parts, y(value)));
    pen.stroke();
  }
  pen.fillRect(0, zero, width, 1);
  if (run.starts.length <= width / 4) // borders of documents
    run.starts.forEach((start) => pen.fillRect(start / run.size * width, height - 6, 1, 6));
  follow();
}

function firstInSight() {
  return {pane: 0, i: inSight()[0]};
}

/** The first and the last position of the left pane that can be seen, nearly. */
function inSight() {
  const top = strip.getBoundingClientRect().bottom;
  const find = (y) => { // the place within the chunk at this height
    let [low, high] = [0, chunks.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (chunks[middle].element.getBoundingClientRect().bottom > y) high = middle;
      else low = middle + 1;
    }
    const {from, to, element} = chunks[low], box = element.getBoundingClientRect();
    const share = Math.max(0, Math.min(1, (y - box.top) / (box.height || 1)));
    return Math.min(to[0] - 1, from[0] + Math.floor(share * (to[0] - from[0])));
  };
  return [find(top), find(innerHeight)];
}

function follow() {
  const [first, last] = inSight(), size = panes[0].run.size;
  here.style.left = `${100 * first / size}%`;
  here.style.width = `${100 * (last + 1 - first) / size}%`;
  strip.setAttribute("aria-valuenow", first + 1);
  strip.setAttribute("aria-valuetext", `token ${count(first + 1)} of ${count(size)}`);
}

const placeOnStrip = (event) => {
  const box = strip.getBoundingClientRect(), size = panes[0].run.size;
  const share = (event.clientX - box.left) / box.width;
  return {pane: 0, i: Math.max(0, Math.min(size - 1, Math.floor(share * size)))};
};

function onStripKey(event) {
  const size = panes[0].run.size, page = Math.max(1, Math.round(size / 100));
  const first = inSight()[0];
  const to = {ArrowRight: first + page, ArrowUp: first + page, ArrowLeft: first - page,
    ArrowDown: first - page, Home: 0, End: size - 1}[event.key];
  if (to === undefined) return;
  event.preventDefault();
  jump({pane: 0, i: Math.max(0, Math.min(size - 1, to))});
}

// ---- the hardest tokens and documents

/** The positions of the largest values (magnitudes of differences), one for each piece. */
function hardest({values, starts}) {
  const sizes = Float32Array.from(starts, (i) => Math.abs(values[i]) || 0).sort();
  const least = sizes.at(-HARDEST) ?? 0;
  return Array.from(starts).filter((i) => Math.abs(values[i]) >= least)
    .sort((i, j) => Math.abs(values[j]) - Math.abs(values[i])).slice(0, HARDEST);
}

function tokenButton(i) {
  const {run, values} = panes[0];
  const texts = (from, to) => Array.from({length: Math.max(0, to - from)},
    (_, k) => visible(run.text(from + k)).replace("\n", " ")).join("");
  const value = view.isDifference ? signed(values[i]) : values[i].toFixed(2);
  return h("li", {}, h("button", {type: "button", onclick: () => jump({pane: 0, i})},
    h("span", {class: "number"}, `${value} `),
    h("bdi", {}, `${texts(Math.max(0, i - CONTEXT), i)}`,
      h("mark", {}, visible(run.text(i)).replace("\n", " ") || run.label(i)),
      texts(i + 1, Math.min(run.size, i + 4)))));
}

function documentList() {
  const {run, values} = panes[0];
  const losses = run.documents.map((name, d) => {
    const from = run.starts[d], [mean] = means(values.subarray(from, run.starts[d + 1]), 1);
    return {name, from, mean, size: (run.starts[d + 1] ?? run.size) - from};
  }).filter(({mean}) => !Number.isNaN(mean));
  losses.sort((a, b) => Math.abs(b.mean) - Math.abs(a.mean));
  return losses.slice(0, HARDEST).map(({name, from, mean, size}) =>
    h("li", {}, h("button", {type: "button", onclick: () => jump({pane: 0, i: from})},
      h("span", {class: "number"}, `${view.isDifference ? signed(mean) : mean.toFixed(2)} `),
      h("bdi", {}, name), ` (${count(size)})`)));
}

function fillLists() {
  const what = view.isDifference
    ? `nats by which ${panes[0].run.name} is worse (+) or better (-)` : "nats";
  const list = (title, items) => h("section", {}, h("h2", {}, title), h("p", {class: "faint"}, what),
    h("ol", {tabindex: 0}, ...items));
  const noun = view.isDifference ? "Largest differences" : "Hardest tokens";
  lists.replaceChildren(list(noun, hardest(panes[0]).map(tokenButton)));
  if (panes[0].run.documents.length > 1)
    lists.append(list(view.isDifference ? "Documents that differ most" : "Hardest documents",
      documentList()));
}

function fillLegend() {
  const steps = [0, 2, 4, 6, 9].map((s) => h("span", {class: `t hot s${s}`},
    (s / 9 * most).toFixed(1)));
  legend.replaceChildren(...(view.isDifference ? [
    h("span", {class: "t hot worse s6"}, `worse than the other run (darkest: ${
      most.toFixed(2)} nats)`),
    h("span", {class: "t cold s6"}, "better than the other run")]
    : [h("span", {}, "nats:"), ...steps]),
  h("span", {class: "t unscored"}, "not predicted"),
  h("span", {}, "↵ ends a line. Point at a token, or use the arrow keys in the text."));
}

// ---- the page

const picker = (onchange) => h("select", {onchange: (event) => {
  onchange(event.target.value);
  renew();
}});
const option = (value, name) => h("option", {value: String(value)}, name);
const left = picker((value) => {
  view.left = Number(value);
  if (!others(view.left).includes(view.right)) view.right = others(view.left)[0] ?? null;
});
const right = picker((value) => { view.right = value === "" ? null : Number(value); });
const shaded = picker((value) => { view.shade = value; });
const controls = h("div", {class: "controls"},
  ...[["left", left], ["right", right], ["shaded by", shaded]].map((of) => h("label", {}, ...of)));
left.append(...runs.map((run, i) => option(i, run.name)));
shaded.append(option("diff", "difference"), option("loss", "loss"));
controls.hidden = runs.length === 1;
view.right = others(0)[0] ?? null;

/** Offer at the right what can be compared with the left. */
function offer() {
  right.replaceChildren(...others(view.left).map((i) => option(i, runs[i].name)),
    option("", "nothing"));
  right.value = String(view.right ?? "");
  shaded.disabled = view.right === null;
}

const legend = h("div", {class: "legend"});
const lists = h("div", {class: "lists"});
const text = h("div", {class: "text", tabindex: 0, role: "group",
  "aria-label": "the text; arrow keys go from token to token"});

const waiting = new Map(); // chunks that have come near or gone far: whether to draw their tokens
const watcher = new IntersectionObserver((entries) => {
  if (!waiting.size) requestAnimationFrame(drawSome);
  for (const entry of entries) waiting.set(entry.target.chunk, entry.isIntersecting);
}, {rootMargin: "100% 0px"});

/** Draw what waits, for a part of each frame, so that fast scrolling passes by plain text. */
function drawSome() {
  const end = performance.now() + 6;
  for (const [chunk, isNear] of waiting) {
    waiting.delete(chunk);
    draw(chunk, isNear);
    if (performance.now() > end) break;
  }
  if (waiting.size) requestAnimationFrame(drawSome);
}

/** About how high a chunk will be, in pixels, for the scroll bar. */
function expectedHeight(chunk) {
  const heights = panes.map(({run}, p) => {
    const perLine = Math.max(10, text.clientWidth / panes.length / 8);
    let [lines, column] = [0, 0];
    for (let i = chunk.from[p]; i < chunk.to[p]; i++) {
      column += run.text(i).length;
      if (run.text(i).includes("\n")) {
        lines += Math.ceil(column / perLine);
        column = 0;
      }
    }
    return 29 * (lines + Math.ceil(column / perLine));
  });
  return Math.round(Math.max(...heights, 29));
}

/** Build the text anew, for the runs that are chosen now. */
function renew() {
  offer();
  choose();
  cut();
  current = null;
  card.hidden = true;
  watcher.disconnect();
  waiting.clear();
  text.classList.toggle("two", panes.length > 1);
  for (const chunk of chunks) {
    chunk.element = h("div", {class: "chunk"}, ...chunk.panes);
    chunk.element.style.containIntrinsicBlockSize = `auto ${expectedHeight(chunk)}px`;
    chunk.element.chunk = chunk;
    draw(chunk, false);
    watcher.observe(chunk.element);
  }
  text.replaceChildren(...chunks.map((chunk) => chunk.element));
  strip.setAttribute("aria-valuemax", panes[0].run.size);
  fillLegend();
  fillLists();
  drawStrip();
}

page.replaceChildren(h("h1", {}, visible(data.title)), table(data.summary.heads, data.summary.rows),
  ...data.notes.map((note) => h("p", {}, visible(note))), lists, controls, legend, strip, text,
  card, spoken);
renew();

text.addEventListener("pointerover", (event) => event.target.at && showCard(event.target.at));
text.addEventListener("pointerleave", () => { card.hidden = true; });
text.addEventListener("click", (event) => event.target.at && select(event.target.at));
text.addEventListener("keydown", onKey);
text.addEventListener("blur", () => { card.hidden = true; });
strip.addEventListener("pointerdown", (event) => {
  strip.setPointerCapture(event.pointerId);
  jump(placeOnStrip(event));
});
strip.addEventListener("pointermove", (event) => event.buttons && jump(placeOnStrip(event)));
strip.addEventListener("keydown", onStripKey);
let isFollowing = false;
addEventListener("scroll", () => {
  if (!isFollowing) requestAnimationFrame(() => { isFollowing = false; follow(); });
  isFollowing = true;
}, {passive: true});
addEventListener("resize", drawStrip);
onScheme(drawStrip);
