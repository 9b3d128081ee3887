// The playground: a prompt, a method or two side by side, and what happens while they look for the answer.
import { html, render, useEffect, useRef, useState } from "./preact.js";
import { ask, names } from "./ask.js";
import { emptyRun, opened, saved, take, textOf, votes } from "./run.js";
import { Legend, Tree } from "./tree.js";

// A link may say what to ask: #prompt=...&left=beam/embedded&right=majority/embedded&n=16&seed=1&run
const LINK = new URLSearchParams(location.hash.slice(1));
const EXAMPLE = LINK.get("prompt") ?? "Make 52 from 4, 9, 11, 15, 23.";
const number = (n) => n.toLocaleString("en");

function App() {
  const [known, setKnown] = useState([]);
  const [key, setKey] = useState("");
  const [prompt, setPrompt] = useState(EXAMPLE);
  const [seed, setSeed] = useState(LINK.get("seed") ?? "1");
  const [two, setTwo] = useState(!LINK.has("left") || LINK.has("right"));
  const [sides, setSides] = useState([
    { model: LINK.get("left") ?? "", n: LINK.get("n") ?? "16" },
    { model: LINK.get("right") ?? "", n: LINK.get("n") ?? "16" },
  ]);
  const [runs, setRuns] = useState([null, null]);
  const [trouble, setTrouble] = useState("");
  const stopping = useRef([]);

  useEffect(() => {
    names(key).then((all) => {
      setKnown(all);
      setTrouble("");
      setSides((now) => now.map((side, i) => ({ ...side, model: side.model || preferred(all, i) })));
    }, (error) => setTrouble(error.message));
  }, [key]);

  const put = (i, run) => setRuns((now) => now.map((old, j) => (i === j ? run : old)));
  const stop = () => stopping.current.forEach((one) => one.abort());

  const start = () => {
    stop();
    stopping.current = [];
    for (const i of two ? [0, 1] : [0]) {
      const request = { model: sides[i].model, messages: [{ role: "user", content: prompt }] };
      if (seed !== "") request.seed = Number(seed);
      request.itscale = { progress: "events" };
      // A model's own name, of which METHOD/NAME are others: its answer is the only candidate.
      if (!known.some((name) => name.endsWith(`/${sides[i].model}`))) request.itscale.candidates = true;
      if (sides[i].model.includes("/") && sides[i].n) request.itscale.n = Number(sides[i].n);
      const controller = new AbortController();
      stopping.current.push(controller);
      follow(request, key, controller.signal, (run) => put(i, run));
    }
    if (!two) put(1, null);
  };

  useEffect(() => {
    const press = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); start(); }
      if (event.key === "Escape") stop();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  });

  const change = (i, part) => setSides((now) => now.map((s, j) => (i === j ? { ...s, ...part } : s)));
  const begun = useRef(false);
  useEffect(() => {
    if (LINK.has("run") && !begun.current && known.length && sides[0].model) { begun.current = true; start(); }
  });
  const busy = runs.some((run) => run?.state === "running");
  return html`
    <header>
      <h1>itscale</h1>
      <p class="quiet">Watch more compute become a better answer.</p>
      <label class="key">API key <input type="password" autocomplete="off" value=${key}
        onChange=${(e) => setKey(e.target.value.trim())} placeholder="none needed unless set" /></label>
    </header>
    <main>
      <form onSubmit=${(e) => { e.preventDefault(); start(); }}>
        <label for="prompt">Prompt</label>
        <textarea id="prompt" rows="2" autofocus value=${prompt} onInput=${(e) => setPrompt(e.target.value)}></textarea>
        <datalist id="known">${known.map((name) => html`<option value=${name} />`)}</datalist>
        <div class="row">
          ${(two ? [0, 1] : [0]).map((i) => html`<fieldset key=${i}>
            <legend>${i === 0 ? "Left" : "Right"}</legend>
            <label>Method and model <input list="known" name=${`model-${i}`} value=${sides[i].model} required
              onInput=${(e) => change(i, { model: e.target.value })} /></label>
            <label>N <input type="number" min="1" max="1024" name=${`n-${i}`} value=${sides[i].n}
              onInput=${(e) => change(i, { n: e.target.value })} /></label>
          </fieldset>`)}
          <label class="short">Seed <input type="number" min="0" value=${seed}
            onInput=${(e) => setSeed(e.target.value)} /></label>
          <label class="check"><input type="checkbox" checked=${two}
            onChange=${(e) => setTwo(e.target.checked)} /> Compare two</label>
          <button type="submit" class="go">Run <kbd>Ctrl ⏎</kbd></button>
          <button type="button" disabled=${!busy} onClick=${stop}>Stop <kbd>Esc</kbd></button>
          <label class="file">Open a trace <input type="file" accept=".json,application/json"
            onChange=${(e) => open(e, (trace) => replay(trace, (run) => put(0, run), 1), setTrouble)} /></label>
        </div>
      </form>
      ${trouble && html`<p role="alert" class="trouble">${trouble}</p>`}
      <div class=${runs[1] ? "sides two" : "sides"}>
        ${runs.map((run, i) => run && html`<${Run} key=${i} run=${run} put=${(r) => put(i, r)} />`)}
      </div>
      ${runs[0]?.block && runs[1]?.block && html`<${Comparison} runs=${runs} />`}
    </main>`;
}

function preferred(all, i) {
  const wanted = i === 0 ? ["particle-filter/", "majority/"] : ["best-of-n/", "majority/"];
  return wanted.map((start) => all.find((name) => name.startsWith(start))).find(Boolean) ?? all[0] ?? "";
}

