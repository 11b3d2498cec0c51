// A tile: a picture, or a moment of a video that plays under the pointer.

import { clock, element } from "./element.js";

// How well a tile answers, as it is shown: a probability where there is one, else the cosine similarity.
export function match(tile) {
  if (tile.probability !== undefined && tile.probability !== null) {
    const percent = Math.round(tile.probability * 100);
    return percent ? `${percent} %` : "< 1 %";
  }
  return tile.score === undefined ? "" : tile.score.toFixed(2);
}

export function tileButton(tile, open) {
  const ratio = Math.min(2.2, Math.max(0.6, tile.width / tile.height || 1));
  const image = element("img", { src: tile.thumbnail, alt: tile.name, loading: "lazy", decoding: "async" });
  const one = element("button", { className: "tile", type: "button", title: tile.path, onclick: () => open(tile) }, image);
  const name = element("span", { className: "name", textContent: tile.name });
  one.append(element("span", { className: "label" }, name, element("span", { textContent: match(tile) })));
  one.style.setProperty("--ratio", ratio.toFixed(3));
  one.dataset.id = tile.id;
  if (tile.kind === "video") {
    one.append(element("span", { className: "time", textContent: clock(tile.start) }));
    one.addEventListener("pointerenter", () => play(one, tile));
    one.addEventListener("pointerleave", () => one.querySelector("video")?.remove());
  }
  return one;
}

export function placeholder() {
  const one = element("li", { className: "tile waiting" });
  one.style.setProperty("--ratio", 1.2);
  return one;
}

export function film(tile, properties) {
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
