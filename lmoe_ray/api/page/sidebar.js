// The list of chats kept in this browser; on a narrow screen it lies over the chat and is called.

import { deleteAllChats, deleteChat, listChats } from "./chat_store.js";
import { button, byId, element } from "./element.js";

/** `actions`: `open(id)`, `newChat()`; both also after the open chat was deleted. */
export class Sidebar {
  #actions;
  #list = byId("chats");
  #opener = byId("show-chats");

  constructor(actions) {
    this.#actions = actions;
    byId("new-chat").addEventListener("click", () => this.#leave(actions.newChat));
    byId("delete-all").addEventListener("click", () => this.#deleteAll());
    byId("hide-chats").addEventListener("click", () => this.#show(false));
    this.#opener.addEventListener("click", () => this.#show(true));
    byId("sidebar").addEventListener("keydown", ({ key }) => key === "Escape" && this.#show(false));
  }

  draw(openId) {
    const chats = listChats();
    this.#list.replaceChildren(...chats.map((chat) => this.#row(chat, chat.id === openId)));
    byId("delete-all").hidden = chats.length === 0;
    byId("no-chats").hidden = chats.length > 0;
  }

  #row({ id, title }, isOpen) {
    const show = () => this.#leave(() => this.#actions.open(id));
    const open = button(title, show, { kind: "chat-title", "aria-current": isOpen && "page" });
    const remove = () => this.#delete(id, title, isOpen);
    const drop = button("×", remove, { describe: `Delete ${title}`, kind: "quiet delete" });
    return element("li", { class: isOpen && "open" }, open, drop);
  }

  #delete(id, title, isOpen) {
    if (!confirm(`Delete “${title}”? It is kept nowhere else.`)) return;
    deleteChat(id);
    if (isOpen) this.#actions.newChat();
    else this.draw();
    byId("new-chat").focus();
  }

  #deleteAll() {
    if (!confirm("Delete all chats? They are kept nowhere else.")) return;
    deleteAllChats();
    this.#actions.newChat();
  }

  #leave(action) {
    this.#show(false);
    action();
  }

  #show(isShown) {
    document.body.classList.toggle("chats-shown", isShown);
    this.#opener.setAttribute("aria-expanded", String(isShown));
    if (isShown) byId("hide-chats").focus();
    else if (getComputedStyle(this.#opener).display !== "none") this.#opener.focus();
  }
}
