// Keeps a page up to date. What the page shows is complete without it.
//
// Prices come from the stream of server-sent events. Where there is none, the page is
// fetched again every two seconds, and the tables in it are replaced.

import { redraw } from "./chart.js";
import { decimal, digitsOf, fixed, parse, signed } from "./numbers.js";

const pollEvery = 2000;
const chartEvery = 2000;
const listEvery = 10_000;
const staleAfter = 15 * 60 * 1000;
const maxStreams = 3; // of the six connections that browsers keep to one host
const maxSymbols = 250; // of one stream

const connection = document.getElementById("connection");
const page = document.querySelector("[data-events]"); // the part that follows a stream

function setConnection(state, text) {
  if (connection.dataset.state === state) return;
  connection.dataset.state = state;
  connection.textContent = text;
}

function age(milliseconds) {
  const seconds = Math.floor(milliseconds / 1000);
  if (seconds < 1) return "now";
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

const part = (element, name) => element.querySelector(`[data-live="${name}"]`);

function write(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

// flash begins the animation anew: each of two classes has its own.
function flash(element) {
  element.classList.toggle("again", element.classList.contains("changed") && !element.classList.contains("again"));
  element.classList.add("changed");
}

// Quotes are the places of the page that show the newest price of a symbol.
const quotes = new Map();

const keyOf = ({ dataset }) => dataset.provider + "\n" + dataset.symbol;

// Those in view, or nearly.
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const quote = quotes.get(keyOf(target));
    if (quote) quote.inView = isIntersecting;
  }
}, { rootMargin: "100px" });

function findQuotes() {
  quotes.clear();
  waiting.clear();
  seen.disconnect();
  for (const element of document.querySelectorAll("[data-symbol][data-reference]")) {
    quotes.set(keyOf(element), { element, pending: null, average: null, inView: true });
    seen.observe(element);
  }
}

// Frames: whatever came since the last one is drawn at once, and nothing is written
// between them. Rows out of view take turns, a few a frame, so that a long list costs
// little more than the part of it in view.
const turns = 4;
const waiting = new Set(); // quotes, first come, first served
let drawing = false;

function drawSoon() {
  if (drawing || !waiting.size) return;
  drawing = true;
  requestAnimationFrame(draw);
}

function draw() {
  drawing = false;
  const now = Date.now();
  let left = turns;
  for (const quote of waiting) {
    if (!quote.inView && left-- <= 0) continue;
    waiting.delete(quote);
    if (quote.pending) drawPrice(quote);
    if (quote.average) drawAverage(quote);
    drawAge(quote.element, now);
  }
  drawSoon();
}

function wait(quote) {
  waiting.add(quote);
  drawSoon();
}

function drawPrice(quote) {
  const { element, pending } = quote;
  quote.pending = null;
  if (Date.parse(pending.timestamp) < Date.parse(element.dataset.time)) return; // a late one
  element.dataset.time = pending.timestamp;
  const price = part(element, "price");
  // With as many digits as it had, so that the points of a column stay below each other.
  const digits = Math.max(digitsOf(pending.price), digitsOf(price.textContent));
  const text = fixed(decimal(pending.price), digits);
  if (price.textContent !== text) {
    write(price, text);
    if (quote.inView) flash(price);
  }
  drawChange(element, pending.price, digits);
  drawSparkline(element, pending.price);
}

function drawChange(element, price, digits) {
  const reference = decimal(element.dataset.reference);
  const difference = decimal(price) - reference;
  const direction = difference > 0n ? "up" : difference < 0n ? "down" : "flat";
  const size = reference < 0n ? -reference : reference;
  const percent = size ? (difference * 100n * 10n ** 18n) / size : null;
  const shown = Math.max(digits, digitsOf(element.dataset.reference));
  const texts = { change: signed(difference, fixed(difference, shown)),
    percent: percent === null ? "" : signed(percent, fixed(percent, 2)) + " %" };
  for (const [name, text] of Object.entries(texts)) {
    const target = part(element, name);
    write(target, text);
    if (target) target.className = `change ${direction}`;
  }
}

// A sparkline keeps its last prices, whose heights are pixels: floats will do.
const sparklinePoints = 60;

function drawSparkline(element, price) {
  const line = element.querySelector(".sparkline polyline");
  if (!line) return;
  const heights = (line.heights ??= []);
  heights.push(Number(price));
  if (heights.length > sparklinePoints) heights.shift();
  if (heights.length < 8) return; // what the server drew says more
  const low = Math.min(...heights), high = Math.max(...heights);
  const step = 96 / (heights.length - 1);
  line.setAttribute("points", heights.map((h, i) =>
    `${(i * step).toFixed(1)},${(high > low ? 1 + (22 * (high - h)) / (high - low) : 12).toFixed(1)}`).join(" "));
}

function drawAverage(quote) {
  const { element, average } = quote;
  quote.average = null;
  const target = part(element, "average");
  if (!target) return;
  write(target, fixed(decimal(average), Math.min(18, digitsOf(part(element, "price").textContent) + 2)));
  target.title = average;
}

