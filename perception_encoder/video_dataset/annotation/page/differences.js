// Word-level differences of the model's caption and the edited one.

import { element } from "./element.js";

const words = (text) => text.match(/\S+/g) ?? [];
const MOST_PAIRS = 4e6;   // of words to compare; above it the whole text counts as replaced

// Lengths of the longest common subsequences of all ends of two lists of words.
function tails(before, after) {
  const rows = Array.from({ length: before.length + 1 }, () => new Uint16Array(after.length + 1));
  for (let i = before.length - 1; i >= 0; i--) {
    for (let j = after.length - 1; j >= 0; j--) {
      rows[i][j] = before[i] === after[j] ? rows[i + 1][j + 1] + 1 : Math.max(rows[i + 1][j], rows[i][j + 1]);
    }
  }
  return rows;
}

// Runs [change, words] with the change "same", "removed" or "added"; of a replacement the removed words come first.
export function differences(original, caption) {
  const before = words(original), after = words(caption), runs = [];
  if (before.length * after.length > MOST_PAIRS) return [["removed", before], ["added", after]];
  const rows = tails(before, after);
  const add = (change, word) => {
    if (runs.at(-1)?.[0] === change) runs.at(-1)[1].push(word); else runs.push([change, [word]]);
  };
  let i = 0, j = 0, added = [];
  const flush = () => { added.forEach((word) => add("added", word)); added = []; };
  while (i < before.length || j < after.length) {
    if (i < before.length && j < after.length && before[i] === after[j]) {
      flush();
      add("same", before[i++]);
      j++;
    } else if (j >= after.length || (i < before.length && rows[i + 1][j] >= rows[i][j + 1])) add("removed", before[i++]);
    else added.push(after[j++]);
  }
  flush();
  return runs;
}

const TAGS = { same: "span", removed: "del", added: "ins" };

export function showDifferences(node, original, caption) {
  const runs = differences(original, caption);
  node.replaceChildren(...runs.flatMap(([change, run]) => [element(TAGS[change], { textContent: run.join(" ") }), " "]));
  const count = (change) => runs.filter(([item]) => item === change).reduce((sum, [, run]) => sum + run.length, 0);
  return { removed: count("removed"), added: count("added") };
}
