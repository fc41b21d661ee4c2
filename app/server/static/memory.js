// What this browser keeps: who the visitor is, whom she tried the page as, her description and theme.

const read = (name) => {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
};

const write = (name, value) => {
  try {
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, value);
  } catch {
    // No storage: this visit only.
  }
};

let id = read("visitor");

export const memory = {
  /** The visitor's own id: random, made at the first message. */
  visitor() {
    if (!id) {
      const bytes = crypto.getRandomValues(new Uint8Array(16));
      id = `visitor-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
      write("visitor", id);
    }
    return id;
  },

  /** Ids under which the server may keep something. */
  usedIds() {
    return [...new Set([...JSON.parse(read("used") ?? "[]"), ...(id ? [id] : [])])];
  },

  used(userId) {
    write("used", JSON.stringify([...new Set([...this.usedIds(), userId])]));
  },

  taste: () => read("taste") ?? "",
  describe: (text) => write("taste", text || null),
  theme: () => (["light", "dark"].includes(read("theme")) ? read("theme") : "auto"),
  paint: (theme) => write("theme", theme === "auto" ? null : theme),

  clear() {
    id = null;
    ["visitor", "used", "taste"].forEach((name) => write(name, null));
  },
};
