"use strict";
// What all pages use. Nothing here reads a text as HTML: elements get their text by textContent.

const data = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");

/** An element: its tag, attributes (a function is a listener: onclick), children (or texts). */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** The array of numbers that packed() of pipeline/pages has written. */
function unpack({kind, base64}) {
  const kinds = {Uint8Array, Uint16Array, Uint32Array, Float32Array};
  const raw = atob(base64), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new kinds[kind](bytes.buffer);
}

const SIGNS = {"\n": "↵\n", "\t": "⇥\t", "\u007f": "␡"};

/** A text with a sign for each character that cannot be seen or would turn the text around. */
function visible(text) {
  return text.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}\u00a0]/gu, (c) => {
    if (SIGNS[c]) return SIGNS[c];
    if (c < " ") return String.fromCharCode(0x2400 + c.charCodeAt(0));
    // joiners of letters and emoji, which do nothing else
    if ((c === "\u200c" || c === "\u200d") && text.length > 1) return c;
    if (c === "\u00a0") return "\u237d";
    return `⟨${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
  });
}

const counted = new Intl.NumberFormat("en-US");
const count = (number) => counted.format(number);

/** A fraction as a percentage, with the digits that tell it from 0 and from 100%. */
function percent(fraction) {
  const value = 100 * fraction;
  if (value === 0 || value === 100) return `${value}%`;
  if (value < 0.001) return "below 0.001%";
  return `${value.toFixed(value < 0.1 ? 3 : value < 1 || value > 99.9 ? 2 : 1)}%`;
}

/** A table: heads are texts, or [text] of a column of numbers; cells are texts or elements. */
function table(heads, rows) {
  const kinds = heads.map((head) => Array.isArray(head) ? {class: "number"} : {});
  return h("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": heads.join(", ")},
    h("table", {},
      h("thead", {}, h("tr", {}, ...heads.map((head, i) => h("th", kinds[i], String(head))))),
      h("tbody", {}, ...rows.map((row) =>
        h("tr", {}, ...row.map((cell, i) => h("td", kinds[i],
          typeof cell === "string" ? visible(cell) : cell)))))));
}

/** A text from the data, kept apart from the direction of what stands around it. */
const token = (text) => h("span", {class: "token", dir: "auto"}, visible(text));

/** Bars below each other, each a share of the longest, which is `most`. */
function bars(values, most) {
  return h("div", {class: "bars", "aria-hidden": "true"}, ...values.map((value, i) => {
    const bar = h("div", {class: i ? "bar second" : "bar"});
    bar.hidden = !value;
    bar.style.width = `${most ? 100 * value / most : 0}%`;
    return bar;
  }));
}

/** What the bars of two things look like. */
function keys(names) {
  return h("p", {}, ...names.flatMap((name, i) => [
    h("span", {class: i ? "key bar second" : "key bar"}), h("span", {}, name)]));
}

/** A colour of page.css as it is now, light or dark. */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Call back when the page turns dark or light. */
const onScheme = (redraw) =>
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
