// One answer: what was understood, the ranked list with its reasons, votes and explanations.

import * as api from "./api.js";
import { bar, icon, make, percent } from "./dom.js";
import * as prompt from "./prompt.js";

const THUMB_UP = "M7 11v9H4v-9h3Zm0 0 4-8c1.5 0 2.5 1 2.5 2.5V9H19a2 2 0 0 1 2 2.3l-1.1 7A2 2 0 0 1 17.900 20H7";
const THUMB_DOWN = "M17 13V4h3v9h-3Zm0 0-4 8c-1.500 0-2.500-1-2.500-2.500V15H5a2 2 0 0 1-2-2.300l1.100-7A2 2 0 0 1 6.100 4H17";

export class Answer {
  constructor(report) {
    this.report = report;
    this.steps = [];
    this.chips = make("p", { class: "chips" });
    this.progress = make("p", { class: "progress" }, dots(), make("span", {}, "Reading your message"));
    this.body = make("div", { class: "body" });
    this.element = make("li", { class: "answer" }, this.chips, this.progress, this.body);
  }

  say(text) {
    this.progress.lastChild.textContent = text;
  }

  understanding({ wanted, avoided, lessened, years, like }) {
    const chip = (label, values, kind = "") =>
      values.map((value) => make("span", { class: `chip ${kind}` }, label ? make("b", {}, label) : "", value));
    this.chips.append(
      ...chip("", wanted),
      ...chip("no ", avoided, "minus"),
      ...chip("less ", lessened.slice(0, 3), "minus"),
      ...chip("like ", like),
      ...(years ? chip("", [span(years)]) : []),
    );
    this.say("Looking for candidates");
  }

  candidates({ candidates, n_history: known }) {
    this.say(`${candidates.length} candidates, ${known || "no"} earlier ${known === 1 ? "choice" : "choices"} known`);
    prompt.begin();
  }

  step(step) {
    this.steps.push(step);
    prompt.add(step);
    this.say(`Prompt ${step.view.step + 1} of ${step.n_steps}`);
  }

  ranking(ranking) {
    this.found = ranking;
    prompt.tell(ranking);
  }

  message({ text }) {
    this.progress.remove();
    const rows = text.split("\n").filter((line) => line.trim() && !(this.found && /^\s*\d+[.)]\s/.test(line)));
    if (this.found && rows.length) rows[0] = rows[0].replace(/ \([^()]*\)(?=:?$)/, ""); // the chips say it
    const said = rows.map((line) => make("p", {}, line));
    if (!this.found) {
      this.body.append(...said);
      return;
    }
    const [intro, ...notes] = said;
    this.body.append(intro ?? "", this.list(), ...notes, this.footer());
  }

  failed(detail, again) {
    this.progress.remove();
    this.body.append(
      make(
        "div",
        { class: "error", role: "alert" },
        make("p", {}, detail),
        make("button", { type: "button", class: "plain", onclick: again }, "Try again"),
      ),
    );
  }

  stopped() {
    this.progress.remove();
    this.body.append(make("p", { class: "quiet" }, "Stopped."));
  }

  list() {
    return make("ol", { class: "ranking", "aria-label": "Ranked list" }, this.found.items.map((item) => this.place(item)));
  }

  place(item) {
    const why = make("div", { class: "why", hidden: true });
    const ask = make("button", { type: "button", class: "link", "aria-expanded": "false" }, "Why this?");
    ask.addEventListener("click", () => this.why(item, ask, why));
    const kinds = [item.year, item.categories.slice(0, 3).join(", ")].filter(Boolean).join(" · ");
    return make(
      "li",
      { class: item.rank <= 3 ? "item best" : "item" },
      make("span", { class: "rank", "aria-hidden": "true" }, item.rank),
      make(
        "div",
        { class: "what" },
        make("p", { class: "title" }, item.title, kinds ? make("span", { class: "quiet" }, ` ${kinds}`) : ""),
        item.reason ? make("p", { class: "reason" }, item.reason) : "",
        make("div", { class: "tools" }, this.confidence(item), this.thumbs(item), ask),
        why,
      ),
    );
  }

  confidence({ agreement }) {
    if (agreement === null) return "";
    return bar(agreement, "Confidence: how far the prompts of all steps agree on this place", `${percent(agreement)} agree`);
  }

  thumbs(item) {
    const button = (value, mark, label) =>
      make(
        "button",
        { type: "button", class: "thumb", "aria-pressed": "false", "aria-label": `${label}: ${item.title}`, "data-vote": value },
        icon(mark),
      );
    const both = [button("up", THUMB_UP, "Good"), button("down", THUMB_DOWN, "Not for me")];
    for (const one of both) {
      one.addEventListener("click", async () => {
        const taken = one.getAttribute("aria-pressed") === "true";
        both.forEach((other) => other.setAttribute("aria-pressed", String(other === one && !taken)));
        try {
          await api.vote(this.found.answer_id, item.item_id, taken ? null : one.dataset.vote);
          this.report(taken ? "Vote taken back." : "Thank you, noted.");
        } catch (error) {
          both.forEach((other) => other.setAttribute("aria-pressed", "false"));
          this.report(error.message);
        }
      });
    }
    return make("span", { class: "thumbs", role: "group", "aria-label": "Your vote" }, both);
  }

  async why(item, ask, box) {
    const open = box.hidden;
    box.hidden = !open;
    ask.setAttribute("aria-expanded", String(open));
    if (!open || box.childElementCount) return;
    box.append(make("p", { class: "progress" }, dots(), make("span", {}, "Asking again with other sentences")));
    try {
      this.explanation ??= api.explain(this.found.answer_id);
      box.replaceChildren(...reasons(await this.explanation, item));
    } catch (error) {
      this.explanation = undefined;
      box.replaceChildren(make("p", { class: "error", role: "alert" }, error.message));
    }
  }

  footer() {
    return make(
      "p",
      { class: "foot" },
      make(
        "button",
        {
          type: "button",
          class: "link",
          onclick: () => {
            prompt.show(this.steps, this.found);
            document.getElementById("prompt-title").scrollIntoView({ block: "nearest" });
          },
        },
        "See how the prompt evolved",
      ),
    );
  }
}

function reasons(attribution, item) {
  const mine = attribution.items.find((one) => one.item_id === item.item_id);
  const rows = attribution.effects.map((effect) => {
    const move = effect.moves.find((one) => one.item_id === item.item_id);
    const places = move ? move.moved : 0;
    const label = places > 0 ? `▲ ${places}` : places < 0 ? `▼ ${-places}` : "–";
    const spoken = places ? `${Math.abs(places)} ${Math.abs(places) === 1 ? "place" : "places"} ${places > 0 ? "up" : "down"}` : "no change";
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, effect.change),
      make("td", {}, make("span", { "aria-hidden": "true" }, label), make("span", { class: "hidden" }, spoken)),
    );
  });
  const heading = mine?.reasons.length ? mine.reasons : ["No single part of the prompt put it here: without any of them it stays in place."];
  return [
    ...heading.map((text) => make("p", {}, text)),
    rows.length ? make("table", {}, make("caption", {}, "What each part of the prompt did to its place"), make("tbody", {}, rows)) : "",
  ];
}

const dots = () => make("span", { class: "dots", "aria-hidden": "true" }, make("i"), make("i"), make("i"));

const span = ([first, last]) => {
  if (first === null) return `until ${last}`;
  if (last === null) return `since ${first}`;
  return first === last ? String(first) : `${first}–${last}`;
};
