// Depth: an image and its depth beside a boundary that moves, and the depth under the pointer.

import { $, fetchJson, latest, pointIn, putImage, showMark, stepBy, pointParameter } from "./element.js";

const panel = $("depth"), pane = panel.querySelector(".pane"), bar = $("depth-bar");   // null without a depth head
const slider = $("boundary"), reading = $("metres"), problem = $("depth-problem"), STEPS = [40, 40];
let tile = null, position = null;   // position: [x, y], 0–1

const address = () => `/api/depth/${tile.id}`;
const shown = (value, unit) => (unit === "m" ? `${value.toFixed(2)} m` : value.toFixed(2));   // relative: the farthest is 1

const draw = latest(async () => {
  const mine = tile;
  if (!mine) return;
  try {
    if (panel.dataset.id !== mine.id) {
      const { nearest, farthest, unit } = await fetchJson(address());
      if (tile !== mine) return;
      await Promise.all([putImage($("scene"), `${address()}/image`), putImage($("depth-map"), `${address()}/colours`)]);
      panel.style.setProperty("--ratio", $("scene").naturalWidth / $("scene").naturalHeight);
      [$("nearest").textContent, $("farthest").textContent] = [nearest, farthest].map((value) => shown(value, unit));
      panel.dataset.id = mine.id;
    }
    panel.ariaBusy = "false";
    bar.hidden = tile !== mine;
    read();
  } catch (error) {
    if (tile !== mine) return;
    pane.hidden = true;
    panel.ariaBusy = "false";
    [problem.hidden, problem.textContent] = [false, error.message];
  }
});

const read = latest(async () => {
  const mine = position;
  if (!tile || !mine) return;
  const answer = await fetchJson(`${address()}?${pointParameter(mine)}`).catch(() => null);
  if (position && answer) reading.textContent = shown(answer.depth, answer.unit);
});

export function showDepth(given) {
  if (!pane || tile?.id === given.id) return;
  tile = given;
  pointAt(null);
  pane.hidden = false;
  problem.hidden = bar.hidden = true;
  panel.ariaBusy = "true";
  draw();
}

export function hideDepth() {
  tile = null;
  if (bar) bar.hidden = true;
}

function pointAt(to) {
  position = to;
  showMark(pane.querySelector(".mark"), to);
  if (to) read(); else reading.textContent = "";
}

function moveBoundary() {
  pane.style.setProperty("--boundary", `${slider.value}%`);
  slider.ariaValueText = `image ${slider.value} %, depth ${100 - slider.value} %`;
}

function drag(event) {
  const point = pointIn(pane, event);
  pointAt(point);
  if (!event.buttons) return;
  slider.value = 100 * point[0];
  moveBoundary();
}

if (pane) {
  pane.addEventListener("pointerdown", (event) => { pane.setPointerCapture(event.pointerId); drag(event); });
  pane.addEventListener("pointermove", drag);
  pane.addEventListener("pointerleave", () => pointAt(null));
  pane.addEventListener("blur", () => pointAt(null));
  pane.addEventListener("keydown", (event) => {
    const next = stepBy(event.key, position, STEPS);
    if (!next) return;
    event.preventDefault();
    pointAt(next);
  });
  slider.addEventListener("input", moveBoundary);
  moveBoundary();
}
