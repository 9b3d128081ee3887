"use strict";
// The sections between the question and the problems.
function showHeader(context) {
  const best = context.cells[context.best], cheap = context.cheapest === null || context.cheapest === undefined ? null : context.cells[context.cheapest];
  const one = (c) => `**${c.method}**${c.n > 1 ? ` at N = ${c.n}` : ""}`;
  const base = context.cells.filter((c) => c.n === 1 && c.runs && c.method !== "greedy").sort((a, b) => a.acc - b.acc)[0];
  let text = `${one(best)} is right on **${percent(best.acc)}** of ${group(context.problem_count)} problems (95 % interval ${(100 * best.lo).toFixed(0)} to ${(100 * best.hi).toFixed(0)}), for ${amount(Math.round(best.tokens))} generated tokens each.`;
  if (base && best.n > 1 && base.acc < best.acc) text += ` A single sample reaches ${percent(base.acc)}.`;
  if (cheap) text += ` The cheapest cell this run cannot tell apart from the best is ${one(cheap)}: ${percent(cheap.acc)} for ${amount(Math.round(cheap.tokens))} tokens.`;
  rich($("answer"), text);
  const facts = [["problems", group(context.problem_count)], ["runs", group(context.runs)], ["seeds", context.seeds], ["tokens charged", amount(context.tokens)],
    ["failed runs", group(context.failures)], ["task", context.task + (context.level === null ? "" : ", level " + context.level)], ["model", context.model || "–"], ["scorer", context.scorer || "–"]];
  const list = empty($("facts"));
  for (const [name, value] of facts) { const pair = put(list, "div"); put(pair, "dt", {}, name); put(pair, "dd", {}, shorten(String(value), 34)); }
}

const hiddenMethods = new Set();
let costUnit = "tokens";
function showCost(context) {
  const colour = colourOf(context), methods = methodsOf(context);
  const draw = () => costChart($("cost-chart"), context, costUnit, hiddenMethods, highlight);
  const highlight = (method) => {
    for (const g of document.querySelectorAll("#cost-chart .series")) g.classList.toggle("dim", method !== null && g.dataset.method !== method);
  };
  choice($("cost-controls"), [...context.costs, "n"].map((unit) => [unit, COSTS[unit].name]), costUnit, (unit) => { costUnit = unit; draw(); });
  const legend = empty($("cost-legend"));
  for (const method of methods) {
    const button = put(legend, "button", { type: "button", "aria-pressed": !hiddenMethods.has(method), onmouseenter: () => highlight(method), onmouseleave: () => highlight(null), onclick: () => {
      if (!hiddenMethods.delete(method) && methods.length > hiddenMethods.size + 1) hiddenMethods.add(method);
      button.setAttribute("aria-pressed", !hiddenMethods.has(method)); draw();
    } });
    put(button, "i", { style: `color:${colour(method)}` });
    put(button, "span", {}, method);
  }
  $("cost-note").textContent = "Vertical bars are 95 % intervals, clustered by problem. The wide grey line is the Pareto front: nothing is both cheaper and more accurate. " +
    "The dashed line is pass@N: on how many problems any of the N samples is right, which no choice among them can beat.";
  draw();
}

function showTable(context) {
  const colour = colourOf(context), front = new Set(context.front.tokens);
  const low = Math.min(...context.cells.map((c) => c.lo)), high = Math.max(...context.cells.map((c) => c.hi));
  const table = put(empty($("table-body")), "table");
  const priced = context.costs.includes("dollars"), failed = context.failures > 0, weighted = context.cells.some((c) => c.ess !== null), voted = context.cells.some((c) => c.effective !== null);
  const heads = ["method", "N", "right", "95 % interval", "pass@N", "tokens", "calls", "scorer calls", "seconds", ...(priced ? ["dollars"] : []), "tokens / right answer", ...(voted ? ["worth N votes"] : []), ...(weighted ? ["ESS"] : []), ...(failed ? ["failed"] : [])];
  const top = put(put(table, "thead"), "tr");
  for (const head of heads) put(top, "th", {}, head);
  const body = put(table, "tbody");
  context.cells.forEach((c, i) => {
    const before = context.cells[i - 1], after = context.cells[i + 1];
    const row = put(body, "tr", { class: [before?.method !== c.method ? "first" : "", after?.method !== c.method ? "last" : "", i === context.best ? "best" : ""].join(" ") });
    const name = put(row, "td");
    if (before?.method !== c.method) { put(name, "span", { class: "dot", style: `background:${colour(c.method)}` }); put(name, "span", {}, shorten(c.method, 34)); }
    put(row, "td", {}, c.n + (front.has(i) ? " ◆" : "  "));
    put(row, "td", { class: "acc" }, percent(c.acc));
    interval(put(row, "td", { class: "ci" }), c, low, high, colour(c.method));
    const worth = c.effective === null ? (voted && c.acc > Math.max(...context.cells.filter((o) => o.method === "majority").map((o) => o.acc)) ? "more" : "–") : amount(c.effective);
    for (const text of [percent(c.cov), amount(Math.round(c.tokens)), amount(c.calls), amount(c.scorer), c.seconds.toFixed(2), ...(priced ? [money(c.dollars)] : []), c.pass[0] === null ? "∞" : amount(Math.round(c.pass[0])), ...(voted ? [worth] : []), ...(weighted ? [c.ess === null ? "" : c.ess.toFixed(1)] : []), ...(failed ? [c.failures || ""] : [])])
      put(row, "td", {}, String(text));
  });
  $("table-note").textContent = "Costs are means per problem and what each cell would cost alone; seconds are of runs that overlap. ◆ on the Pareto front in tokens." +
    (voted ? " Worth N votes: how many votes (majority) reach the same accuracy, “more” where none measured does." : "");
}
function interval(cell, c, low, high, colour) {
  const svg = put(cell, "svg", { viewBox: "0 0 170 16", style: "width:170px;display:inline-block;vertical-align:middle" });
  const x = scale(low, high, 4, 166, false);
  put(svg, "line", { x1: 4, x2: 166, y1: 8, y2: 8, class: "gridline" });
  put(svg, "line", { x1: x(c.lo), x2: x(c.hi), y1: 8, y2: 8, stroke: colour, "stroke-width": 3, "stroke-opacity": 0.4, "stroke-linecap": "round" });
  put(svg, "circle", { cx: x(c.acc), cy: 8, r: 4, fill: colour });
  put(svg, "title", {}, `${(100 * c.lo).toFixed(1)} to ${(100 * c.hi).toFixed(1)} %`);
}

