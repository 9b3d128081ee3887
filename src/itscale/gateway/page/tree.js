// The tree of paths as one SVG: a column a step, a row a path. Colour is the scorer's last word, from
// doubtful to sure; a dropped branch fades; the share of the population is the width of a line.
import { html } from "./preact.js";
import { ancestry } from "./run.js";

const ROW = 18;
const GAP = 10;

export function Tree({ run, width, picked, onPick }) {
  const nodes = [...run.nodes.values()].filter((node) => node.id !== 0);
  const depths = Math.max(1, ...nodes.map((node) => node.depth));
  const rows = Math.max(1, ...nodes.map((node) => node.lane + 1));
  const row = Math.max(7, Math.min(ROW, 420 / rows));
  const column = Math.max(24, Math.min(140, (width - 24) / (depths + 0.4)));
  const x = (node) => (node.id === 0 ? 6 : 6 + (node.depth - 1) * column + GAP * 1.6);
  const y = (node) => 10 + node.lane * row;
  const chosen = new Set(run.chosen === null ? [] : ancestry(run, run.chosen));
  const shown = new Set(picked === null ? [] : ancestry(run, picked));
  const bar = column - GAP * 1.6;
  return html`<svg tabindex="0" onKeyDown=${(event) => walk(event, nodes, run, picked, onPick)}
    class="tree" width=${Math.max(width, 6 + depths * column + 12)} height=${20 + rows * row}
    role="img" aria-label="${nodes.length} steps on ${rows} rows; arrow keys go from step to step; the table below says the same in words">
    ${nodes.map((node) => {
      const parent = run.nodes.get(node.parent);
      const from = parent.id === 0 ? 6 : x(parent) + bar;
      const marks = [
        node.dropped && !chosen.has(node.id) ? "dropped" : "",
        chosen.has(node.id) ? "chosen" : "",
        shown.has(node.id) ? "picked" : "",
      ].join(" ");
      const share = run.weights.get(node.id);
      const y0 = parent.id === 0 ? y(node) : y(parent);
      const middle = (from + x(node)) / 2;
      return html`<g key=${node.id} class=${marks} onClick=${() => onPick(node.id)}>
        <path class="edge" d="M${from} ${y0} C${middle} ${y0} ${middle} ${y(node)} ${x(node)} ${y(node)}"
          stroke-width=${share === undefined ? 1 : 1 + 5 * share} />
        <rect class=${`step ${tone(node.score)}`} x=${x(node)} y=${y(node) - row * 0.32}
          width=${bar} height=${row * 0.64} rx="2" />
        ${node.end === "length" || node.end === "abort"
          ? html`<path class="cut" d="M${x(node) + bar} ${y(node) - row * 0.4} v${row * 0.8}" />`
          : null}
        <title>${`${node.text.trim()}\n${node.score === null ? "not judged" : `score ${node.score.toFixed(3)}`}`}</title>
      </g>`;
    })}
  </svg>`;
}

// Eleven tones, so that the colours are the style sheet's business.
function tone(score) {
  return score === null ? "plain" : `t${Math.round(Math.max(0, Math.min(1, score)) * 10)}`;
}

// From a step to its neighbours: left is where it came from, right what came of it, up and down its column.
function walk(event, nodes, run, picked, onPick) {
  if (!event.key.startsWith("Arrow") || nodes.length === 0) return;
  event.preventDefault();
  const here = run.nodes.get(picked ?? run.chosen ?? nodes[0].id);
  const column = nodes.filter((node) => node.depth === here.depth).sort((a, b) => a.lane - b.lane);
  const at = column.indexOf(here);
  const next = picked === null ? here : {
    ArrowLeft: run.nodes.get(here.parent),
    ArrowRight: nodes.find((node) => node.parent === here.id),
    ArrowUp: column[at - 1],
    ArrowDown: column[at + 1],
  }[event.key];
  if (next && next.id !== 0) onPick(next.id);
}

export function Legend() {
  return html`<p class="legend">a path's score: doubtful<svg width="88" height="9" aria-hidden="true">
    ${[...Array(11).keys()].map((i) => html`<rect class=${`t${i}`} x=${i * 8} y="0" width="8" height="9" />`)}
  </svg>sure; grey is not judged, faded is dropped</p>`;
}
