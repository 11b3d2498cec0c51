// Ask: questions about the shown image, answered by the server's language model while it writes.

import { $, element, fetchLines, UNREACHABLE } from "./element.js";

const form = $("question"), log = $("answers");   // null if the server has no language model
const field = form?.querySelector("input"), button = form?.querySelector("button");
const conversations = new Map();   // of [question, answer], by the image's id
let tile = null, answering = null;   // answering: stops the answer that is being written

export function showAsk(given) {
  if (!form || tile?.id === given.id) return;
  hideAsk();
  tile = given;
  field.placeholder = field.ariaLabel = `Ask about this ${tile.kind === "video" ? "moment" : "image"}`;
  field.value = "";
  log.replaceChildren(...turns(tile).flatMap(([question, answer]) => [line("asked", question), line("answer", answer)]));
}

export function hideAsk() {
  answering?.abort();
  tile = null;
}

function turns({ id }) {
  if (!conversations.has(id)) conversations.set(id, []);
  return conversations.get(id);
}

const line = (className, textContent) => element("p", { className, textContent });

function add(...lines) {
  log.append(...lines);
  log.scrollTop = log.scrollHeight;
}

function setAnswering(controller) {
  answering = controller;
  button.textContent = controller ? "Stop" : "Ask";
  field.required = !controller;
  log.ariaBusy = String(Boolean(controller));
}

async function ask(question) {
  const asked = tile, controller = new AbortController(), answer = line("answer waiting", "…");
  const body = JSON.stringify({ question, before: turns(asked) });
  let text = "", end = null;
  setAnswering(controller);
  add(line("asked", question), answer);
  try {
    const options = { method: "POST", body, signal: controller.signal };
    for await (const part of fetchLines(`/api/ask/${asked.id}`, options)) {
      if (part.error) throw new Error(part.error);
      if (part.text === undefined) { end = part; continue; }
      text += part.text;
      answer.className = "answer";
      answer.textContent = text;
      if (tile === asked) add();
    }
    if (!end) throw new Error(UNREACHABLE);
    if (end.cut) add(line("note", `The conversation is too long for the model: ${end.cut} tokens were cut.`));
    if (!end.finished) add(line("note", "The answer reached its maximum length."));
  } catch (error) {
    if (tile === asked) add(...(error.name === "AbortError" ? [line("note", "Stopped.")] : [line("note failed", error.message)]));
    if (!text && tile === asked && !field.value) field.value = question;
  }
  if (text) turns(asked).push([question, text]); else answer.remove();
  if (answering === controller) setAnswering(null);
}

form?.addEventListener("submit", (event) => {
  event.preventDefault();
  if (answering) { answering.abort(); return; }
  const question = field.value.trim();
  field.value = "";
  if (question) ask(question);
});