// Ask, and hand out the run after everything that is heard; drawing happens once a frame at most.
async function follow(request, key, signal, show) {
  let run = emptyRun(request), asked = false;
  const began = performance.now();
  const draw = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; show({ ...run }); });
  };
  show(run);
  try {
    await ask(request, key, signal, (heard) => {
      if (heard.event) run = take(run, heard.event);
      if (heard.content) run.content += heard.content;
      if (heard.block) run.block = heard.block;
      if (heard.usage) run.usage = heard.usage;
      run.at = (performance.now() - began) / 1000;
      draw();
    });
    run.state = "done";
  } catch (error) {
    run.state = signal.aborted ? "stopped" : "failed";
    run.error = signal.aborted ? null : error.message;
  }
  run.at = (performance.now() - began) / 1000;
  draw();
}

// The events of a trace again, at their own pace times `speed`.
async function replay(trace, show, speed) {
  let run = emptyRun(trace.request);
  show(run);
  const last = trace.events.at(-1)?.at || 1;
  const pace = Math.max(last, 2) / last / speed; // a run of milliseconds is stretched to two seconds
  const began = performance.now();
  for (const event of trace.events) {
    const wait = (event.at ?? 0) * pace * 1000 - (performance.now() - began);
    if (wait > 4) await new Promise((done) => setTimeout(done, wait));
    run = take(run, event);
    show(run);
  }
  show({ ...run, content: trace.content, block: trace.block, usage: trace.usage, state: trace.state });
}

async function open(event, use, setTrouble) {
  const [file] = event.target.files;
  event.target.value = "";
  if (!file) return;
  try {
    use(opened(JSON.parse(await file.text())));
    setTrouble("");
  } catch (error) {
    setTrouble(`${file.name}: ${error.message}`);
  }
}

function Run({ run, put }) {
  const box = useRef(null);
  const [width, setWidth] = useState(600);
  const [picked, setPicked] = useState(null);
  useEffect(() => {
    const watcher = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    watcher.observe(box.current);
    return () => watcher.disconnect();
  }, []);
  const shares = votes(run.block);
  const save = () => {
    const blob = new Blob([JSON.stringify(saved(run))], { type: "application/json" });
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "trace.json" });
    link.click();
    URL.revokeObjectURL(link.href);
  };
  return html`<section aria-label=${run.request.model}>
    <h2>${run.request.model}</h2>
    <p class="count" aria-live="polite">
      <span class=${`state ${run.state}`}>${run.state}</span>
      ${run.nodes.size - 1} steps, ${number(run.tokens)} tokens${run.scored ? `, ${run.scored} scored` : ""}${
        run.resampled ? `, ${run.resampled} resampling${run.resampled === 1 ? "" : "s"}` : ""}${run.failed ? `, ${run.failed} failed` : ""}, ${run.at.toFixed(2)} s
    </p>
    <div class="stage" ref=${box}><${Tree} run=${run} width=${width} picked=${picked} onPick=${setPicked} /></div>
    ${run.scored > 0 && html`<${Legend} />`}
    ${run.error && html`<p role="alert" class="trouble">${run.error}</p>`}
    ${run.content && html`<pre class="answer">${run.content}</pre>`}
    ${shares.length > 0 && html`<table class="votes">
      <caption>What stands behind each answer</caption>
      <thead><tr><th>answer</th><th>share</th><th></th><th>paths</th><th>best score</th></tr></thead>
      <tbody>${shares.slice(0, 8).map((row) => html`<tr class=${row.answer === run.block.answer ? "won" : ""}>
        <td>${row.answer}</td>
        <td>${(100 * row.share).toFixed(1)} %</td>
        <td class="bar"><meter min="0" max="1" value=${row.share}></meter></td>
        <td>${row.count}</td>
        <td>${row.best === null ? "" : row.best.toFixed(3)}</td></tr>`)}
      </tbody></table>`}
    ${picked !== null && run.nodes.has(picked) && html`<div class="picked-path"><h3>Path ${picked}</h3><pre>${textOf(run, picked)}</pre></div>`}
    ${run.state !== "running" && html`<p class="tools">
      <button type="button" onClick=${() => replay(saved(run), put, 1)}>Replay</button>
      <button type="button" onClick=${() => replay(saved(run), put, 0.25)}>Slowly</button>
      <button type="button" onClick=${save}>Save the trace</button></p>`}
  </section>`;
}

function Comparison({ runs }) {
  const rows = [
    ["answer", (r) => r.block.answer ?? "none"],
    ["share of the vote", (r) => (r.block.confidence === null ? "" : `${(100 * r.block.confidence).toFixed(1)} %`)],
    ["score", (r) => (r.block.score === null ? "" : r.block.score.toFixed(3))],
    ["generated tokens", (r) => number(r.block.spend.generation.generated_tokens)],
    ["prompt tokens (cached)", (r) => `${number(r.block.spend.generation.prompt_tokens)} (${number(r.block.spend.generation.cached_tokens)})`],
    ["model calls", (r) => number(r.block.spend.generation.calls)],
    ["scorer calls", (r) => number(r.block.spend.scoring.calls)],
    ["dollars", (r) => (r.block.spend.dollars ? r.block.spend.dollars.toFixed(6) : "no price set")],
    ["seconds", (r) => r.block.spend.seconds.toFixed(2)],
  ];
  return html`<table class="comparison">
    <caption>What each cost</caption>
    <thead><tr><th></th>${runs.map((run) => html`<th>${run.request.model}</th>`)}</tr></thead>
    <tbody>${rows.map(([name, value]) => html`<tr><th>${name}</th>${runs.map((run) => html`<td>${value(run)}</td>`)}</tr>`)}</tbody>
  </table>`;
}

const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
