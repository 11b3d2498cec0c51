// Features: those of an image at a layer as colours, and under the pointer the patches that are similar to one; of a
// second model, if the server has one, those of its last layer.

import { $, latest, putImage } from "./element.js";

const features = $("features"), slider = $("layer"), input = $("input"), map = $("map"), shade = $("shade");
const baseline = $("baseline"), baselineShade = $("baseline-shade"), last = "layer=-1&baseline=1";
const panes = [...features.querySelectorAll(".pane")], shades = [shade, baselineShade].filter(Boolean);
let tile = null, position = null;   // position: [x, y], 0–1

const address = () => `/api/inside/${tile.id}`;

const draw = latest(async () => {
  const mine = tile;
  if (!mine) return;
  try {
    if (features.dataset.id !== mine.id) {
      await putImage(input, address());
      if (tile !== mine) return;
      features.style.setProperty("--ratio", input.naturalWidth / input.naturalHeight);
      if (baseline) await putImage(baseline, `${address()}?${last}`);
    }
    await putImage(map, `${address()}?layer=${slider.value}`);
    features.dataset.id = mine.id;
    features.ariaBusy = "false";
    light();
  } catch (error) {
    if (tile !== mine) return;
    panes.forEach((pane) => (pane.hidden = true));
    $("layers").hidden = true;
    features.ariaBusy = "false";
    [$("problem").hidden, $("problem").textContent] = [false, error.message];
  }
});

const light = latest(async () => {
  if (!tile || !position) return;
  const at = `at=${position.map((share) => share.toFixed(3)).join()}`;
  await putImage(shade, `${address()}?layer=${slider.value}&${at}`).catch(() => {});
  shade.hidden = !position;
  if (!baseline) return;
  await putImage(baselineShade, `${address()}?${last}&${at}`).catch(() => {});
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

// A position of the pointer in a box: [x, y], 0–1.
function pointIn(box, { clientX, clientY }) {
  const { left, top, width, height } = box.getBoundingClientRect();
  return [bounded((clientX - left) / width), bounded((clientY - top) / height)];
}

const bounded = (share) => Math.min(0.999, Math.max(0, share));

// Where an arrow key moves the position, by a patch along an axis; undefined for another key.
function stepBy(key) {
  const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
  const size = [map.naturalWidth, map.naturalHeight];   // a pixel a patch
  return by && (position ?? [0.5, 0.5]).map((share, axis) => bounded((Math.floor(share * size[axis]) + by[axis] + 0.5) / size[axis]));
}

function pointAt(to) {
  position = to;
  shades.forEach((image) => (image.hidden = image.hidden || !to));
  features.querySelectorAll(".mark").forEach((mark) => {
    mark.hidden = !to;
    if (to) [mark.style.left, mark.style.top] = to.map((share) => `${share * 100}%`);
  });
  if (to) light();
}

panes.forEach((pane) => {
  pane.addEventListener("pointermove", (event) => pointAt(pointIn(pane, event)));
  pane.addEventListener("click", (event) => pointAt(pointIn(pane, event)));   // a touch
  pane.addEventListener("pointerleave", () => pointAt(null));
  pane.addEventListener("blur", () => pointAt(null));
  pane.addEventListener("keydown", (event) => {
    const next = stepBy(event.key);
    if (!next) return;
    event.preventDefault();
    pointAt(next);
  });
});
slider.addEventListener("input", () => {
  $("layers").querySelector("output").textContent = slider.value;
  if (tile) draw();
});
