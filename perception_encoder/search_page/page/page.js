// The page: its parts put together, its keys, and the index as it grows.

import { address, readAddress, writeAddress } from "./address.js";
import { $, element, fetchJson, showError, shownError, UNREACHABLE } from "./element.js";
import { onFilter } from "./filters.js";
import { focusTile, isEmpty, move, search, showEmpty } from "./grid.js";
import { onQuery } from "./query.js";
import { close, isOpen, onClose, openById, step } from "./viewer.js";

const words = $("words"), help = $("help");
let version, running = false, rescan = null, next;

addEventListener("keydown", (event) => {
  if (help.open || step(event)) return;
  const writes = event.target.matches("input:not([type=radio], [type=checkbox])");
  if (event.key === "/" && !writes) { event.preventDefault(); words.select(); }
  if (event.key === "?" && !writes) help.showModal();
  if (event.key === "Escape" && writes) { event.preventDefault(); event.target.blur(); }  // by default it empties the field
  const chooses = event.target.type === "radio" && ["ArrowLeft", "ArrowRight"].includes(event.key);
  if (event.key.startsWith("Arrow") && !chooses && (!writes || (event.target === words && event.key === "ArrowDown"))) {
    event.preventDefault();
    move(event.key);
  }
});
$("show-help").addEventListener("click", () => help.showModal());
document.querySelectorAll("dialog").forEach((dialog) => {
  let outside = false;   // a drag from inside to outside, such as selecting text, does not close it
  dialog.addEventListener("pointerdown", (event) => { outside = event.target === dialog; });
  dialog.addEventListener("click", (event) => {
    if ((outside && event.target === dialog) || event.target.matches(".close")) dialog.close();
  });
});

// ---- the index

async function watch() {
  clearTimeout(next);
  const asked = rescan;   // a status from before a rescan says nothing about it
  try {
    const status = await fetchJson("/api/status");
    const changed = version !== undefined && version !== status.version, lost = shownError() === UNREACHABLE;
    showProgress(status);
    showFailed(status);
    [running, version] = [status.running, status.version];
    if (asked && asked === rescan && !running) {
      $("scan").textContent = rescan.version === version ? "No changes" : "Index updated";
      rescan = null;
    }
    if (lost) showError(null);
    if (lost && isEmpty() || changed && (isEmpty() || (scrollY < 100 && !isOpen()))) search(true);
    if (status.error) showError(status.error);
    showEmpty(running);
  } catch (error) { showError(error); }
  next = setTimeout(watch, running ? 500 : 4000);
}

function showProgress({ running, done, total }) {
  const bar = $("progress").querySelector("progress");
  $("progress").hidden = !running;
  $("rescan").disabled = running;
  if (total) [bar.max, bar.value] = [total, done]; else bar.removeAttribute("value");
  $("progress").querySelector("span").textContent =
    total ? `Reading ${done.toLocaleString()} of ${total.toLocaleString()} files` : "Looking for changed files";
}

// Files that could not be read, each with the reason.
function showFailed({ failures, failed }) {
  const rest = failures - failed.length, list = $("failed").querySelector("ul");
  const lines = [...failed.map(({ name, reason }) => `${name}: ${reason}`), ...(rest ? [`and ${rest.toLocaleString()} more`] : [])];
  $("failed").hidden = !failures;
  $("failed").querySelector("summary").textContent = `${failures.toLocaleString()} ${failures === 1 ? "file" : "files"} could not be read`;
  if (list.dataset.key === lines.join("\n")) return;
  list.dataset.key = lines.join("\n");
  list.replaceChildren(...lines.map((textContent) => element("li", { textContent })));
}

$("rescan").addEventListener("click", async () => {
  $("scan").textContent = "";
  showProgress({ running: true, done: 0, total: 0 });
  try {
    const before = version ?? (await fetchJson("/api/status")).version;   // the page may be too new to know it
    await fetchJson("/api/rescan", { method: "POST" });
    rescan = { version: before };
  } catch (error) { showError(error); }
  watch();
});

// ---- the note, which stays away once it is dismissed

const note = $("note"), text = note?.querySelector("span").textContent;
if (note && localStorage.getItem("dismissed-note") === text) note.hidden = true;
note?.querySelector("button").addEventListener("click", () => {
  note.hidden = true;
  localStorage.setItem("dismissed-note", text);
});

// ---- the parts together

function changed(by) {
  $("scan").textContent = "";
  writeAddress(by);
  search();
}

onQuery(changed);
onFilter(changed);
onClose(focusTile);
addEventListener("popstate", (event) => {
  if (isOpen() && !event.state?.viewer) close();
  if (readAddress()) search();
  if (!isOpen() && event.state?.viewer) openById(event.state.viewer, false).catch(showError);
});
readAddress();
const opened = new URLSearchParams(location.search).get("open");
history.replaceState(null, "", address());   // Back from the opened image leads to the results
search();
if (opened) openById(opened).catch(showError);
watch();
