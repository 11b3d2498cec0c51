// The filters: kind, dates, minimum score and path; on a small screen a button shows and hides them.

import { $ } from "./element.js";

const FIELDS = ["since", "until", "min_score", "path"], kinds = [...document.querySelectorAll("[name=kind]")];
const toggle = $("show-filters");
let changed = () => {}, typing;

export const onFilter = (call) => { changed = call; };

// Those that are set, as [name, value].
export function filters() {
  const kind = kinds.find((input) => input.checked).value;
  const fields = FIELDS.map((name) => [name, $(name).value.trim()]);
  return [["kind", kind], ["similar", $("similar").checked ? "" : "all"], ...fields].filter(([, value]) => value);
}

export function readFilters(parameters) {
  const kind = parameters.get("kind") ?? "";
  (kinds.find((input) => input.value === kind) ?? kinds[0]).checked = true;
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
