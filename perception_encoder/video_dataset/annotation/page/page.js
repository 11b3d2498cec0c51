// The page: who works, the task that is open, its keys and buttons.

import { showDifferences } from "./differences.js";
import { $, element, fetchJson, showError } from "./element.js";
import { changeSpeed, load, seek, skipSeconds, step, toggle, unload } from "./player.js";
import { begin, change, end, finish, flush, onRefusal, post } from "./saving.js";

const caption = $("caption"), ratings = [...document.getElementsByName("rating")];
const address = new URLSearchParams(location.search);
let person = address.get("as") ?? localStorage.getItem("pe-annotate name") ?? "";
let mode = "annotate", task = null, worked = 0, lastActive = 0, busy = false;

const original = () => task.clip.original;
const rating = () => Number(ratings.find((item) => item.checked)?.value) || null;
const state = () => ({ caption: caption.value, rating: rating(), seconds: Math.round(worked) });

// ---- the task

async function open(action = "next") {
  const answer = await post(`/api/${mode}/${action}`, person);
  if (action === "undo" && !answer.task) { showError("Nothing to undo"); return; }
  end();
  [task, worked] = [answer.task, answer.task?.seconds ?? 0];
  showError(null);
  $("work").hidden = !task;
  $("empty").hidden = Boolean(task);
  document.activeElement?.blur();
  if (task) show(); else showEmpty();
}

function show() {
  const { clip } = task, review = mode === "review", backup = begin(mode, person, task, state);
  caption.value = backup?.caption ?? task.caption;
  const stars = backup?.rating ?? task.rating;
  ratings.forEach((item) => { [item.checked, item.disabled] = [Number(item.value) === stars, review]; });
  $("rating").classList.remove("needed");
  $("rating").hidden = $("original").hidden = !original();
  $("submit").firstElementChild.textContent = review ? "Approve" : "Submit";
  $("refuse").firstElementChild.textContent = review ? "Return" : "Skip";
  $("restore").firstElementChild.textContent = review ? "Annotator's text" : "Start over";
  const note = backup ? ["Restored:", "text that had not been saved"] : review ? ["Annotated by", task.annotator] : ["Returned:", task.note];
  $("note").hidden = !note[1];
  [$("note").firstElementChild.textContent, $("note").lastElementChild.textContent] = note;
  $("about").textContent = [clip.key, clip.split, clip.category].filter(Boolean).join(" · ");
  load(clip);
  caption.scrollTop = 0;
  compare();
  if (backup) change();
}

function showEmpty() {
  unload();
  $("empty").querySelector("h2").textContent = mode === "review" ? "Nothing to review" : "Nothing to annotate";
  $("empty").querySelector("p").textContent = mode === "review"
    ? "Captions that others finish will appear here." : "All videos are done, or others are working on them.";
}

function compare() {
  const { removed, added } = showDifferences($("difference"), original(), caption.value);
  $("changes").textContent = removed || added ? `words: ${removed} removed, ${added} added` : "unchanged";
  $("meaning").textContent = ratings.find((item) => item.checked)?.parentElement.title ?? "";
}

function changed() {
  showError(null);
  $("rating").classList.remove("needed");
  compare();
  change();
}

// One request at a time: a key that is held down does not submit the next video too.
async function alone(work) {
  if (busy) return;
  busy = true;
  try { await work(); } catch (error) { refused(error); }
  busy = false;
}

function refused(error) {
  showError(error);
  if (/rating/.test(error.message)) $("rating").classList.add("needed");
}

const submit = () => alone(async () => {
  if (!task) return;
  await finish("submit");
  await open();
});

const undo = () => alone(async () => {
  await flush();
  await open("undo");
});

function restore() {
  if (!task) return;
  caption.focus();
  caption.select();
  // unlike a new value, this can be undone by the browser's own keys
  document.execCommand("insertText", false, mode === "review" ? task.annotated : original());
  caption.blur();
}

function rate(stars) {
  if (!task || mode === "review") return;
  ratings.forEach((item) => { item.checked = item.value === String(stars); });
  changed();
}

onRefusal(refused);
caption.addEventListener("input", changed);
$("rating").addEventListener("change", changed);
$("submit").addEventListener("click", submit);
$("undo").addEventListener("click", undo);
$("restore").addEventListener("click", restore);
$("look").addEventListener("click", () => alone(open));

// ---- reasons, modes, names

