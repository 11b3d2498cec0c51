// Features: those of an image at a layer as colours, and under the pointer the patches that are similar to one; of a
// second model, if the server has one, those of its last layer.

import { $, fetchBlob, latest } from "./element.js";

const features = $("features"), slider = $("layer"), input = $("input"), map = $("map"), shade = $("shade");
const baseline = $("baseline"), baselineShade = $("baseline-shade"), last = "layer=-1&baseline=1";
const panes = [...features.querySelectorAll(".pane")];
let tile = null, position = null;   // position: [x, y], 0–1

const address = () => `/api/inside/${tile.id}`;

async function put(image, source) {
  const old = image.src;
  image.src = URL.createObjectURL(await fetchBlob(source));
  await image.decode();
  if (old.startsWith("blob:")) URL.revokeObjectURL(old);
}

const draw = latest(async () => {
  const mine = tile;
  if (!mine) return;
  try {
    if (features.dataset.id !== mine.id) {
      await put(input, address());
      if (tile !== mine) return;
      features.style.setProperty("--ratio", input.naturalWidth / input.naturalHeight);
      if (baseline) await put(baseline, `${address()}?${last}`);
    }
    await put(map, `${address()}?layer=${slider.value}`);
    features.dataset.id = mine.id;
    features.ariaBusy = "false";
    light();
  } catch (error) {
    if (tile !== mine) return;
    panes.forEach((pane) => (pane.hidden = true));
    features.ariaBusy = "false";
    [$("problem").hidden, $("problem").textContent] = [false, error.message];
  }
});

const light = latest(async () => {
  if (!tile || !position) return;
  const at = position.map((share) => share.toFixed(3)).join();
  await put(shade, `${address()}?layer=${slider.value}&at=${at}`).catch(() => {});
  shade.hidden = !position;
  if (!baseline) return;
  await put(baselineShade, `${address()}?${last}&at=${at}`).catch(() => {});
  baselineShade.hidden = !position;
});

export function showFeatures(given) {
  if (tile?.id === given.id) return;
  tile = given;
  pointAt(null);
  $("problem").hidden = true;
  features.ariaBusy = "true";
  panes.forEach((pane) => (pane.hidden = false));
  draw();
}

export function hideFeatures() {
  tile = null;
}

function pointAt(to) {
  position = to;
  shade.hidden = !to || shade.hidden;
  if (baseline) baselineShade.hidden = !to || baselineShade.hidden;
  features.querySelectorAll(".mark").forEach((mark) => {
    mark.hidden = !to;
    if (to) { mark.style.left = `${to[0] * 100}%`; mark.style.top = `${to[1] * 100}%`; }
  });
  if (to) light();
}

const bounded = (share) => Math.min(0.999, Math.max(0, share));

panes.forEach((pane) => {
  pane.addEventListener("pointermove", (event) => {
    const box = pane.getBoundingClientRect();
    pointAt([bounded((event.clientX - box.left) / box.width), bounded((event.clientY - box.top) / box.height)]);
  });
  pane.addEventListener("pointerleave", () => pointAt(null));
  pane.addEventListener("blur", () => pointAt(null));
  pane.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!by) return;
    event.preventDefault();
    const size = [map.naturalWidth, map.naturalHeight];  // a pixel a patch
    pointAt((position ?? [0.5, 0.5]).map((share, axis) => bounded((Math.floor(share * size[axis]) + by[axis] + 0.5) / size[axis])));
  });
});
slider.addEventListener("input", () => {
  $("layers").querySelector("output").textContent = slider.value;
  if (tile) draw();
});
