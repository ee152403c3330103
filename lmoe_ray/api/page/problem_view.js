// What went wrong and the way out of it: a key, or another try as soon as the server wishes.

import { button, element } from "./element.js";

/**
 * @param {Object} error of an answer
 * @param {Object} actions `retry()` and `askKey()`
 */
export function problemNode({ message, status, retryAfterS }, { retry, askKey }) {
  const again = button("Try again", retry, { kind: "strong" });
  const key = button("Enter a key", askKey, { kind: "strong" });
  if (retryAfterS > 0) countDown(again, retryAfterS);
  return element("div", { class: "problem" }, element("p", { dir: "auto" }, message), status === 401 ? key : again);
}

/** The server said when to come back: until then the button waits, and shows how long. */
function countDown(button, seconds) {
  const label = button.textContent;
  const untilMs = Date.now() + seconds * 1000;
  const tick = () => {
    const left = Math.ceil((untilMs - Date.now()) / 1000);
    button.disabled = left > 0;
    button.textContent = left > 0 ? `${label} in ${left} s` : label;
    if (left > 0 && button.isConnected) setTimeout(tick, 250);
  };
  button.disabled = true;
  button.textContent = `${label} in ${Math.ceil(seconds)} s`;
  setTimeout(tick, 250);
}
