// The viewer: one image or moment, those around it, its words and features, and searches by it.

import { parameters } from "./address.js";
import { hideAsk, showAsk } from "./ask.js";
import { $, clock, element, fetchJson } from "./element.js";
import { hideFeatures, showFeatures } from "./features.js";
import { addExample, searchLike } from "./query.js";
import { film, moment, tileButton } from "./tile.js";
import { showWords } from "./words.js";

const viewer = $("viewer"), tabs = [...viewer.querySelectorAll("[role=tab]")];
let shown = null, list = [], closed = () => {};

export const isOpen = () => viewer.open;
export const onClose = (call) => { closed = call; };

// Opens a tile, or moves to it; `among` is what the arrow keys step through. The address names the tile, and Back
// closes the viewer; `entry`: whether the history needs a new entry for it.
export async function open(tile, among = list, entry = true) {
  [shown, list] = [tile, among];
  describe(tile);
  const state = [{ viewer: tile.id }, "", `?${[parameters(), `open=${tile.id}`].filter(Boolean).join("&")}`];
  if (viewer.open) {
    history.replaceState(...state);
    select(tabs.findIndex((tab) => tab.ariaSelected === "true"));
  } else {
    viewer.showModal();
    if (entry) history.pushState(...state);
    select(0);
  }
  try {
    const { tiles } = await fetchJson(`/api/around/${tile.id}`);
    if (shown !== tile) return;
    $("around").replaceChildren(...tiles.map((other) => tileButton(other, (next) => open(next), moment)));
    const current = $("around").querySelector(`[data-id="${tile.id}"]`);
    current?.setAttribute("aria-current", "true");
    current?.scrollIntoView({ inline: "center", block: "nearest" });
  } catch { $("around").replaceChildren(); }
}

// Opens what an address or the history names.
export async function openById(id, entry) {
  const { tiles } = await fetchJson(`/api/around/${id}`), tile = tiles.find((item) => item.id === id);
  if (tile) open(tile, tiles, entry);
}

export const close = () => viewer.close();

function describe(tile) {
  const parts = [...(tile.path === tile.name ? [] : [tile.path]), tile.date.replace("T", " "), `${tile.width} × ${tile.height}`];
  if (tile.kind === "video") parts.push(`${clock(tile.start)}–${clock(tile.stop)} of ${clock(tile.length)}`);
  if (tile.camera) parts.push(tile.camera);
  if (tile.lat !== null) parts.push(`${tile.lat.toFixed(4)}, ${tile.lon.toFixed(4)}`);
  if (tile.score !== undefined) parts.push(`similarity ${tile.score.toFixed(3)}`);
  $("about").querySelector("h2").textContent = tile.name;
  $("about").querySelector("p").textContent = parts.join("  ·  ");
  $("open").href = `/file/${tile.id}`;
  tabs[0].textContent = tile.kind === "video" ? "Video" : "Image";
}

function select(number, focus = false) {
  tabs.forEach((tab, at) => {
    tab.ariaSelected = String(at === number);
    tab.tabIndex = at === number ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = at !== number;
  });
  const name = tabs[number].id;
  $("layers").hidden = name !== "tab-features";
  if (focus) tabs[number].focus();
  hideMedia();
  if (name === "tab-features") showFeatures(shown); else hideFeatures();
  if (name === "tab-ask") showAsk(shown); else hideAsk();
  if (name === "tab-image") showWords(shown, showMedia(shown, $("stage")));
  if (name === "tab-ask") showMedia(shown, $("subject"));
}

const hideMedia = () => ["stage", "subject"].forEach((id) => $(id).replaceChildren());

function showMedia(tile, panel) {
  const media = tile.kind === "video"
    ? film(tile, { controls: true, autoplay: true, muted: true })
    : element("img", { src: `/file/${tile.id}`, alt: tile.name });
  media.addEventListener("error", () => {
    const preview = tile.thumbnail.replace(/(\?|$)/, "/full$1");   // the server's, such as of a RAW photograph
    if (tile.kind === "image" && !media.src.endsWith(preview)) media.src = preview;
    else frame.replaceChildren(element("p", { textContent: "The browser cannot show this file." }));
  });
  const frame = element("div", { className: "frame" }, media);
  panel.replaceChildren(frame);
  return frame;
}

// Steps to the next tile or the one before by an arrow key; whether a key is the viewer's.
export function step(event) {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!viewer.open) return false;
  if (!by || event.target.closest("[role=tablist], input, video, .pane")) return true;
  const next = list[list.findIndex((tile) => tile.id === shown.id) + by];
  if (next) open(next);
  return true;
}

tabs.forEach((tab, at) => tab.addEventListener("click", () => select(at)));
document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
  const at = tabs.indexOf(event.target), last = tabs.length - 1;
  const to = { ArrowRight: Math.min(at + 1, last), ArrowLeft: Math.max(at - 1, 0), Home: 0, End: last }[event.key];
  if (to !== undefined) { event.preventDefault(); select(to, true); }
});
viewer.addEventListener("close", () => {
  hideMedia();
  hideFeatures();
  hideAsk();
  if (history.state?.viewer) history.back();
  closed(shown.id);
});

// A query that follows replaces the viewer in the history.
const then = (searchBy) => () => {
  viewer.close();
  searchBy(`like:${shown.id}`, { source: shown.thumbnail, name: shown.name });
};
$("like").addEventListener("click", then(searchLike));
$("add").addEventListener("click", then((what, image) => addExample(1, what, image)));
$("away").addEventListener("click", then((what, image) => addExample(-1, what, image)));
