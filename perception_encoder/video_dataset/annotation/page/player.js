// The player: loops a video, steps through its frames, and changes its speed.

import { $ } from "./element.js";

const video = $("video"), timeline = $("timeline"), SPEEDS = [0.25, 0.5, 0.75, 1, 1.5, 2, 3];
let rate = 25, known = true, speed = 1;

export function load(clip) {
  [rate, known] = [clip.rate ?? 25, clip.rate !== null];
  video.src = `/video/${clip.id}`;
  video.playbackRate = video.defaultPlaybackRate = speed;
  play();
}

export function unload() {
  video.removeAttribute("src");
  video.load();
}

const play = () => video.play().catch(() => {});   // refused by a browser that wants a click first

export const toggle = () => { if (video.paused) play(); else video.pause(); };

const frame = () => Math.floor(video.currentTime * rate + 1e-3);

// Pauses, and shows the frame before or after; from the last on to the first, and back.
export function step(frames) {
  video.pause();
  const count = Math.max(1, Math.round(video.duration * rate));
  seek(((frame() + frames + count) % count + 0.5) / rate);
}

export const skipSeconds = (seconds) => seek(video.currentTime + seconds);

export function seek(seconds) {
  if (Number.isFinite(video.duration)) video.currentTime = Math.min(Math.max(0, seconds), video.duration - 1e-3);
}

export function changeSpeed(steps) {
  const index = SPEEDS.indexOf(speed) + steps;
  speed = SPEEDS[Math.min(Math.max(0, index), SPEEDS.length - 1)];
  video.playbackRate = video.defaultPlaybackRate = speed;
}

function show() {
  const duration = Number.isFinite(video.duration) ? video.duration : 0;
  [timeline.max, timeline.value] = [duration, video.currentTime];
  $("play").firstElementChild.textContent = video.paused ? "Play" : "Pause";
  $("speed").textContent = `${speed}×`;
  $("time").textContent = `${video.currentTime.toFixed(2)} / ${duration.toFixed(2)} s${known ? `, frame ${frame()}` : ""}`;
}

for (const event of ["timeupdate", "seeked", "loadedmetadata", "play", "pause", "ratechange"]) video.addEventListener(event, show);
video.addEventListener("error", () => {
  if (video.getAttribute("src")) $("problem").hidden = false;
});
video.addEventListener("loadstart", () => { $("problem").hidden = true; });
timeline.addEventListener("input", () => seek(Number(timeline.value)));
$("play").addEventListener("click", toggle);
$("back").addEventListener("click", () => step(-1));
$("forward").addEventListener("click", () => step(1));
$("slower").addEventListener("click", () => changeSpeed(-1));
$("faster").addEventListener("click", () => changeSpeed(1));
video.addEventListener("click", toggle);
