// A tile: an image, or a moment of a video that plays under the pointer.

import { clock, element } from "./element.js";

// How well a tile matches: the cosine similarity.
const match = (tile) => (tile.score === undefined ? "" : tile.score.toFixed(2));

const duration = (tile) => `▶ ${clock(tile.length)}`;
export const moment = (tile) => clock(tile.start);

// Why a hit by words was found: the line in the image, its title, or its name.
function reason(why) {
  const [, kind, line] = why.match(/^(\w+): "(.*)"$/s) ?? [null, why, ""], node = element("span", { className: "why", title: why });
  if (kind !== "words") node.append(kind === "name" ? "by name" : kind);
  node.append(element("bdi", { textContent: line }));
  return node;
}

// `badge`: what stands in the corner of a video.
export function tileButton(tile, open, badge = duration) {
  const ratio = Math.min(2.2, Math.max(0.6, tile.width / tile.height || 1)), video = tile.kind === "video";
  const image = element("img", { src: tile.thumbnail, alt: "", loading: "lazy", decoding: "async" });
  image.addEventListener("load", () => sharpen(image, tile), { once: true });
  const button = element("button", { className: "tile", type: "button", title: tile.path, onclick: () => open(tile) }, image);
  const others = tile.similar ? `+${tile.similar} similar` : "";
  const parts = [tile.name, video ? `video of ${clock(tile.length)}, moment at ${moment(tile)}` : "image", match(tile), others, tile.why];
  button.ariaLabel = parts.filter(Boolean).join(", ");
  const name = element("span", { className: "name", textContent: tile.name });
  const facts = [video ? `at ${moment(tile)}` : "", match(tile), others].filter(Boolean).join(" · ");
  button.append(element("span", { className: "label" }, name, element("span", { textContent: facts })));
  if (tile.why) button.append(reason(tile.why));
  button.style.setProperty("--ratio", ratio.toFixed(3));
  button.dataset.id = tile.id;
  if (video) {
    button.append(element("span", { className: "time", textContent: badge(tile) }));
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && play(button, tile));
    button.addEventListener("pointerleave", () => button.querySelector("video")?.remove());
  }
  return button;
}

// Loads a large thumbnail if the stored one has too few pixels for its size on this screen.
function sharpen(image, tile) {
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  const scale = Math.max(image.clientWidth / width, image.clientHeight / height) * devicePixelRatio;
  if (scale > 1.1 && Math.max(tile.width, tile.height) > Math.max(width, height)) {
    image.src = tile.thumbnail.replace("?", "/large?");
  }
}

export function placeholder() {
  const node = element("div", { className: "tile waiting" });
  node.style.setProperty("--ratio", 1.2);
  return node;
}

export function film(tile, properties) {
  const video = element("video", { src: `/file/${tile.id}#t=${tile.start}`, playsInline: true, ...properties });
  video.addEventListener("timeupdate", () => {
    if (tile.stop - tile.start > 0.5 && video.currentTime >= tile.stop) video.currentTime = tile.start;
  });
  return video;
}

function play(button, tile) {
  if (button.querySelector("video")) return;
  const video = film(tile, { muted: true, autoplay: true, loop: true, preload: "metadata" });
  video.addEventListener("error", () => video.remove());
  button.append(video);
}
