// The page's address holds the query and the filters, so that a link, Back and Forward restore them.

import { filters, readFilters } from "./filters.js";
import { readTerms, terms } from "./query.js";

const PAUSE = 1500;   // milliseconds within which further changes by the same control make no new entry
let current, control = null, time = 0;

// The parameters of the address, which are those of /api/hits too.
export function parameters() {
  return [...terms().map((term) => ["q", term]), ...filters()]
    .map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&");
}

// The address of the results, without an opened image.
export function address() {
  const query = parameters();
  return query ? `?${query}` : location.pathname;
}

// Writes the query and the filters into the address after a control changed them.
export function writeAddress(by) {
  const query = parameters(), now = Date.now();
  if (query !== current) {
    const replaces = history.state?.viewer || (by === control && now - time < PAUSE);
    history[replaces ? "replaceState" : "pushState"](null, "", address());
  }
  [current, control, time] = [query, by, now];
}

// Takes the query and the filters from the address; whether they are others than before.
export function readAddress() {
  const given = new URLSearchParams(location.search), before = current;
  readTerms(given);
  readFilters(given);
  [current, control] = [parameters(), null];
  return current !== before;
}
