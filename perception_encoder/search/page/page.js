// The page's behaviour: ask, fill the grid as it scrolls, play a moment under the pointer, look at one, move by keys.

const $ = (id) => document.getElementById(id);
const grid = $("grid"), words = $("words"), viewer = $("viewer"), PAGE = 60;

let asked = "";        // what is looked for, as the server is asked: "", "text:…", "like:ID", "picture:ID"
let tiles = [];        // of the grid
let more = true, loading = false, turn = 0, shown = null;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function clock(seconds) {
  const whole = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

async function answer(address, options) {
  const response = await fetch(address, options);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ?? `the server answered ${response.status}`);
  return body;
}

function say(error) {
  $("error").textContent = error ? `${error.message ?? error}` : "";
  $("error").hidden = !error;
}

// ---- the grid

function filters() {
  const kind = document.querySelector("[name=kind]:checked").value;
  const given = { kind, since: $("since").value, until: $("until").value, path: $("path").value };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value.trim()));
}

async function fill() {
  if (loading || !more) return;
  loading = true;
  const mine = turn;
  const waiting = Array.from({ length: tiles.length ? 6 : 18 }, () => placeholder());
  grid.append(...waiting);
  try {
    const query = new URLSearchParams({ ...filters(), offset: tiles.length, count: PAGE, ...(asked && { q: asked }) });
    const found = await answer(`/api/hits?${query}`);
    if (mine !== turn) return;
    say(null);
    more = found.more;
    grid.append(...found.tiles.map((tile) => button(tile)));
    tiles = tiles.concat(found.tiles);
    const kinds = element("span", { textContent: " pictures and moments" });
    $("count").replaceChildren(...(found.total === undefined ? [] : [found.total.toLocaleString(), kinds]));
    showEmpty();
  } catch (error) {
    if (mine === turn) { say(error); more = false; }
  } finally {
    waiting.forEach((one) => one.remove());
    if (mine === turn) loading = false;
  }
  if (mine === turn && more && $("end").getBoundingClientRect().top < innerHeight + 600) fill();
}

function begin() {
  turn += 1;
  [tiles, more, loading] = [[], true, false];
  grid.replaceChildren();
  $("empty").hidden = true;
  scrollTo(0, 0);
  fill();
}

function showEmpty() {
  const empty = $("empty"), filtered = Object.keys(filters()).length > 0;
  empty.hidden = tiles.length > 0 || loading && !watch.running;
  const reading = watch.running && !filtered && !asked;
  empty.querySelector("h2").textContent = filtered || asked ? "Nothing here" : reading ? "Reading your pictures" : "No pictures yet";
  empty.querySelector("p").textContent = filtered
    ? "Nothing passes these filters. Take one away."
    : reading ? "They appear as they are read." : "Put pictures or videos into the folder, then press Renew.";
}

function placeholder() {
  const one = element("li", { className: "tile waiting" });
  one.style.setProperty("--ratio", 1.2);
  return one;
}

function button(tile, open = () => look(tile)) {
  const ratio = Math.min(2.2, Math.max(0.6, tile.width / tile.height || 1));
  const image = element("img", { src: tile.thumbnail, alt: tile.name, loading: "lazy", decoding: "async" });
  const label = tile.score === undefined ? tile.name : `${tile.name} · ${tile.score.toFixed(2)}`;
  const one = element("button", { className: "tile", type: "button", title: tile.path, onclick: open }, image);
  one.append(element("span", { className: "label", textContent: label }));
  one.style.setProperty("--ratio", ratio.toFixed(3));
  one.dataset.id = tile.id;
  if (tile.kind === "video") {
    one.append(element("span", { className: "time", textContent: clock(tile.start) }));
    one.addEventListener("pointerenter", () => play(one, tile));
    one.addEventListener("pointerleave", () => one.querySelector("video")?.remove());
  }
  return one;
}

function film(tile, properties) {
  const video = element("video", { src: `/file/${tile.id}#t=${tile.start}`, playsInline: true, ...properties });
  video.addEventListener("timeupdate", () => {
    if (tile.stop - tile.start > 0.5 && video.currentTime >= tile.stop) video.currentTime = tile.start;
  });
  return video;
}

function play(one, tile) {
  if (one.querySelector("video")) return;
  const video = film(tile, { muted: true, autoplay: true, loop: true, preload: "metadata" });
  video.addEventListener("error", () => video.remove());
  one.append(video);
}

// ---- asking

let typing;
words.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(askWords, 250);
});
$("ask").addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(typing); askWords(); });

function askWords() {
  const text = words.value.trim();
  ask(text ? `text:${text}` : "");
}

function ask(query, picture = null) {
  if (query === asked && tiles.length) return;
  asked = query;
  $("picture").hidden = picture === null;
  if (picture) { $("picture").src = picture; words.value = ""; }
  history.replaceState(null, "", query ? `?q=${encodeURIComponent(query)}` : location.pathname);
  begin();
}

async function askPicture(file) {
  try {
    const { q } = await answer("/api/picture", { method: "POST", body: file });
    ask(q, URL.createObjectURL(file));
  } catch (error) { say(error); }
}

