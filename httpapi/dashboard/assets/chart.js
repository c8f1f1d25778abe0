// The chart of a symbol. The server draws it; this script asks for the numbers of the
// same bars, shows those under the crosshair, and asks for pictures of other periods.

import { decimal, digitsOf, fixed, parse } from "./numbers.js";

const fewestBars = 5; // that zooming leaves
const lengths = { "1s": 1e3, "10s": 1e4, "1m": 6e4, "5m": 3e5, "1h": 36e5, "1d": 864e5 };

const picture = document.getElementById("chart");
const image = picture?.querySelector("img");
const cross = document.getElementById("crosshair");
const marks = cross?.querySelector("svg");
const readout = document.getElementById("readout");
const zoom = document.getElementById("zoom");

// What the page came with: zooming changes the period of these, and nothing else.
const sources = picture ? [...picture.querySelectorAll("source")] : [];
const originals = new Map([...sources, image].filter(Boolean).map((e) => [e, e.srcset || e.src]));

const view = { from: null, to: null }; // in milliseconds; null is the page's own bound
let whole = null; // the period of all bars, as last seen
let shown = null; // the numbers of the picture
let at = null; // the bar under the crosshair; null for the newest

const original = () => originals.get(sources.find((s) => matchMedia(s.media).matches) ?? image);
const iso = (milliseconds) => new Date(milliseconds).toISOString();
const isLine = () => new URL(original(), location.href).searchParams.get("kind") !== "candles";

function address(base, changes, file) {
  const url = new URL(base, location.href);
  for (const [name, value] of Object.entries(changes)) url.searchParams.set(name, value);
  return (file ? url.pathname.replace(/[^/]*$/, file) : url.pathname) + url.search;
}

// redraw shows the chart as it is now. Of several calls while it is busy, one counts.
let busy = false, again = false;

export async function redraw() {
  if (!picture) return;
  again = true;
  if (busy) return;
  busy = true;
  while (again) {
    again = false;
    await load().catch(() => {}); // the picture that is there stays
  }
  busy = false;
}

async function load() {
  const wanted = original();
  const period = { to: iso(view.to ?? Date.now() + 60_000) };
  if (view.from !== null) period.from = iso(view.from);
  const response = await fetch(address(wanted, period, "chart.json"));
  if (!response.ok) return;
  const numbers = parse(await response.text());
  if (numbers.bars.length) {
    // The picture of just these bars, even if another has begun since.
    numbers.starts = numbers.bars.map((bar) => Date.parse(bar.start));
    numbers.length = lengths[numbers.interval];
    Object.assign(period, { interval: numbers.interval, from: iso(numbers.starts[0]), to: iso(numbers.starts.at(-1) + numbers.length) });
  }
  const ready = new Image();
  ready.src = address(wanted, period);
  await ready.decode();
  for (const source of sources) source.srcset = address(originals.get(source), period);
  image.src = address(originals.get(image), period);
  const size = new URL(wanted, location.href).searchParams;
  marks.setAttribute("viewBox", `0 0 ${size.get("width")} ${size.get("height")}`);
  show(numbers);
}

function show(numbers) {
  const start = at === null ? null : shown?.starts[at];
  shown = numbers.bars.length ? numbers : null;
  cross.hidden = !shown;
  if (!shown) return;
  const end = shown.starts.at(-1) + shown.length;
  if (view.from === null) whole = { from: shown.starts[0], to: end };
  else whole.to = Math.max(whole.to, end);
  at = start === null ? -1 : shown.starts.indexOf(start);
  point(at < 0 ? null : at);
  cross.setAttribute("aria-valuemax", shown.bars.length - 1);
  zoom.querySelector("[data-zoom=whole]").disabled = view.from === null;
}

// The crosshair.

function point(index) {
  at = index;
  const newest = shown.bars.length - 1;
  const i = index ?? newest;
  const texts = describe(i);
  readout.replaceChildren(...texts.map(([name, value]) => {
    const item = document.createElement("span");
    const label = document.createElement("small");
    label.textContent = name;
    item.append(label, name ? " " : "", value);
    return item;
  }));
  cross.setAttribute("aria-valuenow", i);
  cross.setAttribute("aria-valuetext", texts.map((t) => t.join(" ").trim()).join(", "));
  marks.classList.toggle("off", index === null);
  const { left, right, top, bottom, end } = plot();
  const x = middle(i), y = height(shown.bars[i].close);
  place("down", { x1: x, x2: x, y1: top, y2: end });
  place("across", { x1: left, x2: right, y1: y, y2: y });
  place("spot", { cx: x, cy: y });
}

const plot = () => Object.fromEntries(Object.entries(shown.plot).map(([name, text]) => [name, Number(text)]));

function middle(i) {
  const { left, right, slots } = plot();
  return left + ((i + 0.5) * (right - left)) / slots;
}

function height(price) {
  const { top, bottom, low, high } = plot();
  return bottom - ((Number(price) - low) / (high - low)) * (bottom - top);
}

function place(name, attributes) {
  for (const [key, value] of Object.entries(attributes)) marks.querySelector("." + name).setAttribute(key, value);
}

const clock = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", day: "numeric", month: "short", year: "numeric",
  hour: "2-digit", minute: "2-digit", second: "2-digit" });

