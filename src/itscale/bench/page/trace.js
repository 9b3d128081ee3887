"use strict";
// One run, frame by frame: the tree of steps, what each is thought worth, who was kept and who was dropped.
const viewer = { context: 0, problem: null, cell: null, frame: 0, picked: null, timer: null };

const tracesOf = (context) => TRACES.runs.filter((run) => run.context === context);
function scoreColour(score) {
  if (score === null || score === undefined) return "var(--mid)";
  const bounded = Math.max(0, Math.min(1, score));
  return bounded < 0.5 ? `color-mix(in srgb, var(--mid) ${200 * bounded}%, var(--low))` : `color-mix(in srgb, var(--high) ${200 * bounded - 100}%, var(--mid))`;
}

function openTrace(context, problem, cell) {
  const runs = tracesOf(context).filter((run) => run.problem === problem);
  viewer.context = context; viewer.problem = problem;
  viewer.cell = runs.some((run) => run.cell === cell) ? cell : telling(context, runs);
  showTrace(true);
  $("trace").scrollIntoView({ block: "start" });
}

// The run worth seeing first: one that resampled or pruned, of middling size.
function telling(context, runs) {
  const value = (run) => (run.frames.some((f) => f.kind === "resample") ? 2000 : run.frames.some((f) => f.kind === "prune") ? 1000 : 0) - Math.abs(run.nodes.length - 70);
  return runs.length ? runs.reduce((a, b) => (value(b) > value(a) ? b : a)).cell : null;
}

function showTrace(fresh) {
  clearInterval(viewer.timer); viewer.timer = null;
  const context = DATA.contexts[viewer.context], all = tracesOf(viewer.context), body = empty($("trace-body"));
  $("trace").hidden = !all.length && viewer.problem === null;
  const problems = [...new Set(all.map((run) => run.problem))];
  if (viewer.problem === null) { viewer.problem = problems[0]; viewer.cell = null; }
  const runs = all.filter((run) => run.problem === viewer.problem);
  const top = put(body, "div", { class: "trace-top" });
  const select = put(top, "select", { "aria-label": "problem", onchange: () => { viewer.problem = Number(select.value); showTrace(true); } });
  for (const p of new Set([viewer.problem, ...problems]))
    put(select, "option", { value: p, selected: p === viewer.problem ? "" : null }, `${shorten(context.problems[p].q || context.problems[p].id, 110)}  (${problemWords(context, context.problems[p])})`);
  if (!runs.length) { put(body, "p", { class: "note" }, "No trace of this problem is on this page: it has room for the most telling ones. All that were kept are in traces.jsonl."); return; }
  if (!runs.some((run) => run.cell === viewer.cell)) viewer.cell = telling(viewer.context, runs);
  const chips = put(top, "div", { class: "chips" });
  for (const run of runs) {
    const c = context.cells[run.cell], right = run.candidates[run.chosen].correct;
    put(chips, "button", { type: "button", class: right ? "right" : "wrong", "aria-pressed": run.cell === viewer.cell, onclick: () => { viewer.cell = run.cell; showTrace(true); } }, c.method + (c.n > 1 ? ` ${c.n}` : ""));
  }
  const run = runs.find((one) => one.cell === viewer.cell);
  if (fresh) { viewer.frame = run.frames.length - 1; viewer.picked = null; }
  const player = put(body, "div", { class: "player" });
  const go = (frame) => { viewer.frame = Math.max(0, Math.min(run.frames.length - 1, frame)); slider.value = viewer.frame; drawFrame(run, stage, side, caption); };
  const play = () => {
    if (viewer.timer) { clearInterval(viewer.timer); viewer.timer = null; toggle.textContent = "▶"; return; }
    if (viewer.frame === run.frames.length - 1) go(0);
    toggle.textContent = "❚❚";
    viewer.timer = setInterval(() => { if (viewer.frame >= run.frames.length - 1) play(); else go(viewer.frame + 1); }, 900);
  };
  put(player, "button", { type: "button", "aria-label": "step back", onclick: () => go(viewer.frame - 1) }, "‹");
  const toggle = put(player, "button", { type: "button", "aria-label": "play", onclick: play }, "▶");
  put(player, "button", { type: "button", "aria-label": "step on", onclick: () => go(viewer.frame + 1) }, "›");
  const slider = put(player, "input", { type: "range", min: 0, max: run.frames.length - 1, value: viewer.frame, "aria-label": "frame", oninput: () => go(Number(slider.value)) });
  const caption = put(player, "div", { class: "caption", "aria-live": "polite" });
  const grid = put(body, "div", { class: "stage" });
  const stage = put(grid, "div", { class: "tree" }), side = put(grid, "div", { class: "side" });
  const key = put(body, "div", { class: "key" });
  put(key, "span", {}, "score 0"); put(key, "span", { class: "ramp" }); put(key, "span", {}, "1");
  for (const words of ["pale: dropped or not continued", "size: weight", "blue line: the answer", "press a step to read it"]) put(key, "span", {}, words);
  run.layout = run.layout || layOut(run);
  go(viewer.frame);
}

