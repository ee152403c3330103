// The two dialogs: settings of the answers, and the key that a server may ask for.

import { forgetKey, keepKey, readKey } from "./api_key.js";
import { byId } from "./element.js";

const FIELDS = { system: "system", temperature: "temperature", "max-tokens": "maxTokens" };

/** Settings are read into `preferences` as they are typed; `onChange` is told when the dialog closes. */
export function wireSettings(preferences, onChange) {
  const dialog = byId("settings");
  for (const [id, name] of Object.entries(FIELDS)) {
    byId(id).value = preferences[name];
    byId(id).addEventListener("input", () => (preferences[name] = byId(id).value));
  }
  byId("show-settings").addEventListener("click", () => {
    byId("forget-key").hidden = readKey() === "";
    dialog.showModal();
  });
  byId("forget-key").addEventListener("click", () => {
    forgetKey();
    byId("forget-key").hidden = true;
  });
  byId("settings-form").addEventListener("submit", (event) => close(event, dialog));
  dialog.addEventListener("close", onChange);
}

/** @param {function()} onKey called when a key was entered */
export function wireKey(onKey) {
  const dialog = byId("key");
  byId("key-form").addEventListener("submit", (event) => {
    keepKey(byId("key-field").value.trim(), byId("keep-key").checked);
    byId("key-field").value = "";
    close(event, dialog);
    onKey();
  });
  byId("no-key").addEventListener("click", () => dialog.close());
}

/** Ask for the key; `problem` is what the server said. */
export function askKey(problem) {
  byId("key-problem").textContent = problem;
  if (!byId("key").open) byId("key").showModal();
}

/** Numbers and text of the settings as fields of a request; an empty one is left to the server. */
export function requestFields({ temperature, maxTokens }) {
  return {
    ...(temperature === "" ? {} : { temperature: Number(temperature) }),
    ...(maxTokens === "" ? {} : { max_tokens: Number(maxTokens) }),
  };
}

function close(event, dialog) {
  event.preventDefault();
  dialog.close();
}
