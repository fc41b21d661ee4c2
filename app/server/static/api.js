// The server's API: JSON in, JSON or server-sent events out, errors as one line.

export class Refusal extends Error {
  constructor(detail, status) {
    super(detail);
    this.status = status;
  }
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The server cannot be reached. Is it still running?", 0);
  }
  if (response.ok) return response;
  let detail = `The server answered ${response.status}.`;
  try {
    detail = (await response.json()).detail || detail;
  } catch {
    // Not JSON: a proxy in between.
  }
  if (response.status === 503) detail = "Many people are asking right now. Try again in a moment.";
  throw new Refusal(detail, response.status);
}

const post = (path, body, signal) =>
  request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });

export const start = async () => (await request("/api/users")).json();

export const vote = (answerId, itemId, value) =>
  post("/api/feedback", { answer_id: answerId, item_id: itemId, vote: value });

export const explain = async (answerId) => (await post("/api/explain", { answer_id: answerId })).json();

export const forget = async (userId) =>
  (await request(`/api/users/${encodeURIComponent(userId)}`, { method: "DELETE" })).json();

/** Say something; yields {event, data} as they come. */
export async function* chat(body, signal) {
  const response = await post("/api/chat", body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(
        block.split("\n").map((line) => {
          const colon = line.indexOf(":");
          return [line.slice(0, colon), line.slice(colon + 1).trimStart()];
        }),
      );
      if (fields.event) yield { event: fields.event, data: JSON.parse(fields.data || "{}") };
    }
  }
}
