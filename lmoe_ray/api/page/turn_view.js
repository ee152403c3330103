// One turn on the page: the question, the picture of its route, and its answers side by side.

import { AnswerView } from "./answer_view.js";
import { button, element } from "./element.js";
import { plainText } from "./markdown_inline.js";
import { routeNode } from "./route_view.js";

/**
 * Shows `turn` and follows it.
 * `actions`: `retry(turn, answer)`, `edit(turn)`, `choose(turn, answer)`, `askKey()`, and to remember whether
 * the picture of the route is open: `isRouteOpen()`, `setRouteOpen(isOpen)`.
 */
export class TurnView {
  #turn;
  #actions;
  #route = element("div");
  #views = new Map();

  constructor(turn, number, actions) {
    this.#turn = turn;
    this.#actions = actions;
    const answers = element("div", { class: turn.answers.length > 1 ? "answers several" : "answers" });
    for (const answer of turn.answers) answers.append(this.#viewOf(answer).node);
    const label = `Question ${number}`;
    this.node = element("section", { class: "turn", "aria-label": label }, this.#question(), this.#route, answers);
    this.drawRoute();
    this.drawChoice();
  }

  /** Draw what changed in `answer`. */
  update(answer) {
    this.#views.get(answer).update();
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

  #viewOf(answer) {
    const { retry, choose, askKey } = this.#actions;
    const isChoice = this.#turn.answers.length > 1;
    const actions = {
      retry: () => retry(this.#turn, answer),
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

const routeProblemNode = (problem) =>
  element("p", { class: "route-problem", dir: "auto" }, `The route could not be read: ${problem}`);
