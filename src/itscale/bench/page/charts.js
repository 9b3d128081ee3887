"use strict";
// Charts: lines with intervals, small multiples, steps, intervals around zero, bars.

// Heights moved as little as needs be to stand `gap` apart.
function spread(wanted, gap, low, high) {
  const order = wanted.map((y, i) => [y, i]).sort((a, b) => a[0] - b[0]);
  const blocks = [];
  for (const [y, i] of order) {
    blocks.push({ sum: y, members: [i] });
    const bottom = (b) => b.sum / b.members.length - (gap * (b.members.length - 1)) / 2;
    while (blocks.length > 1) {
      const upper = blocks[blocks.length - 1], lower = blocks[blocks.length - 2];
      if (bottom(upper) >= bottom(lower) + gap * lower.members.length) break;
      lower.sum += upper.sum; lower.members.push(...upper.members); blocks.pop();
    }
  }
  const placed = [];
  for (const block of blocks) {
    const first = block.sum / block.members.length - (gap * (block.members.length - 1)) / 2;
    block.members.forEach((i, k) => { placed[i] = first + gap * k; });
  }
  const over = Math.max(0, Math.max(...placed) - high), under = Math.max(0, low - Math.min(...placed));
  return placed.map((y) => y - over + (over ? 0 : under));
}

