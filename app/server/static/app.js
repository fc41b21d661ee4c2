// The page: who asks, the conversation, and the buttons of the header.

import { Answer } from "./answer.js";
import * as api from "./api.js";
import { byId, make } from "./dom.js";
import * as prompt from "./prompt.js";
import { memory } from "./memory.js";

const IDEAS = {
  movies: ["Something funny for tonight", "Science fiction, but less violent", "A thriller from the 90s", "Something like Fargo"],
  neutral: ["Surprise me", "Something popular", "Something unusual"],
};
const TOLD = new Set(["understanding", "candidates", "step", "ranking", "message"]);
const THEMES = { auto: ["Auto", "as the system"], light: ["Light", "light"], dark: ["Dark", "dark"] };

let conversation = null;
let users = [];
let running = null;

function report(text) {
  byId("status").textContent = text;
}

// --- who asks

function chosen() {
  return document.querySelector('input[name="person"]:checked')?.value ?? "";
}

function person(user) {
  return make(
    "label",
    { class: "person" },
    make("input", { type: "radio", name: "person", value: user.user_id }),
    make(
      "span",
      { class: "card" },
      make("span", { class: "name" }, user.name),
      make("span", { class: "quiet" }, user.recent.slice(0, 3).join(", ")),
    ),
  );
}

async function welcome() {
  const others = byId("others");
  try {
    const start = await api.start();
    users = start.users;
    others.replaceChildren(...users.map(person));
    const ideas = IDEAS[start.domain] ?? IDEAS.neutral;
    byId("ideas").replaceChildren(
      ...ideas.map((text) => make("button", { type: "button", class: "idea", onclick: () => ask(text) }, text)),
    );
    if (!start.chat) {
      byId("composer").hidden = true;
      report("This server has no catalogue to chat about; its API ranks what it is sent.");
    }
  } catch (error) {
    others.replaceChildren(
      make(
        "div",
        { class: "error", role: "alert" },
        make("p", {}, error.message),
        make("button", { type: "button", class: "plain", onclick: welcome }, "Try again"),
      ),
    );
  } finally {
    others.removeAttribute("aria-busy");
  }
}

function settle() {
  const user = users.find((one) => one.user_id === chosen());
  byId("start").hidden = true;
  byId("who").hidden = false;
  byId("who-name").textContent = user ? user.name : "you";
}

function reopen() {
  running?.abort();
  conversation = null;
  byId("log").replaceChildren();
  byId("start").hidden = false;
  byId("who").hidden = true;
  prompt.clear();
  report("");
  document.querySelector('input[name="person"]:checked')?.focus();
}

// --- the conversation

async function ask(text) {
  if (running || !text.trim()) return;
  const user = chosen();
  const userId = user || memory.visitor();
  const taste = user ? "" : byId("taste").value.trim();
  memory.used(userId);
  settle();
  report("");
  const asked = make("li", { class: "mine" }, make("p", {}, text));
  const answer = new Answer(report);
  byId("log").append(asked, answer.element);
  answer.element.scrollIntoView({ block: "end" });
  running = new AbortController();
  busy(true);
  try {
    await follow(answer, { user_id: userId, message: text, taste: taste || null, conversation }, running.signal);
  } catch (error) {
    if (error.name === "AbortError") answer.stopped();
    else
      answer.failed(error.message, () => {
        answer.element.previousElementSibling?.remove();
        answer.element.remove();
        ask(text);
      });
  } finally {
    running = null;
    busy(false);
    asked.scrollIntoView({ block: "start" });
  }
}

async function follow(answer, body, signal) {
  for await (const { event, data } of api.chat(body, signal)) {
    if (event === "conversation") conversation = data.conversation;
    else if (event === "error") throw new api.Refusal(data.detail, 0);
    else if (TOLD.has(event)) answer[event](data);
  }
}

function busy(is) {
  const send = byId("send");
  send.textContent = is ? "Stop" : "Ask";
  byId("log").setAttribute("aria-busy", String(is));
  if (!is && matchMedia("(pointer: fine)").matches) byId("message").focus({ preventScroll: true });
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) {
    running.abort();
    return;
  }
  const field = byId("message");
  const text = field.value;
  field.value = "";
  grow(field);
  ask(text);
});

byId("start").addEventListener("submit", (event) => event.preventDefault());

byId("start").addEventListener("change", () => {
  byId("describe").hidden = chosen() !== "";
});

byId("taste").addEventListener("input", () => memory.describe(byId("taste").value));

byId("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("composer").requestSubmit();
  }
});

byId("message").addEventListener("input", (event) => grow(event.target));

function grow(field) {
  field.rows = Math.min(6, Math.max(1, field.value.split("\n").length));
}

byId("change").addEventListener("click", reopen);

// --- forgetting

byId("forget").addEventListener("click", () => byId("sure").showModal());

byId("sure").addEventListener("close", async () => {
  if (byId("sure").returnValue !== "yes") return;
  byId("sure").returnValue = "";
  try {
    let [answers, conversations] = [0, 0];
    for (const userId of memory.usedIds()) {
      const gone = await api.forget(userId);
      answers += gone.answers;
      conversations += gone.conversations;
    }
    memory.clear();
    byId("taste").value = "";
    reopen();
    report(`Forgotten: ${counted(answers, "answer")} and ${counted(conversations, "conversation")} deleted.`);
  } catch (error) {
    report(error.message);
  }
});

const counted = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

// --- the theme

function paint(theme) {
  const [label, spoken] = THEMES[theme];
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").textContent = label;
  byId("theme").setAttribute("aria-label", `Colour theme: ${spoken}`);
}

byId("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(memory.theme()) + 1) % names.length];
  memory.paint(next);
  paint(next);
});

paint(memory.theme());
byId("taste").value = memory.taste();
welcome();
