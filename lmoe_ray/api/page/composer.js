// Where a question is written, and the keys that work everywhere on the page.

import { byId } from "./element.js";

/** `actions`: `send(text)` says whether it was taken, `stop()`, `newChat()`, `cancelEdit()`. */
export class Composer {
  #field = byId("question");
  #actions;
  #isRunning = false;

  constructor(actions) {
    this.#actions = actions;
    byId("composer").addEventListener("submit", (event) => this.#submit(event));
    byId("stop").addEventListener("click", () => this.#stop());
    this.#field.addEventListener("input", () => this.#fit());
    this.#field.addEventListener("keydown", (event) => this.#keyInField(event));
    document.addEventListener("keydown", (event) => this.#keyAnywhere(event));
  }

  set text(text) {
    this.#field.value = text;
    this.#fit();
  }

  focus() {
    this.#field.focus();
  }

  /** While answers come there is a way to stop them, and no way to send. */
  set isRunning(isRunning) {
    this.#isRunning = isRunning;
    byId("stop").hidden = !isRunning;
    byId("send").hidden = isRunning;
  }

  /** Editing shows, because what is sent then replaces the last question. */
  set isEditing(isEditing) {
    byId("editing").hidden = !isEditing;
  }

  #submit(event) {
    event.preventDefault();
    const text = this.#field.value.trim();
    if (text !== "" && !this.#isRunning && this.#actions.send(text)) this.text = "";
  }

  /** Enter that ends the composition of a character, as in Japanese, is not meant for us. */
  #keyInField(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) this.#submit(event);
  }

  #keyAnywhere(event) {
    if (document.querySelector("dialog[open]") || event.isComposing) return;
    if (event.key === "Escape") this.#stop();
    else if (event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey)) take(event, this.#actions.newChat);
    else if (event.key === "/" && !isTyping(event.target)) take(event, () => this.focus());
  }

  #stop() {
    if (!this.#isRunning) return this.#actions.cancelEdit();
    this.#actions.stop();
    this.focus(); // the button that had it is about to go
  }

  #fit() {
    this.#field.style.height = "auto";
    this.#field.style.height = `${this.#field.scrollHeight}px`;
  }
}

function take(event, action) {
  event.preventDefault();
  action();
}

const isTyping = (node) => node.matches("input, textarea, select");
