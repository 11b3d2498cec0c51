// Inside: a picture's features at a layer as colours, and under the pointer what is like one place.

import { $, latest, picture } from "./element.js";

const inside = $("inside"), slider = $("layer"), seen = $("seen"), map = $("map"), shade = $("shade");
const panes = [...inside.querySelectorAll(".pane")];
let tile = null, place = null;   // place: [x, y], 0–1

const address = () => `/api/inside/${tile.id}`;

async function put(image, source) {
  const old = image.src;
  image.src = URL.createObjectURL(await picture(source));
  await image.decode();
  if (old.startsWith("blob:")) URL.revokeObjectURL(old);
}

const draw = latest(async () => {
  const mine = tile;
  if (!mine) return;
  try {
    if (inside.dataset.id !== mine.id) {
      await put(seen, address());
      if (tile !== mine) return;
      inside.style.setProperty("--ratio", seen.naturalWidth / seen.naturalHeight);
    }
    await put(map, `${address()}?layer=${slider.value}`);
    inside.dataset.id = mine.id;
    inside.ariaBusy = "false";
    light();
  } catch (error) {
    if (tile !== mine) return;
    panes.forEach((pane) => (pane.hidden = true));
    inside.ariaBusy = "false";
    [$("unseen").hidden, $("unseen").textContent] = [false, error.message];
  }
});

const light = latest(async () => {
  if (!tile || !place) return;
  const at = place.map((share) => share.toFixed(3)).join();
  await put(shade, `${address()}?layer=${slider.value}&at=${at}`).catch(() => {});
  shade.hidden = !place;
});

export function showInside(shown) {
  if (tile?.id === shown.id) return;
  tile = shown;
  point(null);
  $("unseen").hidden = true;
  inside.ariaBusy = "true";
  panes.forEach((pane) => (pane.hidden = false));
  draw();
}

export function hideInside() {
  tile = null;
}

function point(to) {
  place = to;
  shade.hidden = !to || shade.hidden;
  inside.querySelectorAll(".mark").forEach((mark) => {
    mark.hidden = !to;
    if (to) { mark.style.left = `${to[0] * 100}%`; mark.style.top = `${to[1] * 100}%`; }
  });
  if (to) light();
}

const bounded = (share) => Math.min(0.999, Math.max(0, share));

panes.forEach((pane) => {
  pane.addEventListener("pointermove", (event) => {
    const box = pane.getBoundingClientRect();
    point([bounded((event.clientX - box.left) / box.width), bounded((event.clientY - box.top) / box.height)]);
  });
  pane.addEventListener("pointerleave", () => point(null));
  pane.addEventListener("blur", () => point(null));
  pane.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!by) return;
    event.preventDefault();
    const size = [map.naturalWidth, map.naturalHeight];  // a pixel a patch
    point((place ?? [0.5, 0.5]).map((share, axis) => bounded((Math.floor(share * size[axis]) + by[axis] + 0.5) / size[axis])));
  });
});
slider.addEventListener("input", () => {
  $("layers").querySelector("output").textContent = slider.value;
  if (tile) draw();
});
