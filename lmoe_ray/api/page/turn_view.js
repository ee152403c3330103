// One turn on the page: the question, the picture of its route, and its answers side by side.

import { AnswerView } from "./answer_view.js";
import { isRunning } from "./chat.js";
import { button, element } from "./element.js";
import { plainText } from "./markdown_inline.js";
import { problemNode } from "./problem_view.js";
import { routeNode } from "./route_view.js";

/**
 * Shows `turn` and follows it.
 * `actions`: `retry(turn, answers)`, `edit(turn)`, `choose(turn, answer)`, `askKey()`, and to remember whether
 * the picture of the route is open: `isRouteOpen()`, `setRouteOpen(isOpen)`.
 */
export class TurnView {
  #turn;
  #actions;
  #route = element("div");
  #problems = element("div");
  #numTold = 0;
  #views = new Map();

  constructor(turn, number, actions) {
    this.#turn = turn;
    this.#actions = actions;
    const answers = element("div", { class: turn.answers.length > 1 ? "answers several" : "answers" });
    for (const answer of turn.answers) answers.append(this.#viewOf(answer).node);
    const label = `Question ${number}`;
    const parts = [this.#question(), this.#route, this.#problems, answers];
    this.node = element("section", { class: "turn", "aria-label": label }, ...parts);
    this.drawRoute();
    this.#drawProblems();
    this.drawChoice();
  }

  /** Draw what changed in `answer`. */
  update(answer) {
    this.#views.get(answer).update();
    if (!isRunning(answer)) this.#drawProblems();
    this.drawChoice();
  }

  drawRoute() {
    const { route, routeProblem } = this.#turn;
    const { isRouteOpen, setRouteOpen } = this.#actions;
    if (route !== null) this.#route.replaceChildren(routeNode(route, isRouteOpen(), setRouteOpen));
    else if (routeProblem) this.#route.replaceChildren(routeProblemNode(routeProblem));
  }

  drawChoice() {
    const { answers, chosen } = this.#turn;
    answers.forEach((answer, at) => this.#views.get(answer).markChosen(answers.length > 1 ? at === chosen : null));
  }

  /** Only the last turn may be asked anew: a later one rests on it. */
  markLast(isLast) {
    this.node.classList.toggle("last", isLast);
  }

  /** What stopped several answers is told once, above them, and they are tried again together. */
  #drawProblems() {
    const shared = failuresOf(this.#turn).filter((answers) => answers.length > 1);
    if (shared.flat().length === this.#numTold) return; // drawn anew, a button would wait from the start
    this.#numTold = shared.flat().length;
    for (const [answer, view] of this.#views) view.leaveProblem(shared.some((answers) => answers.includes(answer)));
    this.#problems.replaceChildren(...shared.map((answers) => this.#problemOf(answers)));
  }

  #problemOf(answers) {
    const { retry, askKey } = this.#actions;
    return problemNode(answers[0].error, { retry: () => retry(this.#turn, answers), askKey });
  }

  #viewOf(answer) {
    const { retry, choose, askKey } = this.#actions;
    const isChoice = this.#turn.answers.length > 1;
    const actions = {
      retry: () => retry(this.#turn, [answer]),
      choose: isChoice ? () => choose(this.#turn, answer) : null,
      askKey,
    };
    const view = new AnswerView(answer, actions);
    this.#views.set(answer, view);
    return view;
  }

  #question() {
    const { edit } = this.#actions;
    const change = button("Edit", () => edit(this.#turn), { kind: "quiet edit", describe: "Edit this question" });
    const heading = element("h2", { class: "unseen" }, "Question");
    const text = element("p", { dir: "auto" }, plainText(this.#turn.question));
    return element("div", { class: "question" }, heading, text, change);
  }
}

/** The answers that failed, those for the same reason together. */
function failuresOf({ answers }) {
  const byMessage = new Map();
  for (const answer of answers.filter(({ state }) => state === "failed")) {
    const { message } = answer.error;
    byMessage.set(message, [...(byMessage.get(message) ?? []), answer]);
  }
  return [...byMessage.values()];
}

const routeProblemNode = (problem) =>
  element("p", { class: "route-problem", dir: "auto" }, `The route could not be read: ${problem}`);
