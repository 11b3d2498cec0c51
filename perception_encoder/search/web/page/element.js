// Elements and answers: what every part of the page is made of.

export const $ = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export function clock(seconds) {
  const whole = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

export const LOST = "The server does not answer. Is it still running?";

async function respond(address, options) {
  const response = await fetch(address, options).catch((error) => {
    throw error.name === "AbortError" ? error : new Error(LOST);
  });
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Error(body.error ?? `The server answered ${response.status}.`);
}

export const answer = async (address, options) => (await respond(address, options)).json();
export const picture = async (address) => (await respond(address)).blob();

export function say(error) {
  $("error").textContent = error ? `${error.message ?? error}` : "";
  $("error").hidden = !error;
}

export const said = () => $("error").textContent;

// At most one call of `work` at a time; of those that come meanwhile, the last one is made afterwards.
export function latest(work) {
  let waiting = null, busy = false;
  return async (...given) => {
    waiting = given;
    if (busy) return;
    busy = true;
    while (waiting) {
      const now = waiting;
      waiting = null;
      await work(...now);
    }
    busy = false;
  };
}
