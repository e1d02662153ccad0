"use strict";
// plot_runs.py --html: the curves of runs. Plotly, which plot_runs.py puts before this, draws them.
//
// data: {title, axes: {loss, rate, speed, tokens, time}, range, losses: [curve], runs: [run]}
// curve: {color, tokens, time, y, name, dashed, marked, faint}; run: {name, tokens, rate, speed}

// curves of equal colour in grey print differ by their dashes and marks
const COLOURS = ["#2f85c8", "#e0700c", "#2a9d3a", "#d62728", "#9467bd", "#a0634f", "#d456ac",
  "#7f7f7f", "#a8a812", "#17a5b5"];
const MARKS = ["circle", "square", "diamond", "x", "triangle-up", "cross", "star", "pentagon",
  "triangle-down", "hexagon"];

/** A text that Plotly shows as it is, though it reads some HTML in texts. */
const plain = (text) => text.replace(/[&<>]/g, (c) => ({"&": "&amp;", "<": "&lt;", ">": "&gt;"})[c]);

/** A long name, broken for the legend and the box beside the mouse. */
const broken = (text) => plain(text.replace(/(.{50,70}?) /g, "$1\n"))
  .replaceAll("\n", "<br>");

function line({name, color, dashed, marked, faint}, x, y, axis, group, inLegend) {
  const colour = COLOURS[color % COLOURS.length];
  return {x, y, name: broken(name), xaxis: `x${axis}`, yaxis: `y${axis}`, legendgroup: group,
    showlegend: inLegend, mode: marked ? "lines+markers" : "lines", opacity: faint ? 0.5 : 1,
    line: {color: colour, width: faint ? 1 : 2, dash: dashed ? "dash" : "solid"},
    marker: {color: colour, symbol: MARKS[color % MARKS.length], size: 7}};
}

function traces() {
  const several = data.runs.length > 1;
  const lines = data.losses.flatMap((curve, i) => {
    const group = several ? String(curve.color) : String(i);
    const named = {...curve, name: curve.name ?? `train ${data.runs[curve.color].name}`};
    return [line(named, curve.tokens, curve.y, 1, group, curve.name !== null),
      line(named, curve.time, curve.y, 2, group, false)];
  });
  data.runs.forEach((run, i) => {
    // with one run these two belong to no curve of the legend
    const group = several ? String(i) : "run";
    lines.push(line({...run, color: i}, run.tokens, run.rate, 3, group, false),
      line({...run, color: i}, run.tokens, run.speed, 4, group, false));
  });
  return lines;
}

function layout() {
  const {loss, rate, speed, tokens, time} = data.axes, isNarrow = chart.clientWidth < 700;
  const looks = {gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true,
    linecolor: colour("--faint")};
  const axis = (title, more) => ({...looks, title: {text: title}, ...more});
  const hover = {hoverformat: ".4~g"};
  return {
    grid: {rows: isNarrow ? 4 : 2, columns: isNarrow ? 1 : 2, pattern: "independent",
      ygap: isNarrow ? 0.35 : 0.25, xgap: 0.16},
    width: chart.clientWidth, height: isNarrow ? 1500 : 780, margin: {l: 10, r: 10, t: 10, b: 10},
    paper_bgcolor: colour("--paper"), plot_bgcolor: colour("--paper"),
    font: {color: colour("--ink"), size: 13}, hovermode: "x unified",
    hoverdistance: -1, // the nearest point of each curve, however far
    hoverlabel: {bgcolor: colour("--panel"), font: {color: colour("--ink")}, namelength: -1},
    legend: {orientation: "h", y: isNarrow ? -0.06 : -0.12, x: 0},
    xaxis: axis(tokens, {rangemode: "tozero"}), yaxis: axis(loss, {range: data.range, ...hover}),
    xaxis2: axis(time, {rangemode: "tozero", hoverformat: ".2f"}),
    yaxis2: axis(loss, {matches: "y", ...hover}),
    xaxis3: axis(tokens, {matches: "x"}), yaxis3: axis(rate, {rangemode: "tozero", ...hover}),
    xaxis4: axis(tokens, {matches: "x"}), yaxis4: axis(speed, {rangemode: "tozero", ...hover}),
  };
}

const chart = h("div", {class: "chart"});
page.replaceChildren(h("h1", {}, data.title), h("p", {class: "faint"},
  "Point at a curve to read it off. Drag to enlarge, double-click to go back; click on a name " +
  "below to hide it."), chart);
const draw = () => Plotly.react(chart, traces(), layout(), {
  displaylogo: false,
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]]});
draw();
onScheme(draw);
addEventListener("resize", () => Plotly.relayout(chart, layout()));