// Leaves one under the other in the order they were born, parents in the middle of their children.
function layOut(run) {
  const children = run.nodes.map(() => []);
  run.nodes.forEach((node, i) => { if (i) children[node[0]].push(i); });
  const depth = run.nodes.map(() => 0), y = run.nodes.map(() => 0);
  for (let i = 1; i < run.nodes.length; i++) depth[i] = depth[run.nodes[i][0]] + 1;
  let leaves = 0;
  const stack = [[0, false]];
  while (stack.length) {
    const [i, seen] = stack.pop();
    if (!children[i].length) y[i] = leaves++;
    else if (seen) y[i] = (y[children[i][0]] + y[children[i][children[i].length - 1]]) / 2;
    else { stack.push([i, true]); for (const child of [...children[i]].reverse()) stack.push([child, false]); }
  }
  return { depth, y, leaves, deepest: Math.max(...depth), children };
}

// Who lives after the frames so far, how often each is continued, and its weight.
function stateAt(run, last) {
  const gone = new Set(), times = new Map(), weights = new Map();
  const drop = (i) => { if (!gone.has(i)) { gone.add(i); for (const child of run.layout.children[i]) if (run.nodes[child][5] <= last) drop(child); } };
  for (let f = 0; f <= last; f++) {
    const frame = run.frames[f];
    if (frame.kind === "prune" || frame.kind === "fail") { if (frame.kind === "prune") frame.paths.forEach(drop); }
    if (frame.kind === "resample") {
      times.clear(); weights.clear();
      const kept = new Set(frame.paths);
      for (const i of frame.paths) times.set(i, (times.get(i) || 0) + 1);
      run.nodes.forEach((node, i) => { if (node[5] >= 0 && node[5] < f && !kept.has(i) && !run.layout.children[i].some((child) => run.nodes[child][5] < f)) gone.add(i); });
      for (const i of kept) { gone.delete(i); weights.set(i, times.get(i) / frame.paths.length); }
    }
    if (frame.kind === "grow") { times.clear(); weights.clear(); }
    if (frame.kind !== "resample" && frame.weights) { weights.clear(); for (const [i, weight] of frame.weights) weights.set(i, weight); }
  }
  if (last === run.frames.length - 1)
    { if (run.candidates.some((c) => c.weight !== null)) weights.clear(); for (const c of run.candidates) if (c.node !== null && c.weight !== null) weights.set(c.node, (weights.get(c.node) || 0) + c.weight); }
  return { gone, times, weights };
}

function frameWords(run, f) {
  const frame = run.frames[f], round = `${f + 1} of ${run.frames.length}: `;
  const born = run.nodes.filter((node) => node[5] === f).length;
  const unique = new Set(frame.paths || []).size, slots = (frame.paths || []).length;
  const words = {
    grow: () => `${born} step${born === 1 ? "" : "s"} proposed` + (run.nodes.some((node) => node[5] === f && node[4] !== null) ? " and scored" : ""),
    resample: () => `resampled: ${slots} particles now continue ${unique} path${unique === 1 ? "" : "s"} (effective sample size ${frame.ess.toFixed(1)} of ${slots})`,
    prune: () => `${slots} path${slots === 1 ? "" : "s"} pruned`,
    compare: () => `${slots} paths compared`, compared: () => `${slots} paths compared`,
    fail: () => "a call failed: " + frame.text,
    stop: () => "stopped", stopped: () => "stopped by the limit on " + frame.text,
    choose: () => { const c = run.candidates[run.chosen]; return `chosen: answer ${c.answer ?? "none"}, ` + (c.correct ? "right" : "wrong"); },
  };
  const weighed = frame.kind !== "resample" && frame.weights ? `; effective sample size of the weights ${frame.ess.toFixed(1)}` : "";
  return round + (words[frame.kind] ? words[frame.kind]() : frame.kind) + weighed;
}

