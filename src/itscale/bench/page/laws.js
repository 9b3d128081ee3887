"use strict";
// What was fitted to the run: the fit, what was measured, and beneath it what the fit leaves over.
function showLaws(context) {
  const { coverage, saturation, choice, verifier } = context.fits;
  $("laws").hidden = !(coverage || saturation.length || choice || verifier);
  for (const [id, there, draw] of [["coverage", coverage, coverageLaw], ["saturation", saturation.length ? saturation : null, saturationLaw], ["choice", choice, choiceLaw], ["verifier", verifier, verifierLaw]]) {
    const place = $(id);
    place.hidden = !there;
    if (there) draw(context, there, place.querySelector("h3"), place.querySelector("figure"), place.querySelector(".note"));
  }
  saturationTable(context, saturation);
}

const ranged = ([value, low, high], say) => `${say(value)} (${say(low)} to ${say(high)})`;

// A chart over a log axis with the residuals of each series in a strip of their own.
// A series: { name, colour, measured: [[x, y]], fitted: [[x, y]], dashed: [[x, y]], residuals: [[x, r]], tell }.
function fitChart(figure, series, axis, withResiduals) {
  const width = Math.max(300, figure.clientWidth), strip = withResiduals ? 74 : 0, height = 300 + strip;
  const box = frame(figure, width, height, { left: 44, right: 14, top: 10, bottom: 40 + strip });
  const all = series.flatMap((s) => [...(s.measured || []), ...(s.fitted || []), ...(s.dashed || [])]);
  const xs = all.map((p) => p[0]), x = scale(Math.min(...xs) / 1.1, Math.max(...xs) * 1.1, box.left, box.right, true);
  const [low, high] = yRange(all.map((p) => p[1]));
  const y = accuracyAxis(box, low, high, high - low > 0.45 ? 0.2 : 0.1);
  for (const tick of logTicks(Math.min(...xs), Math.max(...xs), 6)) put(box.svg, "text", { x: x(tick), y: height - 22, "text-anchor": "middle" }, amount(tick));
  put(box.svg, "text", { x: box.right, y: height - 4, "text-anchor": "end" }, axis + ", log scale");
  const line = (points, colour, dash) => points && points.length > 1 && put(box.svg, "polyline", { points: points.map((p) => `${x(p[0])},${y(p[1])}`).join(" "), fill: "none", stroke: colour, "stroke-width": 2, "stroke-linejoin": "round", "stroke-dasharray": dash });
  for (const s of series) {
    line(s.fitted, s.colour);
    line(s.dashed, s.colour, "5 4");
    for (const p of s.measured || [])
      put(box.svg, "circle", { cx: x(p[0]), cy: y(p[1]), r: 4, fill: s.colour, stroke: "var(--card)", "stroke-width": 1.2, onmousemove: (event) => tell(event, s.tell(p)), onmouseleave: hush });
  }
  if (!withResiduals) return { box, x, y };
  const top = box.bottom + 18, bottom = height - 40, left = series.flatMap((s) => s.residuals.map((r) => Math.abs(r[1])));
  const reach = Math.max(0.01, ...left), r = scale(-reach, reach, bottom, top, false);
  put(box.svg, "line", { class: "zero", x1: box.left, x2: box.right, y1: r(0), y2: r(0) });
  for (const edge of [reach, -reach]) put(box.svg, "text", { x: box.left - 6, y: r(edge) + 4, "text-anchor": "end", style: "font-size:10.5px" }, points(edge));
  series.forEach((s, k) => {
    const aside = (k - (series.length - 1) / 2) * 3;
    for (const [at, value] of s.residuals) {
      put(box.svg, "line", { x1: x(at) + aside, x2: x(at) + aside, y1: r(0), y2: r(value), stroke: s.colour, "stroke-width": 2, "stroke-opacity": 0.6 });
      put(box.svg, "circle", { cx: x(at) + aside, cy: r(value), r: 2.5, fill: s.colour });
    }
  });
  return { box, x, y };
}

function coverageLaw(context, law, title, figure, note) {
  title.textContent = `Coverage of ${law.method}: exp(a kᵇ)`;
  const last = law.points[law.points.length - 1];
  fitChart(figure, [{
    colour: "var(--accent)",
    measured: law.points.map(([k, m]) => [k, m]),
    fitted: law.points.map(([k, , f]) => [k, f]),
    dashed: [[last[0], last[2]], ...law.further],
    residuals: law.points.map(([k, m, f]) => [k, m - f]),
    tell: ([k, m]) => `pass@${k}: ${percent(m)}`,
  }], "samples k", true);
  note.textContent = `Share of problems that any of k samples solves (unbiased, from ${law.samples} samples each), with a = ${ranged(law.a, (v) => v.toFixed(2))} and ` +
    `b = ${ranged(law.b, (v) => v.toFixed(2))} (Brown et al. 2024). Dashed: beyond what was measured, if the law goes on: ` +
    law.further.map(([k, c]) => `${percent(c)} at ${group(k)}`).join(", ") + ". Beneath: measured less fitted, in points.";
}