// describe gives the names and values of a bar.
function describe(i) {
  const bar = shown.bars[i];
  const digits = Math.max(...[bar.open, bar.high, bar.low, bar.close].map(digitsOf));
  const price = (text) => fixed(decimal(text), digits);
  const all = [["", clock.format(shown.starts[i]).replace(",", "")]];
  if (isLine()) all.push(["Price", price(bar.close)]);
  else all.push(["Open", price(bar.open)], ["High", price(bar.high)], ["Low", price(bar.low)], ["Close", price(bar.close)]);
  if (bar.volume !== null) all.push(["Volume", bar.volume]);
  for (const line of shown.lines) {
    const value = line.values[i];
    if (value !== null) all.push([line.name, fixed(decimal(value), Math.min(18, digits + 2))]);
  }
  return all;
}

// barAt is the bar under a pointer.
function barAt(event) {
  const box = marks.getBoundingClientRect();
  const { left, right, slots } = plot();
  const x = ((event.clientX - box.left) / box.width) * marks.viewBox.baseVal.width;
  return Math.max(0, Math.min(shown.bars.length - 1, Math.floor(((x - left) / (right - left)) * slots)));
}

// Zooming.

function zoomTo(from, to) {
  const inside = from > whole.from || to < whole.to;
  view.from = inside ? Math.max(from, whole.from) : null;
  view.to = inside && to < whole.to ? to : null; // at its end it goes along with the newest
  readout.hidden = zoom.hidden = false;
  redraw();
}

// period is what the chart shows, or soon will.
const period = () => ({ from: view.from ?? whole.from, to: view.to ?? whole.to });

// scale makes the period so many times as long, around the crosshair or else its end.
function scale(factor) {
  const { from, to } = period();
  const around = at === null || !shown || at === shown.bars.length - 1 ? to : shown.starts[at] + shown.length / 2;
  const shortest = lengths[new URL(original(), location.href).searchParams.get("interval")] ?? lengths["1s"];
  if (factor < 1 && (to - from) * factor < fewestBars * shortest) return;
  zoomTo(around - (around - from) * factor, around + (to - around) * factor);
}

function move(part) {
  const { from, to } = period();
  const by = Math.max(whole.from - from, Math.min(whole.to - to, (to - from) * part));
  zoomTo(from + by, to + by);
}

const actions = { in: () => scale(0.5), out: () => scale(2), earlier: () => move(-0.5), later: () => move(0.5), whole: () => zoomTo(-Infinity, Infinity) };

const keys = { "+": "in", "=": "in", "-": "out", 0: "whole" };

function onKey(event) {
  if (!shown || event.ctrlKey || event.metaKey || event.altKey) return;
  const newest = shown.bars.length - 1, i = at ?? newest;
  const targets = { ArrowLeft: i - 1, ArrowDown: i - 1, ArrowRight: i + 1, ArrowUp: i + 1, PageDown: i - 10, PageUp: i + 10, Home: 0, End: newest };
  if (event.shiftKey && (event.key === "ArrowLeft" || event.key === "ArrowRight")) actions[event.key === "ArrowLeft" ? "earlier" : "later"]();
  else if (event.key in targets) point(Math.max(0, Math.min(newest, targets[event.key])));
  else if (event.key in keys) actions[keys[event.key]]();
  else if (event.key === "Escape") leave();
  else return;
  event.preventDefault();
}

let chosenFrom = null; // the bar where a mouse began to choose a period

function onPointer(event) {
  if (!shown) return;
  const i = barAt(event);
  point(i);
  if (event.type === "pointerdown") {
    cross.setPointerCapture(event.pointerId);
    if (event.pointerType === "mouse" && event.button === 0) chosenFrom = i;
  }
  const [first, last] = [Math.min(i, chosenFrom ?? i), Math.max(i, chosenFrom ?? i)];
  const { left, right, top, end, slots } = plot();
  const step = (right - left) / slots;
  place("chosen", { x: left + first * step, y: top, width: last > first ? (last - first + 1) * step : 0, height: end - top });
  if (event.type !== "pointerup") return;
  place("chosen", { width: 0 });
  if (chosenFrom !== null && last > first) zoomTo(shown.starts[first], shown.starts[last] + shown.length);
  chosenFrom = null;
}

// leave takes the crosshair away, and what a mouse has chosen so far.
function leave() {
  chosenFrom = null;
  place("chosen", { width: 0 });
  if (shown) point(null);
}

if (cross) {
  cross.addEventListener("keydown", onKey);
  for (const kind of ["pointerdown", "pointermove", "pointerup"]) cross.addEventListener(kind, onPointer);
  for (const kind of ["pointercancel", "blur"]) cross.addEventListener(kind, leave);
  cross.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && leave());
  cross.addEventListener("focus", () => shown && at === null && cross.matches(":focus-visible") && point(shown.bars.length - 1));
  cross.addEventListener("dblclick", () => shown && actions.whole());
  cross.addEventListener("wheel", (event) => {
    if (!shown || !event.ctrlKey) return; // without it the wheel scrolls the page
    event.preventDefault();
    scale(event.deltaY < 0 ? 0.8 : 1.25);
  }, { passive: false });
  zoom.addEventListener("click", (event) => whole && actions[event.target.dataset.zoom]?.());
  for (const source of sources) matchMedia(source.media).addEventListener("change", redraw);
  readout.hidden = zoom.hidden = false;
  redraw();
}