function drawFrame(run, stage, side, caption) {
  const { depth, y, leaves, deepest } = run.layout, last = viewer.frame, final = last === run.frames.length - 1;
  const state = stateAt(run, last), scroll = [stage.scrollLeft, stage.scrollTop];
  caption.textContent = frameWords(run, last);
  const row = Math.max(13, Math.min(30, 480 / leaves)), answers = 130;
  const column = Math.max(54, Math.min(190, (stage.clientWidth - answers - 60) / Math.max(1, deepest)));
  const width = Math.max(stage.clientWidth - 2, 36 + column * deepest + answers), height = Math.max(120, row * leaves + 36);
  const svg = put(empty(stage), "svg", { viewBox: `0 0 ${width} ${height}`, width, height });
  const px = (i) => 24 + column * depth[i], py = (i) => 18 + row * y[i] + (leaves === 1 ? 40 : 0);
  const chosen = run.candidates[run.chosen].node, onPath = new Set();
  if (final) for (let i = chosen; i !== null && i >= 0; i = run.nodes[i][0]) onPath.add(i);
  const shown = run.nodes.map((node, i) => i).filter((i) => run.nodes[i][5] <= last);
  for (const i of shown) {
    if (!i) continue;
    const p = run.nodes[i][0], bend = (px(i) + px(p)) / 2;
    put(svg, "path", { class: "edge" + (onPath.has(i) ? " onpath" : ""), d: `M${px(p)},${py(p)}C${bend},${py(p)} ${bend},${py(i)} ${px(i)},${py(i)}`, style: state.gone.has(i) ? "stroke-opacity:.18" : null });
  }
  const heaviest = Math.max(1e-9, ...state.weights.values()), small = row < 18;
  for (const i of shown) {
    const weight = state.weights.get(i), base = small ? 4 : 5.5;
    const r = i === 0 ? 4 : weight === undefined ? base : base * (0.7 + 0.9 * Math.sqrt(weight / heaviest));
    const classes = ["node", state.gone.has(i) && !onPath.has(i) ? "gone" : "", run.nodes[i][5] === last ? "new" : "", viewer.picked === i ? "picked" : ""];
    put(svg, "circle", { class: classes.join(" "), cx: px(i), cy: py(i), r, style: `fill:${i ? scoreColour(run.nodes[i][4]) : "var(--quiet)"}`,
      onmousemove: (event) => tell(event, nodeWords(run, i, state)), onmouseleave: hush,
      onclick: () => { viewer.picked = i; drawFrame(run, stage, side, caption); } });
    const times = state.times.get(i);
    if (weight !== undefined && !final && run.frames[last].weights && row > 15) put(svg, "text", { class: "weight", x: px(i) + r + 3, y: py(i) + 4 }, percent(weight, 0));
    if (times > 1) put(svg, "text", { class: "times", x: px(i) + r + 3, y: py(i) + 4 }, "×" + times);
  }
  if (final) nameAnswers(svg, run, px, py, state, row);
  stage.scrollLeft = scroll[0];
  stage.scrollTop = run.seen ? scroll[1] : Math.max(0, py(chosen ?? 0) - stage.clientHeight / 2);
  run.seen = true;
  readPath(side, run, viewer.picked ?? (final ? chosen : null));
}

function nameAnswers(svg, run, px, py, state, row) {
  const seen = new Map();
  run.candidates.forEach((c, k) => { if (c.node === null) return; const own = seen.get(c.node) || { times: 0, weight: 0, c, chosen: false }; own.times++; own.weight += c.weight || 0; own.chosen ||= k === run.chosen; seen.set(c.node, own); });
  for (const [i, own] of seen) {
    const text = `${own.c.answer === null ? "no answer" : shorten(own.c.answer, 12)} ${own.c.correct ? "✓" : "✗"}` + (own.times > 1 ? ` ×${own.times}` : "") + (own.weight ? `  ${percent(own.weight, 0)}` : "");
    put(svg, "text", { x: px(i) + 13, y: py(i) + 4, style: `font-size:${row < 15 ? 10.5 : 12}px;fill:var(${own.c.correct ? "--good" : "--bad"});font-weight:${own.chosen ? 700 : 400}` }, text);
  }
}

function nodeWords(run, i, state) {
  const node = run.nodes[i];
  if (!i) return "the prompt";
  const weight = state.weights.get(i);
  return `${shorten(TRACES.texts[node[1]].trim(), 220)}\n` + [`${node[2]} tokens`, node[4] === null ? "" : `score ${node[4]}`, weight === undefined ? "" : `weight ${percent(weight)}`, node[3] === "length" ? "cut off" : "", state.gone.has(i) ? "dropped" : ""].filter(Boolean).join(", ");
}

function readPath(side, run, i) {
  empty(side);
  const p = DATA.contexts[viewer.context].problems[viewer.problem];
  put(side, "h3", {}, "Problem");
  put(side, "div", { style: "white-space:pre-wrap;overflow-wrap:anywhere" }, shorten(p.q || p.id, 700));
  if (p.ref) put(side, "p", { class: "note", style: "margin-top:4px" }, "reference: " + p.ref);
  if (i === null || i === undefined) return;
  const steps = [];
  for (let k = i; k > 0; k = run.nodes[k][0]) steps.unshift(k);
  put(side, "h3", { style: "margin-top:14px" }, viewer.picked === null ? "The answer" : "The path to this step");
  const list = put(side, "div", { class: "path" });
  for (const k of steps) {
    const line = put(list, "div", { style: `--dot:${scoreColour(run.nodes[k][4])}` });
    put(line, "span", {}, TRACES.texts[run.nodes[k][1]].replace(/\n$/, ""));
    if (run.nodes[k][4] !== null) put(line, "small", {}, String(Number(run.nodes[k][4].toFixed(3))));
  }
}
