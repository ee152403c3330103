// The chat that is open and what runs in it: asks, stops, asks again, and keeps what was said.

import { fillAnswer } from "./answer.js";
import { isRunning, messagesFor, newAnswer, newChat, newTurn, titleOf } from "./chat.js";
import { hasChat, saveChat } from "./chat_store.js";
import { routeOf } from "./server.js";

/**
 * `view` is told what changed: `chatChanged(chat)`, `answerChanged(turn, answer)`, `routeChanged(turn)`,
 * `runningChanged(isRunning)`, `notSaved(error)`.
 */
export class Session {
  #view;
  #running = new Set();
  chat = newChat();

  constructor(view) {
    this.#view = view;
  }

  get isRunning() {
    return this.#running.size > 0;
  }

  /** Leave the open chat for another; what still runs is stopped. */
  open(chat) {
    this.stop();
    this.chat = chat;
    for (const answer of chat.turns.flatMap(({ answers }) => answers)) if (isRunning(answer)) answer.state = "stopped";
    this.#view.chatChanged(chat);
  }

  /**
   * Put a question to everybody in `asked`, in place of the last turn if `replaced` is given.
   * `request`: `model`, `system` and `fields` of the body.
   */
  async ask(question, asked, request, replaced = null) {
    const { chat } = this;
    if (replaced !== null) chat.turns.splice(chat.turns.indexOf(replaced));
    const turn = newTurn(question, asked);
    chat.turns.push(turn);
    if (chat.turns.length === 1) chat.title = titleOf(question);
    this.#keep(chat);
    this.#view.chatChanged(chat);
    const answers = turn.answers.map((answer) => this.#fill(chat, turn, answer, request));
    await Promise.all([...answers, this.#findRoute(chat, turn, request)]);
  }

  /** Ask for one answer of the last turn anew. */
  async retry(turn, answer, request) {
    const fresh = newAnswer(answer.asked);
    turn.answers[turn.answers.indexOf(answer)] = fresh;
    this.#view.chatChanged(this.chat);
    const route = turn.route ?? this.#findRoute(this.chat, turn, request);
    await Promise.all([this.#fill(this.chat, turn, fresh, request), route]);
  }

  choose(turn, answer) {
    turn.chosen = turn.answers.indexOf(answer);
    this.#keep(this.chat);
  }

  stop() {
    for (const controller of this.#running) controller.abort();
  }

  async #fill(chat, turn, answer, { model, system, fields }) {
    const expert = answer.asked === "" ? {} : { expert: answer.asked };
    const body = { model, messages: messagesFor(chat, turn, system), ...expert, ...fields };
    const controller = new AbortController();
    this.#mark(controller, true);
    await fillAnswer(answer, body, controller.signal, () => this.#view.answerChanged(turn, answer));
    this.#mark(controller, false);
    this.#keep(chat);
  }

  /** What the router thinks, also of a question that was put to somebody: one request for all answers. */
  async #findRoute(chat, turn, { model, system }) {
    try {
      turn.route = await routeOf({ model, messages: messagesFor(chat, turn, system) });
    } catch (error) {
      turn.routeProblem = error.message;
    }
    this.#view.routeChanged(turn);
    this.#keep(chat);
  }

  #mark(controller, isRunning) {
    if (isRunning) this.#running.add(controller);
    else this.#running.delete(controller);
    this.#view.runningChanged(this.isRunning);
  }

  /** A chat that was deleted while an answer came stays deleted. */
  #keep(chat) {
    if (chat !== this.chat && !hasChat(chat.id)) return;
    try {
      saveChat(chat);
    } catch (error) {
      this.#view.notSaved(error);
    }
  }
}
