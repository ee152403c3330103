// What is told outside the chat itself: aloud to those who listen, or in a line above the question for everyone.

import { button, byId, element } from "./element.js";

/** Tell screen readers, once whatever they are saying is said. */
export function announce(text) {
  byId("status").textContent = text;
}

/** Show a problem, with the way out of it as a button if there is one. */
export function showNotice(text, label = null, onclick = null) {
  const notice = byId("notice");
  const wayOut = label === null ? [] : [button(label, onclick, { kind: "strong" })];
  notice.replaceChildren(element("p", { dir: "auto" }, text), ...wayOut);
  notice.hidden = false;
}

export function hideNotice() {
  byId("notice").hidden = true;
}
