// Features: those of an image at a layer as colours, and under the pointer the patches that are similar to one; of a
// second model, if the server has one, those of its last layer. A click marks what looks like a patch: see regions.js.

import { $, latest, pointIn, putImage, showMark, stepBy } from "./element.js";
import { clearRegions, hasPins, setLayer, startRegions, togglePin } from "./regions.js";

const features = $("features"), slider = $("layer"), input = $("input"), map = $("map"), shade = $("shade");
const baseline = $("baseline"), baselineShade = $("baseline-shade"), last = "layer=-1&baseline=1";
const panes = [...features.querySelectorAll(".pane")], shades = [shade, baselineShade].filter(Boolean);
const NEAR = 12;   // pixels from a pin within which a click is on it
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
    clearRegions();
    panes.forEach((pane) => (pane.hidden = true));
    $("layers").hidden = $("regions-bar").hidden = true;
    features.ariaBusy = "false";
    [$("problem").hidden, $("problem").textContent] = [false, error.message];
  }
});

const light = latest(async () => {
  if (!tile || !position || hasPins()) return;
  const at = `at=${position.map((share) => share.toFixed(3)).join()}`;
  await putImage(shade, `${address()}?layer=${slider.value}&${at}`).catch(() => {});
  shade.hidden = !position || hasPins();
  if (!baseline) return;
  await putImage(baselineShade, `${address()}?${last}&${at}`).catch(() => {});
  baselineShade.hidden = !position || hasPins();
});

export function showFeatures(given) {
  if (tile?.id === given.id) return;
  tile = given;
  pointAt(null);
  $("problem").hidden = true;
  features.ariaBusy = "true";
  panes.forEach((pane) => (pane.hidden = false));
  startRegions(tile, slider.value);
  draw();
}

export function hideFeatures() {
  tile = null;
  clearRegions();
}

function pointAt(to) {
  position = to;
  shades.forEach((image) => (image.hidden = image.hidden || !to || hasPins()));
  features.querySelectorAll(".mark").forEach((mark) => showMark(mark, to));
  if (to) light();
}

function toggle(point, reach) {
  togglePin(point, reach);
  pointAt(point);
}

panes.forEach((pane) => {
  pane.addEventListener("pointermove", (event) => pointAt(pointIn(pane, event)));
  pane.addEventListener("pointerleave", () => pointAt(null));
  pane.addEventListener("blur", () => pointAt(null));
  pane.addEventListener("click", (event) => {
    toggle(pointIn(pane, event), [NEAR / pane.clientWidth, NEAR / pane.clientHeight]);
  });
  pane.addEventListener("keydown", (event) => {
    const size = [map.naturalWidth, map.naturalHeight];   // a pixel a patch
    const next = stepBy(event.key, position, size);
    if (!next && event.key !== "Enter") return;
    event.preventDefault();
    if (next) pointAt(next); else toggle(position ?? [0.5, 0.5], size.map((patches) => 0.5 / patches));
  });
});
slider.addEventListener("input", () => {
  $("layers").querySelector("output").textContent = slider.value;
  setLayer(slider.value);
  if (tile) draw();
});
