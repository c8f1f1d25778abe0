// Numbers keep their digits: a price is text from the network to the screen.

export function parse(text) {
  return JSON.parse(text, (_, value, context) =>
    typeof value === "number" ? context?.source ?? String(value) : value);
}

// decimal splits text such as "-1.25" into units of ten to the minus eighteen.
export function decimal(text) {
  const negative = text.startsWith("-");
  const [whole, fraction = ""] = text.replace("-", "").split(".");
  const units = BigInt(whole + fraction.padEnd(18, "0").slice(0, 18));
  return negative ? -units : units;
}

export const digitsOf = (text) => (text.split(".")[1] ?? "").length;

// fixed writes units with so many digits after the point.
export function fixed(units, digits) {
  const negative = units < 0n;
  const scale = 10n ** BigInt(18 - digits);
  const rounded = ((negative ? -units : units) + scale / 2n) / scale;
  const text = rounded.toString().padStart(digits + 1, "0");
  const out = digits ? text.slice(0, -digits) + "." + text.slice(-digits) : text;
  return (negative && rounded ? "−" : "") + out;
}

export const signed = (units, text) => (units > 0n ? "+" + text : text);
