// A chat as data: turns of one question and one answer or several, of which one is gone on with.
//
//   chat    {id, title, updated, turns}
//   turn    {question, route, answers, chosen}      route: the router's decision; null: routeProblem may say why
//   answer  {asked, label, expert, text, state, …}  see newAnswer

const TITLE_CHARS = 60;
export const BASE_LABEL = "Base model";

export const newChat = () => ({
  id: crypto.getRandomValues(new Uint32Array(2)).join("-"),
  title: "",
  updated: Date.now(),
  turns: [],
});

/** A question put to each of `asked`. */
export const newTurn = (question, asked) => ({ question, route: null, answers: asked.map(newAnswer), chosen: 0 });

/**
 * `asked` is the name told to the server, "" where the router chooses; `label` is shown until the server answers.
 * `state` is waiting, streaming, done, stopped or failed; times in seconds from the request.
 */
export const newAnswer = ({ asked, label }) => ({
  asked,
  label,
  expert: null,
  routedBy: "",
  confidence: 0,
  text: "",
  state: "waiting",
  error: null,
  finishReason: null,
  usage: null,
  ignored: [],
  firstTokenS: null,
  durationS: null,
});

/** Who answers, as shown to people. */
export const nameOf = ({ routedBy, label, asked, expert }) =>
  routedBy === "" ? label || asked || "…" : (expert ?? BASE_LABEL);

export const isRunning = (answer) => answer.state === "waiting" || answer.state === "streaming";

export function titleOf(question) {
  const line = question.trim().split("\n", 1)[0];
  return line.length > TITLE_CHARS ? `${line.slice(0, TITLE_CHARS - 1)}…` : line;
}

/** The messages that ask `turn`: what was said before it, as far as it was answered, and its question. */
export function messagesFor(chat, turn, system) {
  const earlier = chat.turns.slice(0, chat.turns.indexOf(turn)).flatMap(exchangeOf);
  const opening = system.trim() === "" ? [] : [{ role: "system", content: system }];
  return [...opening, ...earlier, { role: "user", content: turn.question }];
}

function exchangeOf({ question, answers, chosen }) {
  const { text } = answers[chosen];
  return text === "" ? [] : [{ role: "user", content: question }, { role: "assistant", content: text }];
}

/** New tokens a second after the first; null where there are too few to tell. */
export function tokensPerSecond({ usage, firstTokenS, durationS }) {
  const seconds = durationS - firstTokenS;
  return usage === null || usage.completion_tokens < 2 || seconds <= 0 ? null : (usage.completion_tokens - 1) / seconds;
}