$("file").addEventListener("change", (event) => event.target.files[0] && askPicture(event.target.files[0]));
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files[0]) askPicture(event.dataTransfer.files[0]);
});
let filtering;
$("filters").addEventListener("input", () => { clearTimeout(filtering); filtering = setTimeout(begin, 250); });

// ---- looking at one

async function look(tile) {
  shown = tile;
  const missing = () => $("stage").replaceChildren(element("p", { textContent: "This file cannot be shown here." }));
  const media = tile.kind === "video"
    ? film(tile, { controls: true, autoplay: true, muted: true })
    : element("img", { src: `/file/${tile.id}`, alt: tile.name });
  media.addEventListener("error", missing);
  $("stage").replaceChildren(media);
  const parts = [...(tile.path === tile.name ? [] : [tile.path]), tile.date.replace("T", " "), `${tile.width} × ${tile.height}`];
  if (tile.kind === "video") parts.push(`${clock(tile.start)}–${clock(tile.stop)} of ${clock(tile.length)}`);
  if (tile.score !== undefined) parts.push(`similarity ${tile.score.toFixed(3)}`);
  $("about").querySelector("h2").textContent = tile.name;
  $("about").querySelector("p").textContent = parts.join("  ·  ");
  $("open").href = `/file/${tile.id}`;
  if (!viewer.open) viewer.showModal();
  try {
    const found = (await answer(`/api/around/${tile.id}`)).tiles;
    if (shown !== tile) return;
    $("around").replaceChildren(...found.map((other) => button(other, () => look(other))));
    const current = $("around").querySelector(`[data-id="${tile.id}"]`);
    current?.setAttribute("aria-current", "true");
    current?.scrollIntoView({ inline: "center", block: "nearest" });
  } catch { $("around").replaceChildren(); }
}

function step(by) {
  const next = tiles[tiles.findIndex((tile) => tile.id === shown.id) + by];
  if (next) look(next);
}

$("close").addEventListener("click", () => viewer.close());
viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
viewer.addEventListener("close", () => {
  $("stage").replaceChildren();
  grid.querySelector(`[data-id="${shown.id}"]`)?.focus();
});
$("like").addEventListener("click", () => {
  viewer.close();
  ask(`like:${shown.id}`, shown.thumbnail);
});

// ---- keys

function move(event) {
  const all = [...grid.querySelectorAll("button.tile")], at = all.indexOf(document.activeElement);
  if (at < 0) return all[0]?.focus();
  const here = all[at].getBoundingClientRect(), middle = here.left + here.width / 2;
  if (event.key === "ArrowRight") return all[at + 1]?.focus();
  if (event.key === "ArrowLeft") return all[at - 1]?.focus();
  const down = event.key === "ArrowDown", lines = down ? all.slice(at + 1) : all.slice(0, at).reverse();
  const line = lines.find((one) => Math.abs(one.getBoundingClientRect().top - here.top) > 20)?.getBoundingClientRect().top;
  const near = lines.filter((one) => one.getBoundingClientRect().top === line);
  const off = (one) => Math.abs(one.getBoundingClientRect().left + one.offsetWidth / 2 - middle);
  near.sort((a, b) => off(a) - off(b))[0]?.focus();
}

addEventListener("keydown", (event) => {
  if (viewer.open) {
    if (event.key === "ArrowRight") step(1);
    if (event.key === "ArrowLeft") step(-1);
    return;
  }
  const writes = event.target.matches("input:not([type=radio])");
  if (event.key === "/" && !writes) { event.preventDefault(); words.select(); }
  if (event.key === "Escape" && writes) words.blur();
  if (event.key.startsWith("Arrow") && (!writes || (event.target === words && event.key === "ArrowDown"))) {
    event.preventDefault();
    move(event);
  }
});

// ---- the index

async function watch() {
  try {
    const status = await answer("/api/status");
    const bar = $("progress");
    bar.hidden = !status.running;
    if (status.total) [bar.max, bar.value] = [status.total, status.done]; else bar.removeAttribute("value");
    if (status.error) say(status.error);
    const changed = watch.version !== undefined && watch.version !== status.version;
    if (changed && (!tiles.length || (scrollY < 100 && !viewer.open && !asked))) begin();
    if (changed && !status.running && status.failures) say(`${status.failures} files could not be used; pe index lists them`);
    [watch.running, watch.version] = [status.running, status.version];
    if (!tiles.length) showEmpty();
  } catch (error) { say("The server does not answer. Is it still running?"); }
  setTimeout(watch, watch.running ? 500 : 4000);
}

$("renew").addEventListener("click", async () => {
  try { await answer("/api/renew", { method: "POST" }); watch.running = true; } catch (error) { say(error); }
});

new IntersectionObserver((seen) => seen[0].isIntersecting && fill(), { rootMargin: "600px" }).observe($("end"));
const asks = new URLSearchParams(location.search).get("q") ?? "";
if (asks.startsWith("text:")) words.value = asks.slice(5);
if (asks.startsWith("like:")) { $("picture").src = `/thumbnail/${asks.slice(5)}`; $("picture").hidden = false; }
asked = asks.startsWith("picture:") ? "" : asks;
begin();
watch();