function saturationLaw(context, laws, title, figure, note) {
  title.textContent = "Where more stops paying: F (1 − (1 − p)ᴺ)";
  const colour = colourOf(context);
  fitChart(figure, laws.map((law) => {
    const ns = law.points.map((p) => p[0]), low = Math.min(...ns), high = Math.max(...ns);
    const dense = Array.from({ length: 41 }, (_, i) => low * (high / low) ** (i / 40));
    return {
      colour: colour(law.method),
      measured: law.points.map(([n, m]) => [n, m]),
      fitted: dense.map((n) => [n, law.ceiling[0] * (1 - (1 - law.rate[0]) ** n)]),
      residuals: law.points.map(([n, m, f]) => [n, m - f]),
      tell: ([n, m]) => `**${law.method}**, N = ${n}: ${percent(m)}`,
    };
  }), "N", true);
  note.textContent = "Accuracy against N, and the model of TTSPM (arXiv 2505.20522): F is where growth ends, p how likely one more try solves what can be solved. " +
    "Large residuals say that a method does not grow like this, as one whose scorer is over-optimised. Beneath: measured less fitted, in points; the numbers are in the table.";
}

function saturationTable(context, laws) {
  const place = empty($("laws-table"));
  if (!laws.length) return;
  const colour = colourOf(context), table = put(place, "table"), top = put(put(table, "thead"), "tr");
  for (const head of ["method", "growth ends at F", "95 % interval", "p of one more try", "95 % interval", "a try gains under 0.1 points from"]) put(top, "th", {}, head);
  const body = put(table, "tbody");
  for (const law of laws) {
    const row = put(body, "tr"), name = put(row, "td");
    put(name, "span", { class: "dot", style: `background:${colour(law.method)}` });
    put(name, "span", {}, shorten(law.method, 34));
    const within = (one) => `${(100 * one[1]).toFixed(1)} to ${(100 * one[2]).toFixed(1)}`;
    for (const text of [percent(law.ceiling[0]), within(law.ceiling), percent(law.rate[0]), within(law.rate), "N = " + group(law.stops)]) put(row, "td", {}, text);
  }
}

function choiceLaw(context, choice, title, figure, note) {
  title.textContent = "Choosing by difficulty";
  const told = (kind) => ([limit, accuracy]) => `**${kind}**, at most ${amount(Math.round(limit))} tokens a problem: ${percent(accuracy)}`;
  const kinds = [
    { name: "a cell for each difficulty", colour: "var(--accent)", key: "by" },
    { name: "one cell for all", colour: "var(--quiet)", key: "one" },
  ];
  const { box } = fitChart(figure, kinds.map((kind) => {
    const line = choice.limits.map((one) => [one.limit, one[kind.key]]);
    return { colour: kind.colour, measured: line, fitted: line, tell: told(kind.name) };
  }), "mean tokens a problem may cost", false);
  kinds.forEach((kind, i) => put(box.svg, "text", { x: box.left + 6, y: box.top + 14 + 18 * i, style: `fill:${kind.colour};font-weight:600` }, kind.name));
  const gain = choice.limits.reduce((a, b) => (b.by - b.one > a.by - a.one ? b : a));
  const names = [...new Set(gain.cells)].map((i) => context.cells[i].method + (context.cells[i].n > 1 ? ` N ${context.cells[i].n}` : ""));
  note.textContent = `The best cell under a limit, chosen on four fifths of the problems and judged on the rest (Snell et al. 2024): one for all, or one for each of ${choice.groups} groups by difficulty, ` +
    "which is taken as known, so this is the most a predictor of difficulty could gain. " +
    (gain.by - gain.one > 0.005 ? `The most is ${points(gain.by - gain.one)} points, at ${amount(Math.round(gain.limit))} tokens, from easy to hard with ${names.join(", ")}.` : "Here it gains nothing.");
}

function verifierLaw(context, law, title, figure, note) {
  title.textContent = "Resampling until the scorer accepts";
  const colours = ["var(--m1)", "var(--m0)", "var(--m2)"];
  const { box, x, y } = fitChart(figure, law.curves.map((curve, i) => ({
    colour: colours[i % 3], fitted: curve.points,
  })), "most tries K", false);
  const ends = law.curves.map((curve) => curve.points[curve.points.length - 1]);
  const heights = spread(ends.map((p) => y(p[1]) - 8), 16, box.top + 6, box.bottom - 6);
  law.curves.forEach((curve, i) => put(box.svg, "text", { x: x(ends[i][0]), y: heights[i], "text-anchor": "end", style: `fill:${colours[i % 3]};font-weight:600` }, `accepts ${percent(curve.accepts, 0)}`));
  const turning = law.curves.filter((curve) => curve.best);
  note.textContent = `What ${law.method}'s scorer lets through, predicted from its verdicts on ${law.samples} samples of each of ${law.problems} problems (Stroebl et al. 2024): however many tries, accuracy ends where its errors begin. ` +
    "Wrong among what is accepted: " + law.curves.map((curve) => `${percent(curve.false)} when it accepts ${percent(curve.accepts, 0)} of all samples (scores from ${curve.threshold.toFixed(2)})`).join(", ") + ". " +
    (turning.length ? `If a wrong answer costs as much as a right one is worth, more than ${turning.map((curve) => `${curve.best} tries (accepting ${percent(curve.accepts, 0)})`).join(", ")} hurt.` : "");
}
