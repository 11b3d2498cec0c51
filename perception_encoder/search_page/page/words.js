// The words in an image: its lines to select and copy, and boxes around them on the image.

import { parameters } from "./address.js";
import { clock, element, fetchJson } from "./element.js";

// Shows the words of a tile beside its image or player, which is in `frame`.
export async function showWords(tile, frame) {
  const { lines } = await fetchJson(`/api/words/${tile.id}?${parameters()}`).catch(() => ({ lines: [] }));
  if (!lines.length || !frame.isConnected) return;
  const notice = element("span", { role: "status" });
  let clearing;
  const copyButton = (text, ariaLabel, label = "Copy") => element("button", { type: "button", textContent: label, ariaLabel, onclick: async () => {
    notice.textContent = await copy(text);
    clearTimeout(clearing);
    clearing = setTimeout(() => { notice.textContent = ""; }, 2000);
  } });
  const items = lines.map(({ text, found }) => element("li", { className: found ? "found" : "" },
    element("span", { dir: "auto", textContent: text }), copyButton(text, `Copy ${text}`)));
  const title = tile.kind === "video" ? `Words at ${clock(tile.time)}` : "Words";
  const head = element("div", {}, element("h3", { textContent: title }), notice,
    copyButton(lines.map(({ text }) => text).join("\n"), "Copy all lines", "Copy all"));
  const panel = element("section", { id: "lines", ariaLabel: title }, head, element("ul", {}, ...items));
  frame.after(panel);
  if (frame.querySelector("img")) frame.append(drawBoxes(lines, items));
  panel.scrollTop = (items.find((item) => item.className) ?? head).offsetTop - head.offsetHeight;
}

// A click on a box is one on its line's button; pointing at either marks both.
function drawBoxes(lines, items) {
  const draw = (name, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach((pair) => node.setAttribute(...pair));
    return node;
  };
  const boxes = draw("svg", { class: "boxes", viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": true });
  boxes.append(...lines.map(({ box, found }, at) => {
    const polygon = draw("polygon", { points: box.join(" "), class: found ? "found" : "" }), item = items[at];
    const mark = (marked) => [polygon, item].forEach((node) => node.classList.toggle("pointed", marked));
    for (const node of [polygon, item]) {
      node.addEventListener("pointerenter", () => mark(true));
      node.addEventListener("pointerleave", () => mark(false));
    }
    polygon.addEventListener("click", () => item.querySelector("button").click());
    return polygon;
  }));
  return boxes;
}

// Copies a text, and returns what to say. Without https, browsers have the second way only.
async function copy(text) {
  const write = (event) => { event.preventDefault(); event.clipboardData.setData("text/plain", text); };
  try {
    if (navigator.clipboard) { await navigator.clipboard.writeText(text); return "Copied"; }
    addEventListener("copy", write, { once: true });
    return document.execCommand("copy") ? "Copied" : "Not copied";
  } catch { return "Not copied"; }
}
