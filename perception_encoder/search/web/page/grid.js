// The grid: tiles that fill it as it scrolls, what filters let through, and keys that move about.

import { $, answer, element, say } from "./element.js";
import { asked, showTerms } from "./query.js";
import { placeholder, tileButton } from "./tile.js";
import { look } from "./viewer.js";

const grid = $("grid"), PAGE = 60;
let tiles = [], more = true, loading = false, turn = 0, reading = false, refreshing = false;

export const isEmpty = () => !tiles.length;

function filters() {
  const kind = document.querySelector("[name=kind]:checked").value;
  const given = { kind, since: $("since").value, until: $("until").value, path: $("path").value };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value.trim()));
}

// Ask anew; what was there stays until the answer comes. `again`: the same, because the index has changed.
export function begin(again = false) {
  turn += 1;
  refreshing = again;
  [tiles, more, loading] = [[], true, false];
  $("empty").hidden = true;
  grid.setAttribute("aria-busy", "true");
  if (!grid.querySelector("button")) grid.replaceChildren(...Array.from({ length: 18 }, placeholder));
  fill();
}

export async function fill() {
  if (loading || !more) return;
  loading = true;
  const mine = turn, first = !tiles.length;
  const waiting = first ? [] : Array.from({ length: 6 }, placeholder);
  grid.append(...waiting);
  try {
    const query = new URLSearchParams({ ...filters(), offset: tiles.length, count: PAGE });
    asked().forEach((term) => query.append("q", term));
    const found = await answer(`/api/hits?${query}`);
    if (mine !== turn) return;
    show(found, first);
  } catch (error) {
    if (mine !== turn) return;
    say(error);
    more = false;
    if (first) { grid.replaceChildren(); $("count").replaceChildren(); }
  } finally {
    waiting.forEach((one) => one.remove());
    if (mine === turn) {
      loading = false;
      grid.setAttribute("aria-busy", "false");
      showEmpty();
    }
  }
  if (mine === turn && more && $("end").getBoundingClientRect().top < innerHeight + 600) fill();
}

function show(found, first) {
  say(null);
  more = found.more;
  const list = tiles, focused = refreshing && document.activeElement?.dataset.id;
  const buttons = found.tiles.map((tile) => tileButton(tile, () => look(tile, list)));
  if (first) {
    grid.replaceChildren(...buttons);
    if (focused) focusTile(focused); else if (!refreshing) scrollTo(0, 0);
    showTerms(found.terms ?? []);
    const kinds = element("span", { textContent: " pictures and moments" });
    $("count").replaceChildren(...(found.total === undefined ? [] : [found.total.toLocaleString(), kinds]));
  } else grid.append(...buttons);
  tiles.push(...found.tiles);
}

// `running`: whether files are being read just now.
export function showEmpty(running = reading) {
  reading = running;
  const filtered = Object.keys(filters()).length > 0;
  const [title, text] =
    !$("error").hidden ? ["Nothing to show", "The line above says why."]
    : filtered ? ["Nothing here", "Nothing passes these filters. Take one away."]
    : running ? ["Reading your pictures", "They appear as they are read."]
    : ["No pictures yet", "Put pictures or videos into the folder, then press Renew."];
  $("empty").hidden = tiles.length > 0 || grid.getAttribute("aria-busy") === "true";
  $("empty").querySelector("h2").textContent = title;
  $("empty").querySelector("p").textContent = text;
}

export function focusTile(id) {
  grid.querySelector(`[data-id="${id}"]`)?.focus();
}

// Moves the focus as an arrow key says, up and down to the nearest tile of the next line.
export function move(key) {
  const all = [...grid.querySelectorAll("button.tile")], at = all.indexOf(document.activeElement);
  if (at < 0) return all[0]?.focus();
  if (key === "ArrowRight") return all[at + 1]?.focus();
  if (key === "ArrowLeft") return all[at - 1]?.focus();
  const here = all[at].getBoundingClientRect(), middle = here.left + here.width / 2;
  const lines = key === "ArrowDown" ? all.slice(at + 1) : all.slice(0, at).reverse();
  const line = lines.find((one) => Math.abs(one.getBoundingClientRect().top - here.top) > 20)?.getBoundingClientRect().top;
  const near = lines.filter((one) => one.getBoundingClientRect().top === line);
  const off = (one) => Math.abs(one.getBoundingClientRect().left + one.offsetWidth / 2 - middle);
  near.sort((a, b) => off(a) - off(b))[0]?.focus();
}

let filtering;
$("filters").addEventListener("input", () => { clearTimeout(filtering); filtering = setTimeout(() => begin(), 250); });
new IntersectionObserver((seen) => seen[0].isIntersecting && fill(), { rootMargin: "600px" }).observe($("end"));
