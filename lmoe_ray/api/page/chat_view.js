// The chat on the page: its turns, or who there is to ask while there are none; stays at the end unless read above.

import { isRunning, nameOf } from "./chat.js";
import { byId, element } from "./element.js";
import { announce } from "./notices.js";
import { TurnView } from "./turn_view.js";

/** So near to the end, in pixels, counts as being there. */
const NEAR_PX = 60;
const SPOKEN_CHARS = 600;

/** `actions` are those of TurnView, and `pin(expert)`. */
export class ChatView {
  #actions;
  #log = byId("log");
  #content = byId("turns");
  #views = new Map();
  #told = "";
  #mayFollow = true;
  #isFollowing = true;

  constructor(actions) {
    this.#actions = actions;
    this.#log.addEventListener("scroll", () => (this.#isFollowing = this.#mayFollow && this.#isNearEnd()));
    new ResizeObserver(() => this.#isFollowing && this.#toEnd()).observe(this.#content);
  }

  /** Show a chat from its start; one without turns shows who there is to ask, `{name, label, description}` each. */
  draw(chat, people) {
    this.#views.clear();
    this.#told = "";
    this.#content.replaceChildren();
    byId("title").textContent = chat.title || "New chat";
    byId("export").hidden = chat.turns.length === 0;
    chat.turns.forEach((turn, at) => this.#add(turn, at + 1));
    if (chat.turns.length === 0) this.#content.append(this.#welcome(people));
    this.#markLast(chat);
    this.#settle(chat.turns.at(-1));
  }

  /** What was said of `answer` changed; its end is told to those who listen. */
  update(turn, answer) {
    this.#views.get(turn)?.update(answer);
    if (this.#views.has(turn) && !isRunning(answer)) this.#tell(spoken(answer));
  }

  drawRoute(turn) {
    this.#views.get(turn)?.drawRoute();
  }

  drawChoice(turn) {
    this.#views.get(turn)?.drawChoice();
  }

  /** What ends several answers at once is told once. */
  #tell(text) {
    if (text !== this.#told) announce(text);
    this.#told = text;
  }

  /** One answer is followed as it grows; of several, side by side, the beginnings matter. */
  #settle(turn) {
    this.#mayFollow = this.#isFollowing = turn?.answers.length === 1;
    if (turn && !this.#mayFollow) this.#views.get(turn).node.scrollIntoView();
  }

  #add(turn, number) {
    const view = new TurnView(turn, number, this.#actions);
    this.#views.set(turn, view);
    this.#content.append(view.node);
  }

  #markLast(chat) {
    for (const [turn, view] of this.#views) view.markLast(turn === chat.turns.at(-1));
  }

  #welcome(people) {
    const cards = people.map(({ name, label, description }) => {
      const card = element("button", { type: "button", class: "card", onclick: () => this.#actions.pin(name) });
      card.append(element("b", {}, label), element("span", {}, description || "No description"));
      return element("li", {}, card);
    });
    const hint = "Ask, and the router finds who answers best. Or choose somebody:";
    const title = element("h2", {}, "Who shall answer?");
    return element("div", { class: "welcome" }, title, element("p", {}, hint), element("ul", {}, ...cards));
  }

  #isNearEnd() {
    return this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < NEAR_PX;
  }

  #toEnd() {
    this.#log.scrollTop = this.#log.scrollHeight;
  }
}

function spoken(answer) {
  if (answer.state === "failed") return `No answer: ${answer.error.message}`;
  if (answer.state === "stopped") return "Stopped.";
  return `${nameOf(answer)} answered: ${answer.text.slice(0, SPOKEN_CHARS)}`;
}
