// The page: its parts put together, its keys, and the index as it grows.

import { $, answer, element, LOST, said, say } from "./element.js";
import { begin, focusTile, isEmpty, move, showEmpty } from "./grid.js";
import { onAsk, readAddress } from "./query.js";
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
    showFailed(status);
    [running, version] = [status.running, status.version];
    if (lost) say(null);
    if (lost && isEmpty() || changed && (isEmpty() || (scrollY < 100 && !$("viewer").open))) begin(true);
    if (status.error) say(status.error);
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

// Files that could not be read, each with the reason.
function showFailed({ failures, failed }) {
  const rest = failures - failed.length, list = $("failed").querySelector("ul");
  const lines = [...failed.map(({ name, reason }) => `${name}: ${reason}`), ...(rest ? [`and ${rest.toLocaleString()} more`] : [])];
  $("failed").hidden = !failures;
  $("failed").querySelector("summary").textContent = `${failures.toLocaleString()} ${failures === 1 ? "file" : "files"} could not be read`;
  if (list.dataset.drawn === lines.join("\n")) return;
  list.dataset.drawn = lines.join("\n");
  list.replaceChildren(...lines.map((textContent) => element("li", { textContent })));
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
