// One run: what its events make of the tree of paths. The same function draws it live and replays it.

export function emptyRun(request) {
  return {
    request,
    nodes: new Map([[0, { id: 0, parent: null, depth: 0, lane: 0, text: "", tokens: 0, end: "root" }]]),
    lanes: new Map(), // depth -> lanes in use
    events: [],
    content: "",
    tokens: 0,
    scored: 0,
    resampled: 0,
    failed: 0,
    weights: new Map(), // path -> share of the population
    alive: null, // paths that may still grow, where the method says
    chosen: null,
    at: 0,
    state: "running", // running, done, failed, stopped
    error: null,
    block: null,
    usage: null,
  };
}

function laneFor(run, parent, depth) {
  const used = run.lanes.get(depth) ?? new Set();
  run.lanes.set(depth, used);
  let lane = parent.lane;
  while (used.has(lane)) lane += 1;
  used.add(lane);
  return lane;
}

// Takes one event in; changes the run in place and gives it back as a new object, for the renderer to see.
export function take(run, event) {
  run.events.push(event);
  run.at = event.at ?? run.at;
  if (event.event === "proposed") {
    const parent = run.nodes.get(event.parent) ?? run.nodes.get(0);
    const depth = parent.depth + 1;
    run.nodes.set(event.path, {
      id: event.path,
      parent: parent.id,
      depth,
      lane: laneFor(run, parent, depth),
      text: event.text,
      tokens: event.tokens,
      end: event.end,
      score: null,
      dropped: false,
    });
    run.tokens += event.tokens;
  } else if (event.event === "scored") {
    const node = run.nodes.get(event.path);
    if (node) node.score = event.scores.at(-1);
    run.scored += 1;
  } else if (event.event === "weighed") {
    const weights = new Map();
    event.paths.forEach((path, i) => weights.set(path, (weights.get(path) ?? 0) + event.weights[i]));
    run.weights = weights;
  } else if (event.event === "resampled") {
    run.resampled += 1;
    const slots = new Map();
    for (const path of event.paths) slots.set(path, (slots.get(path) ?? 0) + 1);
    run.weights = new Map([...slots].map(([path, n]) => [path, n / event.paths.length]));
    run.alive = new Set(event.paths);
    dropOthers(run);
  } else if (event.event === "pruned") {
    for (const path of event.paths) {
      const node = run.nodes.get(path);
      if (node) node.dropped = true;
    }
  } else if (event.event === "failed") {
    run.failed += 1;
  } else if (event.event === "chosen") {
    run.chosen = event.path;
  }
  return { ...run };
}

// After a resampling, a leaf of the population that got no slot has died.
function dropOthers(run) {
  const kept = new Set();
  for (const path of run.alive) for (const id of ancestry(run, path)) kept.add(id);
  for (const node of run.nodes.values()) if (!kept.has(node.id)) node.dropped = true;
}

export function ancestry(run, path) {
  const ids = [];
  for (let node = run.nodes.get(path); node; node = run.nodes.get(node.parent)) ids.push(node.id);
  return ids;
}

export function textOf(run, path) {
  return ancestry(run, path).reverse().map((id) => run.nodes.get(id).text).join("");
}

// The vote at the end: answers with what stands behind them, the heaviest first.
export function votes(block) {
  const candidates = Array.isArray(block?.candidates) ? block.candidates : [];
  const weighted = candidates.length > 0 && candidates.every((c) => c.weight !== null);
  const byAnswer = new Map();
  for (const c of candidates) {
    const answer = c.answer ?? "(no answer)";
    const row = byAnswer.get(answer) ?? { answer, share: 0, count: 0, best: null };
    row.share += weighted ? c.weight : 1 / candidates.length;
    row.count += 1;
    if (c.score !== null && (row.best === null || c.score > row.best)) row.best = c.score;
    byAnswer.set(answer, row);
  }
  return [...byAnswer.values()].sort((a, b) => b.share - a.share);
}

// A trace as a file: what was asked, every event with its time, how it ended.
export function saved(run) {
  const { request, events, content, block, usage, state } = run;
  return { itscale_trace: 1, request, events, content, block, usage, state };
}

export function opened(value) {
  if (value?.itscale_trace !== 1 || !Array.isArray(value.events)) {
    throw new Error("this file holds no trace; save one with the button under a run");
  }
  return value;
}
