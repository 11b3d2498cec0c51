// Elements and requests: what every part of the page uses.

export const $ = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

// An answer of the server that is an error: its status, and what it says. Without an answer the status is 0.
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function fetchJson(address, options) {
  const response = await fetch(address, options).catch(() => {
    throw new Refusal(0, "The server does not answer. Is it still running?");
  });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refusal(response.status, body.error ?? `The server answered ${response.status}.`);
  return body;
}

export function showError(error) {
  $("error").textContent = error ? `${error.message ?? error}` : "";
  $("error").hidden = !error;
}
