"use strict";
// Everything drawn for the chosen context, and again when the window or the colours change.
let chosenContext = 0;

function contextName(context) {
  const parts = ["task", "level", "model", "scorer"].filter((name) => new Set(DATA.contexts.map((c) => c[name])).size > 1);
  return parts.map((name) => (name === "level" ? "level " + context.level : context[name])).join(", ");
}

function showAll() {
  const context = DATA.contexts[chosenContext];
  showHeader(context);
  showCost(context);
  showTable(context);
  showPairs(context);
  showDifficulty(context, chosenContext);
  showEconomy(context);
  showLaws(context);
  showModels(context);
  showProblems(context, chosenContext);
  viewer.context = chosenContext;
  showTrace(false);
}

$("question").textContent = document.title;
const contextChoice = put($("contexts"), "div", { class: "controls", style: "margin-bottom:22px" });
choice(contextChoice, DATA.contexts.map((context, i) => [i, contextName(context)]), 0, (i) => {
  chosenContext = i; viewer.problem = null; viewer.cell = null; viewer.frame = 0; viewer.picked = null;
  showAll(); showTrace(true);
});
showFooter();
showAll();
showTrace(true);
let width = innerWidth, waiting = null;
addEventListener("resize", () => { if (innerWidth === width) return; width = innerWidth; clearTimeout(waiting); waiting = setTimeout(showAll, 120); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showAll);
