// The query: the text in the field, and images. Each of several terms has a chip with its weight.

import { $, element, fetchJson, showError } from "./element.js";

const words = $("words"), images = new Map();   // of what was uploaded or opened, by term: {source, name}
let examples = [];     // of {weight, what}; what: "like:ID" or "image:ID"
let texts = [];        // of {weight, what}: the field's line, as the server parsed it
let changed = () => {};
let typing;

export const onQuery = (call) => { changed = call; };

export function terms() {
  const line = words.value.trim();
  return [
    ...(line ? [`text:${line}`] : []),
    ...examples.map(({ weight, what }) => (weight === 1 ? what : `${weight}:${what}`)),
  ];
}

function change(by) {
  clearTimeout(typing);
  changed(by);
}

function changeSoon(by, delay) {
  clearTimeout(typing);
  typing = setTimeout(change, delay, by);
}

// Searches by one image alone.
export function searchLike(what, image) {
  words.value = "";
  examples = [];
  addExample(1, what, image);
}

export function addExample(weight, what, image) {
  images.set(what, image);
  examples = [...examples.filter((other) => other.what !== what), { weight, what }];
  change("image");
}

// Searches by a file, together with the text in the field; it replaces other images.
async function searchByFile(file) {
  const limit = Number($("file").dataset.limit), before = $("count").textContent;
  try {
    if (file.size > limit) throw new Error(`${file.name} is larger than ${limit >> 20} MiB, the limit`);
    $("count").textContent = `Reading ${file.name} …`;
    const { q } = await fetchJson("/api/image", { method: "POST", body: file });
    examples = [];
    addExample(1, q, { name: file.name, source: file.type.startsWith("image/") ? URL.createObjectURL(file) : null });
  } catch (error) {
    $("count").textContent = before;
    showError(error);
  }
}

// Takes the terms from the parameters of an address.
export function readTerms(parameters) {
  const given = parameters.getAll("q");
  words.value = given.find((term) => term.startsWith("text:"))?.slice(5) ?? "";
  examples = given.map((term) => term.match(/^(?:(-?[\d.]+):)?((?:like|image):.+)$/)).filter(Boolean)
    .map(([, weight, what]) => ({ weight: Number(weight ?? 1), what }));
}

// ---- chips

function imageOf(what) {
  const id = what.startsWith("like:") && what.slice(5);
  return images.get(what) ?? { name: "an image", source: id ? `/thumbnail/${id}` : null };
}

// `answered`: the terms as the server parsed them; texts come first, then the images in their order.
export function showTerms(answered) {
  texts = answered.filter((term) => term.kind === "text");
  const all = [...texts, ...examples], key = all.map((term) => term.what).join("\n");
  const list = $("terms");
  list.hidden = all.length < 2 && !examples.length;
  if (list.dataset.key !== key) {
    list.replaceChildren(...all.map((term, at) => chip(term, () => [...texts, ...examples][at])));
    list.dataset.key = key;
  }
  [...list.children].forEach((chip, at) => showWeight(chip, all[at].weight, all.length > 1 || all[at].weight !== 1));
}

function chip(term, current) {
  const { name, source } = examples.includes(term) ? imageOf(term.what) : { name: term.what };
  const label = source
    ? element("img", { src: source, alt: name, title: name })
    : element("span", { className: "name", textContent: name, title: name });
  const limit = Math.max(2, Math.ceil(Math.abs(term.weight)));
  const slider = element("input", { type: "range", min: -limit, max: limit, step: 0.25, ariaLabel: `Weight of ${name}` });
  const remove = element("button", { type: "button", textContent: "×", ariaLabel: `Remove ${name}` });
  const item = element("li", { className: "chip" }, label, slider, element("output"), remove);
  slider.addEventListener("input", () => {
    current().weight = Number(slider.value);
    showWeight(item, current().weight, true);
    rewrite();
    changeSoon(`weight of ${name}`, 120);
  });
  remove.addEventListener("click", () => {
    const removed = current();
    texts = texts.filter((other) => other !== removed);
    examples = examples.filter((other) => other !== removed);
    rewrite();
    words.focus();
    change("remove");
  });
  return item;
}

function showWeight(item, weight, visible) {
  const [slider, value] = [item.querySelector("input"), item.querySelector("output")];
  if (slider !== document.activeElement) slider.value = weight;
  value.textContent = `${weight < 0 ? "−" : ""}${Math.abs(weight)}`;
  item.classList.toggle("away", weight < 0);
  slider.hidden = value.hidden = !visible;
}

// Writes the weights of the chips into the field's line.
function rewrite() {
  const weighted = (weight, what) => (weight === 1 ? what : `${weight}:${what}`);
  words.value = texts.map(({ weight, what }, at) =>
    at === 0 ? weighted(weight, what) : ` ${weight < 0 ? "-" : "+"} ${weighted(Math.abs(weight), what)}`).join("");
}

// ---- the field, and files that are chosen or dropped

words.addEventListener("input", () => changeSoon("words", 250));
words.addEventListener("keydown", (event) => {
  if (event.key === "Backspace" && !words.value && examples.length) {
    examples = examples.slice(0, -1);
    change("remove");
  }
});
$("ask").addEventListener("submit", (event) => { event.preventDefault(); change("submit"); });
$("file").addEventListener("change", (event) => {
  if (event.target.files[0]) searchByFile(event.target.files[0]);
  event.target.value = "";  // so that the same file can be chosen again
});
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files[0]) searchByFile(event.dataTransfer.files[0]);
});
