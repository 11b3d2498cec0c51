// The viewer: one picture or moment, what is around it, its inside, and the way to what is like it.

import { $, answer, clock, element } from "./element.js";
import { hideInside, showInside } from "./inside.js";
import { addPicture, lookLike } from "./query.js";
import { film, match, tileButton } from "./tile.js";

const viewer = $("viewer"), tabs = [$("tab-picture"), $("tab-inside")];
let shown = null, among = [], closed = () => {};

export const onClose = (call) => { closed = call; };

// Opens a tile, or goes on to it; `list` is what the arrow keys step through.
export async function look(tile, list = among) {
  [shown, among] = [tile, list];
  describe(tile);
  if (!viewer.open) { viewer.showModal(); select(0); } else select(tabs.findIndex((tab) => tab.ariaSelected === "true"));
  try {
    const found = (await answer(`/api/around/${tile.id}`)).tiles;
    if (shown !== tile) return;
    $("around").replaceChildren(...found.map((other) => tileButton(other, (one) => look(one))));
    const current = $("around").querySelector(`[data-id="${tile.id}"]`);
    current?.setAttribute("aria-current", "true");
    current?.scrollIntoView({ inline: "center", block: "nearest" });
  } catch { $("around").replaceChildren(); }
}

function describe(tile) {
  const parts = [...(tile.path === tile.name ? [] : [tile.path]), tile.date.replace("T", " "), `${tile.width} × ${tile.height}`];
  if (tile.kind === "video") parts.push(`${clock(tile.start)}–${clock(tile.stop)} of ${clock(tile.length)}`);
  if (match(tile)) parts.push(tile.probability == null ? `similarity ${tile.score.toFixed(3)}` : `${match(tile)} likely`);
  $("about").querySelector("h2").textContent = tile.name;
  $("about").querySelector("p").textContent = parts.join("  ·  ");
  $("open").href = `/file/${tile.id}`;
}

function select(number, focus = false) {
  tabs.forEach((tab, at) => {
    tab.ariaSelected = String(at === number);
    tab.tabIndex = at === number ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = at !== number;
  });
  $("layers").hidden = number === 0;
  if (focus) tabs[number].focus();
  if (number === 0) { hideInside(); showMedia(shown); } else { $("stage").replaceChildren(); showInside(shown); }
}

function showMedia(tile) {
  const media = tile.kind === "video"
    ? film(tile, { controls: true, autoplay: true, muted: true })
    : element("img", { src: `/file/${tile.id}`, alt: tile.name });
  media.addEventListener("error", () => {
    $("stage").replaceChildren(element("p", { textContent: "This file cannot be shown here." }));
  });
  $("stage").replaceChildren(media);
}

export function stepped(event) {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!viewer.open) return false;
  if (!by || event.target.closest("[role=tablist], input, video, .pane")) return true;
  const next = among[among.findIndex((tile) => tile.id === shown.id) + by];
  if (next) look(next);
  return true;
}

tabs.forEach((tab, at) => tab.addEventListener("click", () => select(at)));
document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
  const to = { ArrowRight: 1, ArrowLeft: 0, Home: 0, End: 1 }[event.key];
  if (to !== undefined) { event.preventDefault(); select(to, true); }
});
$("close").addEventListener("click", () => viewer.close());
viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
viewer.addEventListener("close", () => {
  $("stage").replaceChildren();
  hideInside();
  closed(shown.id);
});

const leave = (ask) => () => {
  viewer.close();
  ask(`like:${shown.id}`, shown.thumbnail, shown.name);
};
$("like").addEventListener("click", leave(lookLike));
$("add").addEventListener("click", leave((...what) => addPicture(1, ...what)));
$("away").addEventListener("click", leave((...what) => addPicture(-1, ...what)));
