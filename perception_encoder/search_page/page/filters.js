// The filters: how texts are searched for, kind, dates, minimum score and path; on a small screen a button shows them.

import { $ } from "./element.js";

const FIELDS = ["since", "until", "min_score", "path"], CHOICES = ["by", "kind"];
const choices = (name) => [...document.getElementsByName(name)];
const toggle = $("show-filters");
let changed = () => {}, typing;

export const onFilter = (call) => { changed = call; };

// Those that are set, as [name, value].
export function filters() {
  const chosen = CHOICES.map((name) => [name, choices(name).find((input) => input.checked).value]);
  const fields = FIELDS.map((name) => [name, $(name).value.trim()]);
  return [...chosen, ["similar", $("similar").checked ? "" : "all"], ...fields].filter(([, value]) => value);
}

export function readFilters(parameters) {
  CHOICES.forEach((name) => {
    const all = choices(name), value = (text) => all.find((input) => input.value === text);
    (value(parameters.get(name)) ?? value("")).checked = true;
  });
  $("similar").checked = parameters.get("similar") !== "all";
  FIELDS.forEach((name) => { $(name).value = parameters.get(name) ?? ""; });
  showCount();
}

function showCount() {
  const count = filters().length, badge = toggle.querySelector("b");
  [badge.textContent, badge.hidden] = [count, !count];
  toggle.ariaLabel = count ? `Filters, ${count} set` : "Filters";
}

$("filters").addEventListener("input", (event) => {
  showCount();
  clearTimeout(typing);
  typing = setTimeout(changed, event.target.type === "text" ? 500 : 0, event.target.name || event.target.id);
});
toggle.addEventListener("click", () => {
  toggle.ariaExpanded = String(toggle.ariaExpanded !== "true");
});