function frame(figure, width, height, margin) {
  const svg = put(empty(figure), "svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  return { svg, left: margin.left, right: width - margin.right, top: margin.top, bottom: height - margin.bottom };
}

function accuracyAxis(box, low, high, step) {
  const y = scale(low, high, box.bottom, box.top, false);
  for (let tick = Math.ceil(low / step) * step; tick <= high + 1e-9; tick += step) {
    put(box.svg, "line", { class: "gridline", x1: box.left, x2: box.right, y1: y(tick), y2: y(tick) });
    put(box.svg, "text", { x: box.left - 10, y: y(tick) + 4, "text-anchor": "end" }, Math.round(100 * tick) + " %");
  }
  return y;
}
function yRange(values) {
  const low = Math.max(0, Math.floor(Math.min(...values) * 10 - 0.2) / 10);
  const high = Math.min(1, Math.ceil(Math.max(...values) * 10 + 0.1) / 10);
  return [low, Math.max(high, low + 0.2)];
}

// Accuracy against a cost, a line a method, bars for intervals, the front behind.
function costChart(figure, context, cost, hidden, onHover) {
  const wide = figure.clientWidth > 640;
  const width = Math.max(320, figure.clientWidth), height = wide ? 460 : 340;
  const box = frame(figure, width, height, { left: 48, right: wide ? 158 : 14, top: 14, bottom: 46 });
  const colour = colourOf(context);
  const cells = context.cells.filter((cell) => !hidden.has(cell.method) && cell.runs && cell[cost] > 0);
  if (!cells.length) return;
  const xs = cells.map((cell) => cell[cost]);
  let low = Math.min(...xs), high = Math.max(...xs);
  if (low === high) { low *= 0.8; high *= 1.25; }
  const pad = (high / low) ** 0.04;
  const x = scale(low / pad, high * pad, box.left, box.right, true);
  const sampler = methodsOf(context).find((m) => /^(sample|majority|best-of-n|weighted-best-of-n)$/.test(m) && !hidden.has(m) && context.cells.filter((c) => c.method === m).length > 1);
  const ceiling = sampler ? context.cells.filter((c) => c.method === sampler && c[cost] > 0) : [];
  const [yLow, yHigh] = yRange([...cells.flatMap((c) => [c.lo, c.hi]), ...ceiling.map((c) => c.cov)]);
  const y = accuracyAxis(box, yLow, yHigh, yHigh - yLow > 0.55 ? 0.2 : 0.1);
  const ticks = cost === "n" ? [...new Set(xs)] : logTicks(low / pad, high * pad, wide ? 8 : 5);
  for (const tick of ticks)
    put(box.svg, "text", { x: x(tick), y: box.bottom + 20, "text-anchor": "middle" }, amount(tick));
  put(box.svg, "text", { x: box.right, y: height - 4, "text-anchor": "end" }, COSTS[cost].axis + ", log scale");
  const front = (context.front[cost] || []).map((i) => context.cells[i]).filter((c) => cells.includes(c));
  if (front.length > 1) {
    let path = "";
    front.forEach((c, i) => { path += i ? `H${x(c[cost])}V${y(c.acc)}` : `M${x(c[cost])},${y(c.acc)}`; });
    put(box.svg, "path", { d: path + `H${box.right}`, fill: "none", stroke: "var(--mid)", "stroke-width": 7, "stroke-linejoin": "round", opacity: 0.45 });
  }
  const labels = [];
  if (ceiling.length > 1) {
    put(box.svg, "polyline", { points: ceiling.map((c) => `${x(c[cost])},${y(c.cov)}`).join(" "), fill: "none", stroke: "var(--faint)", "stroke-width": 1.4, "stroke-dasharray": "5 4" });
    labels.push({ text: "pass@N", colour: "var(--quiet)", y: y(ceiling[ceiling.length - 1].cov), x: x(ceiling[ceiling.length - 1][cost]) });
  }
  const methods = methodsOf(context).filter((m) => !hidden.has(m));
  methods.forEach((method, i) => {
    const own = cells.filter((cell) => cell.method === method).sort((a, b) => a[cost] - b[cost]);
    if (!own.length) return;
    const g = put(box.svg, "g", { class: "series", "data-method": method });
    const aside = (i - (methods.length - 1) / 2) * 3;
    for (const c of own)
      put(g, "line", { x1: x(c[cost]) + aside, x2: x(c[cost]) + aside, y1: y(c.lo), y2: y(c.hi), stroke: colour(method), "stroke-width": 2, "stroke-opacity": 0.35, "stroke-linecap": "round" });
    put(g, "polyline", { points: own.map((c) => `${x(c[cost]) + aside},${y(c.acc)}`).join(" "), fill: "none", stroke: colour(method), "stroke-width": 2.2, "stroke-linejoin": "round" });
    for (const c of own) {
      put(g, "circle", { cx: x(c[cost]) + aside, cy: y(c.acc), r: 4.5, fill: colour(method), stroke: "var(--card)", "stroke-width": 1.5 });
      put(g, "circle", { cx: x(c[cost]) + aside, cy: y(c.acc), r: 14, fill: "transparent",
        onmousemove: (event) => { onHover(method); tell(event, cellWords(c)); }, onmouseleave: () => { onHover(null); hush(); } });
    }
    const last = own[own.length - 1], alone = own.length === 1;
    if (alone) put(g, "line", { x1: x(last[cost]) + aside, x2: box.right, y1: y(last.acc), y2: y(last.acc), stroke: colour(method), "stroke-width": 1.3, "stroke-dasharray": "1 4", "stroke-linecap": "round" });
    labels.push({ text: method, colour: colour(method), y: y(last.acc), x: alone ? box.right - 6 : x(last[cost]) + aside, method });
  });
  if (wide) nameLines(box, labels);
}
function nameLines(box, labels) {
  const heights = spread(labels.map((l) => l.y), 17, box.top, box.bottom);
  labels.forEach((label, i) => {
    const g = put(box.svg, "g", { class: "series", "data-method": label.method });
    put(g, "path", { d: `M${label.x + 6},${label.y}L${box.right + 12},${heights[i]}`, stroke: label.colour, "stroke-opacity": 0.35, fill: "none" });
    put(g, "text", { x: box.right + 16, y: heights[i] + 4, style: `fill:${label.colour};font-weight:${label.method ? 600 : 400}` }, shorten(label.text, 22));
  });
}
function cellWords(c) {
  return `**${c.method}**, N = ${c.n}\n${percent(c.acc)} right, 95 % interval ${(100 * c.lo).toFixed(1)} to ${(100 * c.hi).toFixed(1)}\n` +
    `${amount(c.tokens)} tokens, ${amount(c.calls)} model calls, ${amount(c.scorer)} scorer calls a problem` +
    (c.failures ? `\n${c.failures} runs failed and count as wrong` : "");
}

// One small chart: accuracy against N for every method, `values[i]` for cell i.
function smallChart(figure, context, values, yLow, yHigh, first) {
  const width = Math.max(150, figure.clientWidth), height = 150;
  const box = frame(figure, width, height, { left: 34, right: 8, top: 8, bottom: 22 });
  const colour = colourOf(context);
  const y = accuracyAxis(box, yLow, yHigh, 0.5);
  const ns = context.cells.map((c) => c.n);
  const x = scale(Math.min(...ns), Math.max(...ns), box.left + 6, box.right - 4, Math.max(...ns) > Math.min(...ns));
  for (const n of new Set([Math.min(...ns), Math.max(...ns)]))
    put(box.svg, "text", { x: x(n), y: height - 5, "text-anchor": "middle" }, "N = " + n);
  for (const method of methodsOf(context)) {
    const own = context.cells.map((c, i) => [c, values[i]]).filter(([c]) => c.method === method);
    put(box.svg, "polyline", { points: own.map(([c, v]) => `${x(c.n)},${y(v[0])}`).join(" "), fill: "none", stroke: colour(method), "stroke-width": 2, "stroke-linejoin": "round" });
    for (const [c, v] of own)
      put(box.svg, "circle", { cx: x(c.n), cy: y(v[0]), r: 3, fill: colour(method),
        onmousemove: (event) => tell(event, `**${method}**, N = ${c.n}\n${percent(v[0])} (${(100 * v[1]).toFixed(0)} to ${(100 * v[2]).toFixed(0)})`), onmouseleave: hush });
  }
}

// Differences with intervals around zero.
function forest(figure, context, pairs) {
  const width = Math.max(320, figure.clientWidth), narrow = width < 560;
  const row = narrow ? 46 : 34, height = pairs.length * row + 40;
  const box = frame(figure, width, height, { left: narrow ? 10 : 190, right: narrow ? 10 : 178, top: 6, bottom: 34 });
  const reach = Math.max(0.05, ...pairs.flatMap((p) => [Math.abs(p.lo), Math.abs(p.hi)])) * 1.06;
  const x = scale(-reach, reach, box.left, box.right, false);
  const step = reach > 0.45 ? 0.2 : reach > 0.18 ? 0.1 : 0.05;
  for (let tick = -Math.floor(reach / step) * step; tick <= reach; tick += step) {
    const zero = Math.abs(tick) < 1e-9;
    put(box.svg, "line", { class: zero ? "zero" : "gridline", x1: x(tick), x2: x(tick), y1: box.top, y2: box.bottom });
    put(box.svg, "text", { x: x(tick), y: height - 14, "text-anchor": "middle" }, zero ? "0" : points(tick).replace(".0", ""));
  }
  const colour = colourOf(context);
  pairs.forEach((p, i) => {
    const a = context.cells[p.a], b = context.cells[p.b], mid = box.top + row * i + (narrow ? 30 : row / 2);
    const sure = p.holm < 0.05;
    const g = put(box.svg, "g", { onmousemove: (event) => tell(event,
      `**${a.method}** against **${b.method}**, N = ${a.n} and ${b.n}\n${points(p.diff)} points (${points(p.lo)} to ${points(p.hi)}) on ${p.n} problems\n` +
      `${p.only_a} only the first solved, ${p.only_b} only the second\n${pValue(p.p)}; corrected for ${context.pairs.length} comparisons ${pValue(p.holm)}`), onmouseleave: hush });
    put(g, "rect", { x: 0, y: box.top + row * i, width, height: row, fill: "transparent" });
    put(g, "line", { x1: x(p.lo), x2: x(p.hi), y1: mid, y2: mid, stroke: colour(a.method), "stroke-width": 3, "stroke-linecap": "round", "stroke-opacity": sure ? 0.75 : 0.35 });
    put(g, "circle", { cx: x(p.diff), cy: mid, r: 5.5, fill: sure ? colour(a.method) : "var(--card)", stroke: colour(a.method), "stroke-width": 2 });
    const name = a.method + (a.n === b.n ? "" : ` (N = ${a.n})`);
    const told = `${points(p.diff)}   ${pValue(p.holm)}`;
    put(g, "text", { x: narrow ? box.left : box.left - 14, y: narrow ? mid - 14 : mid + 4, "text-anchor": narrow ? "start" : "end", style: "fill:var(--ink)" }, shorten(name, 27));
    put(g, "text", { x: width - (narrow ? 10 : 0), y: narrow ? mid - 14 : mid + 4, "text-anchor": "end", style: sure ? "fill:var(--ink);font-weight:600" : "" }, told);
  });
}

// Accuracy under a limit, a step function a method.
function anytimeChart(figure, context, cost) {
  const width = Math.max(300, figure.clientWidth), height = 260;
  const box = frame(figure, width, height, { left: 44, right: 10, top: 8, bottom: 42 });
  const curves = context.anytime[cost].filter((curve) => curve.points.length);
  const xs = curves.flatMap((curve) => curve.points.map((p) => p[0])).filter((v) => v > 0);
  if (!xs.length) return;
  const low = Math.min(...xs) / 1.15, high = Math.max(...xs) * 1.1;
  const x = scale(low, high, box.left, box.right, true);
  const y = accuracyAxis(box, 0, Math.min(1, Math.ceil(10 * Math.max(...curves.flatMap((c) => c.points.map((p) => p[1]))) + 0.2) / 10), 0.2);
  for (const tick of logTicks(low, high, 5)) put(box.svg, "text", { x: x(tick), y: box.bottom + 18, "text-anchor": "middle" }, amount(tick));
  put(box.svg, "text", { x: box.right, y: height - 4, "text-anchor": "end" }, "limit in " + COSTS[cost].name + ", log scale");
  const colour = colourOf(context);
  for (const { method, points: corners } of curves) {
    let path = `M${box.left},${y(0)}`;
    for (const [limit, accuracy] of corners) path += `H${x(Math.max(limit, low))}V${y(accuracy)}`;
    put(box.svg, "path", { d: path + `H${box.right}`, fill: "none", stroke: colour(method), "stroke-width": 2,
      onmousemove: (event) => tell(event, `**${method}**`), onmouseleave: hush });
  }
}

// The best cost-of-pass of each method.
function passChart(figure, context) {
  const rows = methodsOf(context).map((method) => {
    const own = context.cells.filter((c) => c.method === method && c.pass[0] !== null);
    return own.length ? own.reduce((a, b) => (b.pass[0] < a.pass[0] ? b : a)) : null;
  }).filter(Boolean).sort((a, b) => a.pass[0] - b.pass[0]);
  const width = Math.max(300, figure.clientWidth), row = 32, height = rows.length * row + 10;
  const box = frame(figure, width, height, { left: 0, right: 0, top: 4, bottom: 0 });
  const most = Math.max(...rows.map((c) => c.pass[2] || c.pass[0]));
  const left = Math.min(190, width * 0.46), x = scale(0, most, left, width - 70, false);
  const colour = colourOf(context);
  rows.forEach((c, i) => {
    const mid = box.top + row * i + row / 2;
    put(box.svg, "text", { x: 0, y: mid + 4, style: "fill:var(--ink)" }, shorten(c.method, 20) + (c.n > 1 ? ` · N ${c.n}` : ""));
    put(box.svg, "rect", { x: left, y: mid - 6, width: Math.max(2, x(c.pass[0]) - left), height: 12, rx: 3, fill: colour(c.method), opacity: 0.85 });
    if (c.pass[2]) put(box.svg, "line", { x1: x(c.pass[1]), x2: x(c.pass[2]), y1: mid, y2: mid, stroke: "var(--ink)", "stroke-opacity": 0.55, "stroke-width": 1.5 });
    put(box.svg, "text", { x: x(c.pass[2] || c.pass[0]) + 8, y: mid + 4 }, amount(Math.round(c.pass[0])));
  });
}
