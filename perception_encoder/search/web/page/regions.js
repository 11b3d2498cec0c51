// Regions: points that are pinned to the image, and over it the regions like them. In a video they can be tracked.

import { $, element, latest, putImage, showMark, pointParameter } from "./element.js";
import { endTracking, track } from "./tracking.js";

const bar = $("regions-bar"), overlay = $("regions"), clear = $("clear"), status = bar.querySelector("[role=status]");
const panes = [...document.querySelectorAll("#features .pane")], maximum = Number(bar.dataset.maximum);
let tile = null, layer, pins = [];   // pins: of [x, y], 0–1

export const hasPins = () => pins.length > 0;

export function startRegions(given, number) {
  [tile, layer] = [given, number];
  clearRegions();
}

export function setLayer(number) {
  layer = number;
  if (hasPins()) change();
}

// Pins a point, or removes the pin that is within `reach` of it.
export function togglePin(point, reach) {
  const near = pins.findIndex((pin) => pin.every((share, axis) => Math.abs(share - point[axis]) < reach[axis]));
  if (near < 0 && pins.length === maximum) return say(`Maximum: ${maximum} regions. Click a pin to remove it.`);
  if (near < 0) pins.push(point); else pins.splice(near, 1);
  change();
}

// Removes all pins and the tracked video; whether there were any.
export function clearRegions() {
  const any = hasPins();
  pins = [];
  change();
  return any;
}

function change() {
  endTracking();
  panes.forEach((pane) => {
    pane.querySelectorAll(".pin").forEach((pin) => pin.remove());
    pane.append(...pins.map((point, at) => {
      const pin = element("i", { className: "pin", textContent: at + 1 });
      showMark(pin, point);
      return pin;
    }));
  });
  if (clear === document.activeElement && !hasPins()) panes[0].focus();
  clear.hidden = !hasPins();
  $("track").hidden = !hasPins() || tile?.kind !== "video";
  overlay.hidden = overlay.hidden || !hasPins();
  if (!hasPins()) say("Click a patch, or press Enter, to mark its region.");
  else say(`${pins.length} ${pins.length === 1 ? "region" : "regions"}. Click a pin to remove it.`);
  draw();
}

const query = () => `${tile.id}?layer=${layer}&${pins.map(pointParameter).join("&")}`;

const draw = latest(async () => {
  if (!hasPins()) return;
  try {
    await putImage(overlay, `/api/regions/${query()}`);
    overlay.hidden = !hasPins();
  } catch (error) {
    overlay.hidden = true;
    if (hasPins()) say(error.message, true);
  }
});

function say(text, failed = false) {
  [status.textContent, status.className] = [text, failed ? "failed" : ""];
}

clear.addEventListener("click", clearRegions);
$("track").addEventListener("click", () => track(`/api/track/${query()}`, say));
