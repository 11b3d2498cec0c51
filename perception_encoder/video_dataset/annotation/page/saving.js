// Autosave: each change goes to this browser's storage at once, and to the server a moment later, until it has arrived.

import { $, fetchJson } from "./element.js";

const DELAY = 300, AGAIN = 1000;   // milliseconds
const session = crypto.getRandomValues(new Uint32Array(4)).join("-");
let sequence = 0, timer = null, running = null, current = null, failed = () => {};

export const onRefusal = (call) => { failed = call; };

export const post = (address, person, content = {}, options = {}) => fetchJson(address, {
  method: "POST",
  body: JSON.stringify({ person, session, ...content }),
  ...options,
});

// Begins to save a task. `read` returns the editor's state. Returns a text of this browser that the server has not got.
export function begin(mode, person, task, read) {
  current = { mode, person, id: task.id, read, name: `pe-annotate ${mode} ${task.id} ${person}`, sent: task.caption, changed: false };
  const backup = JSON.parse(localStorage.getItem(current.name) ?? "null");
  state("");
  if (!backup?.bases.includes(task.caption) || (backup.caption === task.caption && backup.rating === task.rating)) {
    localStorage.removeItem(current.name);
    return null;
  }
  return backup;
}

export function end() {
  clearTimeout(timer);
  current = null;
  state("");
}

// Notes a change of the editor.
export function change() {
  if (!current) return;
  current.changed = true;
  store(current);
  state("Not saved yet");
  clearTimeout(timer);
  timer = setTimeout(flush, DELAY);
}

// The backup is newer than the server's text if that is one of its bases: what was saved, or sent without an answer.
function store(task) {
  const { caption, rating } = task.read();
  const bases = [...new Set([task.sent, task.saved ?? task.sent])];
  localStorage.setItem(task.name, JSON.stringify({ caption, rating, bases }));
}

export async function flush() {
  clearTimeout(timer);
  await running;
  if (!current?.changed) return;
  running = send(current);
  await running;
}

async function send(task) {
  const content = { ...task.read(), id: task.id, sequence: ++sequence };
  task.changed = false;
  [task.saved, task.sent] = [task.saved ?? task.sent, content.caption];
  store(task);
  state("Saving");
  try {
    await post(`/api/${task.mode}/save`, task.person, content);
    task.saved = content.caption;
    if (!task.changed) localStorage.removeItem(task.name);
    if (task === current && !task.changed) state("Saved");
  } catch (error) {
    task.changed = true;
    if (task !== current) return;
    if (error.status) { state("Not saved"); failed(error); return; }
    state("Not saved: the server does not answer. Your text is stored in this browser.");
    timer = setTimeout(flush, AGAIN);
  }
}

// Finishes the task: submit, skip or return. Throws what the server refuses; then everything stays as it is.
export async function finish(action, note = "") {
  clearTimeout(timer);
  await running;
  const task = current, content = { ...task.read(), id: task.id, sequence: ++sequence, note };
  [task.saved, task.sent] = [task.saved ?? task.sent, content.caption];
  store(task);
  try {
    await post(`/api/${task.mode}/${action}`, task.person, content);
  } catch (error) {
    if (!error.status) change();
    throw error;
  }
  localStorage.removeItem(task.name);
  end();
}

function state(text) {
  $("saved").textContent = text;
  $("saved").classList.toggle("failed", text.startsWith("Not saved:"));
}

// When the page is left, what has not been sent goes out with it.
addEventListener("pagehide", () => {
  if (!current?.changed) return;
  post(`/api/${current.mode}/save`, current.person, { ...current.read(), id: current.id, sequence: ++sequence }, { keepalive: true }).catch(() => {});
});
