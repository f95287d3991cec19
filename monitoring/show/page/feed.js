// The live feed: /v1/live read as a stream, with a token where the service asks for one.
// fetch alone, not EventSource: that one cannot send a token nor tell a 401 from a service that is
// down, and two ways in would have to behave alike.

const KEY = "millrace-token";
const FIRST_WAIT_MS = 500;
const LAST_WAIT_MS = 8000;
const SILENCE_MS = 10000;

// What commands are sent with where nobody gave another.
export const viewer = () => sessionStorage.getItem(KEY);

// Calls `on.event(name, data)` for each event, `on.lost(sentence)` when the stream ended and
// `on.token(refused)` when a token is needed; goes on for ever. Returns a function that takes one.
export function follow(url, on) {
  let given = null;
  const asked = { resolve: () => {} };

  async function token(refused) {
    const answer = new Promise((resolve) => { asked.resolve = resolve; });
    on.token(refused);
    given = await answer;
    sessionStorage.setItem(KEY, given);
  }

  async function forever() {
    let wait = FIRST_WAIT_MS;
    given = sessionStorage.getItem(KEY);
    for (;;) {
      const stop = new AbortController();
      let heard = 0;
      let timer;
      try {
        const headers = given ? { authorization: `Bearer ${given}` } : {};
        const answer = await fetch(url, { headers, signal: stop.signal, cache: "no-store" });
        if (answer.status === 401) {
          sessionStorage.removeItem(KEY);
          await token(given !== null);
          continue;
        }
        if (!answer.ok) throw new Error(await reason(answer));
        timer = setInterval(() => {
          if (Date.now() - heard > SILENCE_MS) stop.abort();
        }, 1000);
        heard = Date.now();
        await read(answer.body, (name, data) => {
          heard = Date.now();
          wait = FIRST_WAIT_MS;
          on.event(name, data);
        });
        on.lost("the service ended the stream");
      } catch (error) {
        on.lost(error.name === "AbortError" ? "the service fell silent" : error.message);
      } finally {
        clearInterval(timer);
      }
      await new Promise((resolve) => { setTimeout(resolve, wait); });
      wait = Math.min(wait * 2, LAST_WAIT_MS);
    }
  }

  forever();
  return (text) => asked.resolve(text);
}

export async function reason(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return `the service answered ${answer.status}`;
  }
}

// Server-sent events of a byte stream (WHATWG HTML, section 9.2), as far as Millrace sends them.
async function read(body, event) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const frames = text.split("\n\n");
    text = frames.pop();
    for (const frame of frames) {
      let name = "message";
      let data = "";
      for (const line of frame.split("\n")) {
        if (line.startsWith("event: ")) name = line.slice(7);
        if (line.startsWith("data: ")) data += line.slice(6);
      }
      if (data) event(name, JSON.parse(data));
    }
  }
}
