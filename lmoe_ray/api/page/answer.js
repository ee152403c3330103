// Asks for answers and writes down what comes of each: text, who gives it, how long it took, and how it ended.

import { isRunning } from "./chat.js";
import { chunksOf, ServerError } from "./server.js";

/**
 * Fill `answers` from one stream; `onChange(answer)` is called after each change of one. Never throws: a failure is
 * written down too, in every answer that had not ended.
 * @param {Object[]} answers as made by newAnswer, in the order in which `body` asks for them
 * @param {Object} body of the request
 * @param {AbortSignal} signal stops all of them
 */
export async function fillAnswers(answers, body, signal, onChange) {
  const startedMs = performance.now();
  const secondsSoFar = () => (performance.now() - startedMs) / 1000;
  let outcome = { state: "done" };
  try {
    for await (const chunk of chunksOf(body, signal)) readChunk(answers, chunk, secondsSoFar).forEach(onChange);
  } catch (error) {
    outcome = failure(error, signal);
  }
  const unfinished = answers.filter(isRunning);
  for (const answer of unfinished) Object.assign(answer, outcome, { durationS: answer.durationS ?? secondsSoFar() });
  unfinished.forEach(onChange);
}

/** Returns the answers of which there is news. */
function readChunk(answers, chunk, secondsSoFar) {
  if (chunk.routing) readHead(answers, chunk);
  if (chunk.usage && answers.length === 1) answers[0].usage = chunk.usage;
  return chunk.choices.map((choice) => readChoice(answers[choice.index], choice, secondsSoFar));
}

function readHead(answers, { expert = null, routing, ignored = [] }) {
  const head = { expert, ignored, routedBy: routing.routed_by, confidence: routing.confidence };
  for (const answer of answers) Object.assign(answer, head);
}

function readChoice(answer, { expert, delta, finish_reason: finishReason, usage }, secondsSoFar) {
  if (answer === undefined) throw new ServerError("The stream holds an answer that was not asked for. Try again.");
  answer.state = "streaming";
  if (expert !== undefined) answer.expert = expert;
  if (delta.content) {
    answer.firstTokenS ??= secondsSoFar();
    answer.text += delta.content;
  }
  if (finishReason) Object.assign(answer, { finishReason, durationS: secondsSoFar() });
  // Of several, each ends with its own count; the count of one alone is that of the stream, and comes after it.
  if (usage) Object.assign(answer, { usage, state: "done" });
  return answer;
}

function failure(error, signal) {
  if (signal.aborted) return { state: "stopped" };
  const { message, status = 0, code = "internal", retryAfterS = null } = error;
  return { state: "failed", error: { message, status, code, retryAfterS } };
}
