// Elements, made with text only: nothing that came from a user or a model is ever read as markup.

/** Make an element: attributes, then children, which are elements or text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat()) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** Make an icon of one path on a 24 by 24 grid. */
export function icon(path) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

/** Make a bar that shows a share between 0 and 1, with the number behind it. */
export function bar(share, label, text = percent(share)) {
  const filled = make("i");
  filled.style.width = `${100 * share}%`;
  return make(
    "span",
    { class: "odds", title: label },
    make(
      "span",
      { class: "bar", role: "meter", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(100 * share) },
      filled,
    ),
    make("span", {}, text),
  );
}

export const byId = (id) => document.getElementById(id);

export const percent = (share) => `${Math.round(100 * share)} %`;
