// Keeps a page up to date. What the page shows is complete without it.
//
// Prices come from the stream of server-sent events. Where there is none, the page is
// fetched again every two seconds, and the tables in it are replaced.

const pollEvery = 2000;
const chartEvery = 2000;
const staleAfter = 15 * 60 * 1000;
const maxStreams = 3; // of the six connections that browsers keep to one host
const maxSymbols = 100; // of one stream

const connection = document.getElementById("connection");

function setConnection(state, text) {
  if (connection.dataset.state === state) return;
  connection.dataset.state = state;
  connection.textContent = text;
}

// Numbers keep their digits: a price is text from the network to the screen.
function parse(text) {
  return JSON.parse(text, (_, value, context) =>
    typeof value === "number" ? context?.source ?? String(value) : value);
}

// decimal splits text such as "-1.25" into units of ten to the minus eighteen.
function decimal(text) {
  const negative = text.startsWith("-");
  const [whole, fraction = ""] = text.replace("-", "").split(".");
  const units = BigInt(whole + fraction.padEnd(18, "0").slice(0, 18));
  return negative ? -units : units;
}

const digitsOf = (text) => (text.split(".")[1] ?? "").length;

// fixed writes units with so many digits after the point.
function fixed(units, digits) {
  const negative = units < 0n;
  const scale = 10n ** BigInt(18 - digits);
  const rounded = ((negative ? -units : units) + scale / 2n) / scale;
  const text = rounded.toString().padStart(digits + 1, "0");
  const out = digits ? text.slice(0, -digits) + "." + text.slice(-digits) : text;
  return (negative && rounded ? "−" : "") + out;
}

const signed = (units, text) => (units > 0n ? "+" + text : text);

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

function flash(element) {
  element.classList.remove("changed");
  requestAnimationFrame(() => element.classList.add("changed"));
}

// Quotes are the places of the page that show the newest price of a symbol.
const quotes = new Map();

function findQuotes() {
  quotes.clear();
  for (const element of document.querySelectorAll("[data-symbol][data-reference]")) {
    quotes.set(element.dataset.provider + "\n" + element.dataset.symbol, { element, pending: null, average: null });
  }
}

// Frames: whatever came since the last one is drawn at once.
let drawing = false;

function draw() {
  drawing = false;
  for (const quote of quotes.values()) {
    if (quote.pending) drawPrice(quote);
    if (quote.average) drawAverage(quote);
  }
}

function drawSoon() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(draw);
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
    flash(price);
  }
  drawChange(element, pending.price, digits);
  drawSparkline(element, pending.price);
  drawAge(element, Date.now());
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
  const now = Date.now();
  for (const { element } of quotes.values()) drawAge(element, now);
}, 1000);

// The stream.

function onPrice(price) {
  const quote = quotes.get(price.provider + "\n" + price.symbol);
  if (!quote) return;
  pageIsOld(); // with a late price, its history and its chart
  if (quote.pending && Date.parse(price.timestamp) < Date.parse(quote.pending.timestamp)) return;
  quote.pending = price;
  drawSoon();
}

function onAverage(provider, average) {
  const quote = quotes.get(provider + "\n" + average.symbol);
  const window = document.querySelector("[data-window]")?.dataset.window;
  if (!quote || (window && average.window_size !== window)) return;
  quote.average = average.value;
  drawSoon();
}

function stream(provider, symbols) {
  const query = new URLSearchParams({ symbols: symbols.join(","), provider, events: "price,average", max_rate: "10" });
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
  source.addEventListener("average", (event) => onAverage(provider, parse(event.data)));
  source.addEventListener("snapshot", (event) => {
    const { price, average } = parse(event.data);
    if (price) onPrice({ provider, ...price });
    if (average) onAverage(provider, average);
  });
  source.addEventListener("reset", refresh); // what the page shows may have been rebuilt
}

function start() {
  findQuotes();
  const providers = Map.groupBy([...quotes.values()], ({ element }) => element.dataset.provider);
  if (!quotes.size || providers.size > maxStreams) {
    poll();
    return;
  }
  for (const [provider, all] of providers) {
    const symbols = all.map(({ element }) => element.dataset.symbol);
    if (symbols.length > maxSymbols || symbols.some((symbol) => symbol.includes(","))) {
      poll();
      return;
    }
    stream(provider, symbols);
  }
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
  setTimeout(async () => next(document.hidden ? pollEvery : await refresh()), wait);
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
    await replace(new DOMParser().parseFromString(await response.text(), "text/html"));
    if (polling) setConnection("polling", "Polling");
  } catch {
    setConnection("lost", "Connection lost");
    return 5000;
  }
  return pollEvery;
}

async function replace(fresh) {
  let changed = false;
  for (const element of document.querySelectorAll("[data-refresh]")) {
    const other = fresh.querySelector(`[data-refresh="${element.dataset.refresh}"]`);
    if (!other || other.innerHTML === element.innerHTML || element.contains(document.activeElement)) continue;
    Object.assign(element.dataset, other.dataset);
    element.replaceChildren(...other.childNodes);
    changed = true;
  }
  if (!changed) return;
  findQuotes();
  if (document.getElementById("chart")) await redraw();
}

// The page of a symbol shows what the stream does not send, too: its history, its
// indicators and its chart. They follow after a price came.

let oldTimer = null;

function pageIsOld() {
  if (oldTimer || polling || !document.getElementById("chart")) return;
  oldTimer = setTimeout(async () => {
    await refresh();
    oldTimer = null;
  }, chartEvery);
}

// The chart is a picture of the server's. It is drawn again by the same address, up to
// a later time.

async function redraw() {
  const picture = document.getElementById("chart");
  const image = picture.querySelector("img");
  const until = new Date(Date.now() + 60_000).toISOString();
  const later = (address) => {
    const url = new URL(address, location.href);
    url.searchParams.set("to", until);
    return url.pathname + url.search;
  };
  const ready = new Image();
  ready.src = later(image.currentSrc || image.src);
  try {
    await ready.decode();
  } catch {
    return; // the one that is there stays
  }
  for (const source of picture.querySelectorAll("source")) source.srcset = later(source.srcset);
  image.src = later(image.src);
}

if (document.querySelector("[data-refresh]")) start();
