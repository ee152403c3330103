// The chat that is open and what runs in it: asks, stops, asks again, and keeps what was said.

import { fillAnswers } from "./answer.js";
import { requestsFor, whoAnswers } from "./asking.js";
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
   * Put a question to everybody in `asked`, as newAnswer takes them; in place of the last turn if `replaced` is given.
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
    await Promise.all([this.#fillAll(chat, turn, turn.answers, request), this.#findRoute(chat, turn, request)]);
  }

  /** Ask for these answers of the last turn anew. */
  async retry(turn, answers, request) {
    const fresh = answers.map(newAnswer);
    answers.forEach((answer, at) => (turn.answers[turn.answers.indexOf(answer)] = fresh[at]));
    this.#view.chatChanged(this.chat);
    const route = turn.route ?? this.#findRoute(this.chat, turn, request);
    await Promise.all([this.#fillAll(this.chat, turn, fresh, request), route]);
  }

  choose(turn, answer) {
    turn.chosen = turn.answers.indexOf(answer);
    this.#keep(this.chat);
  }

  stop() {
    for (const controller of this.#running) controller.abort();
  }

  #fillAll(chat, turn, answers, request) {
    return Promise.all(requestsFor(answers).map((together) => this.#fill(chat, turn, together, request)));
  }

  async #fill(chat, turn, answers, { model, system, fields }) {
    const body = { model, messages: messagesFor(chat, turn, system), ...whoAnswers(answers), ...fields };
    const controller = new AbortController();
    const onChange = (answer) => {
      this.#view.answerChanged(turn, answer);
      if (!isRunning(answer)) this.#keep(chat);
    };
    this.#mark(controller, true);
    await fillAnswers(answers, body, controller.signal, onChange);
    this.#mark(controller, false);
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
