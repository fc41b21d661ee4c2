// The prompt's evolution: one card per step, what changed in it, and how likely each sentence was.

import { bar, byId, make } from "./dom.js";

const PATTERNS = {
  role_playing: "Role",
  history_records: "History",
  user_profile: "Profile",
  reasoning_guidance: "Reasoning",
  output_format: "Format",
};

let steps = [];

/** Clear the panel for a new answer. */
export function begin() {
  steps = [];
  byId("steps").replaceChildren();
  byId("prompt-facts").hidden = true;
  byId("prompt-empty").hidden = true;
}

/** Bring the panel back to what a new visitor sees. */
export function clear() {
  begin();
  byId("prompt-empty").hidden = false;
}

/** Show all steps of an earlier answer. */
export function show(earlier, ranking) {
  begin();
  earlier.forEach(add);
  if (ranking) tell(ranking);
}

/** Add the next step. */
export function add(step) {
  const before = steps.at(-1);
  steps.push(step);
  byId("steps").append(card(step, before));
}

/** Say what made the answer, once it is known. */
export function tell(ranking) {
  const facts = byId("prompt-facts");
  const calls = `${ranking.llm_calls} model ${ranking.llm_calls === 1 ? "call" : "calls"}`;
  facts.replaceChildren(
    make("strong", {}, ranking.policy),
    ` · ${ranking.model} · ${calls}`,
    ranking.fallback ? make("span", { class: "note" }, ` ${ranking.fallback}`) : "",
  );
  facts.hidden = false;
}

function card(step, before) {
  const { view } = step;
  const changed = before ? Object.keys(PATTERNS).filter((name) => said(view, name) !== said(before.view, name)).length : 0;
  const summary = !before ? "the first prompt" : changed ? `${changed} changed` : "kept as it was";
  return make(
    "li",
    { class: before && !changed ? "step same" : "step" },
    make("h3", {}, `Step ${view.step + 1}`, make("span", { class: "quiet" }, ` of ${step.n_steps} · ${summary}`)),
    make("dl", { class: "patterns" }, patterns(step, before)),
    fullText(step, before),
  );
}

function patterns({ view }, before) {
  const names = Object.keys(PATTERNS).filter((name) => view.choices[name] || name === "history_records");
  return names.map((name) => {
    const text = said(view, name);
    const old = before && said(before.view, name);
    const changed = Boolean(before) && old !== text;
    const same = Boolean(before) && !changed;
    const odds = view.choices[name]?.probability;
    return make(
      "div",
      { class: changed ? "pattern changed" : same ? "pattern kept" : "pattern" },
      make("dt", {}, PATTERNS[name], changed ? make("span", { class: "badge" }, "changed") : ""),
      make(
        "dd",
        {},
        changed && old ? make("del", {}, old) : "",
        changed ? make("ins", {}, text) : same ? make("span", { title: text }, "as before") : make("span", {}, text),
        view.refined[name] ? make("span", { class: "badge" }, "rewritten") : "",
        odds === null || odds === undefined ? "" : bar(odds, "Probability of this choice"),
      ),
    );
  });
}

const said = (view, name) =>
  name === "history_records" ? lengthText(view) : (view.refined[name] ?? view.choices[name]?.sentence ?? "");

const lengthText = (view) =>
  view.history_length === 1 ? "The most recent choice" : `The ${view.history_length} most recent choices`;

function fullText(step, before) {
  const now = lines(step);
  const rows = before ? difference(lines(before), now) : now.map((text) => ({ kind: "same", text }));
  const content = rows.map(({ kind, text }) => {
    const tag = { same: "span", gone: "del", come: "ins" }[kind];
    return make(tag, { class: "line" }, text || " ");
  });
  return make(
    "details",
    { class: "full" },
    make("summary", {}, "The prompt as the model read it"),
    make("div", { class: "text", tabindex: 0, role: "region", "aria-label": `Prompt of step ${step.view.step + 1}` }, content),
  );
}

/** The prompt's lines; candidates, which every step shuffles, count as one. */
function lines({ system, user }) {
  const shown = [];
  let candidates = null;
  for (const line of [...(system ? [system] : []), ...user.split("\n")]) {
    if (line === "<candidates>") candidates = 0;
    else if (line === "</candidates>") {
      shown.push(`… ${candidates} candidates, in an order drawn anew …`);
      candidates = null;
    } else if (candidates === null) shown.push(line);
    else candidates += 1;
  }
  return shown;
}

/** A shortest edit from one list of lines to another (longest common subsequence). */
function difference(before, now) {
  const length = before.map(() => new Array(now.length + 1).fill(0));
  length.push(new Array(now.length + 1).fill(0));
  for (let i = before.length - 1; i >= 0; i -= 1) {
    for (let j = now.length - 1; j >= 0; j -= 1) {
      length[i][j] = before[i] === now[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const rows = [];
  let [i, j] = [0, 0];
  while (i < before.length || j < now.length) {
    if (i < before.length && j < now.length && before[i] === now[j]) {
      rows.push({ kind: "same", text: now[j] });
      i += 1;
      j += 1;
    } else if (j >= now.length || (i < before.length && length[i + 1][j] >= length[i][j + 1])) {
      rows.push({ kind: "gone", text: before[i] });
      i += 1;
    } else {
      rows.push({ kind: "come", text: now[j] });
      j += 1;
    }
  }
  return rows;
}
