// The grid: tiles that load as it scrolls, the text above it, and the keys that move through it.

import { parameters } from "./address.js";
import { $, element, fetchJson, showError } from "./element.js";
import { filters } from "./filters.js";
import { showTerms, terms } from "./query.js";
import { placeholder, tileButton } from "./tile.js";
import { open } from "./viewer.js";

const grid = $("grid"), PAGE = 60;
let tiles = [], more = true, loading = false, turn = 0, reading = false, refreshing = false, month = "", onlyWords = false;

export const isEmpty = () => !tiles.length;

// Searches again; the old tiles stay until the answer arrives. `refresh`: the same query, because the index has changed.
export function search(refresh = false) {
  turn += 1;
  refreshing = refresh;
  [tiles, more, loading] = [[], true, false];
  $("empty").hidden = true;
  grid.ariaBusy = "true";
  if (!grid.querySelector("button")) grid.replaceChildren(...Array.from({ length: 18 }, placeholder));
  fill();
}

async function fill() {
  if (loading || !more) return;
  loading = true;
  const mine = turn, first = !tiles.length;
  const waiting = first ? [] : Array.from({ length: 6 }, placeholder);
  grid.append(...waiting);
  try {
    const answer = await fetchJson(`/api/hits?${parameters()}&offset=${tiles.length}&count=${PAGE}`);
    if (mine !== turn) return;
    show(answer, first);
  } catch (error) {
    if (mine !== turn) return;
    showError(error);
    more = false;
    if (first) {
      grid.replaceChildren();
      showSummary({});
    }
  } finally {
    waiting.forEach((tile) => tile.remove());
    if (mine === turn) {
      loading = false;
      grid.ariaBusy = "false";
      showEmpty();
    }
  }
  if (mine === turn && more && $("end").getBoundingClientRect().top < innerHeight + 600) fill();
}

function show(answer, first) {
  showError(null);
  [more, onlyWords] = [answer.more, answer.only_words];
  const list = tiles, focused = refreshing && document.activeElement?.dataset.id;
  const buttons = answer.tiles.map((tile) => tileButton(tile, () => open(tile, list)));
  const shown = terms().length ? buttons : withMonths(answer.tiles, buttons, first);
  if (first) {
    grid.replaceChildren(...shown);
    if (focused) focusTile(focused); else if (!refreshing) scrollTo(0, 0);
    showTerms(answer.terms ?? []);
    showSummary(answer);
  } else grid.append(...shown);
  tiles.push(...answer.tiles);
}

// A heading before the first tile of each month.
function withMonths(list, buttons, first) {
  if (first) month = "";
  return buttons.flatMap((button, at) => {
    const before = month;
    month = list[at].date.slice(0, 7);
    if (month === before) return [button];
    const name = new Date(`${month}-15`).toLocaleDateString(undefined, { month: "long", year: "numeric" });
    return [element("h3", { className: "month", textContent: name }), button];
  });
}

// How many results there are, if that is known, similar ones included.
function showSummary({ total, tiles: shown = [] }) {
  const kind = Object.fromEntries(filters()).kind;
  const one = { image: "image", video: "moment" }[kind], many = one ? `${one}s` : "images and moments";
  const order = `${shown.some((tile) => tile.similar) ? "similar as one, " : ""}${terms().length ? "best match" : "newest"} first`;
  const text = total == null ? "" : `${total.toLocaleString()} ${total === 1 ? one ?? "image or moment" : many}`;
  $("count").replaceChildren(text, ...(total > 1 ? [element("span", { textContent: `, ${order}` })] : []));
}

// `running`: whether files are being read now.
export function showEmpty(running = reading) {
  reading = running;
  const minimum = terms().length && $("min_score").value.trim();
  const [title, text] =
    !$("error").hidden ? ["No results", "See the message above."]
    : terms().length && onlyWords ? ["No match", "No image has all of these words, in it or in its name or title."]
    : minimum ? ["No match", `Nothing scores ${minimum} or higher. Lower the minimum score to see more.`]
    : filters().length ? ["No results", "Nothing matches these filters. Remove one."]
    : running ? ["Reading your images", "They appear here as they are read."]
    : ["No images yet", "Add images or videos to the directory, then press Rescan."];
  $("empty").hidden = tiles.length > 0 || grid.ariaBusy === "true";
  $("empty").querySelector("h2").textContent = title;
  $("empty").querySelector("p").textContent = text;
}

export function focusTile(id) {
  grid.querySelector(`[data-id="${id}"]`)?.focus();
}

// Moves the focus by an arrow key, up and down to the nearest tile of the next line.
export function move(key) {
  const all = [...grid.querySelectorAll("button.tile")], at = all.indexOf(document.activeElement);
  if (at < 0) return all[0]?.focus();
  if (key === "ArrowRight") return all[at + 1]?.focus();
  if (key === "ArrowLeft") return all[at - 1]?.focus();
  const here = all[at].getBoundingClientRect(), middle = here.left + here.width / 2;
  const others = key === "ArrowDown" ? all.slice(at + 1) : all.slice(0, at).reverse();
  const line = others.find((tile) => Math.abs(tile.getBoundingClientRect().top - here.top) > 20)?.getBoundingClientRect().top;
  const near = others.filter((tile) => tile.getBoundingClientRect().top === line);
  const distance = (tile) => Math.abs(tile.getBoundingClientRect().left + tile.offsetWidth / 2 - middle);
  near.sort((a, b) => distance(a) - distance(b))[0]?.focus();
}

new IntersectionObserver((entries) => entries[0].isIntersecting && fill(), { rootMargin: "600px" }).observe($("end"));