function drawAge(element, now) {
  const old = Math.max(0, now - Date.parse(element.dataset.time));
  write(part(element, "age"), age(old));
  const stale = part(element, "stale");
  if (stale) stale.hidden = old < staleAfter;
}

setInterval(() => {
  for (const quote of quotes.values()) wait(quote);
}, 1000);

// The stream.

function onPrice(price) {
  const quote = quotes.get(price.provider + "\n" + price.symbol);
  if (!quote) return;
  if (quote.pending && Date.parse(price.timestamp) < Date.parse(quote.pending.timestamp)) return;
  quote.pending = price;
  wait(quote);
}

function onAverage(provider, average) {
  const quote = quotes.get(provider + "\n" + average.symbol);
  if (!quote || average.window_size !== page.dataset.window) return;
  quote.average = average.value;
  wait(quote);
}

function stream(provider, symbols) {
  const query = new URLSearchParams({ symbols: symbols.join(","), provider, events: page.dataset.events, max_rate: "10" });
  const source = new EventSource("/api/v1/prices/stream?" + query);
  source.onopen = () => setConnection("live", "Live");
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) {
      poll(); // there is no such stream, or not now
    } else {
      setConnection("lost", "Connection lost");
    }
  };
  source.addEventListener("price", (event) => onPrice(parse(event.data)));
  for (const kind of page.dataset.events.split(",")) source.addEventListener(kind.split(":")[0], pageIsOld);
  source.addEventListener("average", (event) => onAverage(provider, parse(event.data)));
  source.addEventListener("snapshot", (event) => {
    const { price, average } = parse(event.data);
    if (price) onPrice({ provider, ...price });
    if (average) onAverage(provider, average);
  });
  source.addEventListener("reset", refresh); // what the page shows may have been rebuilt
  return source;
}

const streams = [];

function start() {
  findQuotes();
  while (streams.length) streams.pop().close();
  const providers = Map.groupBy([...quotes.values()], ({ element }) => element.dataset.provider);
  const all = [...providers].map(([provider, those]) => [provider, those.map(({ element }) => element.dataset.symbol)]);
  if (!all.length || all.length > maxStreams || all.some(([, symbols]) => symbols.length > maxSymbols || symbols.some((symbol) => symbol.includes(",")))) {
    poll();
    return;
  }
  polling = false;
  for (const [provider, symbols] of all) streams.push(stream(provider, symbols));
}

// The watch list grows when a symbol has its first price, of which no stream tells.
async function lookForOthers() {
  if (document.hidden || polling) return;
  const before = [...quotes.keys()].join();
  const response = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "error" });
  if (!response.ok) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  if ([...fresh.querySelectorAll("[data-reference]")].map(keyOf).join() === before) return;
  replace(fresh);
  if ([...quotes.keys()].join() !== before) start();
}

// Polling: the tables of the page as the server has them now.

let polling = false;

function poll() {
  if (polling) return;
  polling = true;
  setConnection("polling", "Polling");
  next(pollEvery);
}

function next(wait) {
  setTimeout(async () => {
    const empty = quotes.size === 0;
    const pause = document.hidden ? pollEvery : await refresh();
    if (empty && quotes.size) start();
    if (polling) next(pause);
  }, wait);
}

// refresh replaces what the page shows, and returns when to do so again.
async function refresh() {
  try {
    const response = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "error" });
    if (response.status === 429 || response.status === 503) {
      setConnection("lost", "Waiting");
      return 1000 * (Number(response.headers.get("Retry-After")) || 5);
    }
    if (!response.ok) throw new Error(response.status);
    replace(new DOMParser().parseFromString(await response.text(), "text/html"));
    await redraw();
    if (polling) setConnection("polling", "Polling");
  } catch {
    setConnection("lost", "Connection lost");
    return 5000;
  }
  return pollEvery;
}

function replace(fresh) {
  let changed = false;
  for (const element of document.querySelectorAll("[data-refresh]")) {
    const other = fresh.querySelector(`[data-refresh="${element.dataset.refresh}"]`);
    if (!other || other.innerHTML === element.innerHTML || element.contains(document.activeElement)) continue;
    Object.assign(element.dataset, other.dataset);
    element.replaceChildren(...other.childNodes);
    changed = true;
  }
  if (changed) findQuotes();
}

// The page of a symbol shows what the stream does not send, too: its history, its
// indicators and its chart. They follow after a price came, or what is computed from it:
// a late price may change each of them.

let isOld = false, following = false;

async function pageIsOld() {
  isOld = true;
  if (following || polling || !document.getElementById("chart")) return;
  following = true;
  while (isOld) {
    await new Promise((resolve) => setTimeout(resolve, chartEvery));
    isOld = false; // what comes while the page is being read makes it old again
    await refresh();
  }
  following = false;
}

if (document.querySelector("[data-refresh]")) start();
if (document.body.dataset.page === "watchlist") setInterval(() => lookForOthers().catch(() => {}), listEvery); // or the next time
