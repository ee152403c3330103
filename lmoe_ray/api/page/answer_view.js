// One answer on the page: who gives it, its text as it comes, what it took, and what can be done with it.

import { copyText } from "./clipboard.js";
import { isRunning, nameOf, tokensPerSecond } from "./chat.js";
import { button, element } from "./element.js";
import { MarkdownView } from "./markdown_view.js";
import { problemNode } from "./problem_view.js";

const FINISHES = {
  length: "cut at the most tokens allowed",
  tool_calls: "ended with a call",
  abort: "ended by the server",
};

/**
 * Shows `answer` and follows it.
 * `actions`: `retry()`, `askKey()` and, where there are several answers, `choose()`.
 */
export class AnswerView {
  #answer;
  #actions;
  #name = element("h3", { class: "name" });
  #how = element("span", { class: "how" });
  #body = element("div", { class: "prose" });
  #problem = element("div");
  #figures = element("p", { class: "figures" });
  #buttons = element("div", { class: "buttons" });
  #markdown = new MarkdownView(this.#body);
  #isDrawPlanned = false;
  #isProblemTold = false;

  constructor(answer, actions) {
    this.#answer = answer;
    this.#actions = actions;
    const foot = element("footer", {}, this.#figures, this.#buttons);
    const head = element("header", {}, this.#name, this.#how);
    this.node = element("article", { class: "answer" }, head, this.#body, this.#problem, foot);
    this.#draw();
  }

  /** Draw what changed, once a frame at most; a page out of sight has no frames, so it draws at once. */
  update() {
    if (document.hidden || !isRunning(this.#answer)) this.#draw();
    else if (!this.#isDrawPlanned) {
      this.#isDrawPlanned = true;
      requestAnimationFrame(() => this.#isDrawPlanned && this.#draw()); // its end may have been drawn before
    }
  }

  /** Whether what went wrong is told for several answers together, and so not here. */
  leaveProblem(isTold) {
    if (isTold === this.#isProblemTold) return;
    this.#isProblemTold = isTold;
    this.#draw();
  }

  /** Whether it is the one the chat goes on with; null where there is no choice. */
  markChosen(isChosen) {
    this.node.classList.toggle("chosen", isChosen === true);
    this.#buttons.querySelector(".choose")?.setAttribute("aria-pressed", String(isChosen));
  }

  #draw() {
    this.#isDrawPlanned = false;
    const answer = this.#answer;
    this.node.dataset.state = answer.state;
    this.node.setAttribute("aria-busy", String(isRunning(answer)));
    this.#name.textContent = nameOf(answer);
    this.#how.textContent = howChosen(answer);
    this.#markdown.update(answer.text);
    if (isRunning(answer)) return;
    this.#figures.textContent = figuresOf(answer, this.#isProblemTold);
    this.#buttons.replaceChildren(...this.#possible());
    this.#showProblem();
  }

  #possible() {
    const answer = this.#answer;
    const { retry, choose } = this.#actions;
    const copy = button("Copy", () => copyText(answer.text, copy), { describe: "Copy this answer" });
    const again = button("Retry", retry, { describe: "Retry this answer", kind: "quiet retry" });
    const goOn = button("Go on with this", choose, { kind: "quiet choose", "aria-pressed": "false" });
    return [...(answer.text === "" ? [] : [copy]), again, ...(choose ? [goOn] : [])];
  }

  #showProblem() {
    const { state, error } = this.#answer;
    const isHere = state === "failed" && !this.#isProblemTold;
    this.#problem.replaceChildren(...(isHere ? [problemNode(error, this.#actions)] : []));
  }
}

function howChosen({ routedBy, confidence, state }) {
  if (routedBy === "") return state === "waiting" ? "is asked" : "";
  if (routedBy === "explicit") return "chosen by you";
  if (routedBy === "abstained") return `router unsure, ${Math.round(confidence * 100)} %`;
  return `${Math.round(confidence * 100)} % sure`;
}

function figuresOf(answer, isProblemTold) {
  const speed = tokensPerSecond(answer);
  return [
    answer.usage && `${answer.usage.completion_tokens} tokens, prompt ${answer.usage.prompt_tokens}`,
    answer.firstTokenS !== null && `first after ${answer.firstTokenS.toFixed(2)} s`,
    speed !== null && `${speed.toFixed(1)} tokens/s`,
    answer.state === "stopped" && "stopped by you",
    isProblemTold && (answer.text === "" ? "no answer" : "broken off"),
    FINISHES[answer.finishReason],
    answer.ignored.length > 0 && `without effect: ${answer.ignored.join(", ")}`,
  ]
    .filter(Boolean)
    .join(" · ");
}
