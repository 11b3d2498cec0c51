// Elements and requests: what every part of the page uses.

export const $ = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

export function clock(seconds) {
  const whole = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

export const UNREACHABLE = "The server does not answer. Is it still running?";

async function request(address, options) {
  const response = await fetch(address, options).catch((error) => {
    throw error.name === "AbortError" ? error : new Error(UNREACHABLE);
  });
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Error(body.error ?? `The server answered ${response.status}.`);
}

export const fetchJson = async (address, options) => (await request(address, options)).json();

// Loads an image with the server's message if that fails.
export async function putImage(image, address) {
  const old = image.src;
  image.src = URL.createObjectURL(await (await request(address)).blob());
  await image.decode();
  if (old.startsWith("blob:")) URL.revokeObjectURL(old);
}

// Yields the lines of JSON of an answer while they arrive.
export async function* fetchLines(address, options) {
  const response = await request(address, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    yield* lines.map((line) => JSON.parse(line));
  }
}

export function showError(error) {
  $("error").textContent = error ? `${error.message ?? error}` : "";
  $("error").hidden = !error;
}

export const shownError = () => $("error").textContent;

// Runs one call of `work` at a time; of the calls made in the meantime, only the last one follows.
export function latest(work) {
  let waiting = null, busy = false;
  return async (...args) => {
    waiting = args;
    if (busy) return;
    busy = true;
    while (waiting) {
      const next = waiting;
      waiting = null;
      await work(...next);
    }
    busy = false;
  };
}
