// Tracking: the server follows the regions through the video, and the page plays what it has drawn.

import { $, fetchBlob, fetchLines, UNREACHABLE } from "./element.js";

const features = $("features"), video = $("tracked"), button = $("track"), progress = $("tracking");
const bar = progress.querySelector("progress"), count = progress.querySelector("span");
let job = null;   // stops the tracking that is running

// Tracks the regions of an address; or stops that, or goes back to the image.
export function track(address, say) {
  if (job || !video.hidden) {
    const text = job ? "Stopped." : "";
    endTracking();
    say(text);
  } else run(address, say);
}

async function run(address, say) {
  const mine = job = new AbortController(), { signal } = mine;
  button.textContent = "Stop";
  showProgress({});
  say("Tracking …");
  let end = null;
  try {
    for await (const line of fetchLines(address, { method: "POST", signal })) {
      if (line.error) throw new Error(line.error);
      say(line.waiting ? "Waiting for other videos …" : "Tracking …");
      if (line.video) end = line; else showProgress(line);
    }
    if (!end) throw new Error(UNREACHABLE);
    const content = await fetchBlob(end.video, { signal });
    if (job !== mine) return;
    endTracking();
    play(content);
    say(end.limit ? `Tracked for the maximum of ${end.limit} s.` : "Tracked to the end of the video.");
  } catch (error) {
    if (job !== mine) return;
    endTracking();
    say(error.message, true);
  }
}

// `total`: frames, if the number is known.
function showProgress({ done, total }) {
  progress.hidden = false;
  if (total) [bar.max, bar.value] = [total, done]; else bar.removeAttribute("value");
  count.textContent = total ? `${done} of ${total} frames` : "";
}

function play(content) {
  button.textContent = "Back to the image";
  showPanes(false);
  video.src = URL.createObjectURL(content);
}

// Stops tracking, and shows the image again.
export function endTracking() {
  job?.abort();
  job = null;
  button.textContent = "Track";
  progress.hidden = true;
  if (video.hidden) return;
  URL.revokeObjectURL(video.src);
  video.removeAttribute("src");
  video.load();
  showPanes(true);
}

function showPanes(visible) {
  features.querySelectorAll(".pane").forEach((pane) => (pane.hidden = !visible));
  video.hidden = visible;
}
