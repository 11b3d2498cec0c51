// What is looked for: the words in the field, and pictures. With several terms each has a chip with its weight.

import { $, answer, element, say } from "./element.js";

const words = $("words");
let pictures = [];     // of {weight, what: "like:ID" or "picture:ID", source, name}
let texts = [];        // of {weight, what}: the field's line, as the server parsed it
let changed = () => {};
let typing;

export const onAsk = (call) => { changed = call; };

export function asked() {
  const line = words.value.trim();
  return [
    ...(line ? [`text:${line}`] : []),
    ...pictures.map(({ weight, what }) => (weight === 1 ? what : `${weight}:${what}`)),
  ];
}

function ask() {
  clearTimeout(typing);
  const query = asked().map((term) => `q=${encodeURIComponent(term)}`).join("&");
  history.replaceState(null, "", query ? `?${query}` : location.pathname);
  changed();
}

function askSoon(delay) {
  clearTimeout(typing);
  typing = setTimeout(ask, delay);
}

export function lookLike(what, source, name) {
  words.value = "";
  pictures = [{ weight: 1, what, source, name }];
  ask();
}

export function addPicture(weight, what, source, name) {
  pictures = [...pictures.filter((other) => other.what !== what), { weight, what, source, name }];
  ask();
}

export async function askPicture(file) {
  try {
    const { q } = await answer("/api/picture", { method: "POST", body: file });
    lookLike(q, URL.createObjectURL(file), file.name);
  } catch (error) { say(error); }
}

// The query of an address; what was dropped is not shown again.
export function readAddress() {
  const terms = new URLSearchParams(location.search).getAll("q");
  words.value = terms.find((term) => term.startsWith("text:"))?.slice(5) ?? "";
  pictures = terms.map((term) => term.match(/^(?:(-?[\d.]+):)?(like:(.+))$/)).filter(Boolean)
    .map(([, weight, what, id]) => ({ weight: Number(weight ?? 1), what, source: `/thumbnail/${id}`, name: "a picture" }));
}

// ---- chips

// `terms`: as the server answered; texts come first, then the pictures in their order.
export function showTerms(terms) {
  texts = terms.filter((term) => term.kind === "text");
  const all = [...texts, ...pictures], drawn = all.map((term) => term.what).join("\n");
  const list = $("terms");
  list.hidden = all.length < 2 && !pictures.length;
  if (list.dataset.drawn !== drawn) {
    list.replaceChildren(...all.map((term, at) => chip(term, () => [...texts, ...pictures][at])));
    list.dataset.drawn = drawn;
  }
  [...list.children].forEach((one, at) => showWeight(one, all[at].weight, all.length > 1 || all[at].weight !== 1));
}

function chip(term, now) {
  const name = term.name ?? term.what;
  const what = term.source
    ? element("img", { src: term.source, alt: name, title: name })
    : element("span", { className: "name", textContent: name, title: name });
  const most = Math.max(2, Math.ceil(Math.abs(term.weight)));
  const slider = element("input", { type: "range", min: -most, max: most, step: 0.25, ariaLabel: `Weight of ${name}` });
  const remove = element("button", { type: "button", textContent: "×", ariaLabel: `Remove ${name}` });
  const one = element("li", { className: "chip" }, what, slider, element("output"), remove);
  slider.addEventListener("input", () => {
    now().weight = Number(slider.value);
    showWeight(one, now().weight, true);
    rewrite();
    askSoon(120);
  });
  remove.addEventListener("click", () => {
    const gone = now();
    texts = texts.filter((other) => other !== gone);
    pictures = pictures.filter((other) => other !== gone);
    rewrite();
    words.focus();
    ask();
  });
  return one;
}

function showWeight(one, weight, shown) {
  const [slider, value] = [one.querySelector("input"), one.querySelector("output")];
  if (slider !== document.activeElement) slider.value = weight;
  value.textContent = String(Math.abs(weight)).replace(/^/, weight < 0 ? "−" : "");
  one.classList.toggle("away", weight < 0);
  slider.hidden = value.hidden = !shown;
}

// The field's line says what the chips say.
function rewrite() {
  const sized = (weight, what) => (weight === 1 ? what : `${weight}:${what}`);
  words.value = texts.map(({ weight, what }, at) =>
    at === 0 ? sized(weight, what) : ` ${weight < 0 ? "-" : "+"} ${sized(Math.abs(weight), what)}`).join("");
}

// ---- the field, and pictures that are dropped

words.addEventListener("input", () => askSoon(250));
words.addEventListener("keydown", (event) => {
  if (event.key === "Backspace" && !words.value && pictures.length) { pictures = pictures.slice(0, -1); ask(); }
});
$("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
$("file").addEventListener("change", (event) => {
  if (event.target.files[0]) askPicture(event.target.files[0]);
  event.target.value = "";  // so that the same one can be chosen again
});
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files[0]) askPicture(event.dataTransfer.files[0]);
});
