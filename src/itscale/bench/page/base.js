"use strict";
// Helpers everything else is made of: elements, numbers in words, scales, the tooltip.
const DATA = JSON.parse(document.getElementById("data").textContent);
const TRACES = JSON.parse(document.getElementById("traces").textContent);
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

function put(parent, tag, attributes = {}, text) {
  const svg = parent.namespaceURI === SVG || tag === "svg";
  const element = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

function empty(element) { element.replaceChildren(); return element; }

// Text with **bold** parts; nothing else is markup.
function rich(element, text) {
  empty(element);
  text.split("**").forEach((part, i) => { if (part) put(element, i % 2 ? "b" : "span", {}, part); });
  return element;
}

const group = (x, digits = 0) => x.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const percent = (x, digits = 1) => (100 * x).toFixed(digits) + " %";
const points = (x) => (x > 0 ? "+" : x < 0 ? "−" : "±") + Math.abs(100 * x).toFixed(1);
function amount(x) {
  if (x === null || x === undefined) return "∞";
  if (x >= 1e6) return group(x / 1e6, x >= 1e7 ? 0 : 1) + " M";
  if (x >= 1000) return group(x);
  return x >= 100 || Number.isInteger(x) ? group(x) : group(x, x >= 10 ? 1 : x >= 0.1 ? 2 : 4);
}
const money = (x) => "$" + (x >= 1 ? x.toFixed(2) : x.toPrecision(2));
const COSTS = {
  tokens: { name: "tokens", axis: "generated tokens per problem", say: (x) => amount(x) + " tokens" },
  calls: { name: "model calls", axis: "model calls per problem", say: (x) => amount(x) + " calls" },
  seconds: { name: "seconds", axis: "seconds per problem (runs overlap)", say: (x) => amount(x) + " s" },
  dollars: { name: "dollars", axis: "dollars per problem", say: money },
  n: { name: "N", axis: "N, answers started", say: (x) => "N = " + group(x) },
};
const pValue = (p) => (p < 0.001 ? "p < 0.001" : "p = " + (p < 0.1 ? p.toFixed(3) : p.toFixed(2)));
const shorten = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);

function colourOf(context) {
  const methods = [...new Set(context.cells.map((cell) => cell.method))];
  return (method) => `var(--m${methods.indexOf(method) % 8})`;
}
const methodsOf = (context) => [...new Set(context.cells.map((cell) => cell.method))];

// A log scale where values span more than a factor of three and are positive, a linear one otherwise.
function scale(low, high, from, to, log) {
  const map = log ? Math.log : (x) => x;
  const a = map(low), b = map(high);
  return (x) => from + (b === a ? 0.5 : (map(x) - a) / (b - a)) * (to - from);
}
function logTicks(low, high, most) {
  const every = (steps) => {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const step of steps) {
        const tick = step * 10 ** power;
        if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
      }
    return ticks;
  };
  for (const steps of [[1, 2, 5], [1, 3], [1]]) { const ticks = every(steps); if (ticks.length <= most) return ticks; }
  return every([1]);
}

const tip = $("tip");
function tell(event, text) {
  rich(tip, text);
  tip.style.whiteSpace = "pre-line";
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const x = Math.min(event.clientX + 14, innerWidth - box.width - 8);
  const y = event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 12 : event.clientY + 18;
  tip.style.left = Math.max(8, x) + "px";
  tip.style.top = Math.max(8, y) + "px";
}
const hush = () => { tip.hidden = true; };
addEventListener("scroll", hush, { passive: true });

// Buttons of which one is pressed.
function choice(parent, options, chosen, onChoose) {
  empty(parent);
  const buttons = options.map(([value, label]) =>
    put(parent, "button", { type: "button", "aria-pressed": value === chosen, onclick: () => {
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", options[i][0] === value));
      onChoose(value);
    } }, label));
  parent.hidden = options.length < 2;
  return buttons;
}