let pairsN = null;
function showPairs(context) {
  const section = $("pairs");
  section.hidden = !context.pairs.length;
  if (section.hidden) return;
  const base = context.cells[context.pairs[0].b].method;
  const ns = [...new Set(context.pairs.map((p) => context.cells[p.b].n))].sort((a, b) => a - b);
  if (!ns.includes(pairsN)) pairsN = ns[ns.length - 1];
  const draw = () => forest($("pairs-chart"), context, context.pairs.filter((p) => context.cells[p.b].n === pairsN));
  choice($("pairs-controls"), ns.map((n) => [n, "N = " + n]), pairsN, (n) => { pairsN = n; draw(); });
  draw();
  $("pairs-note").textContent = `Points of accuracy gained on ${base} at the same N, problem by problem, with 95 % intervals. p-values are of ` +
    (context.seeds > 1 ? "a sign-flip test of problem means" : "the exact McNemar test") + `, corrected for all ${context.pairs.length} comparisons (Holm). A filled dot: p < 0.05 after correction.`;
}

function showDifficulty(context, number) {
  const levels = DATA.levels.find((group) => group.contexts.includes(number));
  const panels = levels
    ? levels.contexts.map((i) => DATA.contexts[i]).map((other) => ({ name: "level " + other.level, told: `${other.problem_count} problems`, context: other, values: other.cells.map((c) => [c.acc, c.lo, c.hi]) }))
    : context.bins.map((bin, i) => ({ name: i === 0 ? "easiest" : i === context.bins.length - 1 ? "hardest" : "", told: `${percent(bin.easy, 0)} to ${percent(bin.hard, 0)} of candidates right`, context, values: bin.cells }));
  $("difficulty").hidden = !panels.length;
  const place = empty($("difficulty-charts"));
  const slots = panels.map((panel, i) => {
    const slot = put(place, "div");
    put(slot, "h3", {}, panel.name || `${i + 1} of ${panels.length}`);
    put(slot, "p", {}, panel.told);
    return put(slot, "figure");
  });
  panels.forEach((panel, i) => smallChart(slots[i], panel.context, panel.values, 0, 1, i === 0));
  $("difficulty-note").textContent = (levels ? "Accuracy against N at each level of the task." : "Problems in groups of equal size by the share of candidates that were right, over all runs. Since the same runs sort and are shown, the outer groups look a little more extreme than they are.") +
    " Colours as above.";
}

let economyUnit = "tokens";
function showEconomy(context) {
  const draw = () => anytimeChart($("anytime-chart"), context, economyUnit);
  choice($("economy-controls"), context.costs.map((unit) => [unit, COSTS[unit].name]), economyUnit, (unit) => { economyUnit = unit; draw(); });
  draw();
  passChart($("pass-chart"), context);
  const added = Object.entries(context.frontier.tokens.added).filter(([, v]) => v !== null && v > 0.005).sort((a, b) => b[1] - a[1]);
  $("economy-note").textContent = "Left: each problem gets the largest N whose run stays within the limit; one that cannot afford the smallest is wrong. Right: cost-of-pass, the mean cost of a run over the share that is right, at each method's best N, with bootstrap intervals over problems. " +
    `Choosing the cheapest cell for every problem would cost ${amount(Math.round(context.frontier.tokens.value))} tokens a right answer` +
    (added.length ? `; without ${added[0][0]} that would rise the most (it is ${percent(added[0][1], 0)} essential).` : ".");
}

function showModels(context) {
  const section = $("models"), model = context.modelled;
  section.hidden = !model;
  if (!model) return;
  const table = put(empty($("models-body")), "table"), top = put(put(table, "thead"), "tr");
  for (const head of ["method", "N", ...model.measured]) put(top, "th", {}, head);
  model.columns.forEach((head, i) => put(top, "th", { class: i ? null : "cut" }, head));
  const body = put(table, "tbody");
  context.cells.forEach((c, i) => {
    const first = context.cells[i - 1]?.method !== c.method;
    const row = put(body, "tr", { class: first ? "first" : "" });
    put(row, "td", {}, first ? shorten(c.method, 34) : "");
    put(row, "td", {}, String(c.n));
    model.rows[i].forEach((text, k) => put(row, "td", { class: k === model.measured.length ? "cut" : null }, text));
  });
  section.querySelector("h2").textContent = `Measured, and modelled on ${model.hardware}`;
  $("models-note").textContent = model.note;
}

function showFooter() {
  const footer = $("footer"), machine = DATA.machine || {}, packages = Object.entries(machine.packages || {}).map(([name, version]) => `${name} ${version}`);
  put(footer, "p", {}, [machine.platform, machine.cpus && `${machine.cpus} CPUs`, machine.python && `Python ${machine.python}`, ...packages].filter(Boolean).join(", "));
  if (DATA.command?.length) put(put(footer, "p"), "code", {}, ["itscale", ...DATA.command.slice(1)].join(" "));
}
