// The page: its parts put together, its keys, and the index as it grows.

import { $, answer, LOST, said, say } from "./element.js";
import { begin, focusTile, isEmpty, move, showEmpty } from "./grid.js";
import { asked, onAsk, readAddress } from "./query.js";
import { onClose, stepped } from "./viewer.js";

const words = $("words");
let version, running = false;

addEventListener("keydown", (event) => {
  if (stepped(event)) return;
  const writes = event.target.matches("input:not([type=radio])");
  if (event.key === "/" && !writes) { event.preventDefault(); words.select(); }
  if (event.key === "Escape" && writes) event.target.blur();
  if (event.key.startsWith("Arrow") && (!writes || (event.target === words && event.key === "ArrowDown"))) {
    event.preventDefault();
    move(event.key);
  }
});

async function watch() {
  try {
    const status = await answer("/api/status");
    const changed = version !== undefined && version !== status.version, lost = said() === LOST;
    showProgress(status);
    [running, version] = [status.running, status.version];
    if (lost) say(null);
    if (lost && isEmpty() || changed && (isEmpty() || (scrollY < 100 && !$("viewer").open && !asked().length))) begin(true);
    if (status.error) say(status.error);
    if (changed && !running && status.failures) say(`${status.failures} files could not be used; pe index lists them`);
    showEmpty(running);
  } catch (error) { say(error); }
  setTimeout(watch, running ? 500 : 4000);
}

function showProgress({ running, done, total }) {
  const bar = $("progress").querySelector("progress");
  $("progress").hidden = !running;
  $("renew").disabled = running;
  if (total) [bar.max, bar.value] = [total, done]; else bar.removeAttribute("value");
  $("progress").querySelector("span").textContent =
    total ? `Reading ${done.toLocaleString()} of ${total.toLocaleString()} files` : "Looking for new files";
}

$("renew").addEventListener("click", async () => {
  try {
    await answer("/api/renew", { method: "POST" });
    running = true;
    showProgress({ running, done: 0, total: 0 });
  } catch (error) { say(error); }
});

onAsk(() => begin());
onClose(focusTile);
readAddress();
begin();
watch();