function askWhy() {
  if (!task) return;
  const review = mode === "review", form = $("reason");
  form.querySelector("h2").textContent = review ? "Return to the annotator" : "Skip this video";
  form.querySelector("label span").textContent = review ? "What should be changed?" : "Why?";
  form.querySelector(".main").textContent = review ? "Return" : "Skip";
  $("why").value = "";
  if (review) $("why").removeAttribute("list"); else $("why").setAttribute("list", "reasons");
  form.showModal();
}

$("refuse").addEventListener("click", askWhy);
$("reason").querySelector("form").addEventListener("submit", () => alone(async () => {
  await finish(mode === "review" ? "return" : "skip", $("why").value);
  await open();
}));

function setMode(value) {
  document.getElementsByName("mode").forEach((item) => { item.checked = item.value === value; });
  alone(async () => {
    await flush();
    mode = value;
    await open();
  });
}

document.getElementsByName("mode").forEach((item) => item.addEventListener("change", () => setMode(item.value)));

function askName() {
  $("person").value = person;
  $("name").showModal();
}

$("show-name").addEventListener("click", askName);
$("name").addEventListener("cancel", (event) => { if (!person) event.preventDefault(); });
$("name").querySelector("form").addEventListener("submit", () => start($("person").value.trim()));

function start(name) {
  alone(async () => {
    await flush();
    person = name;
    localStorage.setItem("pe-annotate name", name);
    $("show-name").textContent = name;
    await open();
  });
}

// ---- progress

const percent = (share) => `${Math.round(100 * share)} %`;

async function showProgress() {
  const counts = await fetchJson("/api/progress").catch(showError);
  if (!counts) return;
  const left = counts.hours_left === null ? "" : `; about ${counts.hours_left.toFixed(1)} hours of work left`;
  $("counts").textContent = `${counts.done.toLocaleString()} of ${counts.videos.toLocaleString()} videos done, ${counts.begun} begun, ` +
    `${counts.skipped} skipped, ${counts.reviewed} reviewed${left}.`;
  $("people").replaceChildren(...counts.people.map((item) => {
    const cells = [item.name, item.done, item.seconds === null ? "–" : `${Math.round(item.seconds)} s`, item.skipped, item.reviewed];
    return element("tr", {}, ...cells.map((textContent) => element("td", { textContent })));
  }));
  const { videos, similarity, ratings: alpha } = counts.agreement, parts = [];
  if (similarity !== null) parts.push(`${percent(similarity)} of the words are common`);
  if (alpha !== null) parts.push(`alpha of ratings ${alpha.toFixed(2)}`);
  $("agreement").textContent = videos ? `Agreement of two people on ${videos} videos: ${parts.join(", ")}.` : "No video has two annotations yet.";
  $("progress").showModal();
}

$("show-progress").addEventListener("click", showProgress);
$("show-help").addEventListener("click", () => $("help").showModal());
document.querySelectorAll("dialog .close").forEach((item) => item.addEventListener("click", () => item.closest("dialog").close()));

// ---- keys

const VIDEO_KEYS = {
  Comma: () => step(-1), Period: () => step(1), BracketLeft: () => changeSpeed(-1), BracketRight: () => changeSpeed(1),
  ...Object.fromEntries([1, 2, 3, 4, 5].flatMap((n) => [[`Digit${n}`, () => rate(n)], [`Numpad${n}`, () => rate(n)]])),
};
const KEYS = {
  " ": toggle, ArrowLeft: () => skipSeconds(-1), ArrowRight: () => skipSeconds(1), Home: () => seek(0),
  Enter: () => caption.focus(), s: askWhy, u: undo, o: restore, p: showProgress,
  r: () => setMode(mode === "review" ? "annotate" : "review"), "?": () => $("help").showModal(),
};

function keyOf(event, writes) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return submit;
  if (event.code === "Space" && event.ctrlKey) return toggle;
  if (event.ctrlKey || event.metaKey) return null;
  if (event.altKey || !writes) { if (VIDEO_KEYS[event.code]) return VIDEO_KEYS[event.code]; }
  if (writes) return event.key === "Escape" ? () => event.target.blur() : null;
  if (event.key === " " || event.key === "Enter") { if (event.target.matches("button, a, select")) return null; }
  return KEYS[event.key] ?? KEYS[event.key.toLowerCase()] ?? null;
}

addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  const action = keyOf(event, event.target === caption);
  if (!action) return;
  event.preventDefault();
  action();
});

// ---- working time: while something happened in the last minute

for (const event of ["keydown", "pointermove", "pointerdown", "wheel"]) addEventListener(event, () => { lastActive = Date.now(); }, { passive: true });
setInterval(() => { if (task && !document.hidden && Date.now() - lastActive < 60000) worked += 1; }, 1000);

if (person) start(person); else askName();
