"use strict";
// Every problem: which cells got it right, which problems divide them, which take long.
function problemWords(context, p) {
  const right = [...p.marks].filter((mark) => mark >= "5").length, ran = [...p.marks].filter((mark) => mark !== ".").length;
  return `${right} of ${ran} right`;
}

function showProblems(context, number) {
  for (const [id, order, told] of [["disputed", context.disputed, (p) => problemWords(context, p)], ["slowest", context.slowest, (p) => amount(p.seconds) + " s"]]) {
    const list = empty($(id));
    for (const i of order.slice(0, 8)) {
      const p = context.problems[i];
      const button = put(put(list, "li"), "button", { type: "button", title: p.q, onclick: () => openTrace(number, i) });
      put(button, "span", { class: "q" }, p.q || p.id);
      put(button, "span", { class: "v" }, told(p));
    }
  }
  drawGrid(context, number);
  $("grid-note").textContent = `${context.problems.length} problems from left to right, those most cells solve first; a row for each cell. ` +
    "Filled: right. Point at a square to see the problem, press it to see how its answer came about.";
}

// A canvas: thousands of squares, one element.
function drawGrid(context, number) {
  const place = empty($("grid")), colour = colourOf(context), label = Math.min(200, Math.max(120, place.clientWidth * 0.22));
  const columns = context.problems.length, rows = context.cells.length;
  const room = place.clientWidth - label - 2 * parseFloat(getComputedStyle(place).paddingLeft || 0);
  const size = Math.max(4, Math.min(16, room / columns)), high = Math.max(9, Math.min(15, size * 1.4)), gap = size > 6 ? 1 : 0.5;
  const width = label + size * columns, height = high * rows + 4 * methodsOf(context).length;
  const canvas = put(place, "canvas", { style: `width:${width}px;height:${height}px`, tabindex: 0, "aria-label": "verdicts of all cells on all problems" });
  const density = devicePixelRatio || 1;
  canvas.width = width * density; canvas.height = height * density;
  const pen = canvas.getContext("2d"), styles = getComputedStyle(document.documentElement);
  const resolved = (name) => styles.getPropertyValue(name.replace(/^var\((.*)\)$/, "$1")).trim();
  pen.scale(density, density);
  pen.font = "12px Inter, -apple-system, 'Segoe UI', Arial, 'DejaVu Sans', sans-serif";
  pen.textBaseline = "middle";
  const tops = [];
  let y = 0;
  context.cells.forEach((c, r) => {
    const first = context.cells[r - 1]?.method !== c.method;
    if (r && first) y += 4;
    tops.push(y);
    pen.fillStyle = resolved("--quiet");
    pen.textAlign = "left";
    if (first) pen.fillText(shorten(c.method, Math.floor(label / 8.2)), 0, y + high / 2);
    pen.textAlign = "right";
    pen.fillText(String(c.n), label - 10, y + high / 2);
    context.problems.forEach((p, i) => {
      const mark = p.marks[r];
      if (mark === ".") return;
      pen.globalAlpha = mark === "0" ? 1 : 0.25 + (0.65 * Number(mark)) / 9;
      pen.fillStyle = mark === "0" ? resolved("--wash") : resolved(colour(c.method));
      pen.fillRect(label + i * size, y, size - gap, high - 1);
    });
    pen.globalAlpha = 1;
    y += high;
  });
  const at = (event) => {
    const box = canvas.getBoundingClientRect(), i = Math.floor((event.clientX - box.left - label) / size);
    const r = tops.findLastIndex((top) => event.clientY - box.top >= top);
    return i >= 0 && i < columns && r >= 0 ? [i, r] : null;
  };
  canvas.addEventListener("mousemove", (event) => {
    const found = at(event);
    if (!found) return hush();
    const p = context.problems[found[0]], c = context.cells[found[1]], mark = p.marks[found[1]];
    const verdict = mark === "." ? "not run" : mark === "9" ? "right" : mark === "0" ? "wrong" : `right in ${Math.round((100 * mark) / 9)} % of runs`;
    tell(event, `${shorten(p.q || p.id, 160)}\n**${c.method}**, N = ${c.n}: ${verdict}` + (p.answers[found[1]] ? `, answer ${p.answers[found[1]]}` : ""));
  });
  canvas.addEventListener("mouseleave", hush);
  canvas.addEventListener("click", (event) => { const found = at(event); if (found) openTrace(number, found[0], found[1]); });
}
